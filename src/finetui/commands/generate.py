"""``finetui generate``: answer the prompts of a data set with a model or a training run."""

from __future__ import annotations

import argparse

from finetui import start
from finetui.commands import console, watch
from finetui.display import clean
from finetui.evaluation.compare import read_outputs


def parser() -> argparse.ArgumentParser:
    made = console.parser("Answer the prompts of a data set and score the answers where the rows "
                          "have a reference.", json=True)  # fmt: skip
    made.add_argument("data", help="a data set with prompts")
    made.add_argument("--job", default="", help="a training run: its model with what it learned")
    made.add_argument("--model", default="", help="a model folder or hub id, as it is")
    made.add_argument("--limit", type=int, default=0, help="at most so many rows (0: all)")
    made.add_argument("--max-new-tokens", type=int, default=64)
    made.add_argument("--temperature", type=float, default=0.0)
    made.add_argument("--seed", type=int, default=0)
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    side = arguments.model or start.trained_job(workspace, arguments.job)
    job = start.start_generation(
        workspace, side, arguments.data, limit=arguments.limit,
        max_new_tokens=arguments.max_new_tokens, temperature=arguments.temperature,
        seed=arguments.seed,
    )  # fmt: skip
    watch.follow(job, console.say)
    for output in read_outputs(job.path / "outputs-after.jsonl"):
        if arguments.json:
            console.emit(output)
        else:
            console.out(f"{clean(output.id)}\t{clean(output.answer)}")
    return watch.ended(job)
