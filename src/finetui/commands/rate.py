"""``finetui rate``: prepare, vote, unseal and report blind ratings."""

from __future__ import annotations

import argparse
from pathlib import Path

from finetui import start
from finetui.commands import console, watch
from finetui.errors import UserError
from finetui.rating import power
from finetui.rating.session import (
    DEFAULT_QUESTION,
    Session,
    list_sessions,
    open_session,
    seal_strength,
)
from finetui.rating.votes import progress
from finetui.workspace import Workspace


def parser() -> argparse.ArgumentParser:
    made = console.parser("Blind A/B ratings: nobody who rates can know which side is which.")
    verbs = made.add_subparsers(dest="verb", required=True, metavar="VERB")
    _prepare_options(verbs.add_parser("prepare", help="generate both sides and seal a session"))
    vote = verbs.add_parser("vote", help="rate in the terminal; resumes where you left")
    _session(vote)
    listing = verbs.add_parser("list", help="the sessions and how far the raters are")
    listing.add_argument("--json", action="store_true")
    unseal = verbs.add_parser("unseal", help="open the mapping; logged, and final for later votes")
    _session(unseal)
    unseal.add_argument("--reason", required=True, help="why now; goes into the audit log")
    report = verbs.add_parser("report", help="the result, once unsealed")
    _session(report)
    report.add_argument("--json", action="store_true")
    report.add_argument("--markdown", action="store_true")
    export = verbs.add_parser("export", help="preferences as training data, once unsealed")
    _session(export)
    for verb in verbs.choices.values():
        console.add_workspace(verb, argparse.SUPPRESS)
    export.add_argument("--to", type=Path, metavar="FOLDER", help="default: datasets/rated-SESSION")
    return made


def _session(made: argparse.ArgumentParser) -> None:
    made.add_argument("session", nargs="?", default="", help="its name (default: the newest)")


def _prepare_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("session", help="a name for the session; it must not tell which is which")
    made.add_argument("--job", default="", help="the training run (default: the newest)")
    made.add_argument(
        "--data",
        default="",
        metavar="FILE",
        help="prompts to rate (default: the run's held-out file)",
    )
    made.add_argument("--items", type=int, default=30)
    made.add_argument(
        "--rater",
        action="append",
        default=[],
        metavar="LOGIN",
        help="once for each rater (default: you)",
    )
    made.add_argument("--question", default=DEFAULT_QUESTION)
    made.add_argument("--max-new-tokens", type=int, default=0)
    made.add_argument("--temperature", type=float, default=0.0)
    made.add_argument("--seed", type=int, default=0)


def run(arguments: argparse.Namespace) -> int:
    verbs = {
        "prepare": _prepare,
        "vote": _vote,
        "list": _list,
        "unseal": _unseal,
        "report": _report,
        "export": _export,
    }
    return verbs[arguments.verb](console.workspace_of(arguments), arguments)


def named(workspace: Workspace, name: str) -> Session:
    """The session of this name, the newest when empty. Raises UserError when there is none."""
    if name:
        return open_session(workspace.ratings / name)
    sessions = list_sessions(workspace.ratings)
    if not sessions:
        raise UserError("no rating sessions yet.", fix="Make one: finetui rate prepare NAME")
    return sessions[0]


def _prepare(workspace: Workspace, arguments: argparse.Namespace) -> int:
    trained = start.trained_job(workspace, arguments.job)
    console.say(power.advice(arguments.items))
    job = start.start_prepare(
        workspace,
        trained,
        arguments.session,
        items=arguments.items,
        data=arguments.data,
        question=arguments.question,
        raters=arguments.rater,
        seed=arguments.seed,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
    )
    watch.follow(job, console.say)
    if watch.ended(job):
        return 1
    session = open_session(workspace.ratings / arguments.session)
    console.say(
        f"sealed {session.name}: {session.manifest.shown} pairs to rate, "
        f"{session.manifest.identical} identical. Commitment "
        f"{session.manifest.commitment[:16]}. {seal_strength(session).sentence}"
    )
    console.say(f"rate it: finetui rate vote {session.name}")
    return 0


def _vote(workspace: Workspace, arguments: argparse.Namespace) -> int:
    from finetui.commands.tui import open_on
    from finetui.tui.messages import OpenSession

    session = named(workspace, arguments.session)
    return open_on(workspace, {}, "rate", OpenSession(session.path))


def _list(workspace: Workspace, arguments: argparse.Namespace) -> int:
    rows = [
        {
            "session": session.name,
            "items": session.manifest.items,
            "rater": rater,
            "answered": done.done,
            "shown": done.total,
            "closed": done.closed,
        }
        for session in list_sessions(workspace.ratings)
        for rater in session.raters
        for done in [progress(session, rater)]
    ]
    if arguments.json:
        for row in rows:
            console.emit(row)
    elif rows:
        console.table([list(row.values()) for row in rows], list(rows[0]))
    else:
        console.say("no rating sessions yet. Make one: finetui rate prepare NAME")
    return 0


def _unseal(workspace: Workspace, arguments: argparse.Namespace) -> int:
    from finetui.rating.unseal import unseal

    session = named(workspace, arguments.session)
    unseal(session, arguments.reason)
    console.say(
        f"{session.name} is unsealed; the log has who, when and why. "
        f"The result: finetui rate report {session.name}"
    )
    return 0


def _report(workspace: Workspace, arguments: argparse.Namespace) -> int:
    from finetui.rating.report import as_json, as_markdown, as_text
    from finetui.rating.unseal import report

    made = report(named(workspace, arguments.session))
    write = as_json if arguments.json else as_markdown if arguments.markdown else as_text
    console.out(write(made))
    return 1 if made.problems else 0


def _export(workspace: Workspace, arguments: argparse.Namespace) -> int:
    from finetui.rating.export import export

    session = named(workspace, arguments.session)
    made = export(session, arguments.to or workspace.datasets / f"rated-{session.name}")
    console.say(
        f"{made.pairs} preference pairs and {made.labels} labelled answers; "
        f"{made.burned} prompts are marked burned: never evaluate on them again"
    )
    for file in (made.preferences, made.unpaired):
        console.out(str(file))
    return 0
