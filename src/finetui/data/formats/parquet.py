"""Parquet through DuckDB: the first rows at once, every row by way of a JSONL copy in the cache.

DuckDB holds a row group or two in memory (300 MB for the usual ones), so it works in a process of
its own, ``python -m finetui.data.formats.parquet FILE``, whose output is the number of rows and
then JSON Lines. Parquet has no lines: ``line`` is the row number (1-based) and ``offset`` is 0.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from finetui.data.formats.copied import TableSource
from finetui.errors import UserError

_ROWS_A_WRITE = 500
_READ = 1 << 18
_LEAST_MEMORY = 256 << 20
_ROW_GROUPS = 2.5  # memory for a query, in row groups as they are unpacked


class ParquetSource(TableSource):
    """The rows of a Parquet file as JSON objects."""

    format = "parquet"
    _total = 0

    @property
    def estimated_rows(self) -> int:
        return self.rows if self.exact else max(self.rows, self._total)

    def _read(self) -> Iterator[bytes]:
        command = [sys.executable, "-m", "finetui.data.formats.parquet", str(self.path)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as child:
            assert child.stdout is not None and child.stderr is not None
            try:
                yield from self._rows_of(child.stdout)
                reason = child.stderr.read().decode(errors="replace").strip()
            finally:
                child.kill()  # nobody wants the rest
        if child.returncode not in (0, -9) or reason:
            said = reason.splitlines()[-1] if reason else f"exit code {child.returncode}"
            self._broke(said, UserError(f"is not readable Parquet: {said}", str(self.path)))

    def _rows_of(self, output: IO[bytes]) -> Iterator[bytes]:
        self._total = int(output.readline() or 0)
        done = 0
        while chunk := output.read(_READ):
            done += chunk.count(b"\n")
            self._consumed = self.size * done // max(1, self._total)
            yield chunk


def main(path: str) -> int:
    """Print the rows of a Parquet file; what is wrong goes to standard error."""
    import duckdb

    try:
        with duckdb.connect() as connection:
            _set_memory(connection, path)
            count = "SELECT coalesce(sum(num_rows), 0) FROM parquet_file_metadata(?)"
            print(int(connection.execute(count, [path]).fetchall()[0][0]), flush=True)
            result = connection.execute("SELECT to_json(t) FROM read_parquet(?) t", [path])
            while rows := result.fetchmany(_ROWS_A_WRITE):
                sys.stdout.buffer.write(b"".join(row[0].encode() + b"\n" for row in rows))
        sys.stdout.buffer.flush()
    except duckdb.Error as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stdout = None
    return 0


def _set_memory(connection: Any, path: str) -> None:
    """One thread and what a row group needs: DuckDB takes half as much again when it may."""
    query = (
        "SELECT coalesce(max(size), 0) FROM (SELECT sum(total_uncompressed_size) AS size"
        " FROM parquet_metadata(?) GROUP BY row_group_id)"
    )
    largest = connection.execute(query, [path]).fetchall()[0][0]
    limit = max(_LEAST_MEMORY, int(_ROW_GROUPS * largest)) >> 20
    connection.execute("SET threads = 1")
    connection.execute(f"SET memory_limit = '{limit}MB'")


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1]))))
