"""A workspace with one of everything, files of it broken by a seed, and what then reads them.

`Bench.try_one` damages one file of a family, lets every reader of the family read the workspace,
and puts the file back. What the readers say is judged: an answer or a clear error, never a
traceback, never a byte that a terminal obeys.
"""

# ruff: noqa: E501  (tables)

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import tomli
import tomlkit

from finetui import crash
from finetui.cli import run
from finetui.display import UNSAFE
from finetui.errors import UserError

HOSTILE = (
    "\x1b[31mred\x1b[0m \x1b]52;c;cHduZWQ=\x07 \x1bcreset \x9b2J \x07bell \x7fdel \u202eoverride "
    "\u200bzero [/b] [@click=app.quit]x[/] [link=http://x]y[/link] \U000e0041tag \x1bP+q\x1b\\"
)
NASTY = (
    HOSTILE, "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "[/]", "[@click=app.quit]x[/]", "\u202e", "\x00",
    "../../../etc/passwd", "/dev/null", "", " ", "a" * 5000, "%s%n{0}{x}", "\ud800", "-1", "1e999",
)  # fmt: skip
ODD = (
    None, True, False, 0, -1, 1, 2**31, -(2**63), 2**64, 10**400, 1.5, -0.0, 1e308, 1e-320, float("nan"),
    float("inf"), -float("inf"), [], {}, [[]], [None], {"": None}, [1, "a", None], {"a": {"b": []}},
)  # fmt: skip
_BYTES = (
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\x1b[2J", b"\x1b]52;c;eA==\x07", b"\xc2\x9b",
    b"\x9b", b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"=", b"'''", b"\xed\xa0\x80", b"null",
    b"NaN", b"1e999", b"-", b"\\u0000", b"\\ud800", b"9" * 400, b"[" * 3000, b'{"a":' * 3000, b"\xe2\x80\xae",
)  # fmt: skip
_LONGEST = 4000
ALL = frozenset(map(chr, UNSAFE)) - set("\n\t")

Reader = Callable[[Path], None]


@dataclass
class Told:
    """What one command said and returned."""

    argv: tuple[str, ...]
    code: object
    out: str
    err: str


@dataclass
class Fault:
    """A reader that did not do what it should, and the input it met."""

    family: str
    seed: int
    file: str
    reader: str
    problem: str

    def __str__(self) -> str:
        return f"{self.family} seed {self.seed} {self.file} {self.reader}: {self.problem}"


@dataclass
class Family:
    """Files that are broken alike, and what reads them."""

    name: str
    files: Callable[[], list[Path]]
    readers: Sequence[Reader]
    held: bool = False
    """Somebody holds the files locked: they are damaged where they are."""
    each: int = 0
    """How many of the readers look at one input; 0: all."""


@dataclass
class Tally:
    inputs: int = 0
    refused: int = 0
    faults: list[Fault] = field(default_factory=list)


def command(*words: object) -> Told:
    """Run one command line in this process, as for a person who pipes it nowhere."""
    out, err = io.StringIO(), io.StringIO()
    argv = tuple(map(str, words))
    nothing_caught = mock.patch.object(
        crash, "told", lambda error: "".join(traceback.format_exception(error))
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), nothing_caught:
        try:
            code: object = run(argv)
        except SystemExit as left:
            code = left.code
    return Told(argv, code, out.getvalue(), err.getvalue())


def judged(told: Told) -> str:
    """What is wrong with what a command said, "" for nothing."""
    both = told.out + told.err
    if "Traceback (most recent call last)" in both:
        return f"a traceback: {both[-600:]}"
    if told.code not in (0, 1, 2):
        return f"exit code {told.code}: {told.err[-300:]}"
    if problem := intrusions(both):
        return problem
    if told.code == 2:
        return judged_error(told.err)
    return ""


def intrusions(text: str) -> str:
    """The first character that a terminal would obey or hide, and where; "" for none."""
    at = next((at for at, char in enumerate(text) if char in ALL), None)
    return "" if at is None else f"{text[at]!r} in {text[max(0, at - 80) : at + 40]!r}"


def judged_error(words: str, told: bool = True) -> str:
    """What is wrong with an error's words, "" for nothing; ``told`` as a face shows them."""
    if not words.strip():
        return "refused without a word"
    if told and len(words) > _LONGEST:
        return f"an error of {len(words)} characters: {words[:200]!r}"
    if " object at 0x" in words or "<class '" in words:
        return f"an error for programmers: {words[:300]!r}"
    return ""


def saying(*words: object) -> Reader:
    """A reader that is one command; FILE in its words is the damaged file."""

    def read(file: Path) -> None:
        told = command(*[file if word == "FILE" else word for word in words])
        if problem := judged(told):
            raise AssertionError(problem)
        if told.code == 2:
            raise UserError(told.err.strip())

    read.__name__ = " ".join(str(word) for word in words if not str(word).startswith("/"))
    return read


# -- damage ------------------------------------------------------------------------------------


def damage(rng: Random, path: Path, clean: bytes) -> bytes | None:
    """Bytes that stand in the place of a file's own; None: a folder stands there."""
    way = rng.random()
    if way < 0.02:
        return None
    if way < 0.45:
        changed = _other_values(rng, path, clean)
        if changed is not None:
            return changed
    return _bytes_damaged(rng, clean)


def _bytes_damaged(rng: Random, clean: bytes) -> bytes:
    data = clean
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_WAYS)(rng, data)
    return data


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def _headless(rng: Random, data: bytes) -> bytes:
    return data[rng.randint(0, len(data)) :]


def _put_in(rng: Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    piece = (
        rng.choice(_BYTES)
        if rng.random() < 0.7
        else rng.choice(NASTY).encode("utf-8", "surrogatepass")
    )
    return data[:at] + piece + data[at:]


def _overwrite(rng: Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    piece = rng.randbytes(rng.choice((1, 1, 2, 16, 200)))
    return data[:at] + piece + data[at + len(piece) :]


def _without(rng: Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + data[at + rng.choice((1, 2, 10, 100)) :]


def _twice(rng: Random, data: bytes) -> bytes:
    start = rng.randint(0, len(data))
    end = min(len(data), start + rng.randint(0, 400))
    return data[:end] + data[start:end] + data[end:]


def _else(rng: Random, data: bytes) -> bytes:
    return rng.choice(
        (
            b"", b"\x00" * 64, rng.randbytes(300), b"null", b"[]", b"{}", b"0", b'""', b"[" * 20000,
            b'{"a":' * 20000, "hällo".encode("utf-16"), HOSTILE.encode(), b"\xff" * 50, b"a = 1\n",
            b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        )
    )  # fmt: skip


_WAYS = (
    _cut,
    _headless,
    _put_in,
    _put_in,
    _put_in,
    _overwrite,
    _overwrite,
    _without,
    _twice,
    _else,
)


def _other_values(rng: Random, path: Path, clean: bytes) -> bytes | None:
    """The document with a value, key or line of another kind; None for one that is no document."""
    try:
        if path.suffix == ".toml":
            return _toml(rng, tomli.loads(clean.decode()))
        if path.suffix == ".jsonl" and b',"h":"' in clean and rng.random() < 0.7:
            return _chained(rng, clean)
        if path.suffix == ".jsonl":
            lines = clean.split(b"\n")
            at = rng.randrange(len(lines))
            lines[at] = _json(_changed(rng, json.loads(lines[at] or b"{}")))
            return b"\n".join(lines)
        if path.suffix in (".json", ""):
            return _json(_changed(rng, json.loads(clean)))
    except (ValueError, TypeError):
        pass
    return None


def _chained(rng: Random, clean: bytes) -> bytes:
    """A record changed and all hashes made to fit again: what a forger would write."""
    lines = [json.loads(line) for line in clean.splitlines()]
    at = rng.randrange(len(lines))
    prev = lines[at]["prev"]
    lines[at] = _changed(rng, {name: value for name, value in lines[at].items() if name != "h"})
    written = []
    for number, line in enumerate(lines):
        if number >= at and isinstance(line, dict):
            line.pop("h", None)
            if number > at or rng.random() < 0.9:
                line["prev"] = prev
            body = _json(line)
            prev = hashlib.sha256(body).hexdigest()
            written.append(body[:-1] + b',"h":"' + prev.encode() + b'"}')
        else:
            written.append(_json(line))
    return b"\n".join(written) + b"\n"


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _toml(rng: Random, value: dict[str, Any]) -> bytes | None:
    try:
        return tomlkit.dumps(_changed(rng, value)).encode()
    except Exception:  # TOML has no null, and tomlkit its limits
        return None


def _changed(rng: Random, value: Any) -> Any:
    """A copy with one place, however deep, made odd."""
    places = list(_places(value, ()))
    place = rng.choice(places)
    return _with(value, place, rng)


def _places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 40)):
            yield from _places(value[index], (*path, index))


def _with(value: Any, path: tuple[Any, ...], rng: Random) -> Any:
    if not path:
        return _odd(rng, value)
    key, rest = path[0], path[1:]
    copy = dict(value) if isinstance(value, dict) else list(value)
    if not rest and isinstance(copy, dict) and rng.random() < 0.3:
        old = copy.pop(key)
        if rng.random() < 0.7:
            copy[rng.choice(NASTY)] = old
        return copy
    copy[key] = _with(value[key], rest, rng)
    return copy


def _odd(rng: Random, value: Any) -> Any:
    way = rng.random()
    if way < 0.4:
        return rng.choice(NASTY)
    if way < 0.85:
        return rng.choice(ODD)
    if isinstance(value, list):
        return value * 3 if value else [rng.choice(NASTY)]
    if isinstance(value, dict):
        return {**value, rng.choice(NASTY): rng.choice(NASTY)}
    return [value, {rng.choice(NASTY): value}]


# -- the bench ---------------------------------------------------------------------------------


class Bench:
    """A workspace that is damaged in one place at a time."""

    def __init__(self, root: Path, families: Sequence[Family]) -> None:
        self.root = root
        self.families = {family.name: family for family in families}

    def try_many(self, name: str, count: int, seed: int = 0) -> Tally:
        """Let a family meet ``count`` broken files, the same ones for the same seed."""
        tally = Tally()
        for number in range(count):
            self.try_one(name, seed + number, tally)
        return tally

    def try_one(self, name: str, seed: int, tally: Tally) -> None:
        family = self.families[name]
        rng = Random(f"{name} {seed}")
        file = rng.choice(family.files())
        clean = file.read_bytes() if file.is_file() else b""
        held = damage(rng, file, clean)
        if held is None and family.held:
            held = b""
        readers = list(family.readers)
        if family.each:
            readers = rng.sample(readers, min(family.each, len(readers)))
        tally.inputs += 1
        with _in_place(file, held, clean):
            refused = False
            for reader in readers:
                problem, no = _outcome(reader, file)
                refused |= no
                if problem:
                    where = str(file.relative_to(self.root))
                    tally.faults.append(Fault(name, seed, where, reader.__name__, problem))
            tally.refused += refused


@contextlib.contextmanager
def _in_place(file: Path, held: bytes | None, clean: bytes) -> Iterator[None]:
    there = file.exists()
    if held is None:
        file.unlink(missing_ok=True)
        file.mkdir()
    else:
        file.write_bytes(held)
    try:
        yield
    finally:
        if file.is_dir():
            shutil.rmtree(file)
        if there:
            file.write_bytes(clean)
        elif file.exists():
            file.unlink()


def _outcome(reader: Reader, file: Path) -> tuple[str, bool]:
    """What is wrong ("" for nothing), and whether the input was refused."""
    try:
        reader(file)
    except UserError as error:
        return judged_error(str(error), told=False), True
    except AssertionError as error:
        return str(error) or traceback.format_exc(limit=-2), False
    except Exception:
        return traceback.format_exc(limit=-4), False
    return "", False
