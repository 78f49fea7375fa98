"""Split a data set into train, validation and test so that nothing leaks between them.

Rows that share a normalised prompt, or the person's own group key, are one group (union-find) and
stay together; the system prompt never makes a group, because whole data sets share one. Groups
are put in an order by a keyed hash, so a seed gives one split whatever the order of the rows.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetui.data.dataset import DataSet, open_dataset
from finetui.data.keys import HashTable, answer_text, normal_hash, prompt_text, text_hash
from finetui.data.records import Record, read_record
from finetui.data.strict import JsonFault, RowError, decode, dumps
from finetui.errors import UserError

NAMES = ("train", "validation", "test")
LEFT_OUT = 255  # dropped, blank or malformed rows belong to no split
_FEW = 20  # answers (or one field of them) with so many values at most are labels
_LARGE = 0.02  # a group of this share of its stratum is placed before the small ones


@dataclass(frozen=True)
class SplitSpec:
    """How to split: shares of train, validation and test; a seed; a field that keeps rows
    together (``customer.id``); and what to keep balanced (``auto``, a field of the row, or
    ``answer.FIELD`` for a field of a JSON answer)."""

    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0
    group_key: str = ""
    stratify: str = ""


@dataclass
class Split:
    """Where each row goes: ``assignment[d][row]`` for data set d is an index into ``names``."""

    spec: SplitSpec
    names: tuple[str, ...]
    assignment: list[array[int]]
    groups: int
    stratified_by: str = ""
    notes: list[str] = field(default_factory=list)

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
class _Rows:
    """What is known of every row, by a number that runs over all data sets; hashes, no texts."""

    prompts: array[int] = field(default_factory=lambda: array("Q"))
    parents: array[int] = field(default_factory=lambda: array("Q"))
    labels: array[int] = field(default_factory=lambda: array("Q"))
    places: list[tuple[int, int]] = field(default_factory=list)  # (data set, first number)

    def __len__(self) -> int:
        return len(self.parents)

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


def split_datasets(datasets: Sequence[DataSet], spec: SplitSpec) -> Split:
    """As `split`, for open data sets."""
    names = _names(spec.fractions)
    by = _stratum_of(datasets, spec.stratify)
    rows, left_out = _read(datasets, spec, by)
    groups = _groups(rows)
    if len(groups) < len(names):
        raise UserError(
            f"{len(groups)} groups of rows cannot fill {len(names)} splits.",
            fix="Use more rows, fewer splits, or another group key.",
        )
    chosen = _fill(rows, groups, spec, len(names))
    assignment = _assignment(datasets, rows, chosen, left_out)
    result = Split(spec, names, assignment, len(groups), by)
    _note(result, groups, rows)
    leaks = find_leaks(datasets, result)
    if leaks:
        first, second = leaks[0]
        raise UserError(
            f"the split leaks: the prompt of {first} is in another split at {second}.",
            fix="This is a fault of finetui; please report it.",
        )
    return result


def find_leaks(datasets: Sequence[DataSet], result: Split) -> list[tuple[str, str]]:
    """Pairs of places (file:line) with one normalised prompt in two splits; [] is the proof.

    Reads the data anew and compares prompts, whatever the grouping was.
    """
    seen = HashTable(sum(dataset.rows for dataset in datasets))
    where: list[tuple[int, int]] = []
    leaks = []
    for number, dataset in enumerate(datasets):
        for row, record in _records(dataset):
            place = result.assignment[number][row]
            key = normal_hash(prompt_text(record)) if record else 0
            if key == 0 or place == LEFT_OUT:
                continue
            where.append((number, row))
            other = where[seen.first(key, len(where) - 1)]
            if result.assignment[other[0]][other[1]] != place:
                leaks.append((_place(datasets, number, row), _place(datasets, *other)))
    return leaks


def _place(datasets: Sequence[DataSet], number: int, row: int) -> str:
    return f"{datasets[number].path}:{datasets[number].source.line(row)}"


def _names(fractions: Sequence[float]) -> tuple[str, ...]:
    if not 2 <= len(fractions) <= 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        shown = "/".join(f"{100 * part:g}" for part in fractions)
        raise UserError(
            f"{shown} is not a split: two or three shares above 0 that make 100 %.",
            fix="Use 80/10/10, or 90/10 for train and test.",
        )
    return NAMES if len(fractions) == 3 else ("train", "test")


# ---------------------------------------------------------------- reading


def _records(dataset: DataSet) -> Iterator[tuple[int, Record | None]]:
    """(row, record) of rows that are neither dropped, blank nor malformed.

    The record is None for valid JSON that does not fit the shape.
    """
    shape = dataset.shape
    for raw in dataset.source.iterate():
        state = dataset.state(raw.row)
        if state.dropped:
            continue
        try:
            read = dataset.source.decode
            value = read(raw.raw) if state.text is None else decode(state.text.encode())
        except JsonFault:
            continue
        yield raw.row, read_record(value, shape)[0]


def _read(datasets: Sequence[DataSet], spec: SplitSpec, by: str) -> tuple[_Rows, list[list[int]]]:
    rows = _Rows()
    left_out: list[list[int]] = []
    by_prompt, by_key = HashTable(), HashTable()
    keyed = 0
    for number, dataset in enumerate(datasets):
        dataset.build_index()
        rows.places.append((number, len(rows)))
        seen: list[int] = []
        for row, record in _records(dataset):
            seen.append(row)
            own = len(rows)
            key = normal_hash(prompt_text(record)) if record else 0
            rows.prompts.append(key)
            rows.parents.append(own)
            rows.labels.append(_label(dataset, row, record, by))
            if key:
                rows.join(own, by_prompt.first(key, own))
            value = _field(dataset, row, spec.group_key) if spec.group_key else None
            if value is not None:
                keyed += 1
                rows.join(own, by_key.first(text_hash(dumps(value)), own))
        left_out.append(seen)
    if spec.group_key and not keyed:
        raise UserError(f"no row has the field {spec.group_key!r}.", fix="Check --group-key.")
    return rows, left_out


def _field(dataset: DataSet, row: int, path: str) -> object:
    """The value at a dotted path of the row's JSON; None where there is none."""
    try:
        value = dataset.value(row)
    except RowError:
        return None
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


# ---------------------------------------------------------------- strata


def _label(dataset: DataSet, row: int, record: Record | None, by: str) -> int:
    if not by:
        return 0
    if by == "answer" or by.startswith("answer."):
        text = answer_text(record) if record else ""
        value: object = _answer_field(text, by.partition(".")[2]) if "." in by else text.strip()
    else:
        value = _field(dataset, row, by)
    return text_hash(dumps(value))


def _answer_field(text: str, name: str) -> object:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = decode(text.strip().encode(errors="surrogatepass"))
    except JsonFault:
        return None
    return value.get(name) if isinstance(value, dict) else None


def _stratum_of(datasets: Sequence[DataSet], stratify: str) -> str:
    """What to balance: as said, or for ``auto`` the answer or a field of it with few values."""
    if stratify != "auto":
        return stratify
    answers: set[str] = set()
    fields: dict[str, set[str]] = defaultdict(set)
    total = 0
    for dataset in datasets:
        for _, record in _records(dataset):
            total += 1
            text = answer_text(record).strip() if record else ""
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


def _groups(rows: _Rows) -> dict[int, int]:
    """Root to size."""
    sizes: Counter[int] = Counter()
    for row in range(len(rows)):
        sizes[rows.root(row)] += 1
    return dict(sizes)


def _fill(rows: _Rows, groups: dict[int, int], spec: SplitSpec, splits: int) -> dict[int, int]:
    """Root to split: each stratum's groups in hash order, each to the split that lacks most.

    Targets add up over the strata, so that rounding in many small strata does not.
    """
    strata: dict[int, list[int]] = defaultdict(list)
    for root in groups:
        strata[rows.labels[root]].append(root)
    names = _group_names(rows)
    targets, filled = [0.0] * splits, [0] * splits
    chosen: dict[int, int] = {}
    for label in sorted(strata):
        roots = strata[label]
        total = sum(groups[root] for root in roots)
        for place in range(splits):
            targets[place] += spec.fractions[place] * total
        order = {root: _keyed(spec.seed, names[root]) for root in roots}
        roots.sort(key=lambda root: (-_size_class(groups[root], total), order[root]))
        for root in roots:
            lack = [targets[place] - filled[place] for place in range(splits)]
            best = max(range(splits), key=lambda place: (lack[place], -place))
            chosen[root] = best
            filled[best] += groups[root]
    _leave_none_empty(chosen, groups, filled)
    return chosen


def _size_class(size: int, total: int) -> int:
    """Large groups by size, all small ones alike."""
    return size if size > 1 and size >= _LARGE * total else 0


def _group_names(rows: _Rows) -> dict[int, int]:
    """A group's name: the smallest prompt hash in it, so that the order of rows is no matter."""
    names: dict[int, int] = {}
    for row, prompt in enumerate(rows.prompts):
        root = rows.root(row)
        name = prompt or row
        names[root] = min(names.get(root, name), name)
    return names


def _keyed(seed: int, name: int) -> bytes:
    key = f"finetui-split-{seed}".encode()
    return hashlib.blake2b(name.to_bytes(8, "big"), digest_size=8, key=key).digest()


def _leave_none_empty(chosen: dict[int, int], groups: dict[int, int], filled: list[int]) -> None:
    """A tiny data set still gets one group in every split, taken from the fullest."""
    for place, count in enumerate(filled):
        if count:
            continue
        fullest = max(range(len(filled)), key=filled.__getitem__)
        spare = [root for root, own in chosen.items() if own == fullest]
        root = min(spare, key=lambda root: (groups[root], root))
        chosen[root] = place
        filled[fullest] -= groups[root]
        filled[place] += groups[root]


def _assignment(
    datasets: Sequence[DataSet], rows: _Rows, chosen: dict[int, int], read: list[list[int]]
) -> list[array[int]]:
    assignment = []
    for number, first in rows.places:
        places = array("B", bytes([LEFT_OUT]) * datasets[number].rows)
        for own, row in enumerate(read[number], first):
            places[row] = chosen[rows.root(own)]
        assignment.append(places)
    return assignment


def _note(result: Split, groups: dict[int, int], rows: _Rows) -> None:
    total = len(rows)
    largest = max(groups.values())
    if largest > 1 and largest >= _LARGE * total:
        result.notes.append(
            f"The largest group has {largest:,} of {total:,} rows; shares are as near as it allows."
        )
    for (name, count), fraction in zip(result.counts.items(), result.spec.fractions, strict=True):
        if abs(count / total - fraction) > 0.02:
            got, wanted = 100 * count / total, 100 * fraction
            result.notes.append(f"{name} has {got:.1f} % of the rows instead of {wanted:g} %.")
