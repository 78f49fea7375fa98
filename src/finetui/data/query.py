"""The filter language, read into a tree of terms.

charged twice            these words, in any case
"a = b"                  the same, taken literally
/regex/                  a regular expression over the row's JSON text
user:refund              words in turns of a role (system, user, assistant, tool; role:X Y)
id=42  meta.source!=web  a field is (or is not); a path with dots, numbers for places
subject~refund           a field holds these words
length>500  turns>=4     also bytes, tokens, findings, and any field that is a number
finding:duplicate        rows with a finding of a check, of a family or of a severity; any
is:edited                also dropped, quarantined, marked, changed, kept, malformed
label:urgent             rows a person labelled so
line:128  line:100-200   physical lines
split:test               rows that a version put there
-user:refund             not; also `not`
a or b, (…)              or, and groups; terms beside each other must all hold

"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from finetui.data.records import ROLES
from finetui.errors import UserError

KINDS = ("edited", "dropped", "quarantined", "marked", "changed", "kept", "malformed")
FIGURES = ("length", "bytes", "turns", "tokens", "findings")
_SPOKEN = ("system", "user", "assistant", "tool")
_OPERATORS = ("!=", ">=", "<=", "=", ">", "<", "~")
_KEYS = ("is", "role", "line", "finding", "label", "split", *_SPOKEN)

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<open>\() | (?P<close>\)) | (?P<minus>-(?=[\w"/(])) |
        /(?P<regex>(?:[^/\\]|\\.)+)/(?=[\s)]|$) |
        (?P<key>[A-Za-z_][\w.-]*)(?P<op>:|!=|>=|<=|=|>|<|~)(?P<value>"(?:[^"\\]|\\.)*"|[^\s()]+) |
        "(?P<quoted>(?:[^"\\]|\\.)*)" |
        (?P<word>[^\s()]+|[()])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Words:
    """Words in any case: in the row's text, or in the turns of a role."""

    text: str
    role: str = ""


@dataclass(frozen=True)
class Matches:
    """A regular expression over the row's JSON text."""

    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Compares:
    """A field or a figure of the row against a value."""

    path: str
    operator: str
    value: str


@dataclass(frozen=True)
class Is:
    """A state of the row: one of `KINDS`."""

    kind: str


@dataclass(frozen=True)
class Found:
    """A finding of this check, family or severity; ``any``."""

    name: str


@dataclass(frozen=True)
class Lines:
    """Physical lines, 1-based, both ends inside."""

    first: int
    last: int


@dataclass(frozen=True)
class Labelled:
    text: str


@dataclass(frozen=True)
class InSplit:
    name: str


@dataclass(frozen=True)
class Not:
    term: Term


@dataclass(frozen=True)
class All:
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Any:
    terms: tuple[Term, ...]


Term = Words | Matches | Compares | Is | Found | Lines | Labelled | InSplit | Not | All | Any


def parse_query(text: str) -> Term:
    """Read a filter. Raises UserError that says what cannot be read and what can."""
    text = text.strip()
    if text[:1] in ("{", "["):
        return Words(text)  # a piece of JSON is looked for as it stands
    tokens = list(_TOKEN.finditer(text))
    if all(token["word"] and token["word"].lower() not in ("or", "not") for token in tokens):
        return Words(text)  # with its spacing
    reader = _Reader(tokens)
    term = reader.either()
    if reader.rest:
        raise UserError("there is a ) without a (.", fix='Write "…" around text with brackets.')
    return term


def plain_words(term: Term) -> str:
    """The words of a filter that is nothing but words; "" for any other."""
    return term.text if isinstance(term, Words) and not term.role else ""


class _Reader:
    """Recursive descent: or, then beside each other, then not, then one term."""

    def __init__(self, tokens: Sequence[re.Match[str]]) -> None:
        self.rest = list(tokens)

    def either(self) -> Term:
        terms = [self.both()]
        while self._word() == "or":
            self.rest.pop(0)
            terms.append(self.both())
        return terms[0] if len(terms) == 1 else Any(tuple(terms))

    def both(self) -> Term:
        terms: list[Term] = []
        while self.rest and self._word() != "or" and not self.rest[0]["close"]:
            terms.append(self.one())
        joined = _joined(terms)
        if not joined:
            return Words("")
        return joined[0] if len(joined) == 1 else All(tuple(joined))

    def one(self) -> Term:
        if self._word() == "not" and len(self.rest) > 1:
            self.rest.pop(0)
            return Not(self.one())
        token = self.rest.pop(0)
        if token["minus"]:
            return Not(self.one())
        if token["open"]:
            return self._group()
        if token["regex"] is not None:
            return Matches(_compiled(token["regex"]))
        if token["key"]:
            return self._keyed(token)
        if token["quoted"] is not None:
            return Words(_unquoted(token["quoted"]), "")
        return _Bare(token["word"])

    def _group(self) -> Term:
        term = self.either()
        if not self.rest or not self.rest[0]["close"]:
            raise UserError("there is a ( without a ).", fix='Write "…" around text with brackets.')
        self.rest.pop(0)
        return term

    def _word(self) -> str:
        return (self.rest[0]["word"] or "").lower() if self.rest else ""

    def _keyed(self, token: re.Match[str]) -> Term:
        key, operator, value = token["key"], token["op"], token["value"]
        value = _unquoted(value[1:-1]) if value[0] == '"' else value
        if operator != ":":
            return Compares(key, operator, value)
        if key not in _KEYS:
            return _Bare(token[0].strip())  # a web address, a time: plain words
        if key == "role":
            return Words(self._following(), ROLES.get(value.lower(), value.lower()))
        return _special(key, value)

    def _following(self) -> str:
        """``role:user charged twice``: the plain words behind belong to the role."""
        words = []
        while self.rest and self.rest[0]["word"] and self._word() not in ("or", "not"):
            words.append(self.rest.pop(0)["word"])
        return " ".join(words)


@dataclass(frozen=True)
class _Bare(Words):
    """A word without quotes: those beside each other are one phrase."""


def _joined(terms: Sequence[Term]) -> list[Term]:
    found: list[Term] = []
    for term in terms:
        before = found[-1] if found else None
        if isinstance(term, _Bare) and isinstance(before, _Bare):
            found[-1] = _Bare(f"{before.text} {term.text}")
        else:
            found.append(term)
    return [Words(term.text) if isinstance(term, _Bare) else term for term in found]


def _special(key: str, value: str) -> Term:
    if key in _SPOKEN:
        return Words(value, key)
    if key == "is":
        return _is(value)
    if key == "line":
        return _lines(value)
    if key == "finding":
        return Found(value.lower())
    return Labelled(value) if key == "label" else InSplit(value)


def _is(value: str) -> Term:
    kind = {"broken": "malformed"}.get(value.lower(), value.lower())
    if kind not in KINDS:
        known = ", ".join(f"is:{name}" for name in KINDS)
        raise UserError(f"is:{value} is not known.", fix=f"Use one of: {known}.")
    return Is(kind)


def _lines(value: str) -> Lines:
    first, dash, last = value.replace(",", "").partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        raise UserError(
            f"line:{value} is not a line number.", fix="Write for example line:128 or line:1-50."
        )
    return Lines(int(first), int(last) if dash else int(first))


def _compiled(regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex.replace("\\/", "/"), re.IGNORECASE)
    except re.error as error:
        raise UserError(f"/{regex}/ is not a regular expression: {error}.") from None


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
