"""Checks of lines, keys, types and the order of roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from finetui.data.checks.model import Check, Example, Hit
from finetui.data.records import Turn
from finetui.data.strict import duplicate_keys

_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"


def _unreadable(check: str) -> Callable[[Example], Iterator[Hit]]:
    """A check for rows that could not be decoded, told apart by the fault's id."""

    def look(example: Example) -> Iterator[Hit]:
        fault = example.fault
        if fault is not None and fault.check == check:
            byte = example.offset + fault.position
            place = f"byte {byte:,} of the file ({fault.position:,} of the line)"
            yield Hit(f"{fault.message}, at {place}")

    return look


def blank(example: Example) -> Iterator[Hit]:
    if example.fault is not None and example.fault.check == "blank-line":
        yield Hit("the line is blank; most readers skip it and count the next lines one less")


def doubled_keys(example: Example) -> Iterator[Hit]:
    # An object of n keys has at least n quoted colons; a gate would cost as much as the parse.
    if example.fault is None and b'"' in example.raw and example.raw[:1] in (b"{", b"["):
        doubled = duplicate_keys(example.raw)
        if doubled:
            names = ", ".join(repr(key) for key in doubled)
            yield Hit(f"the key {names} occurs twice in one object; readers keep only the last")


def _structural(check: str) -> Callable[[Example], Iterator[Hit]]:
    """A check for the faults that reading the record met."""

    def look(example: Example) -> Iterator[Hit]:
        for fault in example.faults:
            if fault.check == check:
                yield Hit(fault.message, fault.turn)

    return look


def empty_turns(example: Example) -> Iterator[Hit]:
    if example.record is None:
        return
    faulty = {fault.turn for fault in example.faults}
    for number, turn in enumerate(example.record.all_turns()):
        if number in faulty or turn.tool_calls:
            continue
        if not turn.content or not turn.content.strip().strip(_INVISIBLE).strip():
            what = "is empty" if not turn.content else "holds only blanks"
            yield Hit(f"the {turn.role} turn {what}", number, 0, len(turn.content))


def no_answer(example: Example) -> Iterator[Hit]:
    record = example.record
    if record is None or any(fault.turn is not None for fault in example.faults):
        return  # the faulty turn may be the answer
    if not record.all_turns():
        yield Hit("the conversation has no turns")
    elif not any(turn.role == "assistant" for turn in record.all_turns()):
        yield Hit("no assistant turn: there is nothing to learn from this row")


def order(example: Example) -> Iterator[Hit]:
    record = example.record
    if record is None or any(fault.check == "unknown-role" for fault in example.faults):
        return
    if not any(turn.role == "assistant" for turn in record.all_turns()):
        return  # no-assistant says it
    sides = [record.chosen, record.rejected] if record.chosen is not None else [[]]
    for side in sides:
        turns = [*record.turns, *(side or ())]
        found = _first_disorder(turns)
        if found:
            yield found
            return


def _first_disorder(turns: list[Turn]) -> Hit | None:
    """The first turn that cannot follow the one before it."""
    before = ""
    calls = False
    for number, turn in enumerate(turns):
        role = turn.role
        if role == "system" and number > 0:
            return Hit("a system turn that is not the first", number)
        if role == "tool" and not (before == "tool" or calls):
            return Hit("a tool turn without a tool call before it", number)
        if role == "assistant" and before in ("", "system") and len(turns) > 1:
            return Hit("an assistant turn before any user turn", number)
        if role in ("user", "assistant") and role == before and not calls:
            return Hit(f"two {role} turns in a row", number)
        before, calls = role, bool(turn.tool_calls)
    if before != "assistant":
        return Hit(f"the last turn is the {before}'s, so the row ends without an answer", number)
    return None


CHECKS = (
    Check(
        "malformed-json",
        "Malformed line",
        "error",
        "Trainers skip the line in silence or stop at it; some lose all that follows.",
        "Edit the line (e) or drop it (d).",
        row=_unreadable("malformed-json"),
    ),
    Check(
        "invalid-utf8",
        "Invalid UTF-8",
        "error",
        "One bad byte ends reading in some tools and becomes a replacement character in others.",
        "Repair (f) reads the bad bytes as Windows-1252, the usual cause.",
        row=_unreadable("invalid-utf8"),
    ),
    Check(
        "blank-line",
        "Blank line",
        "info",
        "Readers that skip blank lines count differently: their line numbers no longer fit.",
        "Drop it (d).",
        row=blank,
    ),
    Check(
        "duplicate-keys",
        "Key twice in one object",
        "warning",
        "Every reader keeps the last value without a word; the other one is lost.",
        "Repair (f) keeps what readers keep; edit (e) if the first value was meant.",
        row=doubled_keys,
    ),
    Check(
        "missing-keys",
        "Missing key",
        "error",
        "The row does not have the shape of the rest; trainers drop it or stop.",
        "Add the key (e) or drop the row (d).",
        row=_structural("missing-keys"),
    ),
    Check(
        "wrong-type",
        "Wrong type",
        "error",
        "A null or a number where text belongs breaks chat templates or is trained on as 'None'.",
        "Correct the value (e) or drop the row (d).",
        row=_structural("wrong-type"),
    ),
    Check(
        "unknown-role",
        "Unknown role",
        "error",
        "Chat templates raise on a role they do not know, or leave the turn out.",
        "Repair (f) corrects case and spaces; otherwise edit the role (e).",
        row=_structural("unknown-role"),
    ),
    Check(
        "role-order",
        "Turns out of order",
        "error",
        "Templates refuse turns that do not alternate, or train the model to answer itself.",
        "Reorder or join the turns (e), or drop the row (d).",
        row=order,
    ),
    Check(
        "no-assistant",
        "No answer",
        "error",
        "Without an assistant turn no token of the row is trained on.",
        "Add the answer (e) or drop the row (d).",
        row=no_answer,
    ),
    Check(
        "empty-turn",
        "Empty turn",
        "error",
        "An empty answer teaches silence; an empty question teaches answers from nowhere.",
        "Fill the turn in (e) or drop the row (d).",
        row=empty_turns,
    ),
)
