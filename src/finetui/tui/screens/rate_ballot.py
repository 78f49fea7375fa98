"""Rating one pair after the other. The rater sees left and right, and no name anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Container
from textual.content import Content
from textual.css.query import NoMatches
from textual.geometry import Size
from textual.message import Message

from finetui.errors import UserError
from finetui.rating.ballot import Ballot
from finetui.rating.session import seal_strength
from finetui.rating.votes import Choice
from finetui.tui.actions import Action, register
from finetui.tui.screens import lines, rate_pages, rate_view
from finetui.tui.screens.rate_pair import SIDE_BY_SIDE, AnswerPane, Pair
from finetui.tui.screens.rate_stint import Stint
from finetui.tui.widgets.textpanel import TextPanel


class RatingView(Container, can_focus=True):
    """One ballot on screen. Every key is on disk before the next pair shows.

    ``page`` names what is shown instead of a pair: the guide, a word before another phase, a break
    or the end; empty while a pair waits.
    """

    DEFAULT_CSS = """
    RatingView { height: 1fr; layout: vertical; }
    RatingView #heading, RatingView #marks { height: 1; }
    RatingView #prompt { height: auto; max-height: 30%; }
    RatingView #page { height: 1fr; padding: 1 2; display: none; }
    RatingView.-prompt #prompt { height: 1fr; max-height: 100%; }
    RatingView.-prompt #answers { display: none; }
    RatingView.-paged #page { display: block; }
    RatingView.-paged #answers, RatingView.-paged #prompt { display: none; }
    RatingView.-paged #marks { display: none; }
    """

    BINDINGS: ClassVar = register(
        Action("rating.left", "1", "left", "The left answer is better.", show=True,
               call="vote('L')", writes=True),
        Action("rating.right", "2", "right", "The right answer is better.", show=True,
               call="vote('R')", writes=True),
        Action("rating.both-good", "3", "both good", "Both are good; no choice.", show=True,
               call="vote('G')", writes=True),
        Action("rating.both-bad", "4", "both bad", "Both are bad; no choice.", show=True,
               call="vote('B')", writes=True),
        Action("rating.cannot-judge", "0", "cannot judge", "Not counted for either side.",
               show=True, call="vote('S')", writes=True),
        Action("rating.undo", "backspace,u", "undo", "Take back the last answer.", writes=True),
        Action("rating.go-on", "enter", "go on", "Confirm the answer, or leave this page.",
               show=True),
        Action("rating.confirm", "o", "confirm", "Answers wait for enter, or count at once."),
        Action("rating.unsure", "5", "unsure", "You are not sure of your answer.", call="sure(1)"),
        Action("rating.fairly-sure", "6", "fairly sure", "You are fairly sure.", call="sure(2)"),
        Action("rating.sure", "7", "sure", "You are sure of your answer.", call="sure(3)"),
        Action("rating.tags", "g,f4", "tags", "Mark what is wrong with an answer.", writes=True),
        Action("rating.comment", "c,f3", "comment", "Write a remark on this item.", writes=True),
        Action("rating.recognised", "f,f5", "recognised",
               "You believe to know which model wrote one of them.", writes=True),
        Action("rating.lock", "z,f6", "together", "Scroll both answers in step, or apart."),
        Action("rating.diff", "d,f7", "differences", "Underline the words that differ, or not."),
        Action("rating.single", "v,f8", "one at a time", "One answer alone, and both again."),
        Action("rating.prompt", "p,f9", "prompt", "The prompt on the whole screen, and back."),
        Action("rating.pause", "b,f10", "break", "A break; its time is not counted.", writes=True),
        Action("rating.guide", "question_mark", "how it works", "The page for raters."),
        Action("rating.hand-in", "H", "hand in", "Close your ballot for good, at the end.",
               show=True, writes=True),
        Action("rating.both", "tab", "both", "Scroll keys move both answers again."),
        Action("rating.to-left", "left", "to the left", "Scroll the left answer."),
        Action("rating.to-right", "right", "to the right", "Scroll the right answer."),
        Action("rating.up", "up,k", "up", "Scroll up.", call="scroll_by(-1)"),
        Action("rating.down", "down,j", "down", "Scroll down.", call="scroll_by(1)"),
        Action("rating.page-up", "pageup", "page up", "Scroll up a page.", call="page(-1)"),
        Action("rating.page-down", "pagedown,space", "page down", "Scroll down a page.",
               call="page(1)"),
        Action("rating.top", "home", "top", "To the beginning.", call="scroll_by(-1000000)"),
        Action("rating.bottom", "end", "end", "To the end.", call="scroll_by(1000000)"),
        Action("rating.leave", "q,escape", "leave", "Back to the list; go on later.",
               show=True),
    )  # fmt: skip

    @dataclass
    class Left(Message):
        """The rater went back to the list."""

    @dataclass
    class Recorded(Message):
        """The disk has it; or `error` says in one sentence that it has not."""

        error: str = ""
        receipt: str = ""

    def __init__(self, ballot: Ballot, stint: Stint | None = None) -> None:
        super().__init__(id="ballot")
        self.ballot = ballot
        self.stint = stint or Stint()
        self.prompt = AnswerPane("prompt", "prompt", cut="p shows all of it")
        self.pair = Pair("answers")
        self.page = "guide" if ballot.answered == 0 and not ballot.closed else ""
        self.note = ""
        self.saved = "saved"
        self.receipt = ""
        self.confirms = False
        self.held: Choice | None = None
        """The answer that waits for enter."""
        self._busy = self._leaving = False
        self._shown_pid = ""
        self._phase = ""
        self._criterion = 0
        self._asked = ""

    def compose(self) -> ComposeResult:
        yield TextPanel(id="heading")
        yield self.prompt
        yield self.pair
        yield TextPanel(id="page", wrap=True)
        yield TextPanel(id="marks")

    def on_mount(self) -> None:
        # At once: Widget.focus waits for its turn, and a key typed ahead would go astray.
        self.screen.set_focus(self, scroll_visible=False)
        self.show_current()

    def on_unmount(self) -> None:
        self.ballot.leave()

    def on_resize(self, event: events.Resize) -> None:
        self.pair.set_class(event.size.width >= SIDE_BY_SIDE, "-side")
        self._write_lines()

    # -- what is shown -------------------------------------------------------------------------

    def show_current(self) -> None:
        """Show the pair that waits for an answer, or the page that comes first."""
        self.page = self._page_due()
        self.set_class(bool(self.page), "-paged")
        if self.page:
            self.query_one("#page", TextPanel).show(self._page_text())
            self.focus(scroll_visible=False)
        self.refresh_bindings()
        item = self.ballot.current
        if item is not None and not self.page and item.pid != self._shown_pid:
            self._shown_pid = item.pid
            self.prompt.show(lines.chat(item.prompt), end=True)
            self.pair.show(item.left, item.right)
            if not self.pair.single:
                # Neither side has the keyboard: an accent on one would be a hint.
                self.focus(scroll_visible=False)
            self._begin_item()
        self._write_lines()

    def _page_due(self) -> str:
        """The page that has to be seen now; a page stays until the rater goes on."""
        if self.ballot.current is None or self.ballot.closed:
            return "end"
        phase = self.ballot.phase
        if phase != self._phase:
            before, self._phase = self._phase, phase
            if phase == "guess" or before == "practice":
                return phase
        return self.page if self.page != "end" else ""

    def _page_text(self) -> Content:
        ballot = self.ballot
        blind = seal_strength(ballot.session).sentence
        match self.page:
            case "guide":
                return rate_pages.guide(
                    ballot.answered > 0, ballot.session.manifest.practice, ballot.criteria, blind
                )
            case "pause":
                return rate_pages.pause()
            case "rating":
                return rate_pages.practice_over()
            case "guess":
                return rate_pages.last_question(ballot.question, ballot.session.manifest.guesses)
            case _:
                total = len(ballot.items)
                return rate_pages.end(ballot.answered, total, ballot.closed, self.receipt, blind)

    def _begin_item(self) -> None:
        self.stint.shown()
        self.held = None
        self._asked = self.note = ""
        known = self.ballot.judgement().criteria
        answered = [name in known for name in self.ballot.criteria]
        self._criterion = answered.index(False) if False in answered else len(answered)

    def _write_lines(self) -> None:
        try:
            head = self.query_one("#heading", TextPanel)
        except NoMatches:
            return
        width = max(20, self.size.width - 2)
        head.show(rate_view.heading(self._question(), self._place(), width))
        if self.ballot.current is not None:
            note, due = self.note or self._waiting(), self.ballot.break_due
            marks = rate_view.marks(self.ballot.judgement(), self._ways(), note, due)
            self.query_one("#marks", TextPanel).show(marks)

    def _question(self) -> str:
        """What is asked now: a criterion that has no answer yet, then the question itself."""
        criteria = self.ballot.criteria
        if self.ballot.current is None:
            return self.ballot.session.question
        if not criteria or not self._rates:
            return self.ballot.question
        asked = [*criteria, self.ballot.question]
        return f"{self._criterion + 1}/{len(asked)}  {asked[self._criterion]}"

    def _place(self) -> Content:
        number, total = self.ballot.position
        if self.ballot.current is None:
            return rate_view.place("end", self.ballot.answered, total, self.saved)
        manifest, phase = self.ballot.session.manifest, self.ballot.phase
        first, count = {
            "practice": (0, manifest.practice),
            "rating": (manifest.practice, total - manifest.practice - manifest.guesses),
            "guess": (total - manifest.guesses, manifest.guesses),
        }[phase]
        return rate_view.place(phase, min(number - first, count), count, self.saved)

    def _ways(self) -> list[str]:
        """The ways of looking that are on."""
        ways = {
            "in step": self.pair.locked,
            "differences": self.pair.diffed,
            "one at a time": self.pair.single,
            "enter confirms": self.confirms,
        }
        return [words for words, is_on in ways.items() if is_on]

    def _waiting(self) -> str:
        if self.held is None:
            return ""
        return f"{rate_view.ANSWERS[self.held].capitalize()}: enter confirms, another key changes."

    def _say(self, note: str) -> None:
        self.note = note
        self._write_lines()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Where there is nothing to judge, the answers are no hints either."""
        match action:
            case "vote":
                return None if self.page else True
            case "go_on":
                return True if self.page != "end" and (self.page or self.held) else None
            case "hand_in":
                return True if self.page == "end" and not self.ballot.closed else None
            case _:
                return True

    def on_key(self, event: events.Key) -> None:
        if event.key.isdecimal() and self.page:
            event.stop()  # one answer too many must not lead to another screen
        if self.page:
            self.stint.rested()
        else:
            self.stint.key()

    # -- answers -------------------------------------------------------------------------------

    @property
    def _rates(self) -> bool:
        """Whether a pair is shown to be judged, and not to be guessed."""
        return self.ballot.current is not None and self.ballot.phase != "guess"

    def action_vote(self, choice: str) -> None:
        if self.page or self._busy or self.ballot.current is None or self.ballot.closed:
            return
        if self._refused(choice):
            return
        if self._rates and self._criterion < len(self.ballot.criteria):
            name = self.ballot.criteria[self._criterion]
            self._criterion += 1
            self._record(lambda: self.ballot.criterion(name, Choice(choice)))
        elif self.confirms:
            self.held = Choice(choice)
            self._say("")
            self.refresh_bindings()
        else:
            self._vote(Choice(choice))

    def _refused(self, choice: str) -> bool:
        """Say why an answer does not count, or not yet."""
        if self.stint.too_soon:
            self._say("That came too soon after the pair: not counted. Read, then choose.")
            return True
        if self.ballot.phase == "guess" and choice not in "LRS":
            self._say("Here it is 1 left, 2 right or 0 no idea.")
            return True
        unread = " and ".join(f"the {side} answer" for side in self.pair.unread())
        if unread and self._asked != choice:
            self._asked = choice
            again = "The same key again answers anyway."
            self._say(f"{unread.capitalize()} not read to the end. {again}")
            return True
        return False

    def action_go_on(self) -> None:
        if self.page in ("guide", "rating", "guess", "pause"):
            self._leave_page()
        elif self.held is not None and not self._busy:
            held, self.held = self.held, None
            self._vote(held)

    def _vote(self, choice: Choice) -> None:
        """What is known now goes with the answer, whenever the disk takes it."""
        size: Size = self.app.size
        facts: dict[str, Any] = {
            "shown_at": round(self.stint.shown_wall, 3),
            "voted_at": round(self.stint.wall(), 3),
            "active_ms": self.stint.active_ms,
            "cols": size.width,
            "rows": size.height,
            "layout": self.pair.layout_name,
            "seen_left": self.pair.left.seen,
            "seen_right": self.pair.right.seen,
        }
        self._record(lambda: self.ballot.vote(choice, **facts))

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
            self._leaving = False
            self._say(message.error)
        elif self._leaving:
            self.post_message(self.Left())
        else:
            self.note = ""
            self.show_current()

    def action_undo(self) -> None:
        """Let go of what waits for enter, or go back a criterion, or take back the last answer."""
        if self.ballot.closed:
            self.app.notify("Handed in: nothing can be changed.", markup=False)
        elif self.page not in ("", "end", "rating", "guess"):
            return
        elif self.held is not None:
            self.held = None
            self._say("")
        elif not self.page and self._rates and self._criterion:
            self._criterion -= 1
            self._say("")
        else:
            self._shown_pid = ""
            self._record(self._undo)

    def _undo(self) -> None:
        if self.ballot.undo() is None:
            raise UserError("there is no answer to take back.")
        self._phase = self.ballot.phase
        self.page = ""

    def action_sure(self, level: int) -> None:
        if self._can_mark():
            wanted = 0 if self.ballot.judgement().confidence == level else level
            self._record(lambda: self.ballot.confidence(wanted))

    def action_recognised(self) -> None:
        if self._can_mark():
            wanted = not self.ballot.judgement().recognised
            self._record(lambda: self.ballot.recognised(wanted))

    def action_tags(self) -> None:
        from finetui.tui.screens.rate_marks import TagsDialog

        if not self._can_mark() or not self.ballot.tags:
            return
        pid, old = self._shown_pid, self.ballot.judgement().tags

        def keep(tags: tuple[str, ...] | None) -> None:
            if tags is not None and tags != old:
                self._record(lambda: self.ballot.tag(tags, pid))

        self.app.push_screen(TagsDialog(self.ballot.tags, old), keep)

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
        return not (self.page or self._busy or self.ballot.closed)

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

    # -- pages ---------------------------------------------------------------------------------

    def action_pause(self) -> None:
        """A break begins or ends; both are on disk."""
        if self.page == "pause":
            self._leave_page()
        elif not self.page and not self._busy:
            self.page = "pause"
            self._record(self.ballot.take_break)

    def action_guide(self) -> None:
        if self.page == "guide":
            self._leave_page()
        elif not self.page:
            self.page = "guide"
            self.show_current()

    def _leave_page(self) -> None:
        ended, self.page = self.page, ""
        self.stint.rested()
        if ended == "pause":
            self._record(self.ballot.resume)
        else:
            self.show_current()

    # -- looking -------------------------------------------------------------------------------

    def action_to_left(self) -> None:
        self.pair.turn_to(self.pair.left)

    def action_to_right(self) -> None:
        self.pair.turn_to(self.pair.right)

    def action_both(self) -> None:
        if self.pair.single:
            self.pair.turn_over()
        else:
            self.focus(scroll_visible=False)

    def action_lock(self) -> None:
        self.pair.toggle_lock()
        self._write_lines()

    def action_diff(self) -> None:
        self.pair.toggle_diff()
        self._write_lines()

    def action_confirm(self) -> None:
        self.confirms = not self.confirms
        self.held = None
        self._write_lines()

    def action_single(self) -> None:
        self.pair.toggle_single()
        if not self.pair.single:
            self.focus(scroll_visible=False)
        self._write_lines()

    def action_prompt(self) -> None:
        self.toggle_class("-prompt")
        whole = self.has_class("-prompt")
        target = self.prompt if whole else self
        target.focus(scroll_visible=False)

    def action_scroll_by(self, amount: int) -> None:
        for pane in self._scrolled():
            pane.move(amount)

    def action_page(self, direction: int) -> None:
        for pane in self._scrolled():
            pane.move_page(direction)

    def _scrolled(self) -> list[AnswerPane]:
        """The panes that a scroll key moves."""
        focused = self.screen.focused
        return [self.prompt] if focused is self.prompt else list(self.pair.scrolled(focused))

    def action_leave(self) -> None:
        """Leave, once what is being written is on disk."""
        self._leaving = self._busy
        if not self._busy:
            self.post_message(self.Left())
