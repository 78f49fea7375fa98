"""Read thousands of damaged files, and hold every row against simple rules of their own.

    python benchmarks/fuzz_reading.py [--files 12000] [--seed 1]

JSON Lines, JSON arrays, CSV, and each of them compressed and cut off or damaged. A line that is
lost, misnumbered, misplaced or wrongly judged stops the run and keeps the file.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import lzma
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "data"))

import reading_oracle as oracle

from finetui.data.formats import copied, delimited, document, lineindex, source, spans
from finetui.data.formats.several import SeveralSource, open_several
from finetui.data.formats.source import open_source
from finetui.errors import UserError

Trial = Callable[[Random, Path], str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    start = time.process_time()
    with tempfile.TemporaryDirectory(prefix="finetui-fuzz-") as name:
        folder = Path(name)
        for number in range(options.files):
            rng = Random(f"{options.seed}-{number}")
            trial = TRIALS[number % len(TRIALS)]
            narrow(rng)
            try:
                outcomes[f"{trial.__name__}: {trial(rng, folder)}"] += 1
            except BaseException:
                print(f"number {number} of seed {options.seed} ({trial.__name__}) failed")
                raise
            for file in folder.iterdir():
                file.unlink()
    for name, count in sorted(outcomes.items()):
        print(f"{count:7,}  {name}")
    print(f"{options.files:7,}  files in {time.process_time() - start:.1f} s CPU: no line lost")
    return 0


def narrow(rng: Random) -> None:
    """Make the readers' windows so small that rows straddle them, as in files of gigabytes."""
    wide = rng.random() < 0.3
    document._WINDOW = 1 << 20 if wide else rng.choice([8, 64, 300])
    document._WIDEST = 16 * document._WINDOW
    delimited._READ = 1 << 20 if wide else rng.choice([8, 40, 200])
    lineindex.BLOCK = 1 << 16 if wide else rng.choice([16, 100, 1000])
    copied._FIRST = 1 << 20 if wide else rng.choice([1, 100])
    source.EAGER = spans.EAGER = 4 << 20 if wide else rng.choice([1, 200, 1 << 12])


def lines(rng: Random, folder: Path) -> str:
    content = oracle.garbage_lines(rng)
    return check(oracle.written(folder / "a.jsonl", content), content)


def damaged_lines(rng: Random, folder: Path) -> str:
    content = oracle.mutated(rng, oracle.garbage_lines(rng), rng.randint(1, 6))
    return check(oracle.written(folder / "a.jsonl", content), content)


def array(rng: Random, folder: Path) -> str:
    content = oracle.array_text(rng, rng.randint(0, 20))
    return check(oracle.written(folder / "a.json", content), content)


def damaged_array(rng: Random, folder: Path) -> str:
    content = oracle.mutated(rng, oracle.array_text(rng, rng.randint(1, 20)), rng.randint(1, 4))
    return check(oracle.written(folder / "a.json", content), content)


def table(rng: Random, folder: Path) -> str:
    content = oracle.csv_text(rng)
    return check(oracle.written(folder / "a.csv", content), content)


def damaged_table(rng: Random, folder: Path) -> str:
    content = oracle.mutated(rng, oracle.csv_text(rng), rng.randint(1, 4))
    return check(oracle.written(folder / "a.csv", content), content)


def packed(rng: Random, folder: Path) -> str:
    """A compressed file, whole or damaged: the rows are those of what can be unpacked."""
    content = oracle.garbage_lines(rng) * rng.choice([1, 40])
    suffix, pack = rng.choice(PACKINGS)
    data = pack(content)
    damaged = rng.random() < 0.5
    if damaged:
        data = data[: rng.randrange(8, len(data))] if len(data) > 9 else data
    path = oracle.written(folder / f"a.jsonl{suffix}", data)
    try:
        source = open_source(path)
    except UserError as error:
        assert damaged and "unpacked" in str(error), error
        return "refused"
    with source:
        first = [source.raw(row) for row in range(source.rows)]
        source.build_index()
        assert first == [source.raw(row) for row in range(len(first))]
        found = b"\n".join(raw.raw for raw in source.iterate())
        plain = content.removeprefix(oracle.BOM)
        assert plain.startswith(found) or content.startswith(found)
        if not source.file_faults():
            oracle.check_lines(source, content)
        assert damaged or not source.file_faults()
        if damaged and suffix == ".gz":
            reachable = zlib.decompressobj(31).decompress(data)
            oracle.check_lines(source, reachable)
        return "broken off" if source.file_faults() else "whole"


def several(rng: Random, folder: Path) -> str:
    """Files as one set: each row has the line and place of its own file."""
    contents = [oracle.garbage_lines(rng) for _ in range(rng.randint(2, 4))]
    paths = [
        oracle.written(folder / f"{number}.jsonl", content)
        for number, content in enumerate(contents)
    ]
    with open_several(paths) as source:
        assert isinstance(source, SeveralSource)
        source.build_index()
        row = 0
        for path, content in zip(paths, contents, strict=True):
            for number, line in enumerate(oracle.lines_of(content), 1):
                assert source.place(row)[:2] == (path, number)
                assert source.raw(row) == line
                row += 1
        assert source.rows == row
    return "read"


def noise(rng: Random, folder: Path) -> str:
    """Random bytes under any name open or are refused with words."""
    suffix = rng.choice([".jsonl", ".json", ".csv", ".parquet", ".arrow", ".gz", ".zst", ".txt"])
    magic = rng.choice([b"", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"ARROW1\0\0", b"PAR1"])
    content = magic + rng.randbytes(rng.randint(0, 200))
    return check(oracle.written(folder / f"a{suffix}", content), content)


PACKINGS: list[tuple[str, Callable[[bytes], bytes]]] = [
    (".gz", gzip.compress),
    (".xz", lzma.compress),
    (".bz2", bz2.compress),
    (".zst", lambda content: __import__("zstandard").compress(content)),
]
TRIALS: list[Trial] = [
    lines, damaged_lines, array, damaged_array, table, damaged_table, packed, several, noise,
]  # fmt: skip


def check(path: Path, content: bytes) -> str:
    try:
        source = open_source(path)
    except UserError as error:
        assert path.name in str(error), error
        return "refused"
    with source:
        first = [source.raw(row) for row in range(source.rows)]
        source.build_index()
        assert first == [source.raw(row) for row in range(len(first))]
        if source.format == "jsonl" and not source.packing:
            oracle.check_lines(source, content)
        elif source.format == "json" and content.removeprefix(oracle.BOM).lstrip()[:1] == b"[":
            oracle.check_array(source, content)
        elif source.format == "csv":
            oracle.check_csv(source, content)
        else:
            [oracle.read(source, row) for row in range(source.rows)]
        return f"read as {source.format}"


if __name__ == "__main__":
    sys.exit(main())
