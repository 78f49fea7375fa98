"""Change one turn of a row in its JSON text, and say what would be wrong with a text.

Where a turn's text stands depends on the shape and on odd columns, so it is found by trying: a
string of the JSON is changed, the row read again, and only a change that gives exactly the turn
asked for, and leaves all others alone, is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from finetui.data.edits.splice import Leaf, leaves, replaced
from finetui.data.records import Fault, Record, Shape, read_record
from finetui.data.strict import JsonFault, decode
from finetui.errors import UserError

Change = list[tuple[Leaf, str]]
_SIDES = {"chosen": "rejected", "rejected": "chosen"}
_SAMPLE = "\u2063"  # a character to see where it turns up


def with_turn(text: str, shape: Shape, turn: int, words: str) -> str:
    """The row's JSON with another text in one turn (0-based in `Record.all_turns`).

    Raises UserError when the row has no such turn, or its text stands in no place of its own.
    """
    record = _read(text, shape)
    turns = record.all_turns() if record else []
    if record is None or not 0 <= turn < len(turns):
        raise UserError(f"the row has no turn {turn + 1}.", fix="Edit its JSON instead.")
    old = turns[turn].content
    if words == old:
        return text
    for change in _candidates(text, shape, record, turn, words):
        tried = replaced(text, change)
        if _is_only(_read(tried, shape), record, turn, words):
            return tried
    raise UserError(
        f"the text of turn {turn + 1} is put together from other fields.",
        fix="Edit the row's JSON instead.",
    )


def faults_of(raw: bytes, shape: Shape, read: Callable[[bytes], object]) -> list[Fault]:
    """The structural faults of a row, in the words of the checks; [] when it can be trained on."""
    from finetui.data.checks import structure
    from finetui.data.checks.model import Example

    example = Example(0, 1, 0, raw)
    try:
        example.value = read(raw)
    except JsonFault as fault:
        place = f"{fault.message}, at byte {fault.position:,}"
        return [Fault(fault.check, place)]
    example.record, example.faults = read_record(example.value, shape)
    looks = [(check.id, check.row) for check in structure.CHECKS if check.row]
    return [Fault(name, hit.message, hit.turn) for name, look in looks for hit in look(example)]


def _read(text: str, shape: Shape) -> Record | None:
    try:
        return read_record(decode(text.encode(errors="surrogatepass")), shape)[0]
    except JsonFault:
        return None


def _is_only(record: Record | None, before: Record, turn: int, words: str) -> bool:
    """The turn has the new text, and nothing else is another than it was."""
    if record is None:
        return False
    now, then = record.all_turns(), before.all_turns()
    if len(now) != len(then) or len(record.turns) != len(before.turns):
        return False
    others = all(
        a == b for place, (a, b) in enumerate(zip(now, then, strict=True)) if place != turn
    )
    same_turn = now[turn].content == words and now[turn].role == then[turn].role
    return others and same_turn and (record.label, record.extra) == (before.label, before.extra)


def _candidates(text: str, shape: Shape, record: Record, turn: int, words: str) -> Iterator[Change]:
    """What may be the change: one string, the same string on both sides, or several as one."""
    old = record.all_turns()[turn].content
    every = list(leaves(text))
    start, stop, middle = _difference(old, words)
    for leaf in every:
        for new in _windows(leaf, old, start, stop, middle):
            yield [(leaf, new)]
            yield from ([(leaf, new), (twin, new)] for twin in _twins(leaf, every))
    parts = _parts(text, shape, record, turn, every)
    if parts:
        yield [(parts[0], words), *((part, "") for part in parts[1:])]


def _windows(leaf: Leaf, old: str, start: int, stop: int, middle: str) -> Iterator[str]:
    """The leaf with the change made in it, for each place of it in the turn that holds it all."""
    if leaf.text not in old:
        return
    at = old.find(leaf.text)
    while at >= 0:
        if at <= start and stop <= at + len(leaf.text):
            yield leaf.text[: start - at] + middle + leaf.text[stop - at :]
        at = old.find(leaf.text, at + 1) if leaf.text else -1


def _difference(old: str, new: str) -> tuple[int, int, str]:
    """The characters of ``old`` that were changed (start, stop), and what stands there now."""
    shorter = min(len(old), len(new))
    start = next((k for k in range(shorter) if old[k] != new[k]), shorter)
    tail = next((k for k in range(shorter - start) if old[-1 - k] != new[-1 - k]), shorter - start)
    return start, len(old) - tail, new[start : len(new) - tail]


def _twins(leaf: Leaf, every: Sequence[Leaf]) -> Iterator[Leaf]:
    """A preference pair may hold its prompt on both sides."""
    other = _SIDES.get(str(leaf.path[0])) if leaf.path else None
    if other:
        path = (other, *leaf.path[1:])
        yield from (each for each in every if each.path == path and each.text == leaf.text)


def _parts(text: str, shape: Shape, record: Record, turn: int, every: Sequence[Leaf]) -> list[Leaf]:
    """The strings that this turn, and no other, is put together from."""
    old = record.all_turns()[turn]
    found = []
    for leaf in every:
        if leaf.null or not leaf.text or leaf.text not in old.content:
            continue
        tried = _read(replaced(text, [(leaf, leaf.text + _SAMPLE)]), shape)
        if tried is None or len(tried.all_turns()) != len(record.all_turns()):
            continue
        if (
            _is_only(tried, record, turn, tried.all_turns()[turn].content)
            and tried.all_turns()[turn] != old
        ):
            found.append(leaf)
    return found
