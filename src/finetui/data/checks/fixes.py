"""Automatic repairs of one row, where there is only one sensible one."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from finetui.data.checks import privacy, text
from finetui.data.records import ROLES
from finetui.data.strict import JsonFault, decode, dumps
from finetui.errors import UserError

_SECRET = "[SECRET]"
_DROPS = {"duplicate", "leak", "blank-line"}


def _without_controls(words: str) -> str:
    return _replaced(words, text.control_spans(words), "")


def _unspoiled(words: str) -> str:
    from ftfy import fix_encoding

    return fix_encoding(words)


def _masked_keys(words: str) -> str:
    words = _replaced(words, [hit.span() for hit in privacy.KEY.finditer(words)], _SECRET)
    return _replaced(words, [hit.span(1) for hit in privacy.said_keys(words)], _SECRET)


def _masker(find: Callable[[str], list[re.Match[str]]], mask: str) -> Callable[[str], str]:
    return lambda words: _replaced(words, [hit.span() for hit in find(words)], mask)


def _replaced(words: str, spans: list[tuple[int, int]], by: str) -> str:
    """``words`` with ``by`` in place of each span; spans are in order and apart."""
    pieces, position = [], 0
    for start, end in spans:
        pieces += [words[position:start], by]
        position = end
    return "".join([*pieces, words[position:]])


_REWRITES: dict[str, Callable[[str], str]] = {
    "control-characters": _without_controls,
    "mojibake": _unspoiled,
    "email": _masker(privacy.find_emails, "[EMAIL]"),
    "phone": _masker(privacy.find_phones, "[PHONE]"),
    "card": _masker(privacy.find_cards, "[CARD]"),
    "secret": _masked_keys,
}


def fixable(check: str) -> bool:
    """Whether `repair` knows what to do about a check's findings."""
    return (
        check in _DROPS
        or check in _REWRITES
        or check in ("duplicate-keys", "invalid-utf8", "unknown-role")
    )


def repair(check: str, raw: bytes, read: Callable[[bytes], object]) -> str | None:
    """The row's new JSON text, or None when the repair is to drop it.

    Raises UserError when there is no automatic repair.
    """
    if check in _DROPS:
        return None
    if not fixable(check):
        raise UserError(f"{check} has no automatic repair.", fix="Edit the row, or drop it.")
    try:
        value = _read_broken(raw) if check == "invalid-utf8" else _read(raw, read)
    except JsonFault as fault:
        raise UserError(
            f"the row cannot be read: {fault.message}.", fix="Edit the row, or drop it."
        ) from None
    if check == "unknown-role":
        value = _known_roles(value)
    rewrite = _REWRITES.get(check)
    return dumps(_map_strings(value, rewrite) if rewrite else value)


def _read(raw: bytes, read: Callable[[bytes], object]) -> object:
    """An edited row is JSON whatever the format of its file."""
    try:
        return read(raw)
    except JsonFault:
        return decode(raw)


def _read_broken(raw: bytes) -> object:
    return decode(raw.decode("utf-8", errors="finetui-cp1252").encode())


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are no UTF-8 read as Windows-1252, those it lacks as Latin-1."""
    assert isinstance(error, UnicodeDecodeError)
    bad = error.object[error.start : error.end]
    try:
        return bad.decode("cp1252"), error.end
    except UnicodeDecodeError:
        return bad.decode("latin-1"), error.end


codecs.register_error("finetui-cp1252", _as_cp1252)


def _map_strings(value: object, change: Callable[[str], str]) -> object:
    """Every text of a JSON value changed, keys left as they are."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(part, change) for part in value]
    if isinstance(value, dict):
        return {key: _map_strings(part, change) for key, part in value.items()}
    return value


def _known_roles(value: object) -> object:
    """Roles with odd case or blanks written as templates know them."""
    if isinstance(value, list):
        return [_known_roles(part) for part in value]
    if not isinstance(value, dict):
        return value
    mended = {key: _known_roles(part) for key, part in value.items()}
    for key in ("role", "from"):
        said = mended.get(key)
        if isinstance(said, str) and said not in ROLES and said.strip().lower() in ROLES:
            mended[key] = said.strip().lower()
    return mended
