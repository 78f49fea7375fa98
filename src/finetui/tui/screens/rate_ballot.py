"""Rating one pair after the other. The rater sees left and right, and no name anywhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll
from textual.content import Content
from textual.css.query import NoMatches
from textual.geometry import Size
from textual.message import Message

from finetui.errors import UserError
from finetui.rating.ballot import Ballot
from finetui.rating.session import seal_strength
from finetui.rating.votes import Choice
from finetui.tui.actions import Action, register
from finetui.tui.screens import lines, rate_view
from finetui.tui.widgets.textpanel import TextPanel

SIDE_BY_SIDE = 110
"""Columns from which the two answers stand beside each other."""

JUST_SHOWN = 0.1
"""Seconds a pair must have been on screen: a key held down repeats faster than that."""

IDLE = 120.0
"""Seconds without a key after which nobody is at work any more."""


class AnswerPane(VerticalScroll, inherit_bindings=False):
    """One text to read. The keys that scroll belong to the view, so that both can go together."""

    DEFAULT_CSS = """
    AnswerPane { height: 1fr; width: 1fr; }
    AnswerPane > TextPanel { padding: 0 1; }
    """

    def __init__(self, id: str, title: str) -> None:
        super().__init__(id=id, classes="panel")
        self.border_title = title
        self.seen = False
        self.page = TextPanel(wrap=True)

    def compose(self) -> ComposeResult:
        yield self.page

    def show(self, text: Content, end: bool = False) -> None:
        """Show another text from its beginning, or from its end."""
        self.seen = False
        self.page.show(text)
        if end:
            self.call_after_refresh(self.scroll_end, animate=False)
        else:
            self.scroll_home(animate=False)
        self.call_after_refresh(self.look)

    def look(self) -> None:
        """Note whether the end of the text has been on screen."""
        if not self.size.height:
            return
        self.seen = self.seen or self.scroll_offset.y >= self.max_scroll_y
        self.border_subtitle = "" if self.seen else "more below ↓"

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self.look()

    def on_resize(self) -> None:
        self.call_after_refresh(self.look)


class RatingView(Container, can_focus=True):
    """One ballot on screen. Every key is on disk before the next pair shows."""

    DEFAULT_CSS = """
    RatingView { height: 1fr; layout: vertical; }
    RatingView #heading, RatingView #marks { height: 1; }
    RatingView #prompt { height: auto; max-height: 30%; }
    RatingView #answers { height: 1fr; layout: vertical; }
    RatingView.-side #answers { layout: horizontal; }
    RatingView #page { height: 1fr; padding: 2 4; display: none; }
    RatingView.-prompt #prompt { height: 1fr; max-height: 100%; }
    RatingView.-prompt #answers { display: none; }
    RatingView.-paged #page { display: block; }
    RatingView.-paged #answers, RatingView.-paged #prompt { display: none; }
    RatingView.-paged #marks { display: none; }
    """

    BINDINGS: ClassVar = register(
        Action("rating.left", "1", "left", "The left answer is better.", show=True,
               call="vote('L')"),
        Action("rating.right", "2", "right", "The right answer is better.", show=True,
               call="vote('R')"),
        Action("rating.both-good", "3", "both good", "Both are good; no choice.", show=True,
               call="vote('G')"),
        Action("rating.both-bad", "4", "both bad", "Both are bad; no choice.", show=True,
               call="vote('B')"),
        Action("rating.cannot-judge", "0", "cannot judge", "Not counted for either side.",
               show=True, call="vote('S')"),
        Action("rating.undo", "backspace,u", "undo", "Take back the last answer."),
        Action("rating.comment", "c", "comment", "Write a remark on this item."),
        Action("rating.unsure", "5", "unsure", "You are not sure of your answer.", call="sure(1)"),
        Action("rating.fairly-sure", "6", "fairly sure", "You are fairly sure.", call="sure(2)"),
        Action("rating.sure", "7", "sure", "You are sure of your answer.", call="sure(3)"),
        Action("rating.recognised", "f", "recognised",
               "You believe to know which model wrote one of them."),
        Action("rating.lock", "z", "scroll both", "Scroll both answers together, or apart."),
        Action("rating.prompt", "p", "prompt", "The prompt on the whole screen, and back."),
        Action("rating.pause", "b", "break", "A break; its time is not counted."),
        Action("rating.hand-in", "H", "hand in", "Close your ballot for good, at the end."),
        Action("rating.to-left", "left", "to the left", "Scroll the left answer."),
        Action("rating.to-right", "right", "to the right", "Scroll the right answer."),
        Action("rating.up", "up,k", "up", "Scroll up.", call="scroll_by(-1)"),
        Action("rating.down", "down,j", "down", "Scroll down.", call="scroll_by(1)"),
        Action("rating.page-up", "pageup", "page up", "Scroll up a page.", call="page(-1)"),
        Action("rating.page-down", "pagedown,space", "page down", "Scroll down a page.",
               call="page(1)"),
        Action("rating.top", "home,g", "top", "To the beginning.", call="scroll_by(-1000000)"),
        Action("rating.bottom", "end,G", "end", "To the end.", call="scroll_by(1000000)"),
        Action("rating.leave", "q,escape", "leave", "Back to the list; go on later."),
    )  # fmt: skip

    @dataclass
    class Left(Message):
        """The rater went back to the list."""

    @dataclass
    class Recorded(Message):
        """The disk has it; or `error` says in one sentence that it has not."""

        error: str = ""
        receipt: str = ""

    def __init__(self, ballot: Ballot, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(id="ballot")
        self.ballot = ballot
        self.panes = {name: AnswerPane(name, name) for name in ("prompt", "left", "right")}
        self.clock = clock
        self.note = ""
        self.saved = "saved"
        self.receipt = ""
        self.locked = False
        self.paused = False
        self.in_a_row = 0
        self._busy = False
        self._shown_pid = ""
        self._shown_at = 0.0
        self._shown_wall = 0.0
        self._active = 0.0
        self._last_key = clock()
        self._asked = ""

    def compose(self) -> ComposeResult:
        yield TextPanel(id="heading")
        yield self.panes["prompt"]
        with Container(id="answers"):
            yield self.panes["left"]
            yield self.panes["right"]
        yield TextPanel(id="page", wrap=True)
        yield TextPanel(id="marks")

    def on_mount(self) -> None:
        self.focus(scroll_visible=False)
        self.show_current()

    def on_unmount(self) -> None:
        self.ballot.leave()

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.width >= SIDE_BY_SIDE, "-side")
        self._write_lines()

    # -- what is shown -------------------------------------------------------------------------

    def show_current(self) -> None:
        """Show the pair that waits for an answer, or the page at the end."""
        item = self.ballot.current
        ended = item is None or self.ballot.closed
        self.set_class(ended or self.paused, "-paged")
        if ended or self.paused:
            self._show_page()
            self.focus(scroll_visible=False)
        self.refresh_bindings()
        if item is not None and item.pid != self._shown_pid:
            self._shown_pid = item.pid
            self.panes["prompt"].show(lines.chat(item.prompt), end=True)
            self.panes["left"].show(lines.answer(item.left))
            self.panes["right"].show(lines.answer(item.right))
            # Neither side has the keyboard: an accent on one would be a hint.
            self.focus(scroll_visible=False)
            self._restart_clock()
        self._write_lines()

    def _show_page(self) -> None:
        if self.paused:
            page = rate_view.pause_page()
        else:
            page = rate_view.end_page(
                self.ballot.answered,
                len(self.ballot.items),
                self.ballot.closed,
                self.receipt,
                seal_strength(self.ballot.session).sentence,
            )
        self.query_one("#page", TextPanel).show(page)

    def _restart_clock(self) -> None:
        self._shown_at = self._last_key = self.clock()
        self._shown_wall = time.time()
        self._active = 0.0
        self._asked = self.note = ""

    def _write_lines(self) -> None:
        try:
            head = self.query_one("#heading", TextPanel)
        except NoMatches:
            return
        width = max(20, self.size.width - 2)
        question = self.ballot.session.question
        head.show(rate_view.heading(question, self.ballot.position, self.saved, width))
        if self.ballot.current is not None:
            marks = rate_view.marks(self.ballot.judgement(), self.locked, self.note)
            self.query_one("#marks", TextPanel).show(marks)

    def _say(self, note: str) -> None:
        self.note = note
        self._write_lines()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Where there is nothing to judge, the answers are no hints either."""
        if action == "vote" and self.has_class("-paged"):
            return None
        return True

    def on_key(self, event: events.Key) -> None:
        if event.key.isdecimal() and self.has_class("-paged"):
            event.stop()  # one answer too many must not lead to another screen
        now = self.clock()
        self._active += min(IDLE, max(0.0, now - self._last_key))
        self._last_key = now

    # -- answers -------------------------------------------------------------------------------

    def action_vote(self, choice: str) -> None:
        if self._busy or self.paused or self.ballot.current is None or self.ballot.closed:
            return
        if self.clock() - self._shown_at < JUST_SHOWN:
            self._say("That came too soon after the pair: not counted. Read, then choose.")
            return
        unread = self._unread()
        if unread and self._asked != choice:
            self._asked = choice
            self._say(f"{unread} goes on below. The same key again answers anyway.")
            return
        self._record(lambda: self._vote(choice))
        self.in_a_row += 1
        if self.in_a_row % rate_view.BREAK_ITEMS == 0:
            self.app.notify(f"{self.in_a_row} in a row: b takes a break.", markup=False)

    def _unread(self) -> str:
        sides = [name for name in ("left", "right") if not self.panes[name].seen]
        return " and ".join(f"the {name} answer" for name in sides).capitalize()

    def _vote(self, choice: str) -> None:
        size: Size = self.app.size
        self.ballot.vote(
            Choice(choice),
            shown_at=round(self._shown_wall, 3),
            voted_at=round(time.time(), 3),
            active_ms=round(self._active * 1000),
            cols=size.width,
            rows=size.height,
            layout="side" if self.has_class("-side") else "stacked",
            seen_left=self.panes["left"].seen,
            seen_right=self.panes["right"].seen,
        )

    def _record(self, write: Callable[[], object]) -> None:
        """Write in a thread, because a network disk can take its time; one thing at a time."""
        if self._busy:
            return
        self._busy = True
        self.saved = "saving…"
        self._write_in_thread(write)

    @work(thread=True, exit_on_error=False, group="ballot")
    def _write_in_thread(self, write: Callable[[], object]) -> None:
        error, receipt = "NOT saved.", ""
        try:
            found = write()
            receipt = found if isinstance(found, str) else ""
            error = ""
        except UserError as problem:
            error = str(problem)
        finally:
            self.post_message(self.Recorded(error, receipt))

    @on(Recorded)
    def _recorded(self, message: Recorded) -> None:
        self._busy = False
        self.saved = "NOT saved" if message.error else "saved"
        self.receipt = message.receipt or self.receipt
        if message.error:
            self._say(message.error)
        else:
            self.note = ""
            self.show_current()

    def action_undo(self) -> None:
        if self.ballot.closed:
            self.app.notify("Handed in: nothing can be changed.", markup=False)
            return
        self._shown_pid = ""
        self._record(self._undo)

    def _undo(self) -> None:
        if self.ballot.undo() is None:
            raise UserError("there is no answer to take back.")

    def action_sure(self, level: int) -> None:
        if self._can_mark():
            wanted = 0 if self.ballot.judgement().confidence == level else level
            self._record(lambda: self.ballot.confidence(wanted))

    def action_recognised(self) -> None:
        if self._can_mark():
            wanted = not self.ballot.judgement().recognised
            self._record(lambda: self.ballot.recognised(wanted))

    def action_comment(self) -> None:
        from finetui.tui.widgets.dialogs import TextPrompt

        if not self._can_mark():
            return
        pid, old = self._shown_pid, self.ballot.judgement().comment

        def keep(text: str | None) -> None:
            if text is not None and text != old:
                self._record(lambda: self.ballot.comment(text, pid))

        self.app.push_screen(TextPrompt("Comment on this item", old), keep)

    def _can_mark(self) -> bool:
        open_item = self.ballot.current is not None and not self.ballot.closed
        return open_item and not self.paused and not self._busy

    def action_hand_in(self) -> None:
        from finetui.tui.widgets.dialogs import Confirm

        if self.ballot.closed or self.ballot.current is not None:
            return

        def decided(yes: bool | None) -> None:
            if yes:
                self._record(self.ballot.close)

        question = "Hand in for good?"
        self.app.push_screen(
            Confirm(question, "Nothing can be changed after that.", "hand in"), decided
        )

    # -- looking -------------------------------------------------------------------------------

    def action_to_left(self) -> None:
        self.panes["left"].focus(scroll_visible=False)

    def action_to_right(self) -> None:
        self.panes["right"].focus(scroll_visible=False)

    def action_lock(self) -> None:
        self.locked = not self.locked
        self._write_lines()

    def action_prompt(self) -> None:
        self.toggle_class("-prompt")
        whole = self.has_class("-prompt")
        target = self.panes["prompt"] if whole else self
        target.focus(scroll_visible=False)

    def action_pause(self) -> None:
        self.paused = not self.paused
        self.in_a_row = 0
        if not self.paused:
            self._last_key = self.clock()
        self.show_current()

    def action_scroll_by(self, amount: int) -> None:
        for pane in self._scrolled():
            pane.scroll_to(y=pane.scroll_offset.y + amount, animate=False)

    def action_page(self, direction: int) -> None:
        for pane in self._scrolled():
            step = max(1, pane.size.height - 1)
            pane.scroll_to(y=pane.scroll_offset.y + direction * step, animate=False)

    def _scrolled(self) -> list[AnswerPane]:
        """The panes that a scroll key moves: the focused one, or both answers together."""
        focused = self.screen.focused
        if isinstance(focused, AnswerPane) and focused.id == "prompt":
            return [focused]
        if self.locked or not isinstance(focused, AnswerPane):
            return [self.panes["left"], self.panes["right"]]
        return [focused]

    def action_leave(self) -> None:
        if not self._busy:
            self.post_message(self.Left())
