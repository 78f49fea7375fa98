"""``finetui suggest``: candidate rows from a model, into the review queue."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from finetui import settings, start
from finetui.commands import console, review, watch
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.prices import read_prices
from finetui.data.review import candidates, suggest
from finetui.data.review.candidates import Request
from finetui.data.review.queue import Queue
from finetui.data.review.remote import Endpoint, make_endpoint, read_key
from finetui.data.review.replies import Judge
from finetui.display import clean, plural, size
from finetui.errors import UserError
from finetui.evaluation.compare import read_outputs
from finetui.jobs.folder import Job, find_job
from finetui.settings import Suggest
from finetui.workspace import MARKER, Workspace

_VARIATIONS, _FOR_CLASS = 5, 20
_PRIVATE = ("privacy",)


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Ask a model for rows: variations of a row, or rows of a class that has too few. They "
        "enter the review queue (finetui review), never the set. The endpoint is named in "
        "[suggest] of your settings; only the rows you choose are sent, and you are asked first.",
        json=True,
    )
    made.add_argument("file", metavar="FILE", help="the data set")
    what = made.add_argument_group("what to ask for")
    what.add_argument("--lines", default="", metavar="3,17-20", help="variations of these lines")
    what.add_argument("--class", dest="label", default="", metavar="LABEL",
                      help="rows of this class")  # fmt: skip
    what.add_argument("--field", default="", metavar="NAME",
                      help="the class is this column or field of a JSON answer")  # fmt: skip
    what.add_argument("--count", type=int, default=0,
                      help=f"new rows: for each line ({_VARIATIONS}), of the class "
                      f"({_FOR_CLASS})")  # fmt: skip
    what.add_argument("--instruction", default="", metavar="TEXT", help="your words to the model")
    what.add_argument("--against", action="append", default=[], metavar="FILE",
                      help="held-out data that no candidate may repeat")  # fmt: skip
    _model_options(made.add_argument_group("which model"))
    made.add_argument("--yes", action="store_true", help="send without asking")
    made.add_argument("--dry-run", action="store_true", help="print what would be sent; send "
                      "nothing")  # fmt: skip
    made.add_argument("--seed", type=int, default=0, help="draws the rows that are shown")
    return made


def _model_options(made: argparse._ArgumentGroup) -> None:
    made.add_argument("--url", default=None, help="an OpenAI-compatible endpoint, up to its /v1")
    made.add_argument("--model", default=None, help="the model as the endpoint names it")
    made.add_argument("--key-file", default=None, metavar="FILE",
                      help="a file with the key that only you can read")  # fmt: skip
    made.add_argument("--temperature", type=float, default=None)
    made.add_argument("--max-tokens", type=int, default=None, help="of one answer")
    made.add_argument("--fresh", action="store_true", help="do not take answers from the cache")
    made.add_argument(
        "--job",
        default="",
        help="a training run of this workspace answers, here (last: the newest)",
    )
    made.add_argument("--local", default="", metavar="MODEL", help="a model folder answers, here")
    made.add_argument("--collect", default="", metavar="JOB",
                      help="take the answers of an earlier local job")  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    with ExitStack() as stack:
        sets = [
            stack.enter_context(open_dataset(review.dataset_path(name, workspace.root), workspace))
            for name in (arguments.file, *arguments.against)
        ]
        queue = stack.enter_context(Queue(workspace))
        if arguments.collect:
            return _collect(queue, sets, find_job(workspace.jobs, arguments.collect), arguments)
        requests = _requests(sets[0], workspace, arguments)
        if arguments.job or arguments.local:
            return _ask_local_job(queue, sets, requests, arguments)
        return _ask_endpoint(queue, sets, requests, arguments)


# ---------------------------------------------------------------- what to ask


def _requests(
    dataset: DataSet, workspace: Workspace, arguments: argparse.Namespace
) -> list[Request]:
    if bool(arguments.lines) == bool(arguments.label):
        raise UserError("say what to ask for.", fix="Either --lines 3,17-20 or --class LABEL.")
    if arguments.count < 0:
        raise UserError("is no number of rows.", "--count")
    dataset.build_index()
    if arguments.lines:
        rows = rows_of(dataset, arguments.lines)
        return candidates.variations(
            dataset, rows, arguments.count or _VARIATIONS, workspace, arguments.instruction
        )
    with console.progress("looking for rows of the class") as progress:
        return candidates.for_class(
            dataset, arguments.label, arguments.count or _FOR_CLASS, workspace,
            arguments.instruction, arguments.field, arguments.seed, progress,
        )  # fmt: skip


def rows_of(dataset: DataSet, text: str) -> list[int]:
    """The rows at physical lines like ``3,17-20``. Raises UserError."""
    wanted: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise UserError(f"{part!r} is no line.", "--lines", "Write for example 3,17-20.")
        wanted += range(int(first), min(int(last or first), int(first) + 10_000) + 1)
    rows = {dataset.source.line(row): row for row in _near(dataset, wanted)}
    missing = [line for line in wanted if line not in rows]
    if missing:
        raise UserError(f"has no row that begins in line {missing[0]:,}.", str(dataset.path))
    return list(dict.fromkeys(rows[line] for line in wanted))


def _near(dataset: DataSet, lines: Sequence[int]) -> Sequence[int]:
    """Rows that may begin in one of the lines: in JSONL a row is a line."""
    if dataset.source.format == "jsonl":
        return [line - 1 for line in lines if 0 < line <= dataset.rows]
    return range(dataset.rows)


# ---------------------------------------------------------------- an endpoint


def _ask_endpoint(
    queue: Queue, sets: Sequence[DataSet], requests: list[Request], arguments: argparse.Namespace
) -> int:
    wanted = _settings(queue.workspace, arguments)
    endpoint = make_endpoint(
        wanted.url, wanted.model, read_key(wanted.key_file, wanted.key_env), wanted.timeout
    )
    prices = read_prices(queue.workspace)
    found = candidates.forecast(requests, endpoint.model, wanted.max_tokens, prices)
    _tell_plan(sets[0], requests, found, endpoint, wanted)
    if arguments.dry_run:
        _print(requests, arguments.json)
        return 0
    if not (arguments.yes or _agreed()):
        console.say("Nothing was sent.")
        return 2
    judge = _judge(queue, sets)
    with console.progress("asking") as progress:
        outcome = suggest.ask_all(
            queue, judge, endpoint, requests, max_tokens=wanted.max_tokens,
            temperature=wanted.temperature, fresh=arguments.fresh, progress=progress,
            tell=console.say,
        )  # fmt: skip
    console.say(suggest.spent_line(outcome, endpoint.model, prices))
    return _ended(outcome, arguments.json)


def _settings(workspace: Workspace, arguments: argparse.Namespace) -> Suggest:
    """The person's endpoint with what was typed; another address never gets the saved key."""
    saved = settings.load(workspace.root / MARKER).suggest
    typed = {name: getattr(arguments, name)
             for name in ("url", "model", "key_file", "temperature", "max_tokens")
             if getattr(arguments, name) is not None}  # fmt: skip
    if saved.url and typed.get("url", saved.url) != saved.url:
        typed.setdefault("key_file", "")
        typed["key_env"] = ""
    wanted = msgspec.structs.replace(saved, **typed)
    if not wanted.url:
        raise UserError(
            "no endpoint is named.",
            "suggest.url",
            f"Write url and model under [suggest] in {settings.user_file(os.environ)}, or use "
            "--url; --job and --local ask a model on this machine.",
        )
    return wanted


def _tell_plan(
    dataset: DataSet,
    requests: list[Request],
    found: candidates.Forecast,
    endpoint: Endpoint,
    wanted: Suggest,
) -> None:
    rows = sorted({row for request in requests for row in request.rows})
    lines = [f"{dataset.source.line(row):,}" for row in rows]
    told = ", ".join(lines[:12]) + (" …" if len(lines) > 12 else "")
    count = sum(request.count for request in requests)
    console.say(f"ask for:  {plural(count, 'new row')} in {plural(found.requests, 'request')}")
    console.say(f"send:     {plural(found.rows, 'row')} of {dataset.path} (line {told}), "
                f"{size(found.bytes)} of text with the template")  # fmt: skip
    if left_out := sorted({name for request in requests for name in request.left_out}):
        console.say(f"not sent: the columns {', '.join(left_out)}")
    where = "on this machine" if endpoint.local else "over the network"
    console.say(f"to:       {endpoint.address} (model {endpoint.model}), {where}, "
                f"{_key_told(endpoint, wanted)}")  # fmt: skip
    console.say(f"cost:     {suggest.cost_line(found, endpoint.model)}")
    for warning in private_rows(dataset, rows):
        console.say(f"careful:  {warning}")


def _key_told(endpoint: Endpoint, wanted: Suggest) -> str:
    if not endpoint.key:
        return "without a key"
    return f"with the key of {wanted.key_file or '$' + wanted.key_env}"


def private_rows(dataset: DataSet, rows: Sequence[int]) -> list[str]:
    """A sentence for each chosen row with personal data or secrets in it."""
    from finetui.data.checks.registry import CHECKS
    from finetui.data.checks.run import check_row

    private = {check.id: check.title for check in CHECKS.values() if check.family in _PRIVATE}
    told = []
    for row in rows:
        titles = {private[hit.check] for hit in check_row(dataset, row) if hit.check in private}
        if titles:
            line = dataset.source.line(row)
            told.append(f"line {line:,} holds private data ({'; '.join(sorted(titles))})")
    return told


def _agreed() -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError("nobody can be asked here.", fix="Look with --dry-run, send with --yes.")
    print("Send this? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print(requests: Sequence[Request], json: bool) -> None:
    for request in requests:
        if json:
            console.emit(request)
            continue
        for line in request.messages[0]["content"].split("\n"):
            console.out(clean(line))


# ---------------------------------------------------------------- a local job


def _ask_local_job(
    queue: Queue, sets: Sequence[DataSet], requests: list[Request], arguments: argparse.Namespace
) -> int:
    workspace, named = queue.workspace, "" if arguments.job == "last" else arguments.job
    side = arguments.local or start.trained_job(workspace, named)
    if arguments.dry_run:
        _print(requests, arguments.json)
        return 0
    wanted = settings.load(workspace.root / MARKER).suggest
    name = f"{sets[0].path.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = candidates.write_prompts(workspace, requests, name)
    heat = wanted.temperature if arguments.temperature is None else arguments.temperature
    job = start.start_generation(
        workspace, side, str(path), temperature=heat, seed=arguments.seed,
        max_new_tokens=arguments.max_tokens or wanted.max_tokens,
    )  # fmt: skip
    console.say(f"If you leave, take the answers later: --collect {job.id}")
    watch.follow(job, console.say)
    if watch.ended(job):
        return 1
    return _collect(queue, sets, job, arguments)


def _collect(queue: Queue, sets: Sequence[DataSet], job: Job, arguments: argparse.Namespace) -> int:
    asked = candidates.read_prompts(queue.workspace.resolve(str(job.spec().get("data", ""))))
    answers = [
        (asked[output.id], output.answer)
        for output in read_outputs(job.path / "outputs-after.jsonl")
        if output.id in asked
    ]
    outcome = suggest.collect(queue, _judge(queue, sets), answers, f"job {job.id}")
    return _ended(outcome, arguments.json)


# ---------------------------------------------------------------- both


def _judge(queue: Queue, sets: Sequence[DataSet]) -> Judge:
    with console.progress("reading the rows it must not repeat") as progress:
        return Judge(sets[0], sets[1:], queue, progress)


def _ended(outcome: suggest.Outcome, json: bool) -> int:
    if json:
        console.emit({**vars(outcome), "reasons": dict(outcome.reasons)})
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in outcome.reasons.most_common())
    console.say(
        f"{plural(outcome.new, 'candidate')} in the review queue"
        + (f", {outcome.known:,} known to it already" if outcome.known else "")
        + (f"; refused: {reasons}" if reasons else "")
        + "."
    )
    if outcome.known and outcome.cached and not outcome.new:
        console.say("The answers came from the cache; --fresh asks anew.")
    if outcome.failure:
        console.say(f"It ended early: {outcome.failure}")
    elif outcome.new:
        console.say("Look at them: finetui review list --kind candidate --state pending")
    return 1 if outcome.failure or not outcome.new + outcome.known else 0
