"""``finetui rate``: prepare, vote, look, unseal, report and export blind ratings."""

from __future__ import annotations

import argparse
from pathlib import Path

from msgspec import structs

from finetui import start
from finetui.commands import console, watch
from finetui.contenders import KINDS, systems_of
from finetui.display import plural
from finetui.errors import UserError
from finetui.rating import audit, drafts, power
from finetui.rating.registration import DEFAULT_QUESTION, Registration, recommended
from finetui.rating.sequential import StopRule
from finetui.rating.session import Session, list_sessions, open_session, seal_strength
from finetui.rating.votes import progress
from finetui.workspace import Workspace


def parser() -> argparse.ArgumentParser:
    made = console.parser("Blind A/B ratings: nobody who rates can know which side is which.")
    verbs = made.add_subparsers(prog="finetui rate", dest="verb", required=True, metavar="VERB")
    _prepare_options(verbs.add_parser("prepare", help="let the systems answer and seal a session"))
    findings = verbs.add_parser("findings", help="what a session that waits gives away")
    findings.add_argument("session", nargs="?", default="", help="its name (default: the newest)")
    _sealing(verbs.add_parser("seal", help="seal a session that waits for your choice"))
    vote = verbs.add_parser("vote", help="rate in the terminal; resumes where you left")
    _session(vote)
    listing = verbs.add_parser("list", help="the sessions and how far the raters are")
    listing.add_argument("--json", action="store_true")
    look = verbs.add_parser("look", help="go on or stop, by the registered rule; logged")
    _session(look)
    look.add_argument("--reason", default="interim look", help="goes into the audit log")
    verify = verbs.add_parser("verify", help="whether packets, votes and log are as written")
    _session(verify)
    unseal = verbs.add_parser("unseal", help="open the mapping; logged, and final for later votes")
    _session(unseal)
    unseal.add_argument("--reason", required=True, help="why now; goes into the audit log")
    report = verbs.add_parser("report", help="the result, once unsealed")
    _session(report)
    form = report.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    form.add_argument("--html", action="store_true", help="one page, for a browser")
    _export_options(verbs.add_parser("export", help="preferences as training data, once unsealed"))
    for verb in verbs.choices.values():
        console.add_workspace(verb, argparse.SUPPRESS)
    return made


def _session(made: argparse.ArgumentParser) -> None:
    made.add_argument("session", nargs="?", default="", help="its name (default: the newest)")


def _export_options(made: argparse.ArgumentParser) -> None:
    _session(made)
    made.add_argument("--to", type=Path, metavar="FOLDER", help="default: datasets/rated-SESSION")
    made.add_argument("--min-raters", type=int, default=1, help="that judged an item (default 1)")
    made.add_argument(
        "--all-labels", action="store_true", help="good and bad labels from the pairs, too"
    )


def _prepare_options(made: argparse.ArgumentParser) -> None:
    made.add_argument("session", help="a name for the session; it must not tell which is which")
    made.add_argument("--job", default="", help="the training run (default: the newest)")
    made.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="[NAME=]KIND",
        help=f"once for each, the reference first (default: base, tuned). {KINDS}",
    )
    made.add_argument(
        "--data",
        default="",
        metavar="FILE",
        help="prompts to rate (default: the run's held-out file)",
    )
    made.add_argument("--items", type=int, default=30, help="that count (default 30)")
    made.add_argument("--max-new-tokens", type=int, default=0)
    made.add_argument("--temperature", type=float, default=0.0)
    made.add_argument("--top-p", type=float, default=1.0)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--group", default="", help="a Unix group whose members may rate")
    made.add_argument(
        "--hold", action="store_true", help="wait with the sealing until you have read the findings"
    )
    _registered(made)


def _registered(made: argparse.ArgumentParser) -> None:
    """What the manifest freezes."""
    add = made.add_argument
    add("--rater", action="append", metavar="LOGIN", help="once for each rater (default: you)")
    add("--interested", action="append", metavar="LOGIN", help="a rater who made one of them")
    add("--question", default=DEFAULT_QUESTION)
    add("--criterion", action="append", metavar="TEXT", help="a further question; at most three")
    add("--alpha", type=float, default=0.05)
    add("--margin", type=float, default=0.0, help="ask whether it is not worse by more than this")
    add("--stop", choices=("fixed", "e-process", "looks"), default="fixed")
    add("--cap", type=int, default=0, metavar="ITEMS", help="the most items of an e-process")
    add("--look-at", default="", metavar="N,N,...", help="items at which --stop looks may stop")
    add("--pairing", choices=("spread", "each"), default="spread",
        help="three systems and more: one pair an item, or every pair")  # fmt: skip
    add("--repeats", type=float, metavar="SHARE", help="shown again with sides swapped")
    add("--practice", type=int, metavar="N", help="showings that do not count, at the beginning")
    add("--catches", type=int, metavar="N", help="showings with a spoilt answer")
    add("--catch-needed", type=float, default=0.5, metavar="SHARE", help="of the catches to pass")
    add("--guesses", type=int, metavar="N", help="times the end question is asked")
    _choices(made)


def _choices(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--identity",
        choices=("exclude", "keep"),
        default="exclude",
        help="items with an answer that names a model",
    )
    made.add_argument("--word", action="append", metavar="NAME", help="would give a model away")


def _sealing(made: argparse.ArgumentParser) -> None:
    made.add_argument("session", help="its name")
    _choices(made)
    made.add_argument("--exclude", action="append", metavar="ITEM", help="leave this item out")
    made.add_argument("--keep", action="append", metavar="ITEM", help="keep it all the same")
    made.add_argument("--drop", action="store_true", help="throw the answers away instead")


def run(arguments: argparse.Namespace) -> int:
    verbs = {
        "prepare": _prepare,
        "findings": _findings,
        "seal": _seal,
        "vote": _vote,
        "list": _list,
        "look": _look,
        "verify": _verify,
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


def registration_of(arguments: argparse.Namespace) -> Registration:
    """What the options say; where they are silent, what suits the number of items."""
    usual = recommended(arguments.items)
    return Registration(
        question=arguments.question,
        criteria=tuple(arguments.criterion or ()),
        raters=tuple(arguments.rater or ()),
        interested=tuple(arguments.interested or ()),
        alpha=arguments.alpha,
        margin=arguments.margin,
        stop=StopRule(kind=arguments.stop, cap=arguments.cap, looks=_counts(arguments.look_at)),
        pairing=arguments.pairing,
        repeats=arguments.repeats,
        practice=_or(arguments.practice, usual.practice),
        catches=_or(arguments.catches, usual.catches),
        catch_needed=arguments.catch_needed,
        guesses=_or(arguments.guesses, usual.guesses),
        identity=arguments.identity,
        words=tuple(arguments.word or ()),
    )


def _or(given: int | None, usual: int) -> int:
    return usual if given is None else given


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise UserError("is no list of numbers.", text, "For example --look-at 50,100,150")
    return tuple(int(part) for part in parts)


def _prepare(workspace: Workspace, arguments: argparse.Namespace) -> int:
    chosen = registration_of(arguments)
    systems = systems_of(workspace, arguments.system, arguments.job)
    foreseen = power.plan(
        arguments.items, max(1, len(chosen.raters)), extra=chosen.aside + chosen.guesses
    )
    for sentence in foreseen.sentences:
        console.say(sentence)
    job = start.start_prepare(
        workspace,
        systems,
        arguments.session,
        items=arguments.items,
        registration=chosen,
        data=arguments.data,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        hold=arguments.hold,
        group=arguments.group,
    )
    watch.follow(job, console.say)
    if watch.ended(job):
        return 1
    if arguments.hold:
        return _tell_findings(drafts.read_draft(workspace.ratings, arguments.session))
    for sentence in (job.outcome() or {}).get("findings", []):
        console.say(f"- {sentence}")
    return _tell_sealed(open_session(workspace.ratings / arguments.session))


def _tell_sealed(session: Session) -> int:
    manifest = session.manifest
    out = sum(manifest.excluded.values())
    left_out = f", {plural(out, 'item')} left out" if out else ""
    console.say(
        f"sealed {session.name}: {plural(manifest.shown, 'item')} to rate, "
        f"{manifest.identical} identical{left_out}. Commitment {manifest.commitment[:16]}. "
        f"{seal_strength(session).sentence}"
    )
    console.say(f"rate it: finetui rate vote {session.name}")
    return 0


def _findings(workspace: Workspace, arguments: argparse.Namespace) -> int:
    waiting = drafts.list_drafts(workspace.ratings)
    name = arguments.session or (waiting[0].name if waiting else "")
    if not name:
        raise UserError(
            "no session waits to be sealed.", fix="Make one: finetui rate prepare NAME --hold"
        )
    return _tell_findings(drafts.read_draft(workspace.ratings, name))


def _tell_findings(draft: drafts.Draft) -> int:
    found = draft.findings()
    for sentence in found.sentences:
        console.out(f"- {sentence}")
    for item in found.named:
        console.out(f"  {item}")
    console.say(
        f"seal it: finetui rate seal {draft.name}  (--identity keep keeps the named items, "
        "--keep and --exclude decide on one)"
    )
    return 0


def _seal(workspace: Workspace, arguments: argparse.Namespace) -> int:
    if arguments.drop:
        drafts.read_draft(workspace.ratings, arguments.session)
        drafts.drop_draft(workspace.ratings, arguments.session)
        console.say(f"{arguments.session} is thrown away")
        return 0
    draft = drafts.read_draft(workspace.ratings, arguments.session)
    chosen = structs.replace(
        draft.registration,
        identity=arguments.identity,
        words=(*draft.registration.words, *(arguments.word or ())),
        excluded=tuple(arguments.exclude or ()),
        kept=tuple(arguments.keep or ()),
    )
    return _tell_sealed(drafts.seal_draft(workspace.ratings, draft.name, chosen))


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
    for draft in drafts.list_drafts(workspace.ratings):
        console.say(f"{draft.name} waits to be sealed: finetui rate findings {draft.name}")
    return 0


def _look(workspace: Workspace, arguments: argparse.Namespace) -> int:
    from finetui.rating.unseal import look

    found = look(named(workspace, arguments.session), arguments.reason)
    console.out(found.sentence)
    return 0


def _verify(workspace: Workspace, arguments: argparse.Namespace) -> int:
    session = named(workspace, arguments.session)
    problems = audit.verify(session)
    for problem in problems:
        console.out(problem)
    if not problems:
        heads = audit.heads(session)
        console.say(
            f"{session.name}: packets, log and {plural(len(heads), 'vote file')} are as written"
        )
    return 1 if problems else 0


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
    from finetui.rating.html import as_html
    from finetui.rating.report import as_json, as_markdown, as_text
    from finetui.rating.unseal import report

    made = report(named(workspace, arguments.session))
    chosen = {"json": as_json, "markdown": as_markdown, "html": as_html}
    write = next((form for name, form in chosen.items() if getattr(arguments, name)), as_text)
    console.out(write(made))
    return 1 if made.problems else 0


def _export(workspace: Workspace, arguments: argparse.Namespace) -> int:
    from finetui.rating.export import export

    session = named(workspace, arguments.session)
    made = export(
        session,
        arguments.to or workspace.datasets / f"rated-{session.name}",
        arguments.min_raters,
        all_labels=arguments.all_labels,
    )
    console.say(
        f"{made.pairs} preference pairs and {made.labels} labelled answers; "
        f"{made.burned} prompts are marked burned: never evaluate on them again"
    )
    for file in (made.preferences, made.unpaired, made.provenance):
        console.place(file)
    return 0
