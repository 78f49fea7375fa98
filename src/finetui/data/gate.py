"""The leak gate: what is trained on must not be what is measured on, unless a person says so.

A run does not start while a row of its training data asks what a held-out row asks, shares a
conversation's opening with one, or (when near-duplicates were looked for) is much like one. It
opens when the leak is mended, or accepted in writing: by whom, when, why, and for which rows; a
leak that comes later closes it again.
"""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import xxhash

from finetui.data.alike import THRESHOLD, NearLeak, Progress, Stop, near_leaks
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.edits.journal import this_person
from finetui.data.prompts import asked, question
from finetui.data.records import read_record
from finetui.data.split import NEAR_ROWS, common
from finetui.errors import BROKEN, UserError
from finetui.workspace import Workspace, write_atomic

KINDS = {
    "row": "{train} is the same row as {held_out}",
    "prompt": "{train} asks what {held_out} asks",
    "opening": "{train} is of one conversation with {held_out}",
    "near": "{train} asks nearly what {held_out} asks ({similarity:.0%})",
}
_SHOWN = 3


class Spot(NamedTuple):
    """A row: its file, row number (0-based) and physical line (1-based)."""

    path: str
    row: int
    line: int

    def __str__(self) -> str:
        return f"{Path(self.path).name}:{self.line}"


@dataclass(frozen=True)
class Leak:
    """A training row that gives a held-out row away; ``kind`` is one of `KINDS`.

    ``key`` tells this leak from others whatever the lines are; ``similarity`` is 0 to 1.
    """

    kind: str
    train: Spot
    held_out: Spot
    key: str
    similarity: float = 1.0

    def sentence(self) -> str:
        said = KINDS[self.kind]
        return said.format(train=self.train, held_out=self.held_out, similarity=self.similarity)

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "train": self.train._asdict(),
            "held_out": self.held_out._asdict(),
            "key": self.key,
            "similarity": self.similarity,
        }


@dataclass(frozen=True)
class Acceptance:
    """A person's word that a leak may stand: of one pair of files, for the leaks there then."""

    time: str
    who: str
    train: str
    held_out: str
    reason: str
    rows: int
    keys: frozenset[str] = field(default_factory=frozenset, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For a manifest: without the keys."""
        said = asdict(self)
        del said["keys"]
        return said


@dataclass(frozen=True)
class Verdict:
    """What the gate says: the leaks that keep it shut, and those that were accepted, by whom.

    ``notes`` tell what was not looked for.
    """

    closed_by: list[Leak]
    accepted: list[Leak]
    acceptances: list[Acceptance]
    notes: list[str] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return not self.closed_by

    def error(self, workspace: Workspace) -> UserError:
        """Why a run does not start, and what to do; only for a closed gate."""
        leaks = self.closed_by
        train, held_out = (
            shlex.quote(workspace.relative(Path(spot.path)))
            for spot in (leaks[0].train, leaks[0].held_out)
        )
        shown = "; ".join(leak.sentence() for leak in leaks[:_SHOWN])
        more = f"; and {len(leaks) - _SHOWN:,} more" if len(leaks) > _SHOWN else ""
        many = f"{len(leaks):,} training rows leak" if len(leaks) > 1 else "a training row leaks"
        return UserError(
            f"{many} into what the run is measured on: {shown}{more}.",
            held_out,
            f"Drop them: finetui leaks {train} --held-out {held_out} --drop. Or split anew: finetui"
            f" split. Or answer for it: finetui accept-leak {train} {held_out} --reason WHY",
        )


def check(
    workspace: Workspace,
    train: Sequence[Path],
    held_out: Sequence[Path],
    near: bool = True,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Verdict:
    """What keeps a run with this data from starting.

    Edits count: a row that is left out leaks nothing. With ``near``, near-duplicates are looked
    for as well (in a child process; remembered while the files and their edits stay as they are),
    unless there are too many rows. Raises UserError when a file cannot be read.
    """
    with ExitStack() as stack:

        def opened(paths: Sequence[Path]) -> list[DataSet]:
            return [stack.enter_context(open_dataset(path, workspace)) for path in paths]

        training, guarded = opened(train), opened(held_out)
        leaks = find_in(training, guarded)
        note = ""
        if near and training and guarded:
            found, note = _near(training, guarded, workspace, progress, stop)
            leaks = _told_once(leaks, found)
    verdict = judge(workspace, leaks)
    if note:
        verdict.notes.append(note)
    return verdict


def _near(
    train: Sequence[DataSet],
    held_out: Sequence[DataSet],
    workspace: Workspace,
    progress: Progress | None,
    stop: Stop | None,
) -> tuple[list[Leak], str]:
    """The near leaks, or why they were not looked for."""
    rows = sum(dataset.rows for dataset in train)
    if rows > NEAR_ROWS:
        return [], (
            f"{rows:,} training rows are too many to look for near-duplicates of held-out rows "
            "at every start; finetui leaks does."
        )
    try:
        return find_near(train, held_out, workspace, progress, stop), ""
    except UserError as error:
        return [], f"near-duplicates of held-out rows were not looked for: {error.what}"


def _told_once(leaks: list[Leak], more: Sequence[Leak]) -> list[Leak]:
    known = {(leak.train.path, leak.train.row) for leak in leaks}
    return leaks + [leak for leak in more if (leak.train.path, leak.train.row) not in known]


def leaks_between(
    train: Sequence[DataSet],
    held_out: Sequence[DataSet],
    workspace: Workspace | None = None,
    near: bool = True,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> list[Leak]:
    """Every training row that gives a held-out row away, told once, by the plainest reason."""
    leaks = find_in(train, held_out)
    if not (near and train and held_out):
        return leaks
    return _told_once(leaks, find_near(train, held_out, workspace, progress, stop))


def find_near(
    train: Sequence[DataSet],
    held_out: Sequence[DataSet],
    workspace: Workspace | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
    threshold: float = THRESHOLD,
) -> list[Leak]:
    """Training rows whose question is nearly a held-out row's, each with the one it is most like.

    Raises UserError when the search fails.
    """
    memory = _memory(train, held_out, workspace, threshold) if workspace else None
    if memory and memory.is_file():
        with suppress(OSError, *BROKEN):  # a cache that does not read is searched for anew
            return msgspec.json.decode(memory.read_bytes(), type=list[Leak])
    best: dict[tuple[int, int], NearLeak] = {}
    for found in near_leaks(train, held_out, threshold, progress, stop):
        before = best.setdefault((found.dataset, found.row), found)
        if found.similarity > before.similarity:
            best[found.dataset, found.row] = found
    leaks = [
        Leak(
            "near",
            _spot(train[found.dataset], found.row),
            _spot(held_out[found.held_out], found.held_out_row),
            leak_key(
                "near",
                _question(train[found.dataset], found.row),
                _question(held_out[found.held_out], found.held_out_row),
            ),
            round(found.similarity, 4),
        )
        for found in best.values()
        if found.why == "near prompt"
    ]
    if memory:
        memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(memory, msgspec.json.encode(leaks))
    return leaks


def _memory(
    train: Sequence[DataSet], held_out: Sequence[DataSet], workspace: Workspace, threshold: float
) -> Path:
    """Where the near leaks of these files, in their present state, are remembered."""
    said = [str(threshold)]
    for side in (train, held_out):
        for dataset in side:
            head = dataset.journal.head if dataset.journal else 0
            source = dataset.source
            said.append(
                f"{source.path} {source.identity()} {source.modified} {head} {dataset.shape}"
            )
        said.append("held out")
    name = xxhash.xxh3_128_hexdigest("\n".join(said).encode())
    return workspace.cache / "gate" / f"{name}.json"


def _question(dataset: DataSet, row: int) -> int:
    record = read_record(dataset.value(row), dataset.shape)[0]
    return question(record)[0] if record else 0


def judge(workspace: Workspace, leaks: Sequence[Leak]) -> Verdict:
    """Which leaks were accepted, and which still keep the gate shut."""
    words = acceptances(workspace)
    closed, accepted, used = [], [], set()
    for leak in leaks:
        word = next((k for k, word in enumerate(words) if leak.key in word.keys), None)
        if word is None:
            closed.append(leak)
        else:
            accepted.append(leak)
            used.add(word)
    return Verdict(closed, accepted, [words[place] for place in sorted(used)])


def find_in(train: Sequence[DataSet], held_out: Sequence[DataSet]) -> list[Leak]:
    """Training rows that ask what a held-out row asks, or are of the same conversation."""
    guarded = _Guarded(held_out)
    leaks = [leak for dataset in train for leak in guarded.leaks_of(dataset)]
    return [leak for leak in leaks if not guarded.is_set_phrase(leak)]


class _Guarded:
    """The questions of the held-out rows, and their conversations' openings."""

    def __init__(self, held_out: Sequence[DataSet]) -> None:
        self._keys: dict[int, tuple[Spot, int]] = {}
        self._openings: dict[int, tuple[Spot, int]] = {}
        self._phrases: Counter[int] = Counter()
        self._phrase_of: dict[tuple[str, int], int] = {}
        self._rows = 0
        for dataset in held_out:
            for found in asked(dataset):
                self._rows += len(found.rows)
                entries = zip(found.rows, found.keys, found.marks, strict=True)
                for row, key, mark in entries:
                    self._keys.setdefault(key, (_spot(dataset, row), mark))
                for place, opening in found.openings:
                    spot = _spot(dataset, found.rows[place])
                    self._openings.setdefault(opening, (spot, found.marks[place]))
                    self._phrases[opening] += 1

    def leaks_of(self, dataset: DataSet) -> Iterator[Leak]:
        keys, openings = self._keys, self._openings
        for found in asked(dataset):
            self._rows += len(found.rows)
            told = set()
            for place, key in enumerate(found.keys):
                if key in keys:
                    told.add(place)
                    spot, mark = keys[key]
                    kind = "row" if mark == found.marks[place] else "prompt"
                    yield _leak(kind, dataset, found.rows[place], spot, key)
                elif key in openings:
                    told.add(place)
                    yield self._opening(dataset, found.rows[place], key)
            for place, opening in found.openings:
                if opening in keys or opening in openings:
                    self._phrases[opening] += 1
                    if place not in told:
                        told.add(place)
                        yield self._opening(dataset, found.rows[place], opening)

    def _opening(self, dataset: DataSet, row: int, opening: int) -> Leak:
        spot = (self._keys.get(opening) or self._openings[opening])[0]
        self._phrase_of[str(dataset.path), row] = opening
        return _leak("opening", dataset, row, spot, opening)

    def is_set_phrase(self, leak: Leak) -> bool:
        """So many conversations begin like this that it gives nothing away."""
        opening = self._phrase_of.get((leak.train.path, leak.train.row), 0)
        return leak.kind == "opening" and common(self._phrases[opening], self._rows)


def _spot(dataset: DataSet, row: int) -> Spot:
    return Spot(str(dataset.path), row, dataset.source.line(row))


def _leak(kind: str, dataset: DataSet, row: int, held_out: Spot, key: int) -> Leak:
    return Leak(kind, _spot(dataset, row), held_out, leak_key(kind, key))


def leak_key(kind: str, *keys: int) -> str:
    """What tells a leak from others, wherever its rows lie: its kind and their questions."""
    text = " ".join([kind, *(f"{key:x}" for key in keys)])
    return xxhash.xxh3_64_hexdigest(text.encode())


# ---------------------------------------------------------------- what is done about it


def mend(workspace: Workspace, leaks: Sequence[Leak]) -> int:
    """Drop the training rows that leak, one operation a file (undo brings them back); how many."""
    dropped = 0
    for path in sorted({leak.train.path for leak in leaks}):
        rows = [leak.train.row for leak in leaks if leak.train.path == path]
        with open_dataset(path, workspace) as dataset:
            dropped += dataset.drop(rows, note="leaks into held-out data")
    return dropped


def accept(
    workspace: Workspace, train: Path, held_out: Path, leaks: Sequence[Leak], reason: str
) -> Acceptance:
    """Write down that the leaks of a pair of files may stand, with the reason.

    Raises UserError without a reason, or when there is no leak to accept.
    """
    if not reason.strip():
        raise UserError("a leak is accepted with a reason only.", "--reason")
    if not leaks:
        raise UserError("there is no leak to accept.", f"{train} {held_out}")
    word = Acceptance(
        time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        this_person(),
        workspace.relative(train.resolve()),
        workspace.relative(held_out.resolve()),
        reason.strip(),
        len(leaks),
        frozenset(leak.key for leak in leaks),
    )
    line = json.dumps(asdict(word) | {"keys": sorted(word.keys)}, ensure_ascii=False)
    _append(_file(workspace), line)
    return word


def acceptances(workspace: Workspace) -> list[Acceptance]:
    """All that was accepted, oldest first. Raises UserError for a line that is none."""
    file = _file(workspace)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    words = []
    for number, line in enumerate(lines, 1):
        try:
            said = json.loads(line)
            words.append(Acceptance(**{**said, "keys": frozenset(said["keys"])}))
        except (LookupError, TypeError, *BROKEN):
            raise UserError("is not an accepted leak.", f"{file}:{number}") from None
    return words


def _file(workspace: Workspace) -> Path:
    return workspace.versions / "accepted-leaks.jsonl"


def _append(file: Path, line: str) -> None:
    """One more line, durable when this returns."""
    before = file.read_bytes() if file.exists() else b""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(file, before + line.encode() + b"\n")
