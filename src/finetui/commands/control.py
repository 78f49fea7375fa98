"""``finetui control``: save, evaluate, pause, change or end a run while it trains."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui.commands import console
from finetui.errors import UserError
from finetui.jobs import control
from finetui.jobs.events import EventTail
from finetui.jobs.folder import Job, find_job


def parser() -> argparse.ArgumentParser:
    lines = [f"  {name:<10} {verb.help}" for name, verb in control.VERBS.items()]
    made = console.parser("Save, evaluate, pause, change or end a run while it trains.")
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.epilog = "\n".join(["requests:", *lines, "", "example: finetui control last set "
                             "learning_rate=1e-4 end_step=2000"])  # fmt: skip
    made.add_argument("job", help='its id, folder, part of the id, or "last"')
    made.add_argument("verb", choices=list(control.VERBS), metavar="REQUEST", help="see below")
    made.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help="what set and exclude take")
    return made


def run(arguments: argparse.Namespace) -> int:
    job = find_job(console.workspace_of(arguments).jobs, arguments.job)
    fields: dict[str, object] = dict(_fields(arguments.fields))
    if arguments.verb == "exclude" and "rows" in fields:
        fields["rows"] = _rows(job, str(fields["rows"]))
    console.say(control.request(job, arguments.verb, **fields))
    return 0


def _fields(words: list[str]) -> dict[str, str]:
    """``name=value`` words by name. Raises UserError for a word that is none."""
    found: dict[str, str] = {}
    for word in words:
        name, mark, value = word.partition("=")
        if not mark or not name or name in found:
            raise UserError(
                f"{word!r} is no FIELD=VALUE of its own.", fix="See: finetui control -h"
            )
        found[name] = value
    return found


def _rows(job: Job, text: str) -> str:
    """``tickets.jsonl:12`` with the file's number in the run instead of its name."""
    return ",".join(f"{_number(job, file)}:{line}" for file, _, line in
                    (row.rpartition(":") for row in text.split(",")))  # fmt: skip


def _number(job: Job, name: str) -> str:
    told = [event for event in EventTail(job).read() if event["kind"] == "data"]
    files = [str(file) for file in told[-1].get("files", ())] if told else []
    numbers = [str(i) for i, file in enumerate(files) if name in (file, Path(file).name)]
    if len(numbers) > 1:
        raise UserError(f"{name} is trained on {len(numbers)} times.", job.id, "Write its path.")
    return numbers[0] if numbers else name
