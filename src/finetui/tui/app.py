"""The shell: one screen with a top line, the modes' panes, and a line of hints."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.css.query import NoMatches
from textual.dom import DOMNode
from textual.reactive import reactive
from textual.widgets import ContentSwitcher, Static
from textual.worker import Worker, WorkerState

from finetui import crash, readonly
from finetui.display import brief, clean, clean_block, plural
from finetui.errors import UserError
from finetui.settings import Settings
from finetui.tui import frugal, lookout, modes, safety, terminal, themes
from finetui.tui.actions import Action, is_off, register, writes
from finetui.tui.messages import Looked, ShowPane
from finetui.tui.pacing import Pacer
from finetui.tui.pane import ModePane
from finetui.tui.typeahead import TypeAhead
from finetui.tui.widgets.bars import HintBar, TopBar
from finetui.workspace import Workspace, themes_dir

SERVED = {"running", "paused", "queued", "requeued", "starting", "stalled"}
_SEVERITIES = {"information", "warning", "error"}

SHELL = register(
    *(
        Action(f"app.{mode.name}", mode.key, mode.title, mode.help, call=f"app.mode('{mode.name}')")
        for mode in modes.MODES
    ),
    Action("app.help", "question_mark,f1", "help", "The keys that work here.", call="app.help"),
    Action(
        "app.palette",
        "colon,ctrl+p",
        "palette",
        "Every action by name.",
        call="app.command_palette",
    ),
    Action("app.theme", "", "Theme", "Choose other colours.", call="app.change_theme"),
    Action(
        "app.leave",
        "q",
        "leave",
        "Leave finetui; jobs go on and are there again next time.",
        call="app.leave",
    ),
)


class FinetuiApp(TypeAhead):
    """The fine-tuning workstation. Owns nothing: the truth is in the workspace's files."""

    CSS_PATH = "styles.tcss"
    TITLE = "finetui"
    BINDINGS = SHELL
    COMMANDS = {lambda: _palette()}
    COMMAND_PALETTE_BINDING = "ctrl+p"
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (60, "-narrow"), (100, "-normal"), (150, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (15, "-short"), (30, "-tall")]

    mode: reactive[str] = reactive("", init=False, repaint=False)
    devices: reactive[Any] = reactive(None, repaint=False)
    """The newest jobs.devices.DeviceSample; panes watch it."""
    jobs: reactive[tuple[Any, ...]] = reactive((), repaint=False)
    """The newest lookout.JobLine of each job, newest job first; panes watch it."""
    loop: reactive[Any] = reactive(None, repaint=False)
    """Where the loop stands (loop.Loop); home watches it."""

    def __init__(
        self,
        workspace: Workspace | None,
        settings: Settings | None = None,
        start: str = "home",
        request: object | None = None,
    ) -> None:
        self.workspace = workspace
        self.settings = settings or Settings()
        self._first = (start, request)
        self._theme_problems: list[str] = []
        super().__init__()
        self.animation_level = "none"
        self.pacer = Pacer(self._write)
        self._load_themes()

    def run_to_exit(self) -> int:
        """Show the workstation until the person leaves; returns the exit status.

        Raises UserError where the terminal cannot show it.
        """
        terminal.require_terminal()
        safety.install()
        frugal.install()
        os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
        self.run()
        return self.return_code or 0

    # -- what is on screen -------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        yield TopBar([(mode.name, mode.key, mode.title) for mode in modes.MODES])
        yield ContentSwitcher(id="panes")
        yield HintBar()
        yield Static(
            "This terminal is too small for the screens.\n60 x 15 is the least, 80 x 24 is good.",
            id="too-small",
        )

    def on_mount(self) -> None:
        if not self.is_headless:
            terminal.heed_signals(asyncio.get_running_loop(), lambda: self.exit(return_code=143))
            self.set_interval(2.0, self._leave_if_hung_up)
        bar = self.query_one(TopBar)
        bar.workspace, bar.readonly = self._workspace_name(), self.readonly
        self.call_after_refresh(self._open_first)

    def _open_first(self) -> None:
        self.post_message(ShowPane(*self._first))
        for problem in self._theme_problems:
            self.say(problem, "warning")
        self.look()
        self.set_interval(2.0, self.look)

    @property
    def readonly(self) -> bool:
        """Whether the workspace is only watched; whatever would change it is off."""
        return self.workspace is not None and self.workspace.readonly

    def _workspace_name(self) -> str:
        return clean(self.workspace.root.name) if self.workspace else "no workspace"

    # -- modes -------------------------------------------------------------------------------

    @property
    def pane(self) -> ModePane | None:
        """The pane on screen."""
        return self._pane(self.mode) if self.mode else None

    def _pane(self, name: str) -> ModePane | None:
        try:
            return self.screen_stack[0].query_one(f"#panes > #{name}", ModePane)
        except NoMatches:
            return None

    async def action_mode(self, name: str) -> None:
        await self.show(name)

    @on(ShowPane)
    async def _show_pane(self, message: ShowPane) -> None:
        await self.show(message.mode, message.request)

    async def show(self, name: str, request: object | None = None) -> ModePane:
        """Bring a mode on screen, mounting its pane on first use."""
        switcher = self.screen_stack[0].query_one("#panes", ContentSwitcher)
        old, pane = self.pane, self._pane(name)
        if old is not None and old is not pane:
            self._park(old)
        if pane is None:
            pane = modes.make(name)
            await switcher.add_content(pane, id=name)
        if not pane.is_attached:  # the app ended while the pane came on
            return pane
        switcher.current = self.mode = name
        if old is not pane:
            pane.shown()
            pane.take_focus()
        if request is not None:
            pane.receive(request)
        return pane

    def _park(self, pane: ModePane) -> None:
        focused = self.screen_stack[0].focused
        if focused is not None and pane in focused.ancestors:
            pane.last_focus = focused
        pane.hidden()

    def watch_mode(self, mode: str) -> None:
        self.query_one(TopBar).current = mode

    async def _dispatch_action(self, namespace: DOMNode, action_name: str, params: Any) -> bool:
        """Run an action; one that would write is answered with a sentence where one watches."""
        if self.readonly and writes(namespace, action_name):
            self.say(readonly.SENTENCE, "warning")
            return True
        try:
            return await super()._dispatch_action(namespace, action_name, params)
        except readonly.ReadOnlyError:  # an action that writes by the way
            self.say(readonly.SENTENCE, "warning")
            return True

    # -- the lookout ---------------------------------------------------------------------------

    @work(thread=True, group="look", exclusive=True, exit_on_error=False)
    def look(self) -> None:
        """Sample the machine and the jobs in a thread; the answer comes as a message."""
        self.post_message(lookout.look(self.workspace))

    @on(Looked)
    def _looked(self, message: Looked) -> None:
        bar = self.query_one_optional(TopBar)
        if bar is None:  # the app is leaving, the last answer of the thread came late
            return
        self.devices, self.jobs, self.loop = message.devices, message.jobs, message.loop
        bar.machine = lookout.machine_line(message.devices)

    def _leave_if_hung_up(self) -> None:
        terminal.leave_if_hung_up(sys.__stdin__.fileno() if sys.__stdin__ else 0)

    def _write(self, text: str) -> None:
        if self._driver is not None and not self.is_headless:
            self._driver.write(text)

    def on_cursor_position(self) -> None:
        """The terminal's answer to the pacer: the last live frame has arrived."""
        self.pacer.answered()

    # -- words ---------------------------------------------------------------------------------

    def say(self, text: str, severity: str = "information") -> None:
        """A notice in words. The text may come from data: it is cleaned and never markup."""
        level: Any = severity if severity in _SEVERITIES else "information"
        self.notify(clean_block(brief(text, 1200)), severity=level, markup=False, timeout=6)

    def action_help(self) -> None:
        from finetui.tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            active = [
                one
                for one in self.screen.active_bindings.values()
                if not (self.readonly and is_off(one.binding.id or ""))
            ]
            self.push_screen(HelpScreen(active, self.mode))

    def action_help_quit(self) -> None:
        """ctrl+c kills nothing here: say how to leave."""
        self.say("q leaves finetui; jobs go on. ctrl+c stops nothing.")

    def action_leave(self) -> None:
        served = [job for job in self.jobs if job.state in SERVED]
        words = ""
        if served:
            verb = "goes on" if len(served) == 1 else "go on"
            words = f"{plural(len(served), 'job')} {verb} running; finetui shows them again."
        self.exit(message=words or None)

    # -- themes --------------------------------------------------------------------------------

    def _load_themes(self) -> None:
        folders: list[Path] = []
        try:
            folders.append(themes_dir())
        except UserError as error:
            self._theme_problems.append(str(error))
        if self.workspace is not None:
            folders.append(self.workspace.root / "themes")
        found, problems = themes.load_all(folders)
        self._theme_problems += problems
        for theme in found:
            self.register_theme(theme)
        wanted = self.settings.theme
        if wanted not in self.available_themes:
            self._theme_problems.append(f"there is no theme {clean(wanted)!r}.")
            wanted = themes.DEFAULT
        if wanted in self.available_themes:
            self.theme = wanted

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return themes.own_variables(self.current_theme)

    # -- errors --------------------------------------------------------------------------------

    @on(Worker.StateChanged)
    def worker_changed(self, event: Worker.StateChanged) -> None:
        """A worker that failed is told in words (panes hand theirs on: the event stays there)."""
        error = event.worker.error
        if event.state is not WorkerState.ERROR or error is None:
            return
        if isinstance(error, UserError):
            self.say(str(error), "error")
        elif event.worker.group != "look":
            self._write_log(error)
            self.say(_unforeseen(error), "error")

    def _handle_exception(self, error: Exception) -> None:
        if self.is_headless:  # a test wants the traceback
            super()._handle_exception(error)
            return
        place = self._write_log(error)
        self._exception = error
        words = clean(f"{_unforeseen(error)} Jobs go on. Details: {place}")
        self.exit(return_code=70, message=words)

    def _write_log(self, error: BaseException | None) -> str:
        if error is None:
            return "not kept"
        ours = self.workspace is not None and not self.readonly
        return crash.kept(error, self.workspace.cache if self.workspace and ours else None)


def _unforeseen(error: BaseException | None) -> str:
    what = brief(f"{type(error).__name__}: {error}", 600)
    return clean(f"finetui met an error it did not expect: {what}.")


def _palette() -> Any:
    from finetui.tui.palette import ActionProvider

    return ActionProvider
