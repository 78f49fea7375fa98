"""Split a data set into train, validation and test so that nothing leaks between them.

Rows that ask the same, share a conversation's opening or the person's own group key, or are alike
(clusters found elsewhere are handed in) are one group (union-find) and stay together; the system
prompt never makes a group, because whole data sets share one. Groups are put in an order by a keyed
hash, so a seed gives one split whatever the order of the rows. A split that goes on from an earlier
one leaves every row where it was.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from finetui.data.dataset import DataSet, open_dataset
from finetui.data.keys import answer_text, text_hash, value_at
from finetui.data.ledger import NAMES, Ledger, enter
from finetui.data.prompts import Asked, asked, asked_in_full, question_of
from finetui.data.records import Record
from finetui.data.strict import JsonFault, decode, dumps
from finetui.errors import UserError

LEFT_OUT = 255  # dropped, blank or malformed rows belong to no split
_FEW = 20  # answers (or one field of them) with so many values at most are labels
_LARGE = 0.02  # a group of this share of its stratum is placed before the small ones
_COMMON = 20  # rows; an opening of more of them, and of more than 1 % of the set, is a set phrase

NEAR_ROWS = 200_000  # more rows are searched for near-duplicates only when asked

Group = Sequence[tuple[int, int]]
"""Rows that must stay together, as (data set, row)."""
Progress = Callable[[int, int], None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class SplitSpec:
    """How to split: shares of train, validation and test; a seed; a field that keeps rows
    together (``customer.id``); and what to keep balanced (``auto``, a field of the row, or
    ``answer.FIELD`` for a field of a JSON answer).

    ``counts`` are rows instead of shares; a 0 among them takes what is left. ``near`` is the
    similarity from which rows were handed in as groups (0: none were), ``after`` the id of the
    version whose rows keep their place.
    """

    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0
    group_key: str = ""
    stratify: str = ""
    counts: tuple[int, ...] = ()
    near: float = 0.0
    after: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For a manifest: what is not used is not there."""
        said = asdict(self)
        return {
            name: value
            for name, value in said.items()
            if name not in ("counts", "near", "after") or value
        }


def spec_of(said: dict[str, Any]) -> SplitSpec:
    """The spec that a manifest tells of."""
    return SplitSpec(
        tuple(said["fractions"]),
        said["seed"],
        said["group_key"],
        said["stratify"],
        tuple(said.get("counts", ())),
        said.get("near", 0.0),
        said.get("after", ""),
    )


@dataclass
class Split:
    """Where each row goes: ``assignment[d][row]`` for data set d is an index into ``names``.

    ``ledger`` lets a later split go on from this one.
    """

    spec: SplitSpec
    names: tuple[str, ...]
    assignment: list[array[int]]
    groups: int
    stratified_by: str = ""
    notes: list[str] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger, repr=False)

    @property
    def counts(self) -> dict[str, int]:
        counted: Counter[int] = Counter()
        for places in self.assignment:
            counted.update(places)
        return {name: counted[place] for place, name in enumerate(self.names)}

    def rows(self, name: str, dataset: int = 0) -> list[int]:
        place = self.names.index(name)
        return [row for row, own in enumerate(self.assignment[dataset]) if own == place]


@dataclass
class _Body:
    """What is known of every row, by a number that runs over all data sets; hashes, no texts."""

    rows: list[array[int]] = field(default_factory=list)  # of each data set: its rows, in order
    keys: list[int] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # hash of the person's key; empty without one
    labels: list[int] = field(default_factory=list)  # empty without strata
    parents: list[int] = field(default_factory=list)
    openings: list[tuple[int, int]] = field(default_factory=list)  # (number, hash)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def roots(self) -> list[int]:
        """The root of every row."""
        return [own if parent == own else self.root(own) for own, parent in enumerate(self.parents)]

    def root(self, row: int) -> int:
        parents = self.parents
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    def join(self, row: int, other: int) -> None:
        """The earlier row is the root, so a group is named by its first row."""
        low, high = sorted((self.root(row), self.root(other)))
        self.parents[high] = low

    def numbers(self) -> Iterator[tuple[int, int, int]]:
        """(number, data set, row) of all rows."""
        number = 0
        for dataset, rows in enumerate(self.rows):
            for row in rows:
                yield number, dataset, row
                number += 1


def split(
    data: DataSet | Path | str | Sequence[DataSet | Path | str],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    group_key: str = "",
    stratify: str = "",
) -> Split:
    """Split one or several data sets as one body; proven free of leaks before it returns.

    Malformed, blank and dropped rows belong to no split. Raises UserError for impossible
    fractions, an unknown group key, or fewer groups than splits.
    """
    spec = SplitSpec(tuple(fractions), seed, group_key, stratify)
    items = [data] if isinstance(data, DataSet | Path | str) else list(data)
    opened = [item if isinstance(item, DataSet) else open_dataset(item) for item in items]
    try:
        return split_datasets(opened, spec)
    finally:
        for item, dataset in zip(items, opened, strict=True):
            if not isinstance(item, DataSet):
                dataset.close()


def split_datasets(
    datasets: Sequence[DataSet],
    spec: SplitSpec,
    alike: Iterable[Group] = (),
    earlier: Ledger | None = None,
) -> Split:
    """As `split`, for open data sets.

    ``alike`` are further groups that stay together, such as clusters of near-duplicates.
    ``earlier`` is the ledger of the version to go on from. A group that holds rows of two earlier
    splits (a new row, or a repair, ties them) keeps only the rows of the most held-out one.
    """
    names = _names(spec)
    by = _stratum_of(datasets, spec.stratify)
    body = _read(datasets, spec, by)
    _join(body, datasets, alike)
    frozen = _frozen(body, earlier, names) if earlier else {}
    roots = body.roots
    sizes = Counter(roots)
    if len(sizes) < len(names) and not frozen:
        raise UserError(
            f"{len(sizes)} groups of rows cannot fill {len(names)} splits.",
            fix="Use more rows, fewer splits, or another group key.",
        )
    places = _Filling(body, spec, names, roots, sizes).fill(frozen)
    result = Split(spec, names, _assignment(datasets, body, places), len(sizes), by)
    _prove(datasets, body, places)
    result.ledger = _ledger(body, places, names, earlier)
    _note(result, sizes, body, places, frozen)
    return result


def near_groups(
    datasets: Sequence[DataSet],
    spec: SplitSpec,
    wanted: bool | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> tuple[SplitSpec, list[Group]]:
    """Groups of near-duplicates for `split_datasets`, and the spec that tells of them.

    ``wanted`` None is: up to `NEAR_ROWS` rows. A child process looks for them (``progress`` gets
    done and total). Raises UserError when it fails, StoppedError when ``stop`` said so.
    """
    from finetui.data import alike

    for dataset in datasets:
        dataset.build_index()
    few = sum(dataset.rows for dataset in datasets) <= NEAR_ROWS
    if not (few if wanted is None else wanted):
        return replace(spec, near=0.0), []
    spec = replace(spec, near=spec.near or alike.THRESHOLD)
    return spec, list(alike.near_groups(datasets, spec.near, progress, stop))


def find_leaks(datasets: Sequence[DataSet], result: Split) -> list[tuple[str, str]]:
    """Pairs of places (file:line) that ask the same in two splits; [] is the proof.

    Reads the data anew and compares questions, whatever the grouping was.
    """
    seen: dict[int, tuple[int, int]] = {}
    leaks = []
    for number, dataset in enumerate(datasets):
        for row, key in _keys(dataset):
            place = result.assignment[number][row]
            if place == LEFT_OUT:
                continue
            other = seen.setdefault(key, (number, row))
            if result.assignment[other[0]][other[1]] != place:
                leaks.append((_place(datasets, number, row), _place(datasets, *other)))
    return leaks


def _keys(dataset: DataSet) -> Iterator[tuple[int, int]]:
    for found in asked(dataset):
        yield from zip(found.rows, found.keys, strict=True)


def _place(datasets: Sequence[DataSet], number: int, row: int) -> str:
    return f"{datasets[number].path}:{datasets[number].source.line(row)}"


def _names(spec: SplitSpec) -> tuple[str, ...]:
    if spec.counts:
        good = 2 <= len(spec.counts) <= 3 and min(spec.counts) >= 0 and spec.counts.count(0) <= 1
        shown, wanted = "/".join(map(str, spec.counts)), len(spec.counts)
    else:
        shares = spec.fractions
        good = 2 <= len(shares) <= 3 and min(shares) > 0 and abs(sum(shares) - 1) <= 1e-6
        shown, wanted = "/".join(f"{100 * part:g}" for part in shares), len(shares)
    if not good:
        raise UserError(
            f"{shown} is not a split: two or three shares above 0 that make 100 %, or rows.",
            fix="Use 80/10/10, or 90/10 for train and test; or rows, as 0/500/500 (0: the rest).",
        )
    return NAMES if wanted == 3 else ("train", "test")


# ---------------------------------------------------------------- reading


def _read(datasets: Sequence[DataSet], spec: SplitSpec, by: str) -> _Body:
    body = _Body()
    for dataset in datasets:
        dataset.build_index()
        rows = array("Q")
        for found in _questions(body, dataset, spec, by):
            start = len(body.keys)
            body.openings += [(start + place, opening) for place, opening in found.openings]
            body.keys += found.keys
            body.marks += found.marks
            rows.extend(found.rows)
        body.rows.append(rows)
    body.parents = list(range(len(body)))
    if spec.group_key and not any(body.groups):
        raise UserError(f"no row has the field {spec.group_key!r}.", fix="Check --group-key.")
    return body


def _questions(body: _Body, dataset: DataSet, spec: SplitSpec, by: str) -> Iterator[Asked]:
    """The questions of a data set, labels and group keys noted on the way where they matter."""
    if not (by or spec.group_key):
        yield from asked(dataset)
        return
    for read in asked_in_full(dataset):
        if by:
            body.labels.append(_label(read.value, read.record, by))
        if spec.group_key:
            value = value_at(read.value, spec.group_key)
            body.groups.append(0 if value is None else text_hash(dumps(value)))
        found = Asked()
        key, openings = question_of(read)
        found.add(read.row, key, read.mark, openings)
        yield found


# ---------------------------------------------------------------- groups


def _join(body: _Body, datasets: Sequence[DataSet], alike: Iterable[Group]) -> None:
    first = _join_equal(body, body.keys)
    _join_openings(body, first)
    if body.groups:
        _join_equal(body, body.groups)
    for group in alike:
        numbers = [number for number in map(_numbered(body), group) if number >= 0]
        for number in numbers[1:]:
            body.join(numbers[0], number)


def _join_equal(body: _Body, hashes: Sequence[int]) -> dict[int, int]:
    """Join rows of one hash (0 is none); the first row of each."""
    first: dict[int, int] = {}
    for own, key in enumerate(hashes):
        other = first.setdefault(key, own)
        if other != own and key:
            body.join(own, other)
    return first


def _join_openings(body: _Body, first: dict[int, int]) -> None:
    """Conversations that begin alike stay together, unless so many do that it is a set phrase."""
    shared = Counter(opening for _, opening in body.openings)
    for own, opening in body.openings:
        if not common(shared[opening], len(body)):
            body.join(own, first.setdefault(opening, own))


def common(count: int, rows: int) -> bool:
    """Whether so many of the rows begin alike that it is a set phrase, and tells nothing."""
    return count > max(_COMMON, rows // 100)


def _numbered(body: _Body) -> Any:
    """From (data set, row) to the row's number; -1 for a row that is left out."""
    starts = [0]
    for rows in body.rows:
        starts.append(starts[-1] + len(rows))

    def number(place: tuple[int, int]) -> int:
        dataset, row = place
        rows = body.rows[dataset]
        at = bisect_left(rows, row)
        return starts[dataset] + at if at < len(rows) and rows[at] == row else -1

    return number


def _frozen(body: _Body, earlier: Ledger, names: Sequence[str]) -> dict[int, int]:
    """Row to place in ``names``, of the rows that had one."""
    groups = body.groups or [0] * len(body)
    frozen = {}
    for own, (mark, key, group) in enumerate(zip(body.marks, body.keys, groups, strict=True)):
        place = earlier.place(mark, key, group)
        if place is not None:
            frozen[own] = names.index(NAMES[place]) if NAMES[place] in names else -1
    if -1 in frozen.values():
        raise UserError(
            "the earlier version has a validation split, this one has none.",
            fix="Give three shares, as 80/10/10.",
        )
    return frozen


# ---------------------------------------------------------------- strata


def _label(value: object, record: Record | None, by: str) -> int:
    return text_hash(dumps(value_at(value, by, record)))


def _stratum_of(datasets: Sequence[DataSet], stratify: str) -> str:
    """What to balance: as said, or for ``auto`` the answer or a field of it with few values."""
    if stratify != "auto":
        return stratify
    answers: set[str] = set()
    fields: dict[str, set[str]] = defaultdict(set)
    total = 0
    for dataset in datasets:
        for item in asked_in_full(dataset):
            total += 1
            text = answer_text(item.record).strip() if item.record else ""
            if len(answers) <= _FEW:
                answers.add(text[:200])
            _collect(fields, text)
    if 1 < len(answers) <= min(_FEW, total // 4):
        return "answer"
    few = [name for name, values in fields.items() if 1 < len(values) <= min(_FEW, total // 4)]
    return f"answer.{few[0]}" if few else ""


def _collect(fields: dict[str, set[str]], text: str) -> None:
    if not text.startswith("{"):
        return
    try:
        value = decode(text.encode(errors="surrogatepass"))
    except JsonFault:
        return
    for name, part in value.items() if isinstance(value, dict) else ():
        if isinstance(part, str | bool | int) and len(fields[name]) <= _FEW:
            fields[name].add(str(part))


# ---------------------------------------------------------------- groups to splits


class _Filling:
    """Groups to splits: each stratum's groups in hash order, each to the split that lacks most.

    Targets add up over the strata, so that rounding in many small strata does not.
    """

    def __init__(
        self,
        body: _Body,
        spec: SplitSpec,
        names: Sequence[str],
        roots: Sequence[int],
        sizes: dict[int, int],
    ) -> None:
        self.body, self.spec, self.roots, self.sizes = body, spec, roots, sizes
        self.shares = _shares(spec, len(body))
        self.splits = len(names)
        self.targets = [0.0] * len(self.shares)
        self.filled = [0] * len(self.shares)
        self.chosen: dict[int, int] = {}

    def fill(self, frozen: dict[int, int]) -> list[int]:
        """The split of every row."""
        body = self.body
        torn = self._keep(frozen)
        strata: dict[int, list[int]] = defaultdict(list)
        for root in self.sizes:
            strata[body.labels[root] if body.labels else 0].append(root)
        order = _order(body, self.spec.seed)
        for label in sorted(strata):
            self._fill_stratum(strata[label], order)
        if not frozen:
            self._leave_none_empty()
        places = list(map(self.chosen.__getitem__, self.roots))
        for own, root in enumerate(self.roots) if torn else ():
            if root in torn and frozen.get(own) != self.chosen[root]:
                places[own] = LEFT_OUT
        if len(self.shares) > self.splits:  # rows beyond the counts that were asked for
            places = [place if place < self.splits else LEFT_OUT for place in places]
        return places

    def _keep(self, frozen: dict[int, int]) -> set[int]:
        """Place the groups that have old rows; those whose rows were in several splits, of which
        only the rows of the most held-out one can stay."""
        tied: dict[int, set[int]] = defaultdict(set)
        for own, place in frozen.items():
            tied[self.roots[own]].add(place)
        self.chosen = {root: max(places) for root, places in tied.items()}
        return {root for root, places in tied.items() if len(places) > 1}

    def _fill_stratum(self, roots: list[int], order: dict[int, int]) -> None:
        sizes, targets, filled, chosen = self.sizes, self.targets, self.filled, self.chosen
        total = sum(map(sizes.__getitem__, roots))
        for place, share in enumerate(self.shares):
            targets[place] += share * total
        fresh = []
        for root in roots:
            if root in chosen:
                filled[chosen[root]] += sizes[root]
            else:
                fresh.append(root)
        large = [root for root in fresh if _size_class(sizes[root], total)]
        fresh.sort(key=order.__getitem__)
        if large:
            fresh.sort(key=lambda root: -_size_class(sizes[root], total))
        lacking = [target - count for target, count in zip(targets, filled, strict=True)]
        for root in fresh:
            most = max(lacking)
            best = lacking.index(most)
            chosen[root] = best
            lacking[best] = most - sizes[root]
            filled[best] += sizes[root]

    def _leave_none_empty(self) -> None:
        """A tiny data set still gets one group in every split, taken from the fullest."""
        filled, sizes = self.filled, self.sizes
        for place in range(self.splits):
            if filled[place]:
                continue
            fullest = max(range(len(filled)), key=filled.__getitem__)
            spare = [root for root, own in self.chosen.items() if own == fullest]
            root = min(spare, key=lambda root: (sizes[root], root))
            self.chosen[root] = place
            filled[fullest] -= sizes[root]
            filled[place] += sizes[root]


def _shares(spec: SplitSpec, total: int) -> list[float]:
    """The share of each split; with counts there may be one more, of rows in no split."""
    if not spec.counts:
        return list(spec.fractions)
    asked_for = sum(spec.counts)
    if asked_for > total or (asked_for == total and 0 in spec.counts):
        raise UserError(f"{asked_for:,} rows are asked for, and there are {total:,}.", "--counts")
    rest = (total - asked_for) / total
    shares = [count / total if count else rest for count in spec.counts]
    return shares if 0 in spec.counts else [*shares, rest]


def _size_class(size: int, total: int) -> int:
    """Large groups by size, all small ones alike."""
    return size if size > 1 and size >= _LARGE * total else 0


def _order(body: _Body, seed: int) -> dict[int, int]:
    """Root to a number that orders the groups: from the smallest question in the group and the
    seed, so that the order of the rows is no matter."""
    names = dict(zip(body.parents, body.keys, strict=True))  # right for the rows that are alone
    for own, parent in enumerate(body.parents):
        if parent != own:
            root = body.root(own)
            names[root] = min(names.get(root, body.keys[root]), body.keys[root], body.keys[own])
    keyed = xxhash.xxh3_64_intdigest
    salt = keyed(f"finetui-split-{seed}".encode())
    return {root: keyed(b"%x" % key, salt) for root, key in names.items()}


# ---------------------------------------------------------------- the result


def _assignment(
    datasets: Sequence[DataSet], body: _Body, places: Sequence[int]
) -> list[array[int]]:
    assignment = []
    start = 0
    for dataset, rows in zip(datasets, body.rows, strict=True):
        own = bytearray([LEFT_OUT]) * dataset.rows
        for row, place in zip(rows, places[start : start + len(rows)], strict=True):
            own[row] = place
        start += len(rows)
        assignment.append(array("B", bytes(own)))
    return assignment


def _prove(datasets: Sequence[DataSet], body: _Body, places: Sequence[int]) -> None:
    """Raise when two rows that ask the same are in two splits, whatever the groups say."""
    where: dict[int, int] = {}
    for own, (key, place) in enumerate(zip(body.keys, places, strict=True)):
        if place != LEFT_OUT and places[where.setdefault(key, own)] != place:
            at = {number: (dataset, row) for number, dataset, row in body.numbers()}
            first, second = _place(datasets, *at[own]), _place(datasets, *at[where[key]])
            raise UserError(
                f"the split leaks: the prompt of {first} is in another split at {second}.",
                fix="This is a fault of finetui; please report it.",
            )


def _ledger(
    body: _Body, places: Sequence[int], names: Sequence[str], earlier: Ledger | None
) -> Ledger:
    general = {place: NAMES.index(name) for place, name in enumerate(names)} | {LEFT_OUT: -1}
    known = list(map(general.__getitem__, places))
    return enter(earlier, known, marks=body.marks, keys=body.keys, groups=body.groups)


def _note(
    result: Split,
    sizes: dict[int, int],
    body: _Body,
    places: Sequence[int],
    frozen: dict[int, int],
) -> None:
    total = len(body)
    largest = max(sizes.values(), default=0)
    if largest > 1 and largest >= _LARGE * total:
        result.notes.append(
            f"The largest group has {largest:,} of {total:,} rows; shares are as near as it allows."
        )
    shares = _shares(result.spec, total) if total else []
    for (name, count), share in zip(result.counts.items(), shares, strict=False):
        if abs(count / total - share) > 0.02:
            got, wanted = 100 * count / total, 100 * share
            result.notes.append(f"{name} has {got:.1f} % of the rows instead of {wanted:g} %.")
    left = places.count(LEFT_OUT)
    if frozen:
        result.notes.append(f"{len(frozen):,} rows stay where they were.")
    if left and frozen:
        result.notes.append(
            f"{left:,} rows are left out: they tie rows of two earlier splits together."
        )
    elif left:
        result.notes.append(f"{left:,} rows are more than was asked for, and left out.")
