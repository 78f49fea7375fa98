"""Arrow files (stream and file form) and the folders that ``datasets`` saves, through nanoarrow.

Rows become JSON Lines in the cache: bytes as base64, times as ISO 8601, NaN as null. Arrow has no
lines: ``line`` is the row number (1-based) and ``offset`` is 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from finetui.data.formats.copied import TableSource
from finetui.errors import UserError

_FILE_FORM = b"ARROW1"
_ROWS_A_CHUNK = 500
_REFUSED = (RuntimeError, ValueError, KeyError, NotImplementedError, TypeError, UnicodeError)
_CONVERT = "Save it as Parquet and open that."


class ArrowSource(TableSource):
    """The rows of one or several Arrow files as JSON objects."""

    format = "arrow"

    def _read(self) -> Iterator[bytes]:
        before = 0
        for file in self.files:
            try:
                for done, chunk in _lines(file):
                    self._consumed = min(before + done, self.size)
                    yield chunk
            except _REFUSED as error:
                reason = _first_line(error)
                what = f"is not Arrow that can be read: {reason}."
                self._broke(f"{file.name}: {reason}", UserError(what, str(file), _CONVERT))
                return
            before += file.stat().st_size


def open_arrow_folder(path: Path, cache: Path | None = None) -> ArrowSource:
    """Open a folder written by ``Dataset.save_to_disk``. Raises UserError."""
    state = _state(path)
    if state.get("_indices_data_files"):
        raise UserError(
            "was saved with a separate order of its rows, which finetui does not read.",
            str(path),
            "Save it again with a present version of datasets.",
        )
    named = [str(part["filename"]) for part in state.get("_data_files") or ()]
    files = [path / name for name in named] or sorted(path.glob("*.arrow"))
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        what = f"lacks {missing[0]}" if missing else "holds no .arrow file"
        raise UserError(f"{what}.", str(path), "Copy the whole folder again.")
    return ArrowSource(path, cache, files=files)


def _state(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "state.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(bytes of the file read, JSON lines) for every part of every batch."""
    import msgspec
    import nanoarrow
    from nanoarrow.ipc import InputStream

    encode = msgspec.json.Encoder().encode
    with file.open("rb") as opened:
        opened.seek(8 if opened.read(6) == _FILE_FORM else 0)
        with InputStream.from_readable(opened) as stream:
            for batch in nanoarrow.ArrayStream(stream):
                rows = batch.iter_py()
                while chunk := b"".join(encode(row) + b"\n" for row in islice(rows, _ROWS_A_CHUNK)):
                    yield opened.tell(), chunk


def _first_line(error: Exception) -> str:
    said = str(error).strip("\"'")
    return said.splitlines()[0] if said else type(error).__name__
