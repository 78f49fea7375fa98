"""The export job: what a run left, made ready to serve and held against what was trained."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from finetui.data.tokens import ChatTokenizer, Messages
from finetui.engine import serving
from finetui.engine.adapters import first_line, load_adapter
from finetui.engine.answer import (
    base_model,
    machine_of,
    model_settings,
    tokenizer_of,
    tuned_model,
)
from finetui.engine.attention import StopRequested, attend
from finetui.engine.cards import card
from finetui.engine.checkpoints import replace_folder, save_model_files
from finetui.engine.dataset import prompts
from finetui.engine.drift import Drift, compare, last_logits
from finetui.engine.machine import FORMATS, Machine
from finetui.engine.model import load_config, load_model, write_tokenizer
from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.jobs.worker import WorkerSession
from finetui.recipe.schema import Model
from finetui.workspace import Workspace

_HELD_OUT, _LONGEST = 8, 512


@dataclass
class Export:
    """What the stages of one export share; ``folder`` is where it lands."""

    session: WorkerSession
    spec: Mapping[str, Any]
    machine: Machine
    tokenizer: ChatTokenizer

    @property
    def folder(self) -> Path:
        return self.session.job.path / "export"

    @property
    def trained(self) -> Job:
        return Job(str(self.spec["trained"]))

    @property
    def name(self) -> str:
        """What files and commands call the result: letters, digits, dot, dash, underscore."""
        named = str(self.spec.get("name") or self.trained.slug)
        return re.sub(r"[^\w.-]+", "-", named).strip("-.") or "model"

    @cached_property
    def figures(self) -> dict[str, Any]:
        return dict((self.trained.outcome() or {}).get("metrics") or {})

    def stage(self, text: str) -> None:
        self.session.events.write("stage", text=text)
        attend(self.session)


def export(session: WorkerSession, spec: Mapping[str, Any]) -> None:
    """Write export/: adapter/, merged/ or model/, Modelfile, SERVE.md, and GGUF when asked for.

    Raises UserError when something is missing, StopRequested when somebody asks.
    """
    job = Export(session, spec, machine_of(spec), tokenizer_of(session, spec))
    job.folder.mkdir(mode=0o700, exist_ok=True)
    metrics: dict[str, Any] = {}
    parts: dict[str, Path] = {}
    if spec.get("adapter"):
        parts["adapter"] = _adapter(job)
        if spec.get("merge"):
            parts["merged"], drift = _merged(job)
            metrics["drift"] = asdict(drift)
    else:
        parts["model"] = _model(job)
    faults = _check(job, parts)
    metrics["parity"] = not faults
    _write_serving(job, parts)
    if spec.get("gguf"):
        parts["gguf"] = _gguf(job, parts.get("merged") or parts["model"])
        _write_serving(job, parts)
    metrics["bytes"] = {name: _size(path) for name, path in parts.items()}
    session.outcome("finished", metrics=metrics, folder=str(job.folder),
                    sentence=_sentence(parts, metrics))  # fmt: skip


# -- the parts -----------------------------------------------------------------------------------


def _adapter(job: Export) -> Path:
    """The adapter as training left it, with tokenizer and card."""
    job.stage("writing the adapter")
    draft = _draft(job, "adapter")
    source = Path(str(job.spec["adapter"]))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(source / name, draft / name)
    return _publish(job, draft, "adapter", card(job.trained, job.figures))


def _model(job: Export) -> Path:
    """The model of full tuning, with a card of its own."""
    job.stage("writing the model")
    draft = _draft(job, "model")
    shutil.copytree(
        str(job.spec["tuned"]), draft, dirs_exist_ok=True, copy_function=_weights_linked
    )
    return _publish(job, draft, "model", card(job.trained, job.figures))


def _weights_linked(source: str, target: str) -> None:
    """Weights are never changed in place, so a second name for the same bytes will do."""
    if source.endswith(".safetensors"):
        try:
            os.link(source, target)
            return
        except OSError:  # another file system
            pass
    shutil.copyfile(source, target)


def _merged(job: Export) -> tuple[Path, Drift]:
    """The adapter merged into its base, read back from disk and compared with the adapter."""
    job.stage("answers of the adapter")
    probes = _probes(job)
    adapter = tuned_model(job.spec, job.machine)
    before = [last_logits(adapter, ids) for ids in probes]
    del adapter
    job.stage("merging")
    draft = _draft(job, "merged")
    save_model_files(merged_model(job.spec, job.machine), draft, _format(job))
    write_tokenizer(job.tokenizer, draft)
    job.stage("answers of the merged model")
    settings = Model(path=str(draft), trust_remote_code=_trusted(job))
    after = load_model(settings, job.machine)
    drift = compare(before, [last_logits(after, ids) for ids in probes])
    del after
    _tell_drift(job, drift)
    more = (f"## Merge\n\n{drift.sentence}, over {drift.prompts} fixed prompts.",)
    return _publish(job, draft, "merged", card(job.trained, job.figures, True, more)), drift


def merged_model(spec: Mapping[str, Any], machine: Machine) -> Any:
    """The base with the adapter in its weights, on the host.

    Weights that were 4 bits in training are first written out as the numbers that training saw,
    so the adapter meets the weights that it was trained on. Each layer is merged in fp32.
    """
    host = Machine(torch.device("cpu"), machine.precision)
    base = base_model(spec, host)
    if getattr(base, "is_quantized", False):
        base = _in_full(base, host.dtype)
    model = load_adapter(base, Path(str(spec["adapter"])))
    for layer in model.modules():
        if hasattr(layer, "lora_A") and hasattr(layer, "merge"):
            weight = layer.get_base_layer().weight
            format = weight.dtype
            weight.data = weight.data.float()
            layer.merge(safe_merge=True)
            weight.data = weight.data.to(format)
    return model.unload()


def _in_full(base: Any, dtype: torch.dtype) -> Any:
    """Weights in few bits as the numbers that they stand for. Raises UserError."""
    try:
        return base.dequantize(dtype=dtype)
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"the base cannot be written out in full: {first_line(error)}",
            fix="Export the adapter alone, without --merge.",
        ) from error


def _draft(job: Export, name: str) -> Path:
    draft = job.folder / f".{name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    return draft


def _publish(job: Export, draft: Path, name: str, text: str) -> Path:
    """Tokenizer, the tokens that end an answer and the card beside the weights; then in place."""
    write_tokenizer(job.tokenizer, draft)
    if job.tokenizer.has_template:
        plain = serving.without_markers(job.tokenizer.template)
        (draft / "chat_template.jinja").write_text(plain, encoding="utf-8")
    serving.write_generation_config(job.tokenizer, draft)
    (draft / "README.md").write_text(text, encoding="utf-8")
    job.session.require_newest()
    replace_folder(draft, job.folder / name)
    return job.folder / name


def _format(job: Export) -> torch.dtype:
    """The number format of merged weights: as asked, else the one the base is stored in."""
    asked = str(job.spec.get("dtype") or "auto")
    if asked != "auto":
        return FORMATS[asked]
    stored = getattr(load_config(model_settings(job.spec)), "dtype", None)
    return stored if isinstance(stored, torch.dtype) else job.machine.dtype


def _trusted(job: Export) -> bool:
    return bool(job.spec.get("trust_remote_code", False))


# -- the comparison ------------------------------------------------------------------------------


def _probes(job: Export) -> list[list[int]]:
    """Tokens of the fixed prompts: ours, then the first of the run's own held-out rows."""
    asked: list[tuple[Messages, Any]] = [(messages, None) for messages in serving.PROBES]
    recipe = job.trained.spec().get("recipe", {})
    held_out = recipe.get("data", {}).get("eval", "")
    if held_out and Path(held_out).is_file():
        workspace = Workspace(Path(str(job.spec["workspace"])))
        asked += [(row.messages, row.tools) for row in prompts(held_out, _HELD_OUT, 0, workspace)]
    found = []
    for messages, tools in asked:
        with suppress(UserError):  # a template may refuse a system turn
            found.append(job.tokenizer.encode_prompt(messages, tools)[-_LONGEST:])
    return found


def _tell_drift(job: Export, drift: Drift) -> None:
    advice = ": the merged model answers unlike the adapter; try --dtype fp32"
    kind, more = ("warning", advice) if drift.much else ("message", "")
    job.session.events.write(kind, text=drift.sentence + more)


# -- serving -------------------------------------------------------------------------------------


def _check(job: Export, parts: Mapping[str, Path]) -> list[str]:
    """Whether transformers reads the tokens that were trained on; each fault is a warning."""
    job.stage("comparing template and end tokens")
    folder = next(iter(parts.values()))
    faults = serving.parity_faults(job.tokenizer, folder)
    for fault in faults:
        job.session.events.write("warning", text=f"serving differs from training: {fault}")
    return faults


def _write_serving(job: Export, parts: Mapping[str, Path]) -> None:
    """Modelfile and SERVE.md, whose lines are run inside the export's folder."""
    lines = list(_serving_lines(job, parts))
    source, adapter = f"./{parts['gguf'].name}" if "gguf" in parts else "", ""
    if not source:
        whole = parts.get("merged") or parts.get("model")
        source = f"./{whole.name}" if whole else str(job.spec["model"])
        adapter = "" if whole else "./adapter"
    text = serving.modelfile(job.tokenizer, source, adapter)
    (job.folder / "Modelfile").write_text(text, encoding="utf-8")
    if "TEMPLATE" not in text:
        lines.append("Ollama: the chat template does more than a Go template can say; check that "
                     "the one Ollama picks writes the same prompt.")  # fmt: skip
    body = "\n".join(lines)
    (job.folder / "SERVE.md").write_text(
        f"# Serving {job.name}\n\nRun these inside this folder.\n\n{body}\n", encoding="utf-8"
    )


def _serving_lines(job: Export, parts: Mapping[str, Path]) -> Iterator[str]:
    whole = parts.get("merged") or parts.get("model")
    if whole:
        yield f"    {serving.vllm_line(job.name, f'./{whole.name}')}"
    if "adapter" in parts:
        config = json.loads((parts["adapter"] / "adapter_config.json").read_text("utf-8"))
        base = str(job.spec["model"])
        line = serving.vllm_adapter_line(job.name, base, "./adapter", config)
        yield f"    {line}" if line else "vLLM cannot serve this kind of adapter: merge it."
    yield f"    ollama create {job.name} -f Modelfile"


def _gguf(job: Export, whole: Path) -> Path:
    """GGUF by llama.cpp's own script; its output goes to the job's log. Raises UserError."""
    kind = str(job.spec["gguf"])
    job.stage(f"writing GGUF ({kind})")
    target = job.folder / f"{job.name}{'' if kind == 'auto' else f'-{kind}'}.gguf"
    converter = Path(str(job.spec["converter"]))
    command = [_interpreter(converter), str(converter), str(whole),
               "--outfile", str(target), "--outtype", kind]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                job.session.beat()
                attend(job.session)
    except StopRequested:
        process.kill()
        process.wait()
        target.unlink(missing_ok=True)
        raise
    if process.returncode or not _is_gguf(target):
        target.unlink(missing_ok=True)
        log = job.session.job.log_path(job.session.attempt)
        raise UserError(
            f"ended with code {process.returncode} and wrote no GGUF; everything else is exported. "
            f"It said: {_last_words(log)}",
            str(converter),
            "Where a package is missing: install its requirements.txt into a .venv beside it.",
        )
    return target


def _interpreter(converter: Path) -> str:
    """The Python of an environment beside the script, which has what it needs; else our own."""
    for name in (".venv", "venv"):
        python = converter.parent / name / "bin" / "python"
        if python.is_file():
            return str(python)
    return sys.executable


def _last_words(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "nothing."
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing.")


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _sentence(parts: Mapping[str, Path], metrics: Mapping[str, Any]) -> str:
    told = [f"exported {', '.join(parts)}"]
    if drift := metrics.get("drift"):
        told.append(
            f"merged agrees at {drift['agreement']:.1%} of positions (KL {drift['kl_nats']:.2g})"
        )
    told.append("same tokens as in training" if metrics["parity"] else "tokens differ, see events")
    return "; ".join(told)
