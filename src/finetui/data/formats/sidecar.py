"""Indexes kept between two openings of a file, beside nothing of the person's: in the cache.

A sidecar belongs to one state of one file: size, time of change and a hash of both ends stand in
its first line. Deleting it loses nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from finetui.data.formats.source import Source


class Sidecar:
    """Where the index of a source is kept; does nothing for a source without a cache."""

    def __init__(self, source: Source, kind: str, smallest: int) -> None:
        self._source, self._kind = source, kind
        self._path: Path | None = None
        if source.cache is not None and source.size > smallest and not source.partial:
            digest = xxhash.xxh3_64_hexdigest(str(source.path.resolve()).encode())
            name = f"{source.path.stem[:40]}-{digest}.{kind}"
            self._path = source.cache / "index" / name

    def load(self) -> bytes | None:
        """What was kept for this very state of the file."""
        try:
            content = self._path.read_bytes() if self._path else b""
        except OSError:
            return None
        stamp = self._stamp() if content else b""
        return content[len(stamp) :] if content and content.startswith(stamp) else None

    def save(self, content: bytes) -> None:
        if self._path is None:
            return
        from finetui.workspace import write_atomic

        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(self._path, self._stamp() + content)

    def _stamp(self) -> bytes:
        source = self._source
        stamp = f"finetui-{self._kind} 1 {source.size} {source.modified} {source.identity()}\n"
        return stamp.encode()
