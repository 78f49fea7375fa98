"""Where things stand in TOML text: the line of a key, and where a new key fits best."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_KEY = r"(?:[A-Za-z0-9_-]+|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*')"
_HEAD = re.compile(rf"(\[\[?)?\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*[=\]]")
_TOKEN = re.compile(
    r'"""(?:\\.|(?!""").)*"{3,5}|\'\'\'(?:(?!\'\'\').)*\'{3,5}'
    r'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|\n|[\[\]{}]|[^\s"\'#\[\]{}]+',
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A table header or a key with its value; ``start`` and ``end`` are character offsets."""

    table: str
    key: str  # empty for a header
    start: int
    end: int

    @property
    def name(self) -> str:
        return ".".join(part for part in (self.table, self.key) if part)


def statements(text: str) -> Iterator[Statement]:
    """The statements of valid TOML in order; strings and arrays over many lines are one."""
    table = ""
    for start, end in _spans(text):
        head = _HEAD.match(text, start)
        if head is None:
            continue
        name = ".".join(part.strip("\"'") for part in re.findall(_KEY, head[2]))
        if head[1]:
            table = name
        yield Statement(table, "" if head[1] else name, start, end)


def _spans(text: str) -> Iterator[tuple[int, int]]:
    depth, start, end = 0, -1, 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n" and depth == 0:
            if start >= 0:
                yield start, end
            start = -1
        elif token != "\n" and not token.startswith("#"):
            start = match.start() if start < 0 else start
            end = match.end()
            depth += (token in ("[", "{")) - (token in ("]", "}"))
    if start >= 0:
        yield start, end


def key_lines(text: str) -> dict[str, int]:
    """The 1-based line of every table and key, by dotted name."""
    lines: dict[str, int] = {}
    for found in statements(text):
        lines.setdefault(found.name, text.count("\n", 0, found.start) + 1)
    return lines


def nearest_line(lines: dict[str, int], key: str) -> int:
    """The line of a key, else of the table around it, else 0."""
    while key:
        if key in lines:
            return lines[key]
        key = key.rpartition(".")[0]
    return 0


def insert(text: str, table: str, line: str) -> str:
    """``text`` with one more ``key = value`` line at the end of a table ("" is the top).

    A table that is missing is added at the end. Comments above the next table stay with it.
    """
    found = list(statements(text))
    own = [statement for statement in found if statement.table == table]
    if own:
        at = _line_end(text, own[-1].end)
        glue = "" if text[:at].endswith("\n") else "\n"
        return f"{text[:at]}{glue}{line}\n{text[at:]}"
    if table:
        return f"{text.rstrip()}\n\n[{table}]\n{line}\n".lstrip()
    at = _above(text, found[0].start) if found else len(text)
    gap = "" if not text[:at] or text[:at].endswith("\n\n") else "\n"
    return f"{text[:at]}{gap}{line}\n{chr(10) if found else ''}{text[at:]}"


def _line_end(text: str, at: int) -> int:
    newline = text.find("\n", at)
    return len(text) if newline < 0 else newline + 1


def _above(text: str, at: int) -> int:
    """The start of the comment block that stands directly above ``at``."""
    while at > 0:
        previous = text.rfind("\n", 0, at - 1) + 1
        if not text[previous:at].lstrip().startswith("#"):
            break
        at = previous
    return at
