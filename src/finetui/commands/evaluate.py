"""``finetui evaluate``: measure models on held-out rows and suites; show, compare, ask again."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetui import start
from finetui.commands import console, watch
from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.evaluation import figures, past, repairs, report, worst
from finetui.evaluation.catalogue import metric, shown, shown_change
from finetui.evaluation.joined import JoinedRecord
from finetui.evaluation.record import Manifest, Record, of_job, read_manifest
from finetui.evaluation.results import p_text, span
from finetui.evaluation_wish import Wish, main_subject
from finetui.jobs.folder import Job, find_job, list_jobs
from finetui.jobs.liveness import state
from finetui.workspace import Workspace, write_atomic

FORMATS: dict[str, Callable[[report.Report], str]] = {
    "text": report.as_text,
    "md": report.as_markdown,
    "html": report.as_html,
    "json": report.as_json,
}


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Let models answer the same rows and compare them: differences with intervals, never two "
        "bare numbers. Every evaluation is a record that can be shown, compared and asked again."
    )
    verbs = made.add_subparsers(prog="finetui evaluate", dest="verb", required=True, metavar="VERB")
    _start_options(verbs.add_parser("start", help="answer and score; follows until it has ended"))
    verbs.add_parser("list", help="the evaluations, newest first")
    show = verbs.add_parser("show", help="what came out, in words; --worst N lists rows instead")
    _record(show)
    show.add_argument("--worst", type=int, default=0, metavar="N", help="the N worst rows")
    show.add_argument("--set", default="", help="whose rows (default: the first set)")
    show.add_argument("--subject", default="", help="against the base (default: the first other)")
    compare = verbs.add_parser(
        "compare", help="two: paired differences; more: figures side by side"
    )
    compare.add_argument("records", nargs="+", metavar="ID", help="two or more evaluations")
    written = verbs.add_parser("report", help="all of it as one page")
    _record(written)
    written.add_argument("--format", choices=tuple(FORMATS), default="text")
    written.add_argument("--to", type=Path, metavar="FILE", help="default: standard output")
    again = verbs.add_parser("rerun", help="ask the same again, from the manifest")
    again.add_argument("record", help="an evaluation, or a manifest.json")
    again.add_argument("--detach", action="store_true", help="start it and return")
    repair = verbs.add_parser("repair", help="put rows on the repair list")
    repair.add_argument("record", help="an evaluation, or a training run")
    repair.add_argument("rows", nargs="+", metavar="FILE:LINE", help="as show --worst names them")
    for name, verb in verbs.choices.items():
        console.add_workspace(verb, argparse.SUPPRESS)
        if name not in ("report", "repair"):
            verb.add_argument("--json", action="store_true", help="one JSON value a line")
    return made


def _record(made: argparse.ArgumentParser) -> None:
    made.add_argument("record", nargs="?", default="last",
                      help="its id or a part of it, or a training run (default: the newest "
                      "evaluation)")  # fmt: skip


def _start_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("run", nargs="?", default="", help="a training run (default: the newest)")
    made.add_argument("--name", default="", help="name of the evaluation (default: the run's)")
    who = made.add_argument_group("who answers, besides the run and its base")
    who.add_argument("--shots", type=int, default=0, metavar="N",
                     help="the base behind N examples: would prompting do?")  # fmt: skip
    who.add_argument("--few-shot", default="", metavar="FILE",
                     help="where the examples are from (default: the training data)")  # fmt: skip
    who.add_argument("--checkpoints", action="store_true", help="every checkpoint of the run")
    who.add_argument("--also", action="append", default=[], metavar="RUN", dest="others",
                     help="another training run")  # fmt: skip
    who.add_argument("--model", action="append", default=[], metavar="MODEL", dest="models",
                     help="a model folder or hub id as it is")  # fmt: skip
    who.add_argument("--outputs", action="append", default=[], metavar="FILE",
                     help="a JSONL of answers from anywhere: id, answer")  # fmt: skip
    what = made.add_argument_group("what")
    what.add_argument("--data", action="append", default=[], metavar="FILE",
                      help="rows to answer (default: the run's held-out rows)")  # fmt: skip
    what.add_argument("--suite", action="append", default=[], metavar="FILE", dest="suites",
                      help="rows that must not be forgotten, besides suites/*.jsonl")  # fmt: skip
    what.add_argument("--safety", action="append", default=[], metavar="FILE",
                      help="rows that expect: refuse, comply, resist, withhold")  # fmt: skip
    what.add_argument("--no-suites", action="store_true", help="no suites but the named ones")
    what.add_argument("--no-drift", action="store_true", help="no distance from the base")
    what.add_argument("--no-leaks", action="store_true", help="no beginnings of training rows")
    what.add_argument("--limit", type=int, default=0, metavar="N", help="at most N rows of a set")
    scoring = made.add_argument_group("how the rows of the task are scored")
    scoring.add_argument("--metric", action="append", default=[], dest="metrics", metavar="NAME",
                         help="only these; the first one judges (default: what fits)")  # fmt: skip
    scoring.add_argument("--label", action="append", default=[], dest="labels", metavar="FIELD",
                         help="a field of JSON answers that is a label")  # fmt: skip
    scoring.add_argument("--slice", action="append", default=[], dest="tags", metavar="COLUMN",
                         help="a column of the data to slice by")  # fmt: skip
    scoring.add_argument("--schema", default="", metavar="FILE", help="a JSON Schema of answers")
    scoring.add_argument("--pattern", default="", help="a regular expression answers must match")
    scoring.add_argument("--scorer", default="", metavar="FILE.py::FUNCTION",
                         help="your own function, run in its own process")  # fmt: skip
    scoring.add_argument("--margin", type=float, default=0.0, metavar="SHARE",
                         help="what a suite may lose (default: 0.05)")  # fmt: skip
    how = made.add_argument_group("how")
    how.add_argument("--max-new-tokens", type=int, default=0, help="0: as in the run's recipe")
    how.add_argument("--temperature", type=float, default=0.0)
    how.add_argument("--seed", type=int, default=0)
    how.add_argument("--batch-size", type=int, default=32)
    how.add_argument("--latency", type=int, default=0, metavar="N",
                     help="time N prompts with adapter, merged and base in turn")  # fmt: skip
    how.add_argument("--harness", action="append", default=[], metavar="TASK",
                     help="a task of lm-evaluation-harness, where it is installed")  # fmt: skip
    how.add_argument("--manifest-only", action="store_true",
                     help="print the manifest that would be asked, start nothing")  # fmt: skip
    how.add_argument("--detach", action="store_true", help="start it and return")


def run(arguments: argparse.Namespace) -> int:
    verbs = {
        "start": _start,
        "list": _list,
        "show": _show,
        "compare": _compare,
        "report": _report,
        "rerun": _rerun,
        "repair": _repair,
    }
    return verbs[arguments.verb](console.workspace_of(arguments), arguments)


def named(workspace: Workspace, text: str) -> Record:
    """The record a person means: of an evaluation, or the one inside a training run.

    ``text`` is a part of its id, or "last". Raises UserError.
    """
    kind = "evaluate" if text in ("last", "latest") else ""
    job = find_job(workspace.jobs, text, kind)
    if job.kind == "evaluate":
        return of_job(job.path)
    inside = past.of_training(job.path)
    if inside is None:
        raise UserError("has no answers to compare.", job.id, "finetui evaluate start RUN")
    return inside


# -- asking ---------------------------------------------------------------------------------------


def _start(workspace: Workspace, arguments: argparse.Namespace) -> int:
    manifest = _wish(workspace, arguments).manifest(workspace)
    if arguments.manifest_only:
        console.emit(manifest)
        return 0
    return _run(workspace, manifest, arguments)


def _wish(workspace: Workspace, arguments: argparse.Namespace) -> Wish:
    given = vars(arguments)
    same = ("name", "shots", "few_shot", "checkpoints", "models", "outputs", "data", "suites",
            "safety", "limit", "metrics", "labels", "tags", "schema", "pattern", "scorer",
            "margin", "seed", "max_new_tokens", "temperature", "batch_size", "harness")  # fmt: skip
    return Wish(
        run=start.trained_job(workspace, arguments.run),
        others=[start.trained_job(workspace, name) for name in arguments.others],
        regression=not arguments.no_suites,
        drift=not arguments.no_drift,
        leak=not arguments.no_leaks,
        latency_prompts=arguments.latency,
        **{name: given[name] for name in same},
    )


def _rerun(workspace: Workspace, arguments: argparse.Namespace) -> int:
    path = Path(arguments.record)
    if path.suffix == ".json" and path.is_file():
        manifest = read_manifest(path)
    else:
        manifest = of_job(find_job(workspace.jobs, arguments.record, "evaluate").path).manifest()
    return _run(workspace, manifest, arguments)


def _run(workspace: Workspace, manifest: Manifest, arguments: argparse.Namespace) -> int:
    """Start it, follow it with progress, and say what came out."""
    job = start.start_evaluation(workspace, manifest)
    who = ", ".join(subject.name for subject in manifest.subjects)
    console.say(f"{job.id}: {who} on {', '.join(spec.name for spec in manifest.sets)}")
    if arguments.detach:
        console.emit({"job": job.id}) if arguments.json else console.out(job.id)
        return 0
    watch.follow(job, console.say)
    code = watch.ended(job)
    if not code:
        _tell(of_job(job.path), arguments.json)
    return code


# -- reading --------------------------------------------------------------------------------------


def _list(workspace: Workspace, arguments: argparse.Namespace) -> int:
    rows = [_line(job) for job in list_jobs(workspace.jobs) if job.kind == "evaluate"]
    if arguments.json:
        for row in rows:
            console.emit(row)
    elif rows:
        cells = [
            (row["id"], row["state"], ", ".join(row["subjects"]), ", ".join(row["sets"]),
             row["sentence"])
            for row in rows
        ]  # fmt: skip
        console.table(cells, ("evaluation", "state", "who", "sets", "what is known"))
    else:
        console.say("no evaluations yet. Start one: finetui evaluate start")
    return 0


def _line(job: Job) -> dict[str, Any]:
    """One evaluation in a list; a folder whose manifest does not read is listed too."""
    now = state(job)
    try:
        manifest = of_job(job.path).manifest()
    except UserError as error:
        return {"id": job.id, "state": now.name, "subjects": [], "sets": [],
                "sentence": str(error)}  # fmt: skip
    return {
        "id": job.id,
        "state": now.name,
        "subjects": [subject.name for subject in manifest.subjects],
        "sets": [spec.name for spec in manifest.sets],
        "sentence": now.sentence,
    }


def _show(workspace: Workspace, arguments: argparse.Namespace) -> int:
    record = named(workspace, arguments.record)
    if arguments.worst:
        return _worst(record, arguments)
    _tell(record, arguments.json)
    return 0


def _tell(record: Record, as_json: bool) -> None:
    """The main difference of each set and what must hold; all differences for scripts."""
    found = figures.read(record) or figures.compute(record)
    if as_json:
        console.emit(found)
        return
    for difference in found.differences:
        if difference.main:
            console.out(clean(difference.sentence))
    for verdict in found.verdicts:
        sign = {True: "ok  ", False: "BAD ", None: "?   "}[verdict.good]
        console.out(sign + clean(f"{verdict.subject}: {verdict.sentence}"))


def _worst(record: Record, arguments: argparse.Namespace) -> int:
    manifest = record.manifest()
    sets = [spec.name for spec in manifest.sets]
    others = [one.name for one in manifest.subjects if one.name != manifest.reference]
    name, subject = arguments.set or sets[0], arguments.subject or main_subject(manifest)
    _require(name, sets, "set")
    _require(subject, others, "subject to compare with the base")
    for row in worst.ranked(record, name, manifest.reference, subject)[: arguments.worst]:
        if arguments.json:
            console.emit({
                "row": row.item.id, "change": row.change, "note": row.note,
                "prompt": row.item.prompt, "reference": row.item.reference,
                "before": row.before.answer, "after": row.after.answer,
            })  # fmt: skip
        else:
            texts = (row.change, row.item.id, row.before.answer, row.after.answer, row.note)
            console.out("\t".join(clean(text) for text in texts))
    return 0


def _require(name: str, known: list[str], what: str) -> None:
    if name not in known:
        fix = f"There are: {', '.join(known)}." if known else ""
        raise UserError(f'no {what} is called "{name}".', fix=fix)


def _compare(workspace: Workspace, arguments: argparse.Namespace) -> int:
    """Two are compared row by row, with intervals; more of them beside each other."""
    records = [named(workspace, text) for text in arguments.records]
    if len(records) == 2:
        return _compare_two(records, arguments.json)
    rows = report.compare(records)
    if arguments.json:
        for row in rows:
            values = dict(zip(arguments.records, row.values, strict=True))
            console.emit({"set": row.set, "metric": row.metric, "values": values})
    else:
        console.table([(row.set, row.metric, *row.values) for row in rows],
                      ("set", "metric", *arguments.records))  # fmt: skip
    return 0


def _compare_two(records: list[Record], as_json: bool) -> int:
    before, after = ((record, main_subject(record.manifest())) for record in records)
    joined = JoinedRecord(before, after)
    found = figures.compute(joined)
    if as_json:
        console.emit(found)
        return 0
    console.say(f"before and after: {joined.manifest().name}, on the rows that both answered")
    cells = [
        (one.set, entry.title, shown(entry, one.was), shown(entry, one.now),
         shown_change(entry, one.value), span(one), p_text(one.p_holm), one.direction)
        for one in found.differences
        for entry in [metric(one.metric)]
    ]  # fmt: skip
    head = ("set", "metric", "before", "after", "difference", "interval", "p (Holm)", "")
    console.table(cells, head)
    return 0


def _report(workspace: Workspace, arguments: argparse.Namespace) -> int:
    text = FORMATS[arguments.format](report.build(named(workspace, arguments.record)))
    if arguments.to is None:
        console.out(text.rstrip("\n"))
        return 0
    try:
        arguments.to.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(arguments.to, text.encode())
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}.", str(arguments.to)) from error
    console.place(arguments.to)
    return 0


def _repair(workspace: Workspace, arguments: argparse.Namespace) -> int:
    """Rows may be named by the end of their id: held.jsonl:3."""
    record = named(workspace, arguments.record)
    manifest = record.manifest()
    after, added = main_subject(manifest), 0
    for wanted in arguments.rows:
        ranked = _row(record, manifest, after, wanted)
        entry = {"change": ranked.change, "prompt": ranked.item.prompt,
                 "reference": ranked.item.reference, "answer": ranked.after.answer,
                 "job": record.folder.parent.name}  # fmt: skip
        added += repairs.add(workspace.root, ranked.item.id, entry)
    console.say(f"{plural(added, 'row')} added to {repairs.FILE}")
    return 0


def _row(record: Record, manifest: Manifest, after: str, wanted: str) -> worst.Ranked:
    for spec in manifest.sets:
        for ranked in worst.ranked(record, spec.name, manifest.reference, after):
            if ranked.item.id == wanted or ranked.item.id.endswith("/" + wanted):
                return ranked
    raise UserError("no row is called so.", wanted, "See: finetui evaluate show --worst 20")
