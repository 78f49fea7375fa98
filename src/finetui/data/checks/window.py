"""Rows under the model's own tokenizer and template: too long, nothing trained, no end trained.

Most rows are cleared without the tokenizer. A byte-level tokenizer makes at most one token a byte;
and words between blanks are tokens of their own, so each different word is counted once and then
looked up: about a twentieth of the work of encoding, and what comes near the window is encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from finetui.data.checks.answers import json_answer
from finetui.data.checks.model import CheckOptions, Example, Hit
from finetui.data.formats.source import Source
from finetui.data.records import Record, Shape, messages
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.tokens import ChatTokenizer, Encoded

Plain: TypeAlias = tuple[tuple[str, ...], Sequence[str]]

_TURN, _ROW = 32, 64  # tokens that a template adds at most to a turn, and to a row
_NEAR = 1.05  # the counts of words are right but for a word here and there
_WORDS = 200_000
_LONG_WORD = 48
_PROVEN = 3  # rows of one form that the template takes before the others are believed
_FORMS = 4_096


@dataclass(frozen=True)
class Fit:
    """How a row fits: its tokens, the trained ones of the whole row and of what the window keeps;
    ``refused`` says why the template would not render it."""

    tokens: int = 0
    trained: int = 0
    kept: int = 0
    refused: str = ""


class WordTokens:
    """Tokens of a text as the sum over its words, each different word encoded once."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._known = _KnownWords(tokenizer)

    def count(self, text: str) -> int:
        return sum(map(self._known.__getitem__, text.split(" ")))


class _KnownWords(dict[str, int]):
    """Tokens of a word with the blank before it."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._encode = tokenizer.tokenizer.encode

    def __missing__(self, word: str) -> int:
        count = len(self._encode(" " + word, add_special_tokens=False).ids)
        if len(word) <= _LONG_WORD:
            if len(self) >= _WORDS:
                self.clear()
            self[word] = count
        return count


class Window:
    """Judges rows against ``limit`` tokens under a model folder's tokenizer and template."""

    def __init__(self, model_dir: Path, limit: int) -> None:
        from finetui.data.tokens import load_chat_tokenizer

        self.limit = limit
        self.tokenizer = load_chat_tokenizer(model_dir)
        self._words = WordTokens(self.tokenizer)
        self._proven: dict[tuple[Any, ...], int] = {}
        self._last: tuple[int, bytes, Fit | None] = (-1, b"", None)
        self._cleared: tuple[int, bytes, bool] = (-1, b"", False)

    def fit(self, example: Example) -> Fit | None:
        """None for a row that surely fits and is trained on (or cannot be read at all)."""
        row, raw, known = self._last
        if row == example.row and raw is example.raw:
            return known
        found = self._fit(example)
        self._last = (example.row, example.raw, found)
        return found

    def clears(self, row: int, raw: bytes, text: bool, plain: Plain) -> bool:
        """True for a plain row (roles and texts, nothing blank, no calls) that surely fits and is
        trained on; ``text`` says that it is no chat but plain text."""
        known_row, known_raw, known = self._cleared
        if row == known_row and raw is known_raw:
            return known
        roles, texts = plain
        form = (text, False, *((role, True, False) for role in roles))
        cleared = (
            self._proven.get(form, 0) >= _PROVEN
            and b'"tools"' not in raw
            and self._short(len(raw), texts)
        )
        self._cleared = (row, raw, cleared)
        return cleared

    def _short(self, size: int, texts: Sequence[str]) -> bool:
        """Whether texts in a row of ``size`` bytes cannot be longer than the window."""
        around = _TURN * len(texts) + _ROW
        if size + around <= self.limit:
            return True
        return sum(map(self._words.count, texts)) * _NEAR + around <= self.limit

    def _fit(self, example: Example) -> Fit | None:
        record = example.record
        if record is None or example.faults:
            return None
        form = _form(record)
        proven = self._proven.get(form, 0)
        if proven >= _PROVEN and self._fits(example, record):
            return None
        fit = self._measure(record)
        if fit.trained and len(self._proven) < _FORMS:
            self._proven[form] = proven + 1
        return fit

    def _fits(self, example: Example, record: Record) -> bool:
        """True when the row cannot be longer than the window."""
        turns = [*record.turns, *(record.chosen or ())]
        if len(example.raw) + _TURN * len(turns) + _ROW <= self.limit:
            return True
        if record.extra.get("tools") or any(turn.tool_calls for turn in turns):
            return False  # how a template writes tools is its own affair
        return self._short(len(example.raw), [turn.content for turn in turns])

    def _measure(self, record: Record) -> Fit:
        try:
            encoded = self._encode(record)
        except Exception as error:
            # Templates raise whatever their authors like; a row they refuse is itself a finding.
            return Fit(refused=str(error) or type(error).__name__)
        kept = sum(encoded.trained[: self.limit])
        return Fit(len(encoded.ids), encoded.trained_tokens, kept)

    def _encode(self, record: Record) -> Encoded:
        if record.shape is Shape.TEXT:
            return self.tokenizer.encode_text(record.turns[0].content)
        return self.tokenizer.encode(messages(record), tools=_tools(record))


@lru_cache(maxsize=4)
def _window(model_dir: Path, limit: int) -> Window:
    """The checks below share one, so that a row is encoded once."""
    return Window(model_dir, limit)


def _form(record: Record) -> tuple[Any, ...]:
    """What a template looks at besides texts: roles, blank turns, calls and tools."""
    turns = [*record.turns, *(record.chosen or ())]
    parts = [(turn.role, bool(turn.content.strip()), bool(turn.tool_calls)) for turn in turns]
    return (record.shape is Shape.TEXT, bool(record.extra.get("tools")), *parts)


def _answers(record: Record | None) -> bool:
    """Whether there is anything to train on; that there is not is another check's business."""
    if record is None:
        return False
    return any(turn.role == "assistant" for turn in (*record.turns, *(record.chosen or ())))


def _tools(record: Record) -> list[Any] | None:
    """The tools of a row, for the template; they are a list or a JSON text of one."""
    tools = record.extra.get("tools")
    tools = json_answer(tools) if isinstance(tools, str) else tools
    return tools if isinstance(tools, list) else None


class _UnderTemplate:
    """A check of single rows that needs a model folder; without one it is silent."""

    by_row = True

    def __init__(self, options: CheckOptions) -> None:
        self._options = options
        self._window: Window | None = None
        self._text = False

    @property
    def silent(self) -> bool:
        """True when there is nothing to find with these options."""
        return self._options.model_dir is None

    def begin(self, source: Source, last: bool) -> None:
        if self._options.model_dir is not None and self._window is None:
            self._window = _window(self._options.model_dir, self._options.max_length)
        self._text = (self._options.shape or source.shape.shape) is Shape.TEXT

    def clears(self, row: int, raw: bytes, roles: tuple[str, ...], texts: Sequence[str]) -> bool:
        """True when a plain row cannot have a finding, without a record of it."""
        window = self._window
        return window is None or (row > 0 and window.clears(row, raw, self._text, (roles, texts)))

    def see(self, example: Example) -> Iterable[Hit]:
        if self._window is None:
            return ()
        return self._judge(self._window, example)

    def finish(self) -> Iterable[tuple[int, Hit]]:
        return ()

    def _judge(self, window: Window, example: Example) -> Iterator[Hit]:
        raise NotImplementedError


class TooLong(_UnderTemplate):
    """Rows that the model's own template makes longer than the recipe's window."""

    def _judge(self, window: Window, example: Example) -> Iterator[Hit]:
        fit = window.fit(example)
        if fit is not None and fit.tokens > window.limit:
            size = f"{fit.tokens:,} tokens of at most {window.limit:,}"
            cut = fit.tokens - window.limit
            if fit.trained and not fit.kept:
                yield Hit(f"{size}: the prompt alone fills the window, no answer would be left")
            else:
                yield Hit(f"{size}: {cut:,} would be lost")


class NothingTrained(_UnderTemplate):
    """Rows that the template refuses, or of which it lets nothing be trained."""

    def _judge(self, window: Window, example: Example) -> Iterator[Hit]:
        fit = window.fit(example)
        if fit is None or fit.trained or not _answers(example.record):
            return
        if fit.refused:
            yield Hit(f"the model's chat template refuses the row: {fit.refused}")
        else:
            yield Hit("under the model's chat template no token of the row is trained on")


class EndNotTrained(_UnderTemplate):
    """A template under which the token that ends an answer is not trained; told once a file."""

    def _judge(self, window: Window, example: Example) -> Iterator[Hit]:
        if example.row:
            return
        try:
            trained = window.tokenizer.end_trained
        except UserError as error:
            yield Hit(f"of the whole file: the trained part cannot be told: {error}")
            return
        if not trained:
            yield Hit(
                "of the whole file: under the model's chat template the token that ends an "
                "answer is not trained on"
            )
