"""No line of any file is lost or misnumbered, whatever the file holds.

`reading_oracle` judges by rules of its own; ``benchmarks/fuzz_reading.py`` does the same over
thousands of files of every format.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import reading_oracle as oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetui.data.formats import delimited, document, lineindex
from finetui.data.formats.source import JsonlSource, open_source
from finetui.errors import UserError

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
PIECE = st.one_of(st.sampled_from(oracle.PIECES), st.binary(max_size=8))
LINE = st.lists(PIECE, max_size=4).map(b"".join)
CONTENT = st.lists(LINE, max_size=12).map(b"\n".join)
SEED = st.integers(0, 2**32)


@pytest.fixture(autouse=True)
def narrow_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows straddle the readers' windows, as they do in files of gigabytes."""
    monkeypatch.setattr(document, "_WINDOW", 40)
    monkeypatch.setattr(document, "_WIDEST", 640)
    monkeypatch.setattr(delimited, "_READ", 24)
    monkeypatch.setattr(lineindex, "BLOCK", 32)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@FEW
@given(content=CONTENT, ending=st.sampled_from([b"", b"\n", b"\r\n", b"\n\n"]))
def test_every_line_is_a_row_with_its_number_place_and_verdict(
    folder: Path, content: bytes, ending: bytes
) -> None:
    data = content + ending
    if not oracle.lines_of(data):
        return
    with JsonlSource(oracle.written(folder / "a.jsonl", data)) as source:
        source.build_index()
        oracle.check_lines(source, data)


@FEW
@given(seed=SEED, times=st.integers(0, 5))
def test_elements_of_damaged_arrays_stay_where_they_lie(
    folder: Path, seed: int, times: int
) -> None:
    rng = Random(seed)
    content = oracle.mutated(rng, oracle.array_text(rng, rng.randint(0, 12)), times)
    if content.removeprefix(oracle.BOM).lstrip()[:1] != b"[":
        return
    with open_source(oracle.written(folder / "a.json", content)) as source:
        source.build_index()
        if source.format == "json":
            oracle.check_array(source, content)


@FEW
@given(seed=SEED)
def test_one_fault_in_an_array_costs_few_rows(folder: Path, seed: int) -> None:
    rng = Random(seed)
    content = oracle.array_text(rng, 20).removeprefix(oracle.BOM)
    at = rng.randrange(2, len(content) - 2)
    damaged = content[:at] + rng.choice([b'"', b"}", b"]", b"{", b"", b"x"]) + content[at + 1 :]
    values = oracle.strict(content)
    with open_source(oracle.written(folder / "a.json", damaged)) as source:
        source.build_index()
        found = [oracle.read(source, row) for row in range(source.rows)]
    assert sum(value not in found for value in values) <= 8


@FEW
@given(seed=SEED, times=st.integers(0, 4))
def test_csv_records_are_those_of_the_csv_module(folder: Path, seed: int, times: int) -> None:
    rng = Random(seed)
    content = oracle.mutated(rng, oracle.csv_text(rng), times)
    try:
        source = open_source(oracle.written(folder / "a.csv", content))
    except UserError:
        return  # the header itself is broken, and said to be
    with source:
        source.build_index()
        oracle.check_csv(source, content)


@FEW
@given(seed=SEED, cut=st.floats(0, 1))
def test_a_compressed_file_gives_all_that_can_be_unpacked(
    folder: Path, seed: int, cut: float
) -> None:
    import zlib

    content = oracle.garbage_lines(Random(seed))
    packed = gzip.compress(content)
    packed = packed[: round(cut * len(packed))]
    try:
        reachable = zlib.decompressobj(31).decompress(packed)
    except zlib.error:
        reachable = b""
    try:
        source = open_source(oracle.written(folder / "a.jsonl.gz", packed))
    except UserError:
        assert not reachable.strip()
        return
    with source:
        source.build_index()
        oracle.check_lines(source, reachable)
        whole = len(packed) == len(gzip.compress(content))
        assert bool(source.file_faults()) != whole
