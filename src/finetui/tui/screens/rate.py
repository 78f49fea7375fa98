"""The Rate screen: sessions, the blind rating of one, and its report after the unsealing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.message import Message
from textual.widgets import ContentSwitcher

from finetui import readonly
from finetui.display import clean
from finetui.errors import UserError
from finetui.rating.analysis import Report
from finetui.rating.audit import unsealing
from finetui.rating.ballot import Ballot
from finetui.rating.drafts import list_drafts
from finetui.rating.session import Session, default_rater, list_sessions, open_session
from finetui.tui.actions import Action, register
from finetui.tui.lookout import JobLine
from finetui.tui.messages import OpenData, OpenJob, OpenSession
from finetui.tui.pane import ModePane
from finetui.tui.screens import rate_view
from finetui.tui.screens.rate_ballot import RatingView
from finetui.tui.screens.rate_report import ReportView, write_report
from finetui.tui.screens.rate_view import SessionLine
from finetui.tui.widgets.bars import TopBar
from finetui.tui.widgets.dialogs import Choose, TextPrompt
from finetui.tui.widgets.table import Column, ListSource, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

COLUMNS = (
    Column("state", 12, tone=True),
    Column("session", weight=1.5, low=14),
    Column("yours", 9),
    Column("sealed", 10),
    Column("next", weight=2.0, low=16),
)
EMPTY = "No session yet.\nn prepares one: base and tuned model answer held-out prompts."


class RatePane(ModePane):
    """Sessions are folders; the pane reads packets and votes, and never what is sealed."""

    FOCUS = "#sessions"
    BINDINGS: ClassVar = register(
        Action("rate.prepare", "n", "new", "Prepare a session from a finished run.", show=True,
               writes=True),
        Action("rate.report", "R", "report", "Open the seal (logged, asks why) and report.",
               show=True),
        Action("rate.export", "x", "export", "Write the votes as preference data.", show=True,
               writes=True),
        Action("rate.look", "L", "interim look",
               "Ask the stop rule: continue or stop, nothing else. Logged.", writes=True),
        Action("rate.list", "escape,q", "sessions", "Back to the list of sessions."),
    )  # fmt: skip
    DEFAULT_CSS = """
    RatePane ContentSwitcher { height: 1fr; }
    RatePane #sessions { height: 1fr; }
    RatePane #about { height: auto; max-height: 10; }
    RatePane #rating { height: 1fr; }
    """

    @dataclass
    class Listed(Message):
        """What the ratings folder holds now."""

        lines: tuple[SessionLine, ...]

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, RatePane.Listed)

    @dataclass
    class BallotReady(Message):
        """A ballot that was opened, or why it was not."""

        ballot: Ballot | None
        error: str = ""

    @dataclass
    class Reported(Message):
        """A report, or why there is none."""

        report: Report | None
        error: str = ""

    @dataclass
    class Done(Message):
        """A notice from a thread; `go` may be shown next."""

        text: str
        failed: bool = False
        go: tuple[str, object] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.lines: tuple[SessionLine, ...] = ()
        self.report: Report | None = None
        self._finished: frozenset[Path] = frozenset()

    def compose(self) -> ComposeResult:
        with ContentSwitcher(initial="list"):
            with Vertical(id="list"):
                yield VirtualTable(COLUMNS, empty=EMPTY, id="sessions", classes="panel")
                yield TextPanel(wrap=True, id="about", classes="panel")
            yield Container(id="rating")
            yield ReportView()

    def on_mount(self) -> None:
        self.query_one("#sessions").border_title = "rating sessions"
        self.query_one("#about").border_title = "registered and sealed"
        self.watch(self.app, "jobs", self._jobs_seen)

    def shown(self) -> None:
        self._bars(self.query_one(ContentSwitcher).current != "rating")
        self.reload()

    def hidden(self) -> None:
        self._bars(True)

    def receive(self, request: object) -> None:
        if isinstance(request, OpenSession):
            self.open(request.path)

    def _bars(self, shown: bool) -> None:
        """The digits of the top line would lie while 1 to 5 are answers."""
        self.shell.screen_stack[0].query_one(TopBar).display = shown

    def _show(self, page: str) -> None:
        self.query_one(ContentSwitcher).current = page
        self._bars(page != "rating")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A rater's stray key must not open the seal: in a ballot only its own keys work."""
        own = ("prepare", "report", "export", "look")
        rating = self.is_mounted and self.query_one(ContentSwitcher).current == "rating"
        return None if rating and action in own else True

    # -- the list --------------------------------------------------------------------------------

    def _jobs_seen(self, jobs: tuple[JobLine, ...]) -> None:
        """A session that was being prepared may be sealed by now."""
        done = frozenset(j.path for j in jobs if j.kind == "prepare" and j.state == "finished")
        waiting = any(line.state == "preparing" for line in self.lines)
        if done != self._finished or waiting or self._preparing(jobs):
            self._finished = done
            if self.active:
                self.reload()

    @staticmethod
    def _preparing(jobs: tuple[JobLine, ...]) -> list[JobLine]:
        ended = {"finished", "stopped"}
        return [job for job in jobs if job.kind == "prepare" and job.state not in ended]

    def reload(self) -> None:
        """Read the sessions in a thread."""
        if self.workspace is not None:
            self._list_in_thread(self.workspace.ratings, tuple(self._preparing(self.shell.jobs)))

    @work(thread=True, exit_on_error=False, group="sessions", exclusive=True)
    def _list_in_thread(self, folder: Path, preparing: tuple[JobLine, ...]) -> None:
        rater = default_rater()
        sessions = [rate_view.draft_line(folder, draft) for draft in list_drafts(folder)]
        sessions += [rate_view.session_line(found, rater) for found in list_sessions(folder)]
        sealed = {line.name for line in sessions}
        coming = [rate_view.preparing_line(job) for job in preparing]
        self.post_message(
            self.Listed((*(line for line in coming if line.name not in sealed), *sessions))
        )

    @on(Listed)
    def _listed(self, message: Listed) -> None:
        if not self.children:
            return  # the screen is being left, the thread's answer came late
        if message.lines != self.lines:
            self.lines = message.lines
            rows = [rate_view.session_row(line) for line in self.lines]
            self.query_one("#sessions", VirtualTable).show(ListSource(rows))
            self._tell_about()

    @on(VirtualTable.RowHighlighted, "#sessions")
    def _tell_about(self) -> None:
        place, about = self.query_one("#sessions", VirtualTable).cursor, self.query_one("#about")
        line = self.lines[place] if place < len(self.lines) else None
        about.display = bool(line and line.about)
        if line and line.about:
            self.query_one("#about", TextPanel).show(rate_view.session_page(line))

    @on(VirtualTable.RowSelected, "#sessions")
    def _selected(self, message: VirtualTable.RowSelected) -> None:
        line = self.lines[message.row]
        if line.state in ("preparing", "failed"):
            self.go("train", OpenJob(line.path))
        elif line.state == "to seal":
            self._show_findings(line.name)
        elif line.state == "unsealed":
            self.action_report()
        else:
            self.open(line.path)

    def _show_findings(self, name: str) -> None:
        from finetui.tui.screens.rate_findings import FindingsPage

        def settled(sealed: str | None) -> None:
            if sealed:
                self.say(f"{clean(sealed)} is sealed: finetui rate vote {clean(sealed)}")
            self.reload()

        assert self.workspace is not None
        self.app.push_screen(FindingsPage(self.workspace.ratings, name), settled)

    # -- rating ----------------------------------------------------------------------------------

    def open(self, path: Path) -> None:
        """Rate a session, from where this rater left it."""
        if self.shell.readonly:
            self.say(readonly.SENTENCE + " A ballot is a vote.", "warning")
            return
        try:
            session = open_session(path)
        except UserError as error:
            self.complain(error)
            return
        if default_rater() in session.raters:
            self._open_ballot(session, default_rater())
            return
        names = [(name, clean(name)) for name in session.raters]

        def chosen(name: str | None) -> None:
            if name is not None:
                self._open_ballot(session, name)

        self.app.push_screen(
            Choose("Who rates? This account has no packet of its own.", names), chosen
        )

    @work(thread=True, exit_on_error=False, group="ballot")
    def _open_ballot(self, session: Session, rater: str) -> None:
        try:
            self.post_message(self.BallotReady(Ballot(session, rater)))
        except UserError as error:
            self.post_message(self.BallotReady(None, str(error)))

    @on(BallotReady)
    async def _ballot_ready(self, message: BallotReady) -> None:
        if message.ballot is None:
            self.complain(message.error)
            return
        place = self.query_one("#rating", Container)
        await place.remove_children()
        self._show("rating")
        await place.mount(RatingView(message.ballot))

    @on(RatingView.Left)
    async def _left(self) -> None:
        await self.query_one("#rating", Container).remove_children()
        self._back_to_list()
        self.say("Saved. The session is where you left it.")

    def _back_to_list(self) -> None:
        self._show("list")
        self.query_one("#sessions").focus(scroll_visible=False)
        self.reload()

    def action_list(self) -> None:
        if self.query_one(ContentSwitcher).current == "report":
            self._back_to_list()

    # -- the report ------------------------------------------------------------------------------

    def _current(self) -> Session | None:
        """The session under the cursor, if it is sealed and ready."""
        if not self.lines:
            self.say("There is no session yet; n prepares one.", "warning")
            return None
        line = self.lines[self.query_one("#sessions", VirtualTable).cursor]
        try:
            return open_session(line.path)
        except UserError as error:
            self.complain(error)
            return None

    def action_report(self) -> None:
        session = self._current()
        if session is not None:
            self._with_seal_open(session, partial(self._report, session))

    def action_export(self) -> None:
        session = self._current()
        if session is not None and self.workspace is not None:
            self._with_seal_open(session, partial(self._export, session, self.workspace.datasets))

    def _with_seal_open(self, session: Session, then: Callable[[str], object]) -> None:
        """Ask why first, where the session is still sealed; the reason is logged with the votes."""
        if unsealing(session) is not None:
            then("")
            return
        if self.shell.readonly:
            self.say(readonly.SENTENCE + " Opening the seal is written down.", "warning")
            return
        hint = "Logged with your name before anything is shown. Votes after it no longer count."

        def answered(reason: str | None) -> None:
            if reason:
                then(reason)

        self.app.push_screen(
            TextPrompt("Open the seal: why now?", "", hint, _needs_words), answered
        )

    @work(thread=True, exit_on_error=False, group="report", exclusive=True)
    def _report(self, session: Session, reason: str) -> None:
        from finetui.rating.unseal import report, unseal

        try:
            if reason:
                unseal(session, reason)
            self.post_message(self.Reported(report(session)))
        except UserError as error:
            self.post_message(self.Reported(None, str(error)))

    @on(Reported)
    def _reported(self, message: Reported) -> None:
        if message.report is None:
            self.complain(message.error)
            return
        self.report = message.report
        self._show("report")
        page = self.query_one(ReportView)
        page.show(message.report)
        self.hand_to(page)

    @on(ReportView.Wanted)
    def _report_wanted(self) -> None:
        if self.report is not None and self.workspace is not None:
            self._write_in_thread(self.report, self.workspace.root / "reports")

    @work(thread=True, exit_on_error=False, group="export")
    def _write_in_thread(self, report: Report, folder: Path) -> None:
        try:
            page = write_report(report, folder)[0]
        except OSError as error:
            self.post_message(self.Done(f"{folder}: {error.strerror}", failed=True))
        else:
            self.post_message(self.Done(f"{page}, and the same as .md and .json."))

    def action_look(self) -> None:
        session = self._current()
        if session is not None:
            self._look_in_thread(session)

    @work(thread=True, exit_on_error=False, group="report", exclusive=True)
    def _look_in_thread(self, session: Session) -> None:
        from finetui.rating.unseal import look

        try:
            self.post_message(self.Done(look(session).sentence))
        except UserError as error:
            self.post_message(self.Done(str(error), failed=True))

    @work(thread=True, exit_on_error=False, group="export")
    def _export(self, session: Session, folder: Path, reason: str) -> None:
        from finetui.rating.export import export
        from finetui.rating.unseal import unseal

        try:
            if reason:
                unseal(session, reason)
            target = folder / f"{session.name}-votes"
            target.mkdir(mode=0o700, exist_ok=True)
            found = export(session, target)
        except (UserError, OSError) as error:
            self.post_message(self.Done(str(error), failed=True))
            return
        counts = f"{found.pairs} preference pairs and {found.labels} labels"
        words = f"{counts} in {found.preferences.parent}."
        self.post_message(self.Done(words, go=("data", OpenData(found.preferences))))

    # -- preparing -------------------------------------------------------------------------------

    def action_prepare(self) -> None:
        from finetui.tui.screens.rate_prepare import PrepareDialog

        runs = [job for job in self.shell.jobs if job.kind == "train" and job.state == "finished"]
        if not runs or self.workspace is None:
            self.say("No finished run yet: there is nothing to compare.", "warning")
            return
        taken = {line.name for line in self.lines}
        self.app.push_screen(PrepareDialog(runs, taken), self._prepare)

    def _prepare(self, start: Callable[..., object] | None) -> None:
        if start is not None and self.workspace is not None:
            self._prepare_in_thread(start)

    @work(thread=True, exit_on_error=False, group="prepare")
    def _prepare_in_thread(self, start: Callable[..., object]) -> None:
        try:
            start(self.workspace)
        except UserError as error:
            self.post_message(self.Done(str(error), failed=True))
        else:
            self.post_message(self.Done("The models answer now; then the session waits here."))

    @on(Done)
    def _done(self, message: Done) -> None:
        self.say(message.text, "error" if message.failed else "information")
        self.shell.look()
        self.reload()
        if message.go is not None and not message.failed:
            self.go(*message.go)


def _needs_words(text: str) -> str:
    return "" if text.strip() else "A reason is needed."
