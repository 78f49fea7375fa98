"""Parquet through DuckDB: a preview at once, every row by way of a JSONL copy in the cache.

Parquet has no lines: ``line`` is the row number (1-based) and ``offset`` is 0.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from finetui.data.source import JsonlSource, Progress, RawRow, Source, Stop
from finetui.errors import UserError

_PREVIEW = 200


class ParquetSource(Source):
    """The rows of a Parquet file as JSON objects."""

    format = "parquet"

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        super().__init__(path, cache)
        self._copy: JsonlSource | None = None
        self._total = int(
            self._query("SELECT coalesce(sum(num_rows), 0) FROM parquet_file_metadata(?)")[0][0]
        )
        self._preview: list[bytes] = []
        if self._copy_path().is_file():
            self._open_copy()
        else:
            rows = self._query(f"SELECT to_json(t) FROM read_parquet(?) t LIMIT {_PREVIEW}")
            self._preview = [str(row[0]).encode() for row in rows]
            if self._total <= _PREVIEW:
                self.build_index()

    @property
    def rows(self) -> int:
        return self._copy.rows if self._copy else len(self._preview)

    @property
    def exact(self) -> bool:
        return self._copy is not None and self._copy.exact

    @property
    def estimated_rows(self) -> int:
        return self._total

    def raw(self, row: int) -> bytes:
        return self._copy.raw(row) if self._copy else self._preview[row]

    def line(self, row: int) -> int:
        return row + 1

    def offset(self, row: int) -> int:
        return 0

    def build_index(self, progress: Progress | None = None, stop: Stop | None = None) -> None:
        """Write the JSONL copy (streamed by DuckDB) and index it."""
        if self._copy is None and not (stop and stop()):
            self._transcode()
            self._open_copy()
        if self._copy is not None:
            self._copy.build_index(None, stop)
        if progress:
            progress(self.size)

    def iterate(self) -> Iterator[RawRow]:
        self.build_index()
        assert self._copy is not None
        for row in self._copy.iterate():
            yield RawRow(row.row, row.row + 1, 0, row.raw)

    def close(self) -> None:
        if self._copy:
            self._copy.close()
            if self.cache is None:
                self._copy_path().unlink(missing_ok=True)
        super().close()

    def _copy_path(self) -> Path:
        name = xxhash.xxh3_64_hexdigest(f"{self.path.resolve()} {self.modified}".encode())
        folder = self.cache / "parquet" if self.cache else Path(tempfile.gettempdir())
        owner = "" if self.cache else f"-{os.getpid()}"
        return folder / f"{self.path.stem[:40]}-{name}{owner}.jsonl"

    def _open_copy(self) -> None:
        self._copy = JsonlSource(self._copy_path(), self.cache)

    def _transcode(self) -> None:
        target = self._copy_path()
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}.part")
        part.touch(mode=0o600)
        quoted = str(part).replace("'", "''")
        try:
            self._query(f"COPY (SELECT * FROM read_parquet(?)) TO '{quoted}' (FORMAT json)")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def _query(self, sql: str) -> list[Any]:
        import duckdb

        try:
            with duckdb.connect() as connection:
                connection.execute("SET threads = 2")
                return list(connection.execute(sql, [str(self.path)]).fetchall())
        except duckdb.Error as error:
            first = str(error).splitlines()[0]
            raise UserError(f"is not readable Parquet: {first}", str(self.path)) from None
