"""Automatic repairs of one row, where there is only one sensible one."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from finetui.data.checks import language, mojibake, privacy, secrets, text
from finetui.data.checks.examples import is_input_stub
from finetui.data.records import ROLES
from finetui.data.strict import JsonFault, decode, dumps
from finetui.errors import UserError

Mask = Callable[[str, str], str]
"""(kind, value as it stands) to the placeholder that takes its place."""

PRIVATE = {**{check: kind for check, (kind, _) in privacy.FINDERS.items()}, "secret": "SECRET"}
"""The checks whose findings a repair hides, and the kind that their placeholders name."""

_DROPS = {"duplicate", "leak", "blank-line"}


def plain_mask(kind: str, value: str) -> str:
    """The same placeholder for every value of a kind: ``[EMAIL]``."""
    return f"[{kind}]"


# ---------------------------------------------------------------- rewriting texts


def spans(check: str, words: str) -> list[tuple[int, int]]:
    """The characters that a repair of ``check`` would hide in a text; [] for other checks."""
    if check == "secret":
        return [(start, end) for start, end, _ in secrets.spans(words)]
    kind_and_finder = privacy.FINDERS.get(check)
    return kind_and_finder[1](words) if kind_and_finder else []


def hidden(check: str, words: str, mask: Mask) -> str:
    """A text with a placeholder for everything that the check finds in it."""
    kind, pieces, position = PRIVATE[check], [], 0
    for start, end in spans(check, words):
        pieces += [words[position:start], mask(kind, words[start:end])]
        position = end
    return "".join([*pieces, words[position:]])


# Commands of LaTeX that lost their backslash and first letter to a JSON escape: \\frac, \\beta.
_LATEX = re.compile(
    r"[\a\x08\v\f](?=(?<=\f)(?:rac|orall|lat|box)|(?<=\x08)(?:egin|eta|ar|oldsymbol|inom|oxed|ig|mod"
    r"|ullet|f)|(?<=\v)(?:ec|dots|ar|ee|phantom)|(?<=\a)(?:lpha|pprox|ngle|st|rc|lign))"
)
_FIRST_LETTER = {"\a": "a", "\b": "b", "\v": "v", "\f": "f"}


def _without_controls(words: str) -> str:
    words = _LATEX.sub(lambda hit: "\\" + _FIRST_LETTER[hit[0]], words)
    pieces, position = [], 0
    for start, end in text.control_spans(words):
        pieces.append(words[position:start])
        position = end
    return "".join([*pieces, words[position:]])


_REWRITES: dict[str, Callable[[str], str]] = {
    "control-characters": _without_controls,
    "mojibake": mojibake.unspoiled,
    "html": text.without_html,
    "double-escaped": text.unescaped,
    "homoglyph": language.one_script,
}
_BROKEN = ("invalid-utf8", "not-a-number", "lone-surrogate")
_OTHERS = (*_BROKEN, "duplicate-keys", "unknown-role", "placeholder-input")


def fixable(check: str) -> bool:
    """Whether `repair` knows what to do about a check's findings."""
    return check in _DROPS or check in _REWRITES or check in _OTHERS or check in PRIVATE


def repair(
    check: str, raw: bytes, read: Callable[[bytes], object], mask: Mask | None = None
) -> str | None:
    """The row's new JSON text, or None when the repair is to drop it.

    ``mask`` gives the placeholders of what is hidden (`plain_mask` unless given). Raises
    UserError when there is no automatic repair.
    """
    if check in _DROPS:
        return None
    if not fixable(check):
        raise UserError(f"{check} has no automatic repair.", fix="Edit the row, or drop it.")
    try:
        value = _read_broken(check, raw) if check in _BROKEN else _read(raw, read)
    except JsonFault as fault:
        raise UserError(
            f"the row cannot be read: {fault.message}.", fix="Edit the row, or drop it."
        ) from None
    return dumps(_mended(check, value, mask or plain_mask))


def _mended(check: str, value: object, mask: Mask) -> object:
    if check in PRIVATE:
        return _map_strings(value, lambda words: hidden(check, words, mask))
    if check in _REWRITES:
        return _map_strings(value, _REWRITES[check])
    if check == "unknown-role":
        return _known_roles(value)
    if check == "placeholder-input":
        return _without_stub(value)
    return value


def _read(raw: bytes, read: Callable[[bytes], object]) -> object:
    """An edited row is JSON whatever the format of its file."""
    try:
        return read(raw)
    except JsonFault:
        return decode(raw)


# ---------------------------------------------------------------- rows that cannot be read

_CONSTANT = re.compile(rb'("(?:[^"\\]|\\.)*")|-?Infinity|NaN')
_PAIR = re.compile(
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\[^u]|\\u(?![dD][89a-fA-F]))"
    rb"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)


def _read_broken(check: str, raw: bytes) -> object:
    if check == "not-a-number":
        raw = _CONSTANT.sub(lambda hit: hit[1] or b"null", raw)
    elif check == "lone-surrogate":
        raw = _PAIR.sub(lambda hit: hit[1] or b"", raw)
    else:
        raw = raw.decode("utf-8", errors="finetui-cp1252").encode()
    return decode(raw)


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are no UTF-8 read as Windows-1252, those it lacks as Latin-1."""
    assert isinstance(error, UnicodeDecodeError)
    bad = error.object[error.start : error.end]
    try:
        return bad.decode("cp1252"), error.end
    except UnicodeDecodeError:
        return bad.decode("latin-1"), error.end


codecs.register_error("finetui-cp1252", _as_cp1252)


# ---------------------------------------------------------------- values


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


def _without_stub(value: object) -> object:
    """An instruction row whose input is a stub, with an empty input."""
    if isinstance(value, dict) and "instruction" in value:
        stub = value.get("input")
        if isinstance(stub, str) and is_input_stub(stub):
            return {**value, "input": ""}
    raise UserError(
        "a prompt that is only a stub has no automatic repair.", fix="Edit the row, or drop it."
    )
