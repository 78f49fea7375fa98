"""Tokens as running text: what is trained, masked and cut, or how surprising each one is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.message import Message
from textual.strip import Strip

from finetui.display import clean
from finetui.tui.actions import Action, register
from finetui.tui.widgets.lines import LinesView

Shade = Literal["training", "base", "tuned", "change"]
SHADES: tuple[Shade, ...] = ("training", "base", "tuned", "change")

LEVELS = (0.1, 1.0, 3.0, 6.0)
"""Losses in nats at which the next colour begins: a chance of 90 %, 37 %, 5 % and 0.2 %."""
CHANGES = (0.05, 0.5, 2.0)
"""The same for the change from base to tuned, better or worse."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its text, whether it is trained, masked or cut, and its losses in nats."""

    text: str
    state: Literal["trained", "masked", "cut"]
    base: float | None = None
    tuned: float | None = None

    @property
    def change(self) -> float | None:
        if self.base is None or self.tuned is None:
            return None
        return self.tuned - self.base


class TokensView(LinesView):
    """Neighbouring tokens differ in weight, so that each can be told; one has the cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tokens--trained",
        "tokens--masked",
        "tokens--cut",
        "tokens--cursor",
        *(f"tokens--loss-{level}" for level in range(len(LEVELS) + 1)),
        *(f"tokens--better-{level}" for level in range(1, len(CHANGES) + 1)),
        *(f"tokens--worse-{level}" for level in range(1, len(CHANGES) + 1)),
    }
    DEFAULT_CSS = """
    TokensView { background: $background; }
    TokensView > .tokens--trained { color: $role-assistant; text-style: underline; }
    TokensView > .tokens--masked { color: $muted; }
    TokensView > .tokens--cut { color: $error; text-style: strike; }
    TokensView > .tokens--cursor { color: $cursor-text; background: $cursor; }
    TokensView > .tokens--loss-0 { color: $muted; }
    TokensView > .tokens--loss-1 { color: $foreground; }
    TokensView > .tokens--loss-2 { color: $warning; }
    TokensView > .tokens--loss-3 { color: $error; }
    TokensView > .tokens--loss-4 { color: $error; text-style: bold reverse; }
    TokensView > .tokens--better-1 { color: $foreground; }
    TokensView > .tokens--better-2 { color: $success; }
    TokensView > .tokens--better-3 { color: $success; text-style: bold underline; }
    TokensView > .tokens--worse-1 { color: $foreground; }
    TokensView > .tokens--worse-2 { color: $error; }
    TokensView > .tokens--worse-3 { color: $error; text-style: bold reverse; }
    """
    BINDINGS: ClassVar = register(
        Action("tokens.back", "left,h", "token before", "The token before this one."),
        Action("tokens.forward", "right,l", "next token", "The next token."),
        Action("tokens.next-trained", "n", "next trained", "The next token that is trained."),
        Action("tokens.previous-trained", "N", "trained before", "The trained token before."),
        Action("tokens.worst", "w", "worst", "The token with the highest loss, then the next."),
    )

    @dataclass
    class Moved(Message):
        """The cursor came to a token."""

        view: TokensView
        token: int

        def can_replace(self, message: Message) -> bool:
            return isinstance(message, TokensView.Moved) and message.view is self.view

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.tokens: Sequence[Token] = ()
        self.cursor = 0
        self.shade: Shade = "training"
        self._lines_of: list[int] = []

    def show(self, tokens: Sequence[Token], *, keep_place: bool = False) -> None:
        self.tokens = tokens
        if not keep_place:
            self.cursor = next((i for i, t in enumerate(tokens) if t.state == "trained"), 0)
        self.rebuild(top=not keep_place)
        self._reveal()

    def shaded(self, shade: Shade) -> None:
        """Colour the tokens by another thing."""
        self.shade = shade
        self.rebuild()

    def go_to(self, token: int) -> None:
        """Put the cursor on a token, and tell it."""
        if not self.tokens:
            return
        self.cursor = max(0, min(token, len(self.tokens) - 1))
        self.rebuild()
        self._reveal()
        self.post_message(self.Moved(self, self.cursor))

    # -- lines -------------------------------------------------------------------------------

    def build(self, width: int) -> list[Strip]:
        """Tokens one behind the other; a line ends with a line break's token, or the width."""
        room = max(8, width - 2)
        styles = self._styles()
        lines: list[list[Segment]] = [[]]
        used = 0
        self._lines_of = []
        for place, token in enumerate(self.tokens):
            for part in _parts(token.text, room):
                if used + cell_len(part) > room and used:
                    lines.append([])
                    used = 0
                if len(self._lines_of) == place:
                    self._lines_of.append(len(lines) - 1)
                lines[-1].append(Segment(part, self._style(place, token, styles)))
                used += cell_len(part)
            if len(self._lines_of) == place:
                self._lines_of.append(len(lines) - 1)
            if token.text.endswith("\n"):
                lines.append([])
                used = 0
        return [Strip([Segment(" ", self.ground), *line]) for line in lines]

    @property
    def ground(self) -> Style:
        return self.rich_style

    def _styles(self) -> dict[str, Style]:
        names = (name.removeprefix("tokens--") for name in self.COMPONENT_CLASSES)
        return {
            name: self.get_component_rich_style(f"tokens--{name}", partial=True) for name in names
        }

    def _style(self, place: int, token: Token, styles: dict[str, Style]) -> Style:
        if place == self.cursor and self.has_focus:
            return self.ground + styles["cursor"]
        # The second of two neighbours is set apart, so that where a token ends can be seen.
        apart = Style(italic=True) if place % 2 else Style()
        reverse = Style(reverse=True) if place == self.cursor else Style()
        return self.ground + styles[shade_of(token, self.shade)] + apart + reverse

    def _reveal(self) -> None:
        if self.cursor < len(self._lines_of):
            line, top = self._lines_of[self.cursor], int(self.scroll_offset.y)
            if not top <= line < top + self.size.height:
                self.scroll_to(y=max(0, line - self.size.height // 2), animate=False, force=True)

    def watch_has_focus(self, focus: bool) -> None:
        super().watch_has_focus(focus)
        if self._built_for > 0:
            self.rebuild()

    # -- keys --------------------------------------------------------------------------------

    def action_back(self) -> None:
        self.go_to(self.cursor - 1)

    def action_forward(self) -> None:
        self.go_to(self.cursor + 1)

    def action_next_trained(self) -> None:
        self._to_trained(range(self.cursor + 1, len(self.tokens)))

    def action_previous_trained(self) -> None:
        self._to_trained(range(self.cursor - 1, -1, -1))

    def _to_trained(self, places: Iterable[int]) -> None:
        found = next((place for place in places if self.tokens[place].state == "trained"), None)
        if found is not None:
            self.go_to(found)

    def action_worst(self) -> None:
        """By loss: from the cursor's own down, and from the top again."""
        worst = sorted(
            (place for place in range(len(self.tokens)) if self._loss(place) is not None),
            key=lambda place: -(self._loss(place) or 0.0),
        )
        if worst:
            at = worst.index(self.cursor) + 1 if self.cursor in worst else 0
            self.go_to(worst[at % len(worst)])

    def _loss(self, place: int) -> float | None:
        token = self.tokens[place]
        if self.shade == "change":
            return token.change
        return token.tuned if self.shade == "tuned" or token.base is None else token.base


def shade_of(token: Token, shade: Shade) -> str:
    """The name of a token's style."""
    if shade == "training" or token.state == "cut":
        return token.state
    value = {"base": token.base, "tuned": token.tuned, "change": token.change}[shade]
    if value is None:
        return "masked"
    if shade == "change":
        level = sum(abs(value) >= least for least in CHANGES)
        return f"{'better' if value < 0 else 'worse'}-{level}" if level else "masked"
    return f"loss-{sum(value >= least for least in LEVELS)}"


def _parts(text: str, room: int) -> Iterator[str]:
    """The printable text of a token in pieces that fit a line."""
    whole = clean(text)
    while cell_len(whole) > room:
        end = room
        while cell_len(whole[:end]) > room:
            end -= 1
        yield whole[:end]
        whole = whole[end:]
    yield whole
