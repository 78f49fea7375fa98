"""Rows of data files as the items of an evaluation, and as what a model reads of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from finetui.data.checks.language import language_of
from finetui.data.checks.run import check_row
from finetui.data.dataset import DataSet
from finetui.data.records import Record, Shape, prompt_and_reference
from finetui.data.tokens import ChatTokenizer, Encoded
from finetui.engine.dataset import Encoding, open_rows, records, tools_of
from finetui.engine.subjects import with_shots
from finetui.errors import UserError
from finetui.evaluation import suites
from finetui.evaluation.leakage import TrainingIndex, probe
from finetui.evaluation.record import Item, Manifest, Role, SetSpec
from finetui.rating.burned import burned_among
from finetui.workspace import Workspace

_LEAK_ROWS = 200
_MOST_TRAINING_ROWS = 50_000
GENERATED: frozenset[Role] = frozenset({"test", "suite", "safety", "leak"})
"""Roles whose sets are answered; the others are only read."""


def items_of(spec: SetSpec, manifest: Manifest, workspace: Workspace) -> list[Item]:
    """The rows of a set, in the file's order; some of them, drawn by seed, where it has a limit.

    Raises UserError when there is none, or one cannot be read; a leak set may be empty, where no
    training answer is long enough to be told from chance.
    """
    if spec.role == "leak":
        beginnings = [_beginning(item) for item in _training(manifest, workspace)]
        begun = [item for item in beginnings if item is not None]
        return _drawn(begun, spec.limit or _LEAK_ROWS, manifest.seed)
    found = list(_once(_rows(workspace.resolve(spec.path), workspace, spec)))
    if not found:
        raise UserError("has no row to evaluate with.", spec.path, "Name another file.")
    return _drawn(found, spec.limit, manifest.seed)


def training_index(manifest: Manifest, workspace: Workspace) -> TrainingIndex | None:
    """Finds the answers that were trained on; None where the manifest names no training data."""
    if not manifest.training:
        return None
    return TrainingIndex((item.id, item.reference) for item in _training(manifest, workspace))


def without_burned(items: Sequence[Item], workspace: Workspace) -> list[Item]:
    """The items whose prompts never left as training data."""
    gone = set(burned_among(workspace.ratings, [item.prompt for item in items]))
    return [item for place, item in enumerate(items) if place not in gone]


def _rows(path: Path, workspace: Workspace, spec: SetSpec | None = None) -> Iterator[Item]:
    """The rows of a file as items; those of a set with what the checks say of them."""
    with open_rows(str(path), workspace) as rows:
        for row, record in records(rows, Encoding()):
            known = {} if spec is None else _known(rows, row, record)
            tags = () if spec is None else spec.tags
            name = f"{path.name}:{rows.source.line(row)}"
            item = _item(name, record, {**known, **record.extra}, tags)
            if item.prompt or record.shape is Shape.TEXT:
                yield item


def _item(id: str, record: Record, extra: Mapping[str, Any], tags: Sequence[str]) -> Item:
    """A row as an item; a plain text is one that is read and not answered."""
    if record.shape is Shape.TEXT:
        return suites.item(id, [], record.turns[0].content, extra, tags)
    before, reference = prompt_and_reference(record)
    return suites.item(id, before, reference, extra, tags, tools_of(record))


def _known(rows: DataSet, row: int, record: Record) -> dict[str, Any]:
    """What to slice a row by beside its own columns: what checks say of it, and its language."""
    found = sorted({finding.check for finding in check_row(rows, row)}) or ["none"]
    asked = [turn.content for turn in record.turns if turn.role in ("user", "assistant")]
    return {"finding": found, "language": language_of(" ".join(asked)) or "not told"}


def _training(manifest: Manifest, workspace: Workspace) -> Iterator[Item]:
    files = (workspace.resolve(name) for name in manifest.training)
    rows = (item for file in files for item in _rows(file, workspace))
    return islice(rows, _MOST_TRAINING_ROWS)


def _beginning(item: Item) -> Item | None:
    """A training row cut in its answer: a model that knows it by heart goes on with the rest."""
    cut = probe(item.reference)
    if cut is None:
        return None
    begun = [*item.prompt, {"role": "assistant", "content": cut[0]}]
    return Item(item.id, begun, cut[1], tools=item.tools, tags=item.tags)


def _once(items: Iterable[Item]) -> Iterator[Item]:
    seen: set[str] = set()
    for item in items:
        if item.id not in seen:
            seen.add(item.id)
            yield item


def _drawn(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    found = list(_once(items))
    if not limit or len(found) <= limit:
        return found
    return [found[at] for at in sorted(Random(seed).sample(range(len(found)), limit))]


# -- what a model reads --------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """An item in tokens: ``prompt`` to be answered, ``whole`` with its reference behind it.

    None where there is nothing of the kind; ``fault`` says why a chat cannot be written.
    """

    item: Item
    prompt: list[int] | None = None
    whole: Encoded | None = None
    fault: str = ""


def read(
    item: Item,
    role: Role,
    tokenizer: ChatTokenizer,
    shots: Sequence[Sequence[Mapping[str, Any]]] = (),
) -> Read:
    """An item as the model reads it, behind ``shots`` where there are any."""
    if not item.prompt:
        return Read(item, whole=tokenizer.encode_text(item.reference))
    try:
        if role == "leak":
            return Read(item, _begun(tokenizer, item))
        messages = with_shots(item.prompt, shots)
        asked = tokenizer.encode_prompt(messages, item.tools) if role in GENERATED else None
        return Read(item, asked, _with_reference(tokenizer, item, messages))
    except UserError as error:
        return Read(item, fault=str(error))


def _with_reference(
    tokenizer: ChatTokenizer, item: Item, messages: Sequence[Mapping[str, Any]]
) -> Encoded | None:
    if not item.reference:
        return None
    answered = [*messages, {"role": "assistant", "content": item.reference}]
    return tokenizer.encode(answered, loss_on="last", tools=item.tools)


def _begun(tokenizer: ChatTokenizer, item: Item) -> list[int]:
    """A chat whose last, unfinished answer the model is to go on with."""
    *before, begun = item.prompt
    if not tokenizer.has_template:
        return tokenizer.encode_prompt(item.prompt)
    text = tokenizer.render(before, answer_follows=True, tools=item.tools) + begun["content"]
    return list(tokenizer.tokenizer.encode(text, add_special_tokens=False).ids)
