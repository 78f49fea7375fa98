"""Strict JSON: one value from bytes, or the exact byte where it goes wrong.

msgspec decides what is valid (it refuses NaN, lone surrogates, bad UTF-8 and trailing text, at
1.4 µs a kilobyte row); only a row it refuses is looked at again, to say in words what is wrong.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from typing import NoReturn

import msgspec

from finetui.errors import BROKEN

BOM = b"\xef\xbb\xbf"
_DECODER = msgspec.json.Decoder()
_BYTE = re.compile(r"\(byte (\d+)\)")
_CONSTANT = re.compile(rb'"(?:[^"\\]|\\.)*"|(-?Infinity|NaN)')
_HEX = rb"[0-9a-fA-F]{2}"
_SURROGATE = re.compile(  # whole pairs and other escapes are passed over; group 1 is half a pair
    rb"\\u[dD][89abAB]"
    + _HEX
    + rb"\\u[dD][c-fC-F]"
    + _HEX
    + rb"|(\\u[dD][89a-fA-F]"
    + _HEX
    + rb")|\\."
)


class JsonFault(Exception):
    """Why bytes are not one JSON value: check id, byte position (0-based) and a sentence."""

    def __init__(self, check: str, position: int, message: str) -> None:
        self.check, self.position, self.message = check, position, message
        super().__init__(message)


class RowError(Exception):
    """A row that cannot be read.

    ``line`` is physical and 1-based, ``offset`` the byte where the line begins in the file,
    ``position`` the byte of the fault in that line, ``check`` the id of the check that names it.
    """

    def __init__(
        self,
        line: int,
        offset: int,
        message: str,
        position: int = 0,
        check: str = "malformed-json",
    ) -> None:
        self.line, self.offset, self.position, self.check = line, offset, position, check
        self.message = message
        super().__init__(f"line {line}, byte {offset + position}: {message}")


def decode(raw: bytes) -> object:
    """One JSON value; raises JsonFault with the byte position of the fault."""
    try:
        return _DECODER.decode(raw)
    except BROKEN as error:
        explain(raw, error)


def explain(raw: bytes, error: Exception) -> NoReturn:
    """Raise the JsonFault that tells a person why ``raw`` was refused with ``error``."""
    if not raw.strip():
        raise JsonFault("blank-line", 0, "the line is blank") from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as fault:
        byte = raw[fault.start]
        raise JsonFault(
            "invalid-utf8", fault.start, f"byte 0x{byte:02X} is not valid UTF-8 ({fault.reason})"
        ) from None
    if isinstance(error, RecursionError):
        raise JsonFault("malformed-json", 0, "the value is nested too deeply") from None
    constant = next((hit for hit in _CONSTANT.finditer(raw) if hit[1]), None)
    _explain_grammar(text, constant.start() if constant else -1)
    if constant:
        name = constant[0].decode()
        raise JsonFault("not-a-number", constant.start(), f"{name} is not JSON; use null")
    surrogate = next((hit for hit in _SURROGATE.finditer(raw) if hit[1]), None)
    if surrogate:
        raise JsonFault("lone-surrogate", surrogate.start(), "half of a surrogate pair")
    place = _BYTE.search(str(error))
    raise JsonFault("malformed-json", int(place[1]) if place else 0, _plain(str(error)))


def _explain_grammar(text: str, constant: int) -> None:
    """Raise for a grammar fault; the stdlib's words are clearer than a bare 'truncated'."""
    try:
        json.loads(text)
    except json.JSONDecodeError as fault:
        position = len(text[: fault.pos].encode())
        if 0 <= constant < position:  # the stdlib reads NaN; it came first, so it is the fault
            return
        raise JsonFault("malformed-json", position, _grammar(fault, text)) from None
    except RecursionError:
        raise JsonFault("malformed-json", 0, "the value is nested too deeply") from None


def _grammar(fault: json.JSONDecodeError, text: str) -> str:
    rest = text[fault.pos :]
    if fault.msg.startswith("Extra data"):
        second = rest[:1] in ("{", "[")
        what = "a second value begins here" if second else "text goes on after the value"
        return f"{what}; one JSON value a line"
    if not rest.strip():
        return "the line ends too early (cut off?)"
    if fault.msg.startswith("Unterminated string"):
        return "this string never ends (cut off?)"
    if fault.msg.startswith("Invalid control"):
        return f"a raw U+{ord(rest[0]):04X} in a string; it must be written \\u{ord(rest[0]):04x}"
    if rest[0] in "}]" and text[: fault.pos].rstrip().endswith(","):
        return "a comma before the closing bracket"
    if rest[0] == "'":
        return "single quotes; JSON has double quotes"
    if fault.pos == 0:
        return "not JSON"
    return fault.msg[0].lower() + fault.msg[1:]


def _plain(message: str) -> str:
    return _BYTE.sub("", message).removeprefix("JSON is malformed: ").strip()


def duplicate_keys(raw: bytes) -> list[str]:
    """The keys that occur more than once in one object of a valid JSON value, in order."""
    _doubled.names = []
    _DOUBLED_DECODER.decode(raw.decode())
    return _doubled.names


class _Doubled(threading.local):
    """What the hook below found; one list a thread, since a decoder is dear to make."""

    names: list[str]


_doubled = _Doubled()


def _note_doubled(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        _doubled.names += [key for key, count in counts.items() if count > 1]


_DOUBLED_DECODER = json.JSONDecoder(object_pairs_hook=_note_doubled)


def dumps(value: object) -> str:
    """JSON text on one line as people read it: UTF-8, not escaped."""
    return json.dumps(value, ensure_ascii=False)
