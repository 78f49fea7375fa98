"""What the rows of a file are by simple rules of our own, to hold the readers against.

Nothing here is shared with the code under test: lines are bytes between 0x0A, JSON is judged by
the ``json`` module with its leniencies taken away, CSV by the ``csv`` module.
"""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from random import Random
from typing import Any

from finetui.data.formats.source import RowError, Source

BOM = b"\xef\xbb\xbf"
BAD = object()


def lines_of(content: bytes) -> list[bytes]:
    """Physical lines without their newline; a last empty one is none."""
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if lines and lines[0].startswith(BOM):
        lines[0] = lines[0][3:]
    return lines


def strict(raw: bytes) -> Any:
    """The value of strict JSON, or `BAD`."""
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse)
        _refuse_leniencies(value)
    except (ValueError, RecursionError):
        return BAD
    return value


def _refuse(name: str) -> None:
    raise ValueError(name)


def _refuse_leniencies(value: Any) -> None:
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate raises
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("out of range")
    elif isinstance(value, list):
        for part in value:
            _refuse_leniencies(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            _refuse_leniencies(key)
            _refuse_leniencies(part)


def read(source: Source, row: int) -> Any:
    """The row's value, or `BAD`; an error must name the row's own line and offset."""
    try:
        return source.value(row)
    except RowError as error:
        place = (source.line(row), source.offset(row))
        assert (error.line, error.offset) == place
        assert 0 <= error.position <= max(0, len(source.raw(row)))
        return BAD


def check_lines(source: Source, content: bytes) -> None:
    """Every physical line is a row, with its number, place, bytes and verdict."""
    lines = lines_of(content)
    assert source.exact and source.rows == len(lines), (source.rows, len(lines))
    offset = 3 if content.startswith(BOM) else 0
    walked = list(source.iterate())
    assert len(walked) == len(lines)
    for row, line in enumerate(lines):
        assert walked[row] == (row, row + 1, offset, line)
        assert (source.line(row), source.offset(row), source.raw(row)) == (row + 1, offset, line)
        assert source.head_of(row, 8) == (line[:8], len(line))
        expected = strict(line)
        found = read(source, row)
        assert (found is BAD) == (expected is BAD), (row, line)
        assert found is BAD or found == expected, (row, line)
        offset += len(line) + 1


def check_spans(source: Source, content: bytes, between: bytes) -> None:
    """Rows lie in order, where they say, and leave out only bytes of ``between``."""
    position = 0
    for raw in source.iterate():
        assert raw.offset >= position
        assert not content[position : raw.offset].strip(between), content[position : raw.offset]
        assert content[raw.offset : raw.offset + len(raw.raw)] == raw.raw
        assert raw.line == content[: raw.offset].count(b"\n") + 1
        position = raw.offset + len(raw.raw)
    assert not content[position:].strip(between), content[position:]


def check_array(source: Source, content: bytes) -> None:
    """The elements of an array, valid or not: no byte but brackets, commas and blanks is lost."""
    check_spans(source, content, BOM + b"[], \t\r\n")
    whole = strict(content.removeprefix(BOM))
    if isinstance(whole, list):
        assert [read(source, row) for row in range(source.rows)] == whole
        assert not source.file_faults()
    elif not source.file_faults():
        assert any(read(source, row) is BAD for row in range(source.rows)), content


def check_csv(source: Source, content: bytes) -> None:
    """Records as the ``csv`` module has them, each with its first line."""
    check_spans(source, _without_header(content, source), b"\r\n")
    expected = _csv_records(content)
    if expected is None:
        return
    found = [(source.line(row), read(source, row)) for row in range(source.rows)]
    assert len(found) == len(expected)
    for (line, value), (its_line, cells) in zip(found, expected, strict=True):
        assert line == its_line
        names: list[str] = source.columns  # type: ignore[attr-defined]
        if len(cells) == len(names) and cells:
            assert value == dict(zip(names, cells, strict=True))
        else:
            assert value is BAD


def _without_header(content: bytes, source: Source) -> bytes:
    """The content with the header blanked out, so that places stay."""
    end = source.offset(0) if source.rows else len(content)
    return bytes(byte if byte == 10 else 13 for byte in content[:end]) + content[end:]


def _csv_records(content: bytes) -> list[tuple[int, list[str]]] | None:
    """(first line, cells) by the ``csv`` module; None where it reads lines as we do not: lone
    carriage returns, quotes that nothing closes, what is no UTF-8 and what strict mode refuses."""
    try:
        text = content.removeprefix(BOM).decode()
    except UnicodeDecodeError:
        return None
    if "\r" in text.replace("\r\n", "") or text.count('"') % 2:
        return None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records, line = [], 1
    try:
        for cells in reader:
            records.append((line, cells))
            line = reader.line_num + 1
    except csv.Error:
        return None
    return records[1:]


# ---------------------------------------------------------------- garbage to read

PIECES = [
    b"", b" ", b"\t", b"\r", b"\x00", b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"'",
    b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0.5e3", b"01", b"123456789012345678901",
    b'"\\ud83d"', b'"\\ud83d\\ude00"', b'"\\u0000"', b"\xff", b"\xc3", b"\xed\xa0\xbd", BOM,
    "é".encode(), "\u2028".encode(), "\u0085".encode(), "你好".encode(), "привет".encode(),
    b'{"text": "a"}', b'{"messages": []}', b'{"a": 1} {"b": 2}', b'{"a": 1,}', b'{"a": "x',
    b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}]}',
    b'{"a": {"a": {"a": [1, {"a": "}]"}]}}}', b"[1, 2]", b'{"a": 1, "a": 2}', b"// no", b"<html>",
]  # fmt: skip


def garbage_line(rng: Random) -> bytes:
    return b"".join(rng.choice(PIECES) for _ in range(rng.randint(0, 4)))


def garbage_lines(rng: Random) -> bytes:
    """Lines that are JSON, nearly JSON, or nothing of the kind; never an array over many lines."""
    good = [piece for piece in PIECES if strict(piece) is not BAD]
    lines = [
        rng.choice(good) if rng.random() < 0.5 else garbage_line(rng)
        for _ in range(rng.randint(1, 30))
    ]
    lines[0] = b'{"text": "first"}'
    ending = rng.choice([b"\n", b"\r\n"])
    return rng.choice([b"", BOM]) + ending.join(lines) + rng.choice([b"", ending, b"\n\n"])


def mutated(rng: Random, content: bytes, times: int) -> bytes:
    """Bytes changed, cut out, put in or cut off."""
    data = bytearray(content)
    for _ in range(times):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 1:
            del data[at : at + rng.randint(1, 5)]
        elif kind == 2:
            data[at:at] = rng.choice(PIECES)
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data)


def array_text(rng: Random, rows: int) -> bytes:
    values = [
        {"messages": [{"role": "user", "content": f'{n} ]}},{{[ "é\n'}], "n": [n, {"k": None}]}
        for n in range(rows)
    ]
    text = json.dumps(values, indent=rng.choice([None, 0, 1, 4]), ensure_ascii=rng.random() < 0.5)
    return rng.choice([b"", BOM]) + text.encode()


def csv_text(rng: Random) -> bytes:
    cells = ["plain", "two\nlines", 'a "quote"', "a, b", "", "é\r\nü", '5" pipe', '"', "x\n\n", " "]
    out = io.StringIO(newline="")
    style = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.writer(out, quoting=style, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow(["question", "answer"])
    writer.writerows([rng.choice(cells), rng.choice(cells)] for _ in range(rng.randint(1, 30)))
    return out.getvalue().encode()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
