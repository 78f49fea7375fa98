"""The review queue of a workspace: production feedback and candidate rows, decided by a person.

    feedback   pending -> corrected -> added | dismissed
    candidate  pending -> accepted  -> added | dismissed        (or refused on arrival)

Nothing gets into a data set by itself: `Queue.add` writes the rows that a person accepted into
files of the queue's own, which are then data sets like any other. Every decision can be undone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from finetui import readonly
from finetui.data.keys import answer_text, value_hash
from finetui.data.records import CHAT_KEYS, Record, RecordError, Shape, Turn, parse_record
from finetui.data.review.additions import append_lines, remove_lines, require_shape
from finetui.data.review.store import ABSENT, Change, Operation, QueueStore, Standing
from finetui.data.shapes import shape_of
from finetui.data.strict import JsonFault, decode, dumps
from finetui.display import plural
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.workspace import Workspace

FEEDBACK, CANDIDATE = "feedback", "candidate"
KINDS = (FEEDBACK, CANDIDATE)
PENDING, CORRECTED, ACCEPTED = "pending", "corrected", "accepted"
ADDED, DISMISSED, REFUSED = "added", "dismissed", "refused"
STATES = (PENDING, CORRECTED, ACCEPTED, ADDED, DISMISSED, REFUSED)
READY = (CORRECTED, ACCEPTED)

_ITEMS = (
    "SELECT item.id, item.kind, now.state, item.body, now.row, now.file, item.time, item.actor,"
    " op.kind, op.time, op.actor, op.note,"
    " (SELECT count(*) FROM seen WHERE seen.item = item.id) AS reports"
    " FROM now JOIN item ON item.id = now.item JOIN op ON op.seq = now.seq"
)
_ORDERS = {"id": "item.id", "reports": "reports DESC, item.id"}


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What arrives in the queue.

    ``prompt`` is role/content messages; ``row`` the proposed row in ``shape`` (None: no answer
    yet); ``bad`` the model's wrong answer; ``seed`` the row it was made from (file:line);
    ``held_out`` marks a row of test data; ``refused`` is why a candidate was turned away and
    ``text`` what it then read; ``extra`` the columns that came along.
    """

    prompt: list[dict[str, Any]] = []
    row: Any = None
    bad: str = ""
    note: str = ""
    source: str = ""
    seed: str = ""
    shape: str = Shape.CHAT.value
    held_out: bool = False
    refused: str = ""
    text: str = ""
    model: str = ""
    instruction: str = ""
    extra: dict[str, Any] = {}


class Item(msgspec.Struct, frozen=True):
    """One item as it is now; texts are untrusted and not made safe for a terminal.

    ``row`` is the row as it would be added (the person's, where they changed it); ``reports`` how
    often production told of it; ``decision`` the last operation with its time, login and note (a
    dismissal's reason); ``file`` the data set it was added to. Times are Unix seconds.
    """

    id: int
    kind: str
    state: str
    entry: Entry
    row: Any
    edited: bool
    file: str
    reports: int
    time: float
    actor: str
    decision: str
    decided: float
    decided_by: str
    reason: str

    @property
    def shape(self) -> Shape:
        return Shape(self.entry.shape)

    @property
    def row_text(self) -> str:
        """The row as one line of JSON, to be edited; ``""`` while there is none."""
        return "" if self.row is None else dumps(self.row)

    @property
    def turns(self) -> list[Turn]:
        """The row's turns; of feedback without an answer, the prompt."""
        value, shape = self.row, self.shape
        if value is None:
            value, shape = {"messages": self.entry.prompt}, Shape.CHAT
        try:
            return parse_record(value, shape).all_turns()
        except RecordError:
            return []

    @property
    def answer(self) -> str:
        """What the row's last assistant turn says; ``""`` while there is none."""
        try:
            return answer_text(parse_record(self.row, self.shape))
        except RecordError:
            return ""

    def as_dict(self) -> dict[str, Any]:
        """For scripts: the entry's fields beside the item's own."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        entry = found.pop("entry")
        return {**entry, **found, "prompt": self.entry.prompt}


class Arrived(msgspec.Struct, frozen=True):
    """What became of arriving entries; ``known`` are those that the queue had already."""

    new: int
    known: int
    refused: int
    corrected: int


class Added(msgspec.Struct, frozen=True):
    """Rows written to data sets, by file as the workspace names it; ``held_out`` rows stayed."""

    rows: int
    files: dict[str, int]
    held_out: int = 0


class Queue:
    """The review queue of one workspace; see the module. Safe to use from several threads."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.path = readonly.stand_in(workspace.root / "queue" / "queue.sqlite", workspace.root)
        self._store = QueueStore(self.path)

    # ------------------------------------------------------------ reading

    def items(
        self,
        state: str = "",
        kind: str = "",
        *,
        order: str = "id",
        first: int = 0,
        limit: int = -1,
    ) -> list[Item]:
        """Items of a state and a kind (empty: any); ``order`` is "id" or "reports"."""
        where, values = _where(state, kind)
        sql = f"{_ITEMS}{where} ORDER BY {_ORDERS[order]} LIMIT ? OFFSET ?"
        return [_item(row) for row in self._store.query(sql, (*values, limit, first))]

    def ids(self, state: str = "", kind: str = "", *, order: str = "id") -> list[int]:
        """The numbers of the items that `items` would give."""
        where, values = _where(state, kind)
        sql = (
            "SELECT item.id, (SELECT count(*) FROM seen WHERE seen.item = item.id) AS reports"
            f" FROM now JOIN item ON item.id = now.item{where} ORDER BY {_ORDERS[order]}"
        )
        return [int(str(row[0])) for row in self._store.query(sql, values)]

    def item(self, number: int) -> Item:
        """One item. Raises UserError when there is none of this number."""
        return self._items_of([number])[0]

    def _items_of(self, numbers: Sequence[int]) -> list[Item]:
        where, values = _where("", "")
        these = "item.id IN (SELECT value FROM json_each(?))"
        found = self._store.query(f"{_ITEMS}{where} AND {these}", (*values, dumps(list(numbers))))
        items = {item.id: item for item in map(_item, found)}
        missing = next((number for number in numbers if number not in items), None)
        if missing is not None:
            raise UserError(f"no item {missing} in the review queue.", fix="See: finetui review")
        return [items[number] for number in numbers]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many items of each kind are in each state; every state is named."""
        found = {kind: dict.fromkeys(STATES, 0) for kind in KINDS}
        sql = "SELECT kind, state, count(*) FROM now WHERE state <> ? GROUP BY kind, state"
        for kind, state, count in self._store.query(sql, (ABSENT,)):
            found[str(kind)][str(state)] = int(str(count))
        return found

    def history(self, last: int = 100) -> list[Operation]:
        """The newest operations, newest first: when, who, what, how many items."""
        return self._store.history(last)

    def knows(self, key: int) -> bool:
        """Whether an entry of this key has ever arrived."""
        return bool(self._store.query("SELECT 1 FROM item WHERE key = ?", (_key(key),)))

    # ------------------------------------------------------------ arriving

    def arrive(
        self, kind: str, entries: Iterable[tuple[int, str, Entry]], note: str = ""
    ) -> Arrived:
        """Take in (key, origin, entry) as one operation.

        Equal keys are one item; ``origin`` names one report of it, and each counts once. A
        correction for feedback that had none is taken.
        """
        changes: dict[int, Change] = {}
        counts = {"new": 0, "known": 0, "refused": 0, "corrected": 0}
        with self._store.writing() as database:
            seen = []
            for key, origin, entry in entries:
                number, standing, fresh = self._place(database, kind, key, entry)
                seen.append((origin, number))
                before = changes[number].after if number in changes else standing
                after = _arrival(kind, entry, before, fresh)
                counts[_told(before, after)] += 1
                if after != before:
                    changes[number] = Change(number, standing, after)
            self._store.note_seen(seen)
            if changes:
                self._store.append("arrive", note, list(changes.values()))
        return Arrived(**counts)

    def _place(
        self, database: sqlite3.Connection, kind: str, key: int, entry: Entry
    ) -> tuple[int, Standing, bool]:
        """The item of a key, what it is, and whether it was made just now."""
        found = database.execute(
            "SELECT item.id, state, row, file, line FROM item LEFT JOIN now ON item.id = now.item"
            " WHERE key = ?",
            (_key(key),),
        ).fetchone()
        if found:
            return int(found[0]), Standing(*found[1:]) if found[1] else Standing(), False
        body = msgspec.json.encode(entry).decode()
        return self._store.insert(kind, _key(key), body), Standing(), True

    # ------------------------------------------------------------ deciding

    def accept(self, number: int, *, answer: str | None = None, row: str | None = None) -> Item:
        """Take an item as it stands, with another answer, or as another row (JSON).

        Raises UserError when there is no answer, the row is not one of its shape, or the item is
        in a data set already.
        """
        item = self.item(number)
        value = _decided(item, answer, row)
        edited = dumps(value) if answer is not None or row is not None else None
        state = CORRECTED if item.kind == FEEDBACK else ACCEPTED
        verb = "correct" if item.kind == FEEDBACK else "accept"
        with self._store.writing():
            before = self._store.standings([number])[number]
            _refuse_added(number, before, "accepted")
            after = Standing(state, edited or before.row)
            if after != before:
                self._store.append(verb, "", [Change(number, before, after)])
        return self.item(number)

    def accept_all(self, numbers: Iterable[int]) -> int:
        """Take items as they stand, as one operation; how many it was. Raises like `accept`."""
        items = {item.id: item for item in self._items_of(_numbers(numbers))}
        for item in items.values():
            _decided(item, None, None)
        with self._store.writing():
            changes = []
            for number, before in self._store.standings(list(items)).items():
                _refuse_added(number, before, "accepted")
                state = CORRECTED if items[number].kind == FEEDBACK else ACCEPTED
                after = Standing(state, before.row)
                if after != before:
                    changes.append(Change(number, before, after))
            if changes:
                self._store.append("accept", "", changes)
        return len(changes)

    def dismiss(self, numbers: int | Iterable[int], reason: str = "") -> int:
        """Put items aside with a reason, as one operation; how many it was."""
        return self._decide(numbers, "dismiss", DISMISSED, reason)

    def reopen(self, numbers: int | Iterable[int]) -> int:
        """Take decisions back: the items are as they arrived, as one operation."""
        return self._decide(numbers, "reopen", "", "")

    def _decide(self, numbers: int | Iterable[int], verb: str, state: str, reason: str) -> int:
        chosen = _numbers(numbers)
        first = {item.id: _first(item.kind, item.entry) for item in self._items_of(chosen)}
        with self._store.writing():
            changes = []
            for number, before in self._store.standings(chosen).items():
                _refuse_added(number, before, verb + "ed")
                after = Standing(state, before.row) if state else first[number]
                if after != before:
                    changes.append(Change(number, before, after))
            if changes:
                self._store.append(verb, reason, changes)
        return len(changes)

    # ------------------------------------------------------------ adding to a data set

    def add(
        self,
        numbers: Iterable[int] | None = None,
        file: Path | str = "",
        *,
        kind: str = "",
        preference: bool = False,
        held_out: bool = False,
    ) -> Added:
        """Write accepted rows into a data set of the queue's own, as one operation.

        ``numbers`` None takes all of ``kind`` that stand ready. ``file`` is by default
        ``datasets/feedback.jsonl``, or ``datasets/<seed>-candidates.jsonl``. ``preference``
        writes prompt, chosen (the correction) and rejected (the bad answer). Rows that came from
        held-out data stay unless ``held_out``: they would leak the test; naming one raises
        UserError.
        """
        items = self._ready(numbers, kind)
        staying = [] if held_out else [item for item in items if item.entry.held_out]
        if staying and numbers is not None:
            raise _would_leak(staying)
        items = [item for item in items if held_out or not item.entry.held_out]
        lines: dict[str, list[str]] = {}
        changes = []
        standings = self._store.standings([item.id for item in items])
        names: dict[Path, str] = {}
        for item in items:
            path = self._file(item, file, preference)
            if path not in names:
                names[path] = self.workspace.relative(path)
            name = names[path]
            line = dumps(_preference(item) if preference else item.row)
            lines.setdefault(name, []).append(line)
            before = standings[item.id]
            changes.append(Change(item.id, before, Standing(ADDED, before.row, name, line)))
        shapes = {name: _one_shape(items, name, preference, changes) for name in lines}
        for name, shape in shapes.items():
            self._claim(name, shape)
        self._write(lines, changes)
        files = {name: len(found) for name, found in lines.items()}
        return Added(len(items), files, len(staying))

    def _ready(self, numbers: Iterable[int] | None, kind: str) -> list[Item]:
        if numbers is None:
            return [item for state in READY for item in self.items(state, kind)]
        items = self._items_of(_numbers(numbers))
        for item in items:
            if item.state not in READY:
                raise UserError(
                    f"item {item.id} is {item.state}, not accepted.",
                    fix=f"Accept it first: finetui review accept {item.id}",
                )
        return items

    def _file(self, item: Item, file: Path | str, preference: bool) -> Path:
        """Where an item's row goes."""
        if file:
            return self.workspace.resolve(file)
        if item.kind == FEEDBACK:
            name = "feedback-preferences" if preference else "feedback"
        else:
            stem = Path(item.entry.seed.rpartition(":")[0]).stem or "new"
            name = f"{stem.removesuffix('-candidates')}-candidates"
        return self.workspace.datasets / f"{name}.jsonl"

    def _claim(self, name: str, shape: Shape) -> None:
        """Only files that the queue began are written to."""
        path = self.workspace.resolve(name)
        if path.suffix != ".jsonl":
            raise UserError("rows are added to JSONL files.", str(path), "End the name in .jsonl.")
        ours = self._store.query("SELECT 1 FROM target WHERE path = ?", (name,))
        if path.exists() and not ours:
            raise UserError(
                "was not made by the review queue, so it is not written to.",
                str(path),
                "Name a new file; recipes, splits and mixes take several files.",
            )
        require_shape(path, shape)
        if not ours:
            with self._store.writing() as database:
                database.execute("INSERT OR IGNORE INTO target VALUES (?)", (name,))

    def _write(self, lines: dict[str, list[str]], changes: Sequence[Change]) -> None:
        if not changes:
            return
        with self._store.writing():
            now = self._store.standings([change.item for change in changes])
            for change in changes:
                if now[change.item] != change.before:
                    raise _changed_meanwhile(change.item)
            self._store.append("add", ", ".join(lines), changes)
            for name, found in lines.items():
                append_lines(self.workspace.resolve(name), found)

    # ------------------------------------------------------------ undo

    def undo(self) -> str | None:
        """Take back the newest operation; a sentence of what it was, None when there is none."""
        with self._store.writing():
            target = self._store.newest_standing()
            if target is None:
                return None
            changes = [Change(c.item, c.after, c.before) for c in self._store.changes(target)]
            self._store.invert("undo", target, changes)
            gone = self._move_lines(changes)
        return f"Undid {_sentence(self._store.operation(target))}.{gone}"

    def redo(self) -> str | None:
        """Do again what the newest undo took back; a sentence, None when there is nothing."""
        with self._store.writing():
            target = self._store.newest_undone()
            if target is None:
                return None
            changes = self._store.changes(target)
            self._store.invert("redo", target, changes)
            self._move_lines(changes)
        return f"Redid {_sentence(self._store.operation(target))}."

    def _move_lines(self, changes: Sequence[Change]) -> str:
        """Take lines out of the data sets and put lines in, as the changes say."""
        missing = 0
        for name, out in _by_file(change.before for change in changes).items():
            missing += len(out) - remove_lines(self.workspace.resolve(name), out)
        for name, back in _by_file(change.after for change in changes).items():
            append_lines(self.workspace.resolve(name), back)
        rows = plural(missing, "row")
        return f" {rows} had been changed in the file since; look there." if missing else ""

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---------------------------------------------------------------- rows


def read_row(text: str, shape: Shape) -> Any:
    """A row from JSON text. Raises UserError that says why it is not one of ``shape``."""
    try:
        value = decode(text.encode("utf-8", "surrogatepass"))
    except JsonFault as fault:
        raise UserError(f"is not JSON: {fault.message}.", f"byte {fault.position}") from None
    if reason := unfit(value, shape):
        raise UserError(f"{reason}.", "the row")
    return value


def unfit(value: object, shape: Shape) -> str:
    """Why a value is no row of ``shape`` that can be learnt from; ``""`` when it is one."""
    found = shape_of(value)[0]
    if found is not shape:
        return f"wrong shape: {found}, not {shape}"
    try:
        record = parse_record(value, shape)
    except RecordError as error:
        return f"wrong shape: {error}"
    return _unlearnable(record)


def _unlearnable(record: Record) -> str:
    sides = [record.chosen, record.rejected] if record.chosen is not None else [record.turns]
    for side in sides:
        if not side or side[-1].role != "assistant":
            return "wrong shape: the last turn is not the assistant's"
    for turn in record.all_turns():
        if not turn.content.strip() and not turn.tool_calls:
            return f"malformed: an empty {turn.role} turn"
    asks = record.shape is Shape.TEXT or any(turn.role == "user" for turn in record.turns)
    return "" if asks else "wrong shape: nobody asks"


def chat_row(prompt: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    """A chat row of a prompt and its answer."""
    return {"messages": [*prompt, {"role": "assistant", "content": answer}]}


def _decided(item: Item, answer: str | None, row: str | None) -> Any:
    """The row that an item is accepted with."""
    if row is not None:
        return read_row(row, item.shape)
    if answer is not None:
        if not answer.strip():
            raise UserError("the answer is empty.", f"item {item.id}")
        if item.kind == FEEDBACK and item.row is None:
            return chat_row(item.entry.prompt, answer)
        return _answered(item, answer)
    if item.row is None:
        raise UserError(
            "has no corrected answer yet." if item.kind == FEEDBACK else "holds no usable row.",
            f"item {item.id}",
            "Give one: finetui review accept ID --answer TEXT",
        )
    return item.row


def _answered(item: Item, answer: str) -> Any:
    """The row with another last answer."""
    row = item.row if isinstance(item.row, dict) else {}
    key = next((key for key in CHAT_KEYS if isinstance(row.get(key), list)), "")
    if item.shape is Shape.CHAT and key:
        return {**row, key: [*row[key][:-1], {**row[key][-1], "content": answer}]}
    places = [key for key, value in row.items() if value == item.answer]
    if len(places) != 1:
        raise UserError(
            f"the answer of a {item.shape} row cannot be set by itself.",
            f"item {item.id}",
            "Edit the whole row.",
        )
    return {**row, places[0]: answer}


def _preference(item: Item) -> dict[str, Any]:
    if not item.entry.bad or item.row is None:
        raise UserError("has no bad answer to prefer the good one to.", f"item {item.id}")
    if item.answer.strip() == item.entry.bad.strip():
        raise UserError("the corrected answer is the bad one.", f"item {item.id}")
    return {"prompt": item.entry.prompt,
            "chosen": [{"role": "assistant", "content": item.answer}],
            "rejected": [{"role": "assistant", "content": item.entry.bad}]}  # fmt: skip


# ---------------------------------------------------------------- inside


def _key(key: int) -> str:
    return f"{key:016x}"


def _where(state: str, kind: str) -> tuple[str, tuple[str, ...]]:
    parts, values = [" WHERE now.state <> ?"], [ABSENT]
    for column, value in (("now.state", state), ("item.kind", kind)):
        if value:
            parts.append(f"{column} = ?")
            values.append(value)
    return " AND ".join(parts), tuple(values)


def _item(row: Sequence[Any]) -> Item:
    (number, kind, state, body, edited, file, time, actor, verb, decided, by, note, reports) = row
    entry = msgspec.json.decode(body, type=Entry)
    value = entry.row if edited is None else decode(edited.encode())
    return Item(
        number, kind, state, entry, value, edited is not None, file or "", reports, time, actor,
        verb, decided, by, note if verb == "dismiss" else "",
    )  # fmt: skip


def _first(kind: str, entry: Entry) -> Standing:
    """What an item is when it arrives."""
    if entry.refused:
        return Standing(REFUSED)
    return Standing(CORRECTED if kind == FEEDBACK and entry.row is not None else PENDING)


def _arrival(kind: str, entry: Entry, before: Standing, fresh: bool) -> Standing:
    row = None if fresh or entry.row is None else dumps(entry.row)
    if before.state == ABSENT:
        return Standing(_first(kind, entry).state, row)
    if kind == FEEDBACK and before == Standing(PENDING) and row is not None:
        return Standing(CORRECTED, row)
    return before


def _told(before: Standing, after: Standing) -> str:
    if before.state == ABSENT:
        return "refused" if after.state == REFUSED else "new"
    return "corrected" if after != before else "known"


def _numbers(numbers: int | Iterable[int]) -> list[int]:
    return [numbers] if isinstance(numbers, int) else list(dict.fromkeys(numbers))


def _refuse_added(number: int, standing: Standing, what: str) -> None:
    if standing.state == ADDED:
        raise UserError(
            f"item {number} is in {standing.file} already and cannot be {what}.",
            fix="Undo the addition first: finetui review undo",
        )


def _would_leak(items: Sequence[Item]) -> UserError:
    numbers = ", ".join(str(item.id) for item in items[:5])
    return UserError(
        f"{plural(len(items), 'row')} came from held-out data (item {numbers}): trained on, "
        f"{'it' if len(items) == 1 else 'they'} would leak the test.",
        fix="Make new rows like them (finetui suggest), or mend the held-out file itself.",
    )


def _one_shape(
    items: Sequence[Item], name: str, preference: bool, changes: Sequence[Change]
) -> Shape:
    if preference:
        return Shape.PREFERENCE
    shapes = {
        item.shape for item, change in zip(items, changes, strict=True) if change.after.file == name
    }
    if len(shapes) > 1:
        told = ", ".join(sorted(shapes))
        raise UserError(f"rows of several shapes ({told}) do not go into one file.", name)
    return shapes.pop()


def _by_file(standings: Iterable[Standing]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for standing in standings:
        if standing.file and standing.line is not None:
            found.setdefault(standing.file, []).append(standing.line)
    return found


def _changed_meanwhile(number: int) -> UserError:
    return UserError(
        f"item {number} was decided in another session meanwhile.", fix="Look at it again."
    )


def _sentence(done: Operation) -> str:
    note = f" ({done.note})" if done.note else ""
    return f"the {done.kind} of {plural(done.items, 'item')}{note}"


def key_of(*parts: object) -> int:
    """The key of an entry from the parts that make two of them the same."""
    return value_hash(parts)
