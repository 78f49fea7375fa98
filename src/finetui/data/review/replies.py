"""What a model answered, row by row: a candidate for review, or refused with its reason.

An answer is read strictly: JSON values one after the other, or one array of them. What a row must
be: of the seed's shape and columns, ending with an answer, in the wanted class, new to the set, to
the files it must not touch (held-out data) and to the queue, and not the seed over again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetui.data.dataset import DataSet
from finetui.data.formats.source import Stop
from finetui.data.keys import HashTable, answer_text, normal_hash, normalise, prompt_text
from finetui.data.records import Record, Shape, parse_record
from finetui.data.review.candidates import Report, Request, label_of, readable
from finetui.data.review.queue import CANDIDATE, REFUSED, Arrived, Entry, Queue, key_of, unfit
from finetui.data.strict import JsonFault, decode, dumps
from finetui.display import clean

_MOST_PIECES = 1000  # of one answer
_TOO_ALIKE = 0.9  # share of five-character pieces that a candidate's question has from its seed's
_PIECE = 5
_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"\A\s*```[\w-]*[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)
_READER = json.JSONDecoder()


@dataclass(frozen=True)
class Piece:
    """One part of an answer: a JSON value, or ``reason`` why ``text`` is none."""

    text: str
    value: Any = None
    reason: str = ""


def pieces(answer: str, cut: bool = False) -> list[Piece]:
    """The parts of an answer, in order. One code fence around all of it and a leading
    ``<think>`` part are passed over; everything else that is no JSON is a refused piece.

    ``cut`` says that the model was stopped at its limit.
    """
    text = _THINKING.sub("", answer.encode(errors="replace").decode())
    fenced = _FENCE.match(text)
    found = list(_pieces(fenced[1] if fenced else text))
    if len(found) == 1 and not found[0].reason:
        found = list(_unpacked(found[0]))
    if cut and found and found[-1].reason:
        found[-1] = Piece(found[-1].text, None, "malformed: cut off at the token limit")
    return found


class Judge:
    """Decides which answers are candidates for a data set.

    ``against`` are sets that no candidate may repeat (held-out data). Building reads every row of
    them once, keeping a hash of each question (20 to 30 MB a million rows).
    """

    def __init__(
        self,
        dataset: DataSet,
        against: Sequence[DataSet] = (),
        queue: Queue | None = None,
        progress: Report | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.dataset = dataset
        self._sets = [dataset, *against]
        self._tables = [_table(each, progress, stop) for each in self._sets]
        self._queued: dict[int, tuple[str, int]] = {}
        for item in queue.items(kind=CANDIDATE) if queue else ():
            if item.state != REFUSED:
                record = parse_record(item.entry.row, item.shape)
                self._queued[_asked(record)] = (f"item {item.id} of the queue", _same(record))

    def entries(
        self, request: Request, answer: str, cut: bool = False, model: str = ""
    ) -> list[tuple[int, str, Entry]]:
        """(key, origin, entry) of every piece of an answer, for `Queue.arrive`."""
        found = []
        for piece in pieces(answer, cut):
            reason = piece.reason or self.refusal(request, piece.value)
            entry = _entry(request, piece, reason, model)
            if reason:
                key = key_of(REFUSED, piece.text, request.seed)
            else:
                record = parse_record(piece.value, Shape(request.shape))
                key = _same(record)
                self._queued.setdefault(_asked(record), ("an earlier candidate", key))
            found.append((key, f"candidate {key:x}", entry))
        return found

    def refusal(self, request: Request, value: Any) -> str:
        """Why a value is no candidate; ``""`` when it is one."""
        shape = Shape(request.shape)
        if reason := unfit(value, shape):
            return reason
        seeds = [decode(text.encode()) for text in request.quoted]
        if isinstance(value, dict) and (new := _new_keys(value, seeds)):
            return f"wrong shape: a column the rows do not have, {new!r}"
        record, shown = parse_record(value, shape), [parse_record(seed, shape) for seed in seeds]
        return (
            self._repeats_seed(record, shown)
            or self._repeats_set(record)
            or _other_class(value, record, request)
            or _other_form(record, shown)
            or self._repeats_queue(record)
        )

    def _repeats_seed(self, record: Record, seeds: Sequence[Record]) -> str:
        asked = prompt_text(record)
        for seed in seeds:
            if normalise(asked) == normalise(prompt_text(seed)):
                return "same as the seed"
            if likeness(asked, prompt_text(seed)) >= _TOO_ALIKE:
                return "same as the seed but for a few letters"
        return ""

    def _repeats_set(self, record: Record) -> str:
        for dataset, table in zip(self._sets, self._tables, strict=True):
            asked = _asked(record)
            row = table.get(asked) if asked else -1
            if row < 0:
                continue
            where = f"line {dataset.source.line(row):,} of {clean(dataset.path.name)}"
            if dataset is not self.dataset:
                return f"leak: asks what {where} asks"
            there = normalise(answer_text(dataset.record(row)))
            if there == normalise(answer_text(record)):
                return f"duplicate of {where}"
            return f"duplicate: asks what {where} asks, with another answer"
        return ""

    def _repeats_queue(self, record: Record) -> str:
        where, key = self._queued.get(_asked(record), ("", 0))
        if not where or key == _same(record):
            return ""  # the very same one: the queue knows it
        return f"duplicate: asks what {where} asks"


def arrive(
    queue: Queue, judged: Iterable[tuple[int, str, Entry]], request: Request, model: str
) -> Arrived:
    """Put the judged answers to one request into the queue, as one operation."""
    what = f"rows for {request.label}" if request.label else f"variations of {request.seed}"
    return queue.arrive(CANDIDATE, judged, f"{what}, by {model}")


def likeness(left: str, right: str) -> float:
    """Jaccard similarity of two texts' five-character pieces, case and spacing folded."""
    a, b = _shingles(normalise(left)), _shingles(normalise(right))
    return len(a & b) / max(1, len(a | b))


# ---------------------------------------------------------------- inside


def _pieces(text: str) -> Iterator[Piece]:
    at, end = 0, len(text)
    for _ in range(_MOST_PIECES):
        while at < end and text[at] in " \t\r\n":
            at += 1
        if at >= end:
            return
        piece, at = _next_piece(text, at)
        yield piece
    if text[at:].strip():
        yield Piece(text[at : at + 200], None, f"malformed: more than {_MOST_PIECES} rows")


def _next_piece(text: str, at: int) -> tuple[Piece, int]:
    """The JSON value that begins at a place, or the rest of its line."""
    if text[at] in '{["':
        try:
            _, end = _READER.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            end = 0
        if end:
            part = text[at:end]
            try:
                return Piece(part, decode(part.encode())), end
            except JsonFault as fault:
                return Piece(part, None, f"malformed: {fault.message}"), end
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    return Piece(text[at:end], None, f"malformed: {_why(text[at:end])}"), end


def _why(line: str) -> str:
    try:
        decode(line.encode())
    except JsonFault as fault:
        return fault.message
    return "not a row"


def _unpacked(piece: Piece) -> Iterator[Piece]:
    """The rows of one array, or of the one list in an object (as JSON modes give it)."""
    value = piece.value
    if isinstance(value, dict) and len(value) == 1:
        (inner,) = value.values()
        if isinstance(inner, list) and not _is_conversation(inner):
            value = inner
    if not isinstance(value, list):
        yield piece
        return
    for each in value[:_MOST_PIECES]:
        yield Piece(dumps(each), each)


def _is_conversation(values: Sequence[Any]) -> bool:
    first = values[0] if values else {}
    return isinstance(first, dict) and bool({"role", "from"} & first.keys())


def _entry(request: Request, piece: Piece, reason: str, model: str) -> Entry:
    return Entry(
        row=piece.value,
        text=piece.text if piece.reason else "",
        source=f"suggested by {model}" if model else "suggested",
        seed=request.seed,
        shape=request.shape,
        refused=reason,
        model=model,
        instruction=request.instruction,
        extra={"label": request.label} if request.label else {},
    )


def _new_keys(value: dict[str, Any], seeds: Sequence[Any]) -> str:
    known = {key for seed in seeds if isinstance(seed, dict) for key in seed}
    return next((str(key) for key in value if key not in known), "")


def _other_form(record: Record, seeds: Sequence[Record]) -> str:
    """Where all answers of the seeds are JSON objects, the candidate's has their fields."""
    known = [_fields(seed) for seed in seeds]
    if not all(known):
        return ""
    found = _fields(record)
    if not found:
        return "wrong shape: the answer is no JSON object, as the rows' answers are"
    missing = frozenset.intersection(*known) - found
    if odd := sorted(missing or found - frozenset.union(*known)):
        return f"wrong shape: the answer's field {odd[0]!r} is {'missing' if missing else 'new'}"
    return ""


def _fields(record: Record) -> frozenset[str]:
    try:
        value = decode(answer_text(record).encode())
    except (JsonFault, UnicodeEncodeError):
        return frozenset()
    return frozenset(map(str, value)) if isinstance(value, dict) else frozenset()


def _other_class(value: Any, record: Record, request: Request) -> str:
    if not request.label:
        return ""
    found = label_of(value, record, request.field)
    if normalise(found) == normalise(request.label):
        return ""
    return f"another class: {clean(found)[:60]!r}" if found else "no class in it"


def _table(dataset: DataSet, progress: Report | None = None, stop: Stop | None = None) -> HashTable:
    table = HashTable(dataset.estimated_rows)
    for row, _, record in readable(dataset, progress, stop):
        if asked := _asked(record):
            table.first(asked, row)
    return table


def _asked(record: Record) -> int:
    return normal_hash(prompt_text(record))


def _same(record: Record) -> int:
    """The key of a candidate: equal for the same turns, whatever their case and spacing."""
    return key_of(CANDIDATE, [(turn.role, normalise(turn.content)) for turn in record.all_turns()])


def _shingles(text: str) -> set[str]:
    return {text[at : at + _PIECE] for at in range(max(1, len(text) - _PIECE + 1))}
