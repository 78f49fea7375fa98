"""Data files into encoded examples and prompts; whatever is left out is counted by its reason."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from msgspec import structs

from finetui.data.chat_template import TemplateRefusal
from finetui.data.dataset import DataSet, journal_path, open_dataset
from finetui.data.records import (
    Record,
    RecordError,
    Shape,
    Turn,
    last_answer,
    messages,
    prompt_and_reference,
)
from finetui.data.strict import JsonFault, RowError
from finetui.data.template_faults import require_sound
from finetui.data.tokens import ChatTokenizer, Encoded
from finetui.engine.batches import Example, Labelled, Pair, example, pieces
from finetui.engine.losses import IGNORE
from finetui.errors import UserError
from finetui.recipe.schema import Data
from finetui.workspace import Workspace

_TELL_EVERY = 1000
# A share of untrainable rows above this is a fault of the recipe, not of some rows.
_MOST_UNTRAINABLE = 0.3

Tell: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True)
class Prompt:
    """One row to answer: ``id`` is file:line, ``messages`` everything before the last answer."""

    id: str
    messages: list[dict[str, Any]]
    reference: str
    tools: list[Any] | None = None


@dataclass
class Encoding:
    """The examples of some files and what became of the other rows.

    ``truncated`` rows were cut to max_length, ``split`` ones taken apart into pieces, and in
    ``joined`` ones an answer's first letters share a token with the end of its prompt.
    ``left_out`` counts rows by reason; ``first_left_out`` names one row for each. ``edits`` has a
    sentence for each file whose journal was followed.
    """

    files: list[str] = field(default_factory=list)
    examples: list[Any] = field(default_factory=list)
    truncated: int = 0
    split: int = 0
    joined: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first_left_out: dict[str, str] = field(default_factory=dict)
    edits: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.examples))

    @property
    def trained_tokens(self) -> int:
        return sum(item.trained_tokens for item in self.examples)

    def skip(self, reason: str, where: str, detail: str = "") -> None:
        self.left_out[reason] += 1
        self.first_left_out.setdefault(reason, f"{where}: {detail}" if detail else where)


TOO_LONG = "longer than max_length"
NOTHING_TRAINED = "nothing to train on"
UNREADABLE = "unreadable"
BAD_ANSWER = "labelled a bad answer"
REFUSED = "refused by the chat template"
SAME_ANSWERS = "both answers are the same"
CALLS_UNWRITTEN = "with tool calls that the chat template leaves out"

_UNTRAINABLE = (NOTHING_TRAINED, REFUSED, CALLS_UNWRITTEN)


def encode_files(
    paths: Sequence[str],
    tokenizer: ChatTokenizer,
    settings: Data,
    workspace: Workspace | None = None,
    tell: Tell = lambda done, total: None,
    objective: str = "sft",
) -> Encoding:
    """Encode every row of ``paths``, edited where the workspace's journal says so.

    The examples are what ``objective`` learns from: Example, Pair (dpo, orpo) or Labelled (kto).
    ``tell`` is called now and then with rows read and rows in this file. Raises UserError when a
    file cannot be read or has no rows of that kind, when the template cannot tell its assistant
    part, or when too little is left to train on.
    """
    if objective != "pretrain":
        require_sound(tokenizer, settings.loss_on)
    encoder = _Encoder(tokenizer, settings, objective)
    result = encoder.result
    for path in paths:
        result.files.append(path)
        with open_rows(path, workspace) as rows:
            for row, record in records(rows, result, bad_answers=objective == "kto"):
                if row % _TELL_EVERY == 0:
                    tell(row, rows.rows)
                encoder.add(record, rows.source.line(row))
    encoder.finish()
    _require_enough(result)
    return result


def _require_enough(result: Encoding) -> None:
    """Raises UserError when nothing is left to train on, or much of it has nothing trained."""
    reasons = "; ".join(f"{reason} ({where})" for reason, where in result.first_left_out.items())
    where = ", ".join(result.files)
    if not result.examples:
        raise UserError(f"no row can be trained on{': ' + reasons if reasons else ''}.", where)
    for reason in _UNTRAINABLE:
        count, rows = result.left_out[reason], len(result.examples) + result.left_out.total()
        if count > _MOST_UNTRAINABLE * rows:
            raise UserError(
                f"{count} of {rows} rows are {reason} ({result.first_left_out[reason]}).",
                where,
                "Choose another chat template or data.loss_on, or repair the rows.",
            )


def open_rows(path: str, workspace: Workspace | None) -> DataSet:
    """A data file with its edits, where it has any. Raises UserError."""
    edited = workspace is not None and journal_path(Path(path), workspace).exists()
    rows = open_dataset(path, workspace if edited else None)
    rows.build_index()
    return rows


def records(
    rows: DataSet, result: Encoding, bad_answers: bool = False
) -> Iterator[tuple[int, Record]]:
    """(row, record) of every usable row that is kept; the others are counted in ``result``.

    Rows labelled as bad answers are usable only with ``bad_answers``.
    """
    path = rows.path
    if rows.shape is Shape.UNKNOWN:
        raise UserError(
            f"the shape of its rows is not known: {rows.source.shape.reason}.", str(path)
        )
    if rows.changed_rows():
        aside = f", {rows.quarantined_count} quarantined" if rows.quarantined_count else ""
        result.edits.append(
            f"{path.name}: {rows.edited_count} edited and {rows.dropped_count} dropped{aside} rows "
            "as the journal has them"
        )
    lost = sum(not each.settled for each in rows.unplaced)
    if lost:
        result.edits.append(f"{path.name}: {lost} edits belong to rows that the file no longer has")
    for row in range(rows.rows):
        if not rows.state(row).kept or not rows.raw(row).strip():
            continue
        where = f"{path}:{rows.source.line(row)}"
        try:
            record = rows.record(row)
        except (RowError, JsonFault, RecordError) as error:
            result.skip(UNREADABLE, where, str(error))
            continue
        if record.label is False and not bad_answers:
            result.skip(BAD_ANSWER, where)
            continue
        yield row, record


def encode_record(
    tokenizer: ChatTokenizer, record: Record, settings: Data, max_length: int | None
) -> Encoded:
    """One record as the model reads it in training."""
    if record.shape is Shape.TEXT:
        return tokenizer.encode_text(record.turns[0].content, max_length, settings.truncation_side)
    return tokenizer.encode(
        messages(record),
        max_length,
        settings.loss_on,
        tools_of(record),
        settings.truncation_side,
    )


def prompts(path: str, count: int, seed: int, workspace: Workspace | None = None) -> list[Prompt]:
    """At most ``count`` rows to answer and compare, drawn by ``seed``, in file order."""
    with open_rows(path, workspace) as rows:
        found = [
            _prompt(path, rows.source.line(row), record)
            for row, record in records(rows, Encoding())
            if record.shape is not Shape.TEXT
        ]
    usable = [prompt for prompt in found if prompt.messages and prompt.reference]
    if len(usable) <= count:
        return usable
    return [usable[i] for i in sorted(Random(seed).sample(range(len(usable)), count))]


def mixed(task: Encoding, general: Encoding, share: float, seed: int) -> Encoding:
    """The task's examples and ``share`` times as many general ones, drawn by ``seed``.

    Takes all there are when the general file holds fewer.
    """
    count = min(int(len(task.examples) * share), len(general.examples))
    drawn = sorted(Random(seed).sample(range(len(general.examples)), count))
    moved = [_in_file(general.examples[at], len(task.files)) for at in drawn]
    return replace(
        task,
        files=task.files + general.files,
        examples=task.examples + moved,
        edits=task.edits + general.edits,
    )


def shared_prompts(training: Encoding, tokenizer: ChatTokenizer, held_out: Sequence[Prompt]) -> int:
    """How many held-out prompts some training example begins with: a leak."""
    firsts = (item.sequences[0] for item in training.examples)
    starts = {tuple(first.ids[: _answer_start(first)]) for first in firsts}
    return sum(
        tuple(tokenizer.encode_prompt(prompt.messages, prompt.tools)) in starts
        for prompt in held_out
    )


def _in_file(item: Any, behind: int) -> Any:
    """The example with its file counted behind ``behind`` other files."""
    if isinstance(item, Example):
        return replace(item, file=item.file + behind)
    part = "chosen" if isinstance(item, Pair) else "answer"
    return replace(item, **{part: _in_file(getattr(item, part), behind)})


def tools_of(record: Record) -> list[Any] | None:
    """The tools a record offers; some data sets write them as a JSON string."""
    tools = record.extra.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            return None
    return tools if isinstance(tools, list) and tools else None


class _LeftOutError(Exception):
    """A row that is not trained on; says the reason."""


@dataclass
class _Encoder:
    """Records into the examples of one objective; tells the result what became of each row."""

    tokenizer: ChatTokenizer
    settings: Data
    objective: str
    result: Encoding = field(default_factory=Encoding)
    labelled: list[tuple[Example, bool]] = field(default_factory=list)

    def add(self, record: Record, line: int) -> None:
        where = f"{self.result.files[-1]}:{line}"
        try:
            self._add(record, line)
        except _LeftOutError as reason:
            self.result.skip(str(reason), where)
        except TemplateRefusal as error:
            self.result.skip(REFUSED, where, error.what)

    def finish(self) -> None:
        """What can only be made once all rows are known."""
        if self.labelled:
            self.result.examples += mismatched(self.labelled, self.settings.max_length)

    def _add(self, record: Record, line: int) -> None:
        if self.objective == "pretrain":
            self._add_text(record, line)
        elif self.objective in ("dpo", "orpo"):
            self.result.examples.append(self._pair(record, line))
        elif self.objective == "kto":
            self.labelled += self._labelled(record, line)
        else:
            encoded = encode_record(self.tokenizer, record, self.settings, self.settings.max_length)
            turns = [*record.turns, *(record.chosen or ())]
            self.result.examples.append(self._checked(encoded, turns, line))

    def _add_text(self, record: Record, line: int) -> None:
        """Every token of a text or chat, in as many pieces as it needs."""
        settings = structs.replace(self.settings, loss_on="all")
        whole = encode_record(self.tokenizer, record, settings, max_length=None)
        found = pieces(example(whole, self._file, line), self.settings.max_length)
        found = [piece for piece in found if piece.trained_tokens]
        if not found:
            raise _LeftOutError(NOTHING_TRAINED)
        self.result.split += len(found) > 1
        self.result.examples += found

    def _pair(self, record: Record, line: int) -> Pair:
        if record.chosen is None or record.rejected is None:
            raise self._wrong_shape(record, "pairs, with a chosen and a rejected answer")
        if record.chosen == record.rejected:
            raise _LeftOutError(SAME_ANSWERS)
        before = (self.result.truncated, self.result.joined)
        pair = Pair(
            self._answer(record, [*record.turns, *record.chosen], len(record.turns), line),
            self._answer(record, [*record.turns, *record.rejected], len(record.turns), line),
        )
        self._once(before)
        return pair

    def _labelled(self, record: Record, line: int) -> list[tuple[Example, bool]]:
        """A labelled answer; or a pair, as a good and a bad one."""
        if record.chosen is not None and record.rejected is not None:
            pair = self._pair(record, line)
            return [(pair.chosen, True), (pair.rejected, False)]
        if record.label is None:
            raise self._wrong_shape(record, "answers with a label, good or bad, or pairs")
        at = max(0, last_answer(record.turns))
        return [(self._answer(record, record.turns, at, line), record.label)]

    def _answer(self, record: Record, turns: Sequence[Turn], start: int, line: int) -> Example:
        """A chat of which only what follows turn ``start`` is trained."""
        encoded = self.tokenizer.encode(
            [turn.as_dict() for turn in turns],
            self.settings.max_length,
            "assistant",
            tools_of(record),
            self.settings.truncation_side,
            start,
        )
        return self._checked(encoded, turns, line)

    def _checked(self, encoded: Encoded, turns: Sequence[Turn], line: int) -> Example:
        if any(name not in encoded.text for turn in turns for name in _called(turn)):
            raise _LeftOutError(CALLS_UNWRITTEN)
        if encoded.truncated and self.settings.overlong == "drop":
            raise _LeftOutError(TOO_LONG)
        item = example(encoded, self._file, line)
        if not item.trained_tokens:
            raise _LeftOutError(TOO_LONG if encoded.truncated else NOTHING_TRAINED)
        self.result.truncated += encoded.truncated > 0
        self.result.joined += encoded.joined
        return item

    def _once(self, before: tuple[int, int]) -> None:
        """Count a pair whose two sides were cut or joined as one row."""
        self.result.truncated = min(self.result.truncated, before[0] + 1)
        self.result.joined = min(self.result.joined, before[1] + 1)

    @property
    def _file(self) -> int:
        return len(self.result.files) - 1

    def _wrong_shape(self, record: Record, wanted: str) -> UserError:
        return UserError(
            f"{self.objective} learns from {wanted}; this file has {record.shape} rows.",
            self.result.files[-1],
            "Choose another method.objective, or other data.",
        )


def _called(turn: Turn) -> Iterator[str]:
    """Names of the functions that a turn calls."""
    for call in turn.tool_calls or ():
        function = call.get("function", call) if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str):
            yield name


def mismatched(labelled: Sequence[tuple[Example, bool]], max_length: int) -> list[Labelled]:
    """Labelled answers, each with its prompt before the answer of the nearest earlier row that
    asks something else (the first rows take from the last)."""
    prompts = [item.ids[: _first_trained(item)] for item, _ in labelled]
    found = []
    for place, (item, good) in enumerate(labelled):
        others = (place - step for step in range(1, len(labelled) + 1))
        partner = next((at for at in others if prompts[at] != prompts[place]), place)
        answer = labelled[partner][0]
        start = _first_trained(answer)
        ids = prompts[place] + answer.ids[start:]
        labels = array("i", [IGNORE]) * len(prompts[place]) + answer.labels[start:]
        other = Example(ids[-max_length:], labels[-max_length:], item.file, item.line)
        found.append(Labelled(item, other, good))
    return found


def _first_trained(item: Example) -> int:
    return next(at for at, label in enumerate(item.labels) if label != IGNORE)


def _prompt(path: str, line: int, record: Record) -> Prompt:
    before, reference = prompt_and_reference(record)
    return Prompt(f"{Path(path).name}:{line}", before, reference, tools_of(record))


def _answer_start(item: Example) -> int:
    """Where the last trained run begins."""
    at = len(item) - 1
    while at > 0 and item.labels[at] < 0:
        at -= 1
    while at > 0 and item.labels[at - 1] >= 0:
        at -= 1
    return at
