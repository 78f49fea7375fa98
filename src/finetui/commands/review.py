"""``finetui review``: a person decides over feedback and candidate rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from finetui.commands import console
from finetui.data.review.feedback import take_repairs
from finetui.data.review.queue import FEEDBACK, KINDS, READY, STATES, Added, Item, Queue
from finetui.display import clean, clean_block, moment, plural
from finetui.errors import UserError

_SHOWN = 56
_ROWS = 200


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "The review queue: production feedback and candidate rows wait here until a person "
        "accepts or dismisses them.",
        json=True,
    )
    verbs = made.add_subparsers(dest="verb", metavar="VERB", prog="finetui review")
    list_options(verbs.add_parser("list", help="the items (this is the default)"))
    show = verbs.add_parser("show", help="one item, whole")
    show.add_argument("id", type=int)
    accept = verbs.add_parser("accept", help="take items as they stand, or one as changed")
    accept.add_argument("id", type=int, nargs="+")
    answer_options(accept)
    dismiss = verbs.add_parser("dismiss", help="put items aside")
    dismiss.add_argument("id", type=int, nargs="+")
    dismiss.add_argument("--reason", default="", help="why; it is kept")
    reopen = verbs.add_parser("reopen", help="take decisions back: items are as they arrived")
    reopen.add_argument("id", type=int, nargs="+")
    add_options(verbs.add_parser("add", help="write accepted rows into a data set of the queue's"))
    verbs.add_parser("undo", help="take back the newest operation")
    verbs.add_parser("redo", help="do again what undo took back")
    verbs.add_parser("log", help="what was done, when and by whom")
    for verb in verbs.choices.values():
        shared_options(verb)
    made.set_defaults(kind="", state="", limit=_ROWS, order="id")
    return made


def shared_options(verb: argparse.ArgumentParser) -> None:
    """The options of every verb; the parent has the defaults."""
    verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS,
                      help="one JSON value a line, for scripts")  # fmt: skip
    console.add_workspace(verb, argparse.SUPPRESS)


def list_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("--state", choices=STATES, default="", help="only items in this state")
    made.add_argument("--kind", choices=KINDS, default="", help="only feedback or candidates")
    made.add_argument("--order", choices=("id", "reports"), default="id",
                      help="by number, or most often reported first")  # fmt: skip
    made.add_argument("--limit", type=int, default=_ROWS, help=f"at most so many ({_ROWS})")


def answer_options(made: argparse.ArgumentParser) -> None:
    change = made.add_mutually_exclusive_group()
    change.add_argument("--answer", metavar="TEXT", help="with this answer (- reads it from stdin)")
    change.add_argument("--row", metavar="JSON", help="as this row (- reads it from stdin)")


def add_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("id", type=int, nargs="*", help="items (default: all that stand ready)")
    made.add_argument("--to", default="", metavar="FILE",
                      help="a new file, or one the queue made (default: in datasets/)")  # fmt: skip
    made.add_argument("--preference", action="store_true",
                      help="write feedback as pairs: chosen the correction, rejected the bad "
                      "output")  # fmt: skip
    made.add_argument("--held-out", action="store_true",
                      help="add rows of held-out data too; this leaks the test")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    verbs = {"list": show_list, "show": _show, "accept": accept, "dismiss": _dismiss,
             "reopen": _reopen, "add": add, "undo": _undo, "redo": _undo,
             "log": _log}  # fmt: skip
    with open_queue(arguments) as queue:
        return verbs[arguments.verb or "list"](queue, arguments)


def open_queue(arguments: argparse.Namespace) -> Queue:
    """The queue, with what the Evaluate screen has put on its list since."""
    queue = Queue(console.workspace_of(arguments))
    if taken := take_repairs(queue):
        console.say(f"{plural(taken, 'row')} of the Evaluate screen's list joined the queue.")
    return queue


def show_list(queue: Queue, arguments: argparse.Namespace) -> int:
    items = queue.items(
        arguments.state, arguments.kind, order=arguments.order, limit=arguments.limit
    )
    if arguments.json:
        for item in items:
            console.emit(item.as_dict())
        return 0
    if items:
        console.table([_cells(item) for item in items], ("ID", "KIND", "STATE", "SEEN", "ROW", ""))
    console.say(_counted(queue))
    return 0


def accept(queue: Queue, arguments: argparse.Namespace) -> int:
    changed = arguments.answer is not None or arguments.row is not None
    if changed and len(arguments.id) > 1:
        raise UserError("one answer is for one item.", "--answer", "Accept them one by one.")
    if changed:
        answer, row = _text(arguments.answer), _text(arguments.row)
        queue.accept(arguments.id[0], answer=answer, row=row)
    else:
        queue.accept_all(arguments.id)
    for number in arguments.id:
        _tell(queue.item(number), arguments.json)
    return 0


def add(queue: Queue, arguments: argparse.Namespace) -> int:
    numbers = arguments.id or None
    kind = getattr(arguments, "only", "")
    added = queue.add(numbers, arguments.to, kind=kind, preference=arguments.preference,
                      held_out=arguments.held_out)  # fmt: skip
    if arguments.json:
        console.emit(added)
    _narrate(added)
    return 0


def _narrate(added: Added) -> None:
    for file, count in added.files.items():
        console.say(f"{plural(count, 'row')} added to {file}.")
    if not added.rows:
        console.say("Nothing stands ready: accept items first.")
    if added.held_out:
        console.say(
            f"{plural(added.held_out, 'row')} of held-out data stayed in the queue: adding "
            "would leak the test."
        )


def _show(queue: Queue, arguments: argparse.Namespace) -> int:
    item = queue.item(arguments.id)
    if arguments.json:
        console.emit(item.as_dict())
        return 0
    for name, text in details(item):
        console.out(f"{name + ':':<11}{clean_block(text)}")
    return 0


def details(item: Item) -> list[tuple[str, str]]:
    """The parts of an item for a page, as (name, untrusted text); empty ones left out."""
    entry = item.entry
    parts = [
        ("item", f"{item.id}, {item.kind}, {item.state}"),
        ("from", entry.source),
        ("made from", entry.seed),
        ("reports", str(item.reports) if item.reports > 1 else ""),
    ]
    parts += [(turn.role, turn.content) for turn in item.turns]
    if entry.held_out:
        parts.append(("held out", "yes: it must not be trained on"))
    parts += [
        ("bad output", entry.bad),
        ("text", entry.text),
        ("refused", entry.refused),
        ("note", entry.note),
        ("row", item.row_text),
    ]
    when = moment(item.decided, "%Y-%m-%d %H:%M")
    parts.append((item.decision, f"{when} by {item.decided_by}"))
    parts += [("reason", item.reason), ("added to", item.file)]
    return [(name, text) for name, text in parts if text]  # fmt: skip


def _dismiss(queue: Queue, arguments: argparse.Namespace) -> int:
    count = queue.dismiss(arguments.id, arguments.reason)
    return _done(f"{plural(count, 'item')} dismissed.", {"dismissed": count}, arguments)


def _reopen(queue: Queue, arguments: argparse.Namespace) -> int:
    count = queue.reopen(arguments.id)
    return _done(f"{plural(count, 'item')} reopened.", {"reopened": count}, arguments)


def _undo(queue: Queue, arguments: argparse.Namespace) -> int:
    done = queue.undo() if arguments.verb == "undo" else queue.redo()
    told = done or f"Nothing to {arguments.verb}."
    return _done(told, {arguments.verb: done}, arguments)


def _done(sentence: str, value: object, arguments: argparse.Namespace) -> int:
    if arguments.json:
        console.emit(value)
    else:
        console.say(sentence)
    return 0


def _log(queue: Queue, arguments: argparse.Namespace) -> int:
    steps = queue.history(_ROWS)
    if arguments.json:
        for step in steps:
            console.emit(step)
        return 0
    rows = [
        (step.seq, moment(step.time, "%Y-%m-%d %H:%M"), step.actor,
         step.kind + (f" of {step.inverse_of}" if step.inverse_of else ""), step.items, step.note)
        for step in steps
    ]  # fmt: skip
    console.table(rows, ("STEP", "WHEN", "WHO", "WHAT", "ITEMS", "NOTE"))
    return 0


def _cells(item: Item) -> Sequence[object]:
    prompts = [turn.content for turn in item.turns if turn.role == "user"]
    asked = prompts[-1] if prompts else item.entry.text or item.row_text
    said = item.entry.refused or item.reason or item.answer or item.entry.bad
    return (item.id, item.kind, item.state, item.reports, _short(asked), _short(said))


def _short(text: str) -> str:
    line = clean(" ".join(text[: 4 * _SHOWN].split()))
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _counted(queue: Queue) -> str:
    parts = [
        f"{kind}: {', '.join(f'{count:,} {state}' for state, count in states.items() if count)}"
        for kind, states in queue.counts().items()
        if any(states.values())
    ]
    ready = sum(states[state] for states in queue.counts().values() for state in READY)
    told = "; ".join(parts) or "The review queue is empty."
    return f"{told}. Add what stands ready: finetui review add" if ready else told


def _tell(item: Item, json: bool) -> None:
    if json:
        console.emit(item.as_dict())
    else:
        what = "corrected" if item.kind == FEEDBACK else "accepted"
        console.say(f"item {item.id} {what}.")


def _text(given: str | None) -> str | None:
    """An option's text; ``-`` reads standard input."""
    return sys.stdin.read().rstrip("\n") if given == "-" else given


def dataset_path(name: str, root: Path) -> Path:
    """A data set as typed: from here, or else from the workspace."""
    here = Path(name).expanduser()
    return here if here.exists() or here.is_absolute() else root / here
