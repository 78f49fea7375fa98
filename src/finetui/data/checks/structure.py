"""Checks of lines, keys, types and the order of roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

from finetui.data.checks.model import NOT_PLAIN, Check, Example, Hit
from finetui.data.records import Record, Turn
from finetui.data.strict import JsonFault, decode, duplicate_keys

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


def tool_unanswered(example: Example) -> Iterator[Hit]:
    """Calls that the conversation goes on without a result for; a call may end the row."""
    record = example.record
    if record is None:
        return
    for turns, first in _sides(record):
        for number, turn in enumerate(turns):
            if turn.tool_calls and number + 1 < len(turns):
                missing = _without_result(turn, turns[number + 1 :])
                if missing:
                    yield Hit(f"no result of the call of {missing} follows", first + number)
                    return


def _sides(record: Record) -> Iterator[tuple[list[Turn], int]]:
    """Each conversation of a row with the number of its first turn."""
    yield record.turns, 0
    yield list(record.chosen or ()), len(record.turns)
    yield list(record.rejected or ()), len(record.turns) + len(record.chosen or ())


def _without_result(turn: Turn, later: list[Turn]) -> str:
    """The name of the first call that the tool turns right after it leave out."""
    results = list(takewhile(lambda next_turn: next_turn.role == "tool", later))
    calls = turn.tool_calls or []
    if len(results) < len(calls):
        known = {_result_id(result) for result in results} - {None}
        open_calls = [call for call in calls if _call_id(call) not in known]
        return _call_name(open_calls[min(len(results), len(open_calls) - 1)] if open_calls else {})
    return ""


def _result_id(turn: Turn) -> str | None:
    return getattr(turn, "tool_call_id", None)


def _call_id(call: object) -> object:
    return call.get("id") if isinstance(call, dict) else None


def _call_name(call: object) -> str:
    """The name of the called tool as a message shows it."""
    name = _function(call).get("name")
    return repr(name) if isinstance(name, str) and name else "a tool"


def _function(call: object) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    return function if isinstance(function, dict) else {}


def tool_unknown(example: Example) -> Iterator[Hit]:
    """Calls of tools that the row's own list of tools does not have."""
    record = example.record
    if record is None:
        return
    known = _tool_names(record.extra.get("tools") or record.extra.get("functions"))
    if not known:
        return
    for number, turn in enumerate(record.all_turns()):
        for call in turn.tool_calls or ():
            name = _function(call).get("name")
            if isinstance(name, str) and name not in known:
                has = ", ".join(sorted(known)[:4])
                yield Hit(f"{name!r} is called, but the row's tools are: {has}", number)
                return


def _tool_names(tools: object) -> set[str]:
    """The names in a list of tools, which may be given as its JSON text."""
    if isinstance(tools, str):
        try:
            tools = decode(tools.encode(errors="surrogatepass"))
        except JsonFault:
            return set()
    listed = tools if isinstance(tools, list) else []
    names = [_function(tool).get("name") for tool in listed]
    return {name for name in names if isinstance(name, str)}


def tool_arguments(example: Example) -> Iterator[Hit]:
    """Arguments that are no JSON object, as a value or as its text."""
    record = example.record
    for number, turn in enumerate(record.all_turns() if record else ()):
        for call in turn.tool_calls or ():
            function = _function(call)
            wrong = _wrong_arguments(function.get("arguments", function.get("parameters")))
            if wrong:
                yield Hit(f"the arguments of {_call_name(call)} are {wrong}", number)
                return


def _wrong_arguments(arguments: object) -> str:
    if arguments is None or isinstance(arguments, dict):
        return ""
    if not isinstance(arguments, str):
        return "neither an object nor its JSON text"
    if not arguments.strip():
        return ""  # a call without arguments
    try:
        value = decode(arguments.encode(errors="surrogatepass"))
    except JsonFault as fault:
        return f"no JSON: {fault.message}"
    return "" if isinstance(value, dict) else "JSON, but no object"


CHECKS = (
    Check(
        "malformed-json",
        "Malformed line",
        "error",
        "Trainers skip the line in silence or stop at it; some lose all that follows.",
        "Edit the line (e) or drop it (d).",
        row=_unreadable("malformed-json"),
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "not-a-number",
        "NaN or Infinity",
        "error",
        "They are no JSON: strict readers refuse the line, others pass on a value none expects.",
        "Repair (f) puts null in their place.",
        row=_unreadable("not-a-number"),
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "lone-surrogate",
        "Half a surrogate pair",
        "error",
        "Half a character: strict readers refuse the line, and no tokenizer can encode it.",
        "Repair (f) takes the half character out.",
        row=_unreadable("lone-surrogate"),
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "invalid-utf8",
        "Invalid UTF-8",
        "error",
        "One bad byte ends reading in some tools and becomes a replacement character in others.",
        "Repair (f) reads the bad bytes as Windows-1252, the usual cause.",
        row=_unreadable("invalid-utf8"),
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "blank-line",
        "Blank line",
        "info",
        "Readers that skip blank lines count differently: their line numbers no longer fit.",
        "Drop it (d).",
        row=blank,
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "duplicate-keys",
        "Key twice in one object",
        "warning",
        "Every reader keeps the last value without a word; the other one is lost.",
        "Repair (f) keeps what readers keep; edit (e) if the first value was meant.",
        row=doubled_keys,
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "missing-keys",
        "Missing key",
        "error",
        "The row does not have the shape of the rest; trainers drop it or stop.",
        "Add the key (e) or drop the row (d).",
        row=_structural("missing-keys"),
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "wrong-type",
        "Wrong type",
        "error",
        "A null or a number where text belongs breaks chat templates or is trained on as 'None'.",
        "Correct the value (e) or drop the row (d).",
        row=_structural("wrong-type"),
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "unknown-role",
        "Unknown role",
        "error",
        "Chat templates raise on a role they do not know, or leave the turn out.",
        "Repair (f) corrects case and spaces; otherwise edit the role (e).",
        row=_structural("unknown-role"),
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "role-order",
        "Turns out of order",
        "error",
        "Templates refuse turns that do not alternate, or train the model to answer itself.",
        "Reorder or join the turns (e), or drop the row (d).",
        row=order,
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "no-assistant",
        "No answer",
        "error",
        "Without an assistant turn no token of the row is trained on.",
        "Add the answer (e) or drop the row (d).",
        row=no_answer,
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "empty-turn",
        "Empty turn",
        "error",
        "An empty answer teaches silence; an empty question teaches answers from nowhere.",
        "Fill the turn in (e) or drop the row (d).",
        row=empty_turns,
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "tool-unanswered",
        "Tool call without a result",
        "warning",
        "Templates refuse it or not; the model learns to go on as if the tool had answered.",
        "Add the tool's turn (e) or drop the row (d).",
        row=tool_unanswered,
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "tool-unknown",
        "Call of a tool that is not offered",
        "warning",
        "The model learns to call tools that nobody gave it.",
        "Correct the name, add the tool (e) or drop the row (d).",
        row=tool_unknown,
        family="structure",
        gate=NOT_PLAIN,
    ),
    Check(
        "tool-arguments",
        "Tool arguments that are no object",
        "warning",
        "The model learns to write calls that no program can read.",
        "Correct the arguments (e) or drop the row (d).",
        row=tool_arguments,
        family="structure",
        gate=NOT_PLAIN,
    ),
)
