"""Compressed files, Arrow folders and several files as one set: the same rows, lines and places."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard

from finetui.data.formats.several import SeveralSource, open_several
from finetui.data.formats.source import JsonlSource, RowError, Source, open_source
from finetui.data.records import Shape
from finetui.errors import UserError

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
LINES = b'{"text": "a"}\n\n{broken\n{"text": "\xc3\xa9"}'


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(source: Source) -> list[tuple[int, int, bytes]]:
    source.build_index()
    return [(raw.line, raw.offset, raw.raw) for raw in source.iterate()]


# ---------------------------------------------------------------- compressed


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("cached", [True, False])
def test_a_compressed_file_has_the_rows_and_places_of_its_text(
    tmp_path: Path, suffix: str, cached: bool
) -> None:
    plain = open_source(write(tmp_path / "a.jsonl", LINES))
    path = write(tmp_path / f"b.jsonl{suffix}", PACKERS[suffix](LINES))
    cache = tmp_path / "cache" if cached else None
    with open_source(path, cache) as source:
        assert source.exact and source.format == "jsonl" and source.packing
        assert source.path == path and source.place(3) == (path, 4, 23)
        assert rows_of(source) == rows_of(plain)
        with pytest.raises(RowError, match="line 3"):
            source.value(2)
        assert isinstance(source.as_jsonl(), JsonlSource)


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.csv.gz", b"prompt,completion\na,b\n", "csv"),
        ("a.json.gz", b'[{"prompt": "a", "completion": "b"}]', "json"),
        ("a.gz", b'{"prompt": "a", "completion": "b"}\n', "jsonl"),
    ],
)
def test_any_format_may_be_compressed(
    tmp_path: Path, name: str, content: bytes, format: str
) -> None:
    with open_source(write(tmp_path / name, gzip.compress(content)), tmp_path / "c") as source:
        assert source.format == format
        assert source.value(0) == {"prompt": "a", "completion": "b"}


def test_parquet_in_gzip_opens(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT 'x' AS text) TO '{tmp_path / 'a.parquet'}'")
    content = (tmp_path / "a.parquet").read_bytes()
    path = write(tmp_path / "a.parquet.gz", gzip.compress(content))
    with open_source(path, tmp_path / "cache") as source:
        assert source.format == "parquet" and source.value(0) == {"text": "x"}


def test_the_first_rows_are_there_before_the_rest_is_unpacked(tmp_path: Path) -> None:
    rng = Random(2)
    lines = [b'{"text": "%s"}\n' % rng.randbytes(250).hex().encode() for _ in range(20_000)]
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(b"".join(lines), 1))
    cache = tmp_path / "cache"
    source = open_source(path, cache)
    assert not source.exact and 1000 < source.rows < 20_000
    assert source.raw(source.rows - 1) + b"\n" == lines[source.rows - 1]
    assert 15_000 < source.estimated_rows < 25_000
    seen: list[int] = []
    source.build_index(stop=lambda: len(seen) > 2, progress=seen.append)
    assert not source.exact  # stopped; it goes on from where it was
    source.build_index(progress=seen.append)
    assert source.exact and source.rows == 20_000 and seen == sorted(seen)
    source.close()
    with open_source(path, cache) as again:
        again.build_index()
        assert again.rows == 20_000
    assert len(list((cache / "unpacked").iterdir())) == 1


def test_a_changed_file_is_unpacked_anew_and_the_old_copy_goes(tmp_path: Path) -> None:
    path, cache = tmp_path / "a.jsonl.gz", tmp_path / "cache"
    for text in ("first", "second"):
        write(path, gzip.compress(json.dumps({"text": text}).encode()))
        with open_source(path, cache) as source:
            assert source.value(0) == {"text": text}
    assert len(list((cache / "unpacked").iterdir())) == 1


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_that_breaks_off_gives_its_rows_and_a_fault(tmp_path: Path, suffix: str) -> None:
    rng = Random(1)
    lines = b"".join(b'{"text": "%s"}\n' % rng.randbytes(99).hex().encode() for _ in range(9000))
    packed = PACKERS[suffix](lines)
    path = write(tmp_path / f"a.jsonl{suffix}", packed[: len(packed) * 2 // 3])
    for _ in range(2):  # the second time from the cache
        with open_source(path, tmp_path / "cache") as source:
            source.build_index()
            (fault,) = source.file_faults()
            assert "breaks off" in fault.message and fault.line == source.rows
            assert 3000 < source.rows < 9000
            whole = b"".join(raw.raw + b"\n" for raw in source.iterate())[:-1]
            assert lines.startswith(whole)


def test_several_frames_and_members_are_one_text(tmp_path: Path) -> None:
    for suffix in (".gz", ".zst"):
        packed = PACKERS[suffix](b'{"text": "a"}\n') + PACKERS[suffix](b'{"text": "b"}\n')
        with open_source(write(tmp_path / f"a.jsonl{suffix}", packed)) as source:
            assert source.rows == 2 and not source.file_faults()


def test_without_a_cache_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(LINES))
    with open_source(path) as source:
        assert source.rows == 4
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl.gz", gzip.compress(b""), "is empty"),
        ("a.csv.gz", gzip.compress(b"a,a\n1,2\n"), "header"),
        ("a.txt.gz", gzip.compress(b"hello"), "not a data set"),
        ("a.zip", b"PK\x03\x04", "unzip"),
    ],
)
def test_what_is_wrong_inside_is_told_of_the_file_that_was_named(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        open_source(path, tmp_path / "cache")
    assert what in str(caught.value) and caught.value.where.startswith(str(path))


# ---------------------------------------------------------------- Arrow

ROWS: list[dict[str, Any]] = [
    {"id": n, "messages": [{"role": "user", "content": f"é {n}"}, {"role": "x", "content": None}]}
    for n in range(5000)
]


def test_a_folder_saved_by_datasets_has_the_rows_that_were_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(folder, num_shards=2)
    with open_source(folder, tmp_path / "cache") as source:
        assert source.format == "arrow" and source.path == folder and len(source.files) == 2
        source.build_index()
        assert [source.value(row) for row in range(source.rows)] == ROWS
        assert source.place(4999) == (folder, 5000, 0)
        assert source.shape.shape is Shape.CHAT and not source.changed()
        identity = source.identity()
    source.files[1].write_bytes(source.files[0].read_bytes())
    with open_source(folder, tmp_path / "cache") as changed:
        assert changed.identity() != identity


def test_a_folder_of_splits_names_them_instead_of_mixing_them(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UserError, match=r"train, test.*/train"):
        open_source(tmp_path)


def test_a_folder_that_lacks_a_file_says_which(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data-0.arrow"}]}')
    with pytest.raises(UserError, match=r"data-0\.arrow"):
        open_source(tmp_path)


@pytest.mark.parametrize("form", ["stream", "file"])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_arrow_files_of_both_forms_open(tmp_path: Path, form: str, compression: str | None) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(ROWS[:300])
    options = pa.ipc.IpcWriteOptions(compression=compression)
    make = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    with make(str(tmp_path / "a.arrow"), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=70)
    with open_source(tmp_path / "a.arrow") as source:
        assert [source.value(row) for row in range(source.rows)] == ROWS[:300]


def test_arrow_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"m": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match="map.*Parquet"):
        open_source(tmp_path / "a.arrow")


# ---------------------------------------------------------------- several


def test_several_files_are_one_set_with_the_lines_of_their_own(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.jsonl", b'{"prompt": "a", "completion": "1"}\n{broken\n'),
        write(tmp_path / "b.csv", b'prompt,completion\n"b\nb",2\nlone\n'),
        write(tmp_path / "c.jsonl.gz", gzip.compress(b'\n{"prompt": "c", "completion": "3"}')),
    ]
    source = open_several(paths, tmp_path / "cache")
    assert isinstance(source, SeveralSource)
    source.build_index()
    assert source.exact and source.rows == source.estimated_rows == 6
    places = [(source.place(row).path, source.line(row)) for row in range(6)]
    lines = [(0, 1), (0, 2), (1, 2), (1, 4), (2, 1), (2, 2)]
    assert places == [(paths[number], line) for number, line in lines]
    assert source.value(2) == {"prompt": "b\nb", "completion": "2"}
    assert source.decode(source.raw(2)) == source.value(2)
    assert source.value(5) == {"prompt": "c", "completion": "3"}
    for row, line in ((1, 2), (3, 4)):
        with pytest.raises(RowError, match=f"line {line}"):
            source.value(row)
    assert [raw.raw for raw in source.iterate()] == [source.raw(row) for row in range(6)]
    assert source.shape.shape is Shape.PROMPT_COMPLETION
    with pytest.raises(IndexError):
        source.raw(6)


def test_rows_behind_a_file_that_is_still_read_have_no_number_yet(tmp_path: Path) -> None:
    big = write(tmp_path / "a.jsonl", b'{"text": "%s"}\n' % (b"y" * 500) * 20_000)
    small = write(tmp_path / "b.jsonl", b'{"text": "b"}\n')
    source = open_several([big, small])
    assert not source.exact and source.rows < 20_000
    source.build_index()
    assert source.rows == 20_001 and source.value(20_000) == {"text": "b"}


def test_files_of_other_shapes_are_named(tmp_path: Path) -> None:
    chat = b'{"messages": [{"role": "user", "content": "a"}]}\n'
    paths = [write(tmp_path / f"{n}.jsonl", chat * 3) for n in range(2)]
    paths.append(write(tmp_path / "odd.jsonl", b'{"text": "a"}\n'))
    with open_several(paths) as source:
        guess = source.shape
        assert guess.shape is Shape.CHAT and guess.mixed and 0.8 < guess.confidence < 0.9
        assert "odd.jsonl is text" in guess.reason
        assert isinstance(source, SeveralSource)
        assert [found.shape for _, found in source.shapes] == [Shape.CHAT, Shape.CHAT, Shape.TEXT]


def test_a_set_has_every_file_once_and_one_file_is_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES)
    with pytest.raises(UserError, match="twice"):
        open_several([path, tmp_path / "." / "a.jsonl"])
    assert isinstance(open_several([path]), JsonlSource)


def test_a_set_knows_when_one_of_its_files_changes(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.jsonl", LINES) for n in range(2)]
    with open_several(paths) as source:
        identity = source.identity()
        assert not source.changed()
        write(paths[1], LINES + b"\n")
        assert source.changed()
    with open_several(paths) as again:
        assert again.identity() != identity


# ---------------------------------------------------------------- damage in the middle


def test_arrow_that_is_damaged_gives_the_rows_before_and_says_so_each_time(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.Table.from_pylist(ROWS)
    path = tmp_path / "a.arrow"
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    for _ in range(2):
        with open_source(path, tmp_path / "cache") as source:
            source.build_index()
            assert [source.value(row) for row in range(source.rows)] == ROWS[: source.rows]
            assert 1000 < source.rows < 5000 and "breaks off" in source.file_faults()[0].message


def test_parquet_that_is_damaged_is_never_taken_for_whole(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "a.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT md5(i::text) || md5((i + 1)::text) AS text FROM range(60_000) r(i))"
            f" TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 20_480)"
        )
    content = bytearray(path.read_bytes())
    content[-len(content) // 3 : -len(content) // 3 + 4000] = bytes(4000)
    path.write_bytes(content)
    try:
        source = open_source(path, tmp_path / "cache")
    except UserError as error:
        assert "Parquet" in str(error)
        return
    with source:
        source.build_index()
        assert source.rows < 60_000 and source.file_faults()


def test_a_disk_without_room_refuses_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetui.data.formats import copied

    rng = Random(2)
    lines = b"".join(b'{"text": "%s"}\n' % rng.randbytes(250).hex().encode() for _ in range(9000))
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(lines, 1))
    with open_source(path, tmp_path / "cache") as source:
        rows = source.rows
        monkeypatch.setattr(copied, "_ROOM", 1 << 62)
        for _ in range(2):
            with pytest.raises(UserError, match="are free"):
                source.build_index()
        assert source.rows == rows and not source.exact
        monkeypatch.setattr(copied, "_ROOM", 0)
        source.build_index()
        assert source.rows == 9000
        assert b"".join(raw.raw + b"\n" for raw in source.iterate()) == lines
