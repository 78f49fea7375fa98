"""Which reader a file needs, told from its first bytes and then from its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from finetui.data.formats.source import JsonlSource, Source
from finetui.data.shapes import detect_shape
from finetui.data.strict import BOM, JsonFault, decode
from finetui.errors import UserError

Door = Callable[[Path, Path | None, bool], Source]

_EDGE = 1 << 16
_JSON_NAMES = (".jsonl", ".ndjson", ".json")
_TABLE_NAMES = (".csv", ".tsv", ".tab")
_KNOWN = "Use JSONL, JSON, CSV, Parquet or Arrow."
_ARROW_STREAM = b"\xff\xff\xff\xff"


def open_path(path: Path, cache: Path | None = None) -> Source:
    """Open what a person named. Raises UserError."""
    try:
        if path.is_dir():
            return _open_folder(path, cache)
        return open_file(path, path, cache)
    except FileNotFoundError:
        raise UserError("there is no such file.", str(path), "Check the path.") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot be read: {reason}.", str(path), "Check its permissions.") from None


def open_file(file: Path, named: Path, cache: Path | None, partial: bool = False) -> Source:
    """Open ``file``, which goes by the name ``named`` (a copy has another name than its original).

    ``partial`` says that the file is the beginning of a longer one.
    """
    from finetui.data.formats.packed import PackedSource, packing_of

    with file.open("rb") as opened:
        head = opened.read(_EDGE)
    if packing_of(head):
        return PackedSource(file, cache)
    return _door(named, head)(file, cache, partial)


def _open_folder(path: Path, cache: Path | None) -> Source:
    """A folder written by ``Dataset.save_to_disk``, or an error that says what else it is."""
    splits = path / "dataset_dict.json"
    if splits.is_file():
        names = _split_names(splits)
        first = path / (names[0] if names else "train")
        raise UserError(
            f"holds several data sets ({', '.join(names)}); reading them as one would mix what "
            "is trained on with what is held out.",
            str(path),
            f"Name one of them: {first}",
        )
    if (path / "state.json").is_file() or (path / "dataset_info.json").is_file():
        from finetui.data.formats.arrow import open_arrow_folder

        return open_arrow_folder(path, cache)
    raise UserError("is a folder, not a data file.", str(path), "Name a file in it.")


def _split_names(file: Path) -> list[str]:
    try:
        found = json.loads(file.read_bytes())
        return [str(name) for name in found["splits"]]
    except (ValueError, KeyError, TypeError):
        return sorted(part.name for part in file.parent.iterdir() if part.is_dir())


def _door(named: Path, head: bytes) -> Door:
    """The reader for a file with these first bytes."""
    _refuse_unreadable(named, head)
    binary = _binary_door(head)
    if binary:
        return binary
    suffix = named.suffix.lower()
    if suffix in _TABLE_NAMES:
        from finetui.data.formats.delimited import CsvSource

        return CsvSource
    start = head.removeprefix(BOM).lstrip()
    looks_like_json = start[:1] in (b"{", b"[")
    if suffix not in _JSON_NAMES and not looks_like_json:
        known = "binary file" if b"\0" in head else "data set"
        raise UserError(f"is not a {known} finetui knows.", str(named), _KNOWN)
    if looks_like_json and _is_document(start, suffix, len(head) < _EDGE):
        from finetui.data.formats.document import JsonSource

        return JsonSource
    return JsonlSource


def _refuse_unreadable(named: Path, head: bytes) -> None:
    if not head:
        raise UserError("is empty.", str(named), "Choose a file with rows.")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        command = f"Convert it: iconv -f UTF-16 -t UTF-8 {named.name} > new-{named.name}"
        raise UserError("is UTF-16, not UTF-8.", str(named), command)
    if head[:4] == b"PK\x03\x04":
        raise UserError("is a zip archive.", str(named), f"Unpack it first: unzip {named.name}")
    if head[257:262] == b"ustar":
        raise UserError("is a tar archive.", str(named), f"Unpack it first: tar xf {named.name}")
    if named.suffix.lower() in (".parquet", ".arrow") and not _binary_door(head):
        raise UserError("is a binary file finetui does not know.", str(named), _KNOWN)


def _binary_door(head: bytes) -> Door | None:
    if head[:4] == b"PAR1":
        from finetui.data.formats.parquet import ParquetSource

        return ParquetSource
    if head[:6] == b"ARROW1" or (head[:4] == _ARROW_STREAM and b"\0" in head[:16]):
        from finetui.data.formats.arrow import ArrowSource

        return ArrowSource
    return None


def _is_document(start: bytes, suffix: str, whole: bool) -> bool:
    """One JSON value over the whole file, rather than one a line."""
    first, newline, rest = start.partition(b"\n")
    try:
        value = decode(first)
        complete = True
    except JsonFault:
        value, complete = None, False
    alone = not rest.strip() and (whole or not newline)
    if start[:1] == b"[":
        opens = first.strip() == b"[" or (first[:2] == b"[{" and first.rstrip().endswith(b","))
        return suffix == ".json" or (not complete and opens) or alone
    if complete:
        wraps = isinstance(value, dict) and any(_is_rows(part) for part in value.values())
        return alone and wraps and not _is_one_row(value)
    return suffix == ".json" and (first.strip() == b"{" or (alone and not newline))


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _is_one_row(value: object) -> bool:
    """A single chat is an object that holds a list as well; it is one row, not a wrapper."""
    return detect_shape([value]).confidence > 0
