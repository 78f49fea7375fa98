"""``finetui export``: make what a training run left ready to serve."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui import start
from finetui.commands import console, watch

_GGUF = ("f32", "f16", "bf16", "q8_0", "auto")


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Write a run's adapter or model with tokenizer, model card and ready lines for vLLM and "
        "Ollama; check that it is served with the tokens it was trained on.",
        json=True,
    )
    made.add_argument("job", nargs="?", default="", help="a training run (default: the newest)")
    made.add_argument(
        "--merge",
        action="store_true",
        help="also write the whole model, the adapter in its weights",
    )
    made.add_argument(
        "--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"),
        help="format of the merged weights (auto: that of the base)",
    )  # fmt: skip
    made.add_argument(
        "--gguf", nargs="?", const="auto", default="", choices=_GGUF, metavar="TYPE",
        help=f"also write GGUF: {', '.join(_GGUF)}; needs llama.cpp's converter",
    )  # fmt: skip
    made.add_argument(
        "--llama-cpp", default="", metavar="PATH",
        help="llama.cpp's folder, or its convert_hf_to_gguf.py (else FINETUI_LLAMA_CPP, PATH)",
    )  # fmt: skip
    made.add_argument("--name", default="", help="what the served model is called")
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    trained = start.trained_job(workspace, arguments.job)
    job = start.start_export(
        workspace, trained, merge=arguments.merge, dtype=arguments.dtype, gguf=arguments.gguf,
        converter=arguments.llama_cpp, name=arguments.name,
    )  # fmt: skip
    watch.follow(job, console.say)
    outcome = job.outcome() or {}
    if arguments.json:
        console.emit({"job": job.id, **outcome})
    elif outcome.get("folder"):
        folder = Path(str(outcome["folder"]))
        console.place(folder)
        for line in (folder / "SERVE.md").read_text(encoding="utf-8").splitlines():
            console.say(line)
    return watch.ended(job)
