"""``finetui feedback``: failures from production, worked through as a queue."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui.commands import console, review
from finetui.data.review.feedback import Columns, Imported, import_feedback
from finetui.data.review.queue import FEEDBACK, Queue
from finetui.display import plural

_TOLD = 10


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Production feedback: import failures (prompt, bad output, corrected output if any), "
        "correct them, add the corrected rows to a data set. Dismissing and undo: finetui review.",
        json=True,
    )
    verbs = made.add_subparsers(dest="verb", metavar="VERB", prog="finetui feedback")
    bring = verbs.add_parser("import", help="take in a file of failures (JSONL, JSON, CSV)")
    bring.add_argument("file", type=Path, nargs="+", metavar="FILE")
    for name, what in (("prompt", "what was asked"), ("bad", "the bad output"),
                       ("corrected", "the corrected output"), ("note", "why")):  # fmt: skip
        bring.add_argument(f"--{name}", default="", metavar="COLUMN",
                           help=f"the column with {what} (default: by usual names)")  # fmt: skip
    review.list_options(verbs.add_parser("list", help="the failures (this is the default)"))
    correct = verbs.add_parser("correct", help="say what the answer should have been")
    correct.add_argument("id", type=int)
    correct.add_argument("text", nargs="?", default="-", help="the answer (default: from stdin)")
    review.add_options(verbs.add_parser("add", help="write the corrected rows into a data set"))
    for verb in verbs.choices.values():
        review.shared_options(verb)
    made.set_defaults(state="", limit=200, order="id")
    return made


def run(arguments: argparse.Namespace) -> int:
    verbs = {"import": _import, "list": _list, "correct": _correct, "add": _add}
    with review.open_queue(arguments) as queue:
        return verbs[arguments.verb or "list"](queue, arguments)


def _import(queue: Queue, arguments: argparse.Namespace) -> int:
    columns = Columns(arguments.prompt, arguments.bad, arguments.corrected, arguments.note)
    refused = 0
    for file in arguments.file:
        with console.progress(f"reading {file.name}") as progress:
            found = import_feedback(queue, file, columns, progress)
        refused += len(found.refused)
        if arguments.json:
            console.emit({"file": str(file), **_counts(found)})
        else:
            _narrate(file, found)
    return 1 if refused else 0


def _counts(found: Imported) -> dict[str, object]:
    names = ("rows", "new", "corrected", "known", "taken")
    counts: dict[str, object] = {name: getattr(found, name) for name in names}
    refused = [{"line": each.line, "reason": each.reason} for each in found.refused]
    return {**counts, "refused": refused}


def _narrate(file: Path, found: Imported) -> None:
    console.say(
        f"{file.name}: {plural(found.rows, 'row')} ({found.corrected:,} with a corrected output), "
        f"{found.new:,} new, {found.known:,} known already"
        + (f", {plural(found.taken, 'correction')} taken for known ones" if found.taken else "")
        + "."
    )
    for each in found.refused[:_TOLD]:
        console.say(f"  {file}:{each.line}: {each.reason}")
    if len(found.refused) > _TOLD:
        console.say(f"  and {plural(len(found.refused) - _TOLD, 'more row')} left out.")


def _list(queue: Queue, arguments: argparse.Namespace) -> int:
    arguments.kind = FEEDBACK
    return review.show_list(queue, arguments)


def _correct(queue: Queue, arguments: argparse.Namespace) -> int:
    arguments.id, arguments.answer, arguments.row = [arguments.id], arguments.text, None
    return review.accept(queue, arguments)


def _add(queue: Queue, arguments: argparse.Namespace) -> int:
    arguments.only = FEEDBACK
    return review.add(queue, arguments)
