"""Data files into encoded examples and prompts; whatever is left out is counted by its reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from finetui.data.dataset import DataSet, journal_path, open_dataset
from finetui.data.records import (
    Record,
    RecordError,
    Shape,
    messages,
    prompt_and_reference,
)
from finetui.data.strict import JsonFault, RowError
from finetui.data.tokens import ChatTokenizer, Encoded
from finetui.engine.batches import Example, example
from finetui.errors import UserError
from finetui.recipe.schema import Data
from finetui.workspace import Workspace

_TELL_EVERY = 1000

Tell = Callable[[int, int], None]


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

    ``left_out`` counts rows by reason; ``first_left_out`` names one row for each. ``edits`` has a
    sentence for each file whose journal was followed.
    """

    files: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    truncated: int = 0
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


def encode_files(
    paths: Sequence[str],
    tokenizer: ChatTokenizer,
    settings: Data,
    workspace: Workspace | None = None,
    tell: Tell = lambda done, total: None,
) -> Encoding:
    """Encode every row of ``paths``, edited where the workspace's journal says so.

    ``tell`` is called now and then with rows read and rows in this file. Raises UserError when a
    file cannot be read, when the template cannot tell its assistant part, or when nothing is
    left to train on.
    """
    result = Encoding()
    for path in paths:
        result.files.append(path)
        with open_rows(path, workspace) as rows:
            for row, record in records(rows, result):
                if row % _TELL_EVERY == 0:
                    tell(row, rows.rows)
                _add(result, tokenizer, settings, record, rows.source.line(row))
    if not result.examples:
        reasons = "; ".join(
            f"{reason} ({where})" for reason, where in result.first_left_out.items()
        )
        raise UserError(
            f"no row can be trained on{': ' + reasons if reasons else ''}.", ", ".join(paths)
        )
    return result


def open_rows(path: str, workspace: Workspace | None) -> DataSet:
    """A data file with its edits, where it has any. Raises UserError."""
    edited = workspace is not None and journal_path(Path(path), workspace).exists()
    rows = open_dataset(path, workspace if edited else None)
    rows.build_index()
    return rows


def records(rows: DataSet, result: Encoding) -> Iterator[tuple[int, Record]]:
    """(row, record) of every usable row that is kept; the others are counted in ``result``."""
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
        if record.label is False:
            result.skip(BAD_ANSWER, where)
            continue
        yield row, record


def encode_record(
    tokenizer: ChatTokenizer, record: Record, settings: Data, max_length: int | None
) -> Encoded:
    """One record as the model reads it in training."""
    if record.shape is Shape.TEXT:
        return tokenizer.encode_text(record.turns[0].content, max_length)
    return tokenizer.encode(messages(record), max_length, settings.loss_on, tools=tools_of(record))


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
    base = len(task.files)
    drawn = sorted(Random(seed).sample(range(len(general.examples)), count))
    moved = [
        Example(item.ids, item.labels, item.file + base, item.line)
        for item in (general.examples[i] for i in drawn)
    ]
    return Encoding(
        files=task.files + general.files,
        examples=task.examples + moved,
        truncated=task.truncated,
        left_out=task.left_out,
        first_left_out=task.first_left_out,
        edits=task.edits + general.edits,
    )


def shared_prompts(training: Encoding, tokenizer: ChatTokenizer, held_out: Sequence[Prompt]) -> int:
    """How many held-out prompts some training example begins with: a leak."""
    starts = {tuple(item.ids[: _answer_start(item)]) for item in training.examples}
    return sum(
        tuple(tokenizer.encode_prompt(prompt.messages, prompt.tools)) in starts
        for prompt in held_out
    )


def tools_of(record: Record) -> list[Any] | None:
    """The tools a record offers; some data sets write them as a JSON string."""
    tools = record.extra.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            return None
    return tools if isinstance(tools, list) and tools else None


def _add(
    result: Encoding, tokenizer: ChatTokenizer, settings: Data, record: Record, line: int
) -> None:
    encoded = encode_record(tokenizer, record, settings, settings.max_length)
    where = f"{result.files[-1]}:{line}"
    if encoded.truncated and settings.overlong == "drop":
        result.skip(TOO_LONG, where)
        return
    item = example(encoded, len(result.files) - 1, line)
    if not item.trained_tokens:
        result.skip(TOO_LONG if encoded.truncated else NOTHING_TRAINED, where)
        return
    result.truncated += encoded.truncated > 0
    result.examples.append(item)


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
