"""Every format opens, and every row has its true line and byte offset."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import pytest

from finetui.data.formats.lineindex import BLOCK, LineIndex
from finetui.data.formats.source import JsonlSource, RowError, Source, open_source
from finetui.data.records import Shape
from finetui.errors import UserError

CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# ---------------------------------------------------------------- JSONL


def test_rows_are_the_physical_lines_whatever_they_hold(tmp_path: Path) -> None:
    rng = random.Random(5)
    pieces = [b'{"a": 1}', b"", b"{broken", "\u2028 \u0085 é".encode(), b"x\ry", b"\xff", b"  "]
    for ending in (b"", b"\n", b"\n\n", b"\r\n"):
        lines = [rng.choice(pieces) for _ in range(500)]
        content = b"\n".join(lines) + ending
        source = open_source(write(tmp_path / "a.jsonl", content))
        expected = content.split(b"\n")
        if expected[-1] == b"":
            expected.pop()
        assert source.rows == len(expected) and source.exact
        offset = 0
        for row, (line, raw) in enumerate(zip(expected, source.iterate(), strict=True)):
            assert raw == (row, row + 1, offset, line)
            assert source.raw(row) == line
            assert (source.line(row), source.offset(row)) == (row + 1, offset)
            offset += len(line) + 1


def test_a_generated_file_of_200_000_rows_is_indexed_exactly(tmp_path: Path) -> None:
    rng = random.Random(11)
    lengths = [rng.choice((0, 1, 7, 90, 400)) for _ in range(200_000)]
    lengths[777], lengths[150_000] = 3 * BLOCK, BLOCK - 1  # lines longer than a block
    path = tmp_path / "big.jsonl"
    with path.open("wb") as file:
        file.writelines(b"x" * length + b"\n" for length in lengths)
    source = open_source(path)
    assert isinstance(source, JsonlSource)
    assert not source.exact and 0 < source.rows < 200_000
    assert abs(source.estimated_rows - 200_000) < 20_000
    source.build_index()
    assert source.exact and source.rows == 200_000
    starts, position = [], 0
    for length in lengths:
        starts.append(position)
        position += length + 1
    for row in [
        0,
        776,
        777,
        778,
        149_999,
        150_000,
        150_001,
        199_999,
        *rng.sample(range(200_000), 500),
    ]:
        assert source.offset(row) == starts[row]
        assert len(source.raw(row)) == lengths[row]
        assert source.index.line_at(starts[row]) == row


def test_the_first_page_needs_no_index_and_rows_grow_while_it_is_built(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "%s"}\n' % (b"y" * 500) * 40_000)
    source = open_source(path)
    first = source.rows
    assert not source.exact and first > 1000
    assert json.loads(source.head(1)[0])["text"].startswith("y")
    seen: list[int] = []
    source.build_index(progress=lambda done: seen.append(source.rows))
    assert seen == sorted(seen) and seen[0] > first and seen[-1] == 40_000


def test_a_stopped_index_can_be_finished_later(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "0123456789"}\n' * 400_000)
    source = open_source(path)
    source.build_index(stop=lambda: True)
    assert not source.exact
    source.build_index()
    assert source.exact and source.rows == 400_000


def test_the_cached_index_is_used_for_the_same_file_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "0123456789"}\n' * 300_000)
    cache = tmp_path / "cache"
    with open_source(path, cache) as source:
        source.build_index()
    with open_source(path, cache) as again:
        assert again.exact and again.rows == 300_000
    path.write_bytes(b'{"text": "0123456789"}\n' * 300_001)
    with open_source(path, cache) as changed:
        assert not changed.exact
        changed.build_index()
        assert changed.rows == 300_001


def test_a_damaged_cached_index_is_built_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "0123456789"}\n' * 300_000)
    cache = tmp_path / "cache"
    with open_source(path, cache) as source:
        source.build_index()
    (sidecar,) = (cache / "index").iterdir()
    sidecar.write_bytes(sidecar.read_bytes()[:-9])
    with open_source(path, cache) as again:
        again.build_index()
        assert again.rows == 300_000


def test_an_index_of_counts_that_fall_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"\n" * (3 * BLOCK))
    with path.open("rb") as file:
        index = LineIndex(file.fileno(), 3 * BLOCK)
        assert not index.load((5).to_bytes(8, "little") + (4).to_bytes(8, "little") * 2)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + jsonl(CHAT, CHAT).encode()))
    assert source.value(0) == CHAT and source.shape.shape is Shape.CHAT
    assert source.offset(0) == 3 and next(iter(source.iterate())).raw[:1] == b"{"
    assert source.offset(1) == 3 + len(jsonl(CHAT))


@pytest.mark.parametrize(
    ("line", "check", "position"),
    [
        (b'{"a": "caf\xe9"}', "invalid-utf8", 10),
        (b'{"a": "\xc3\xa9", "b": "\xff"}', "invalid-utf8", 18),
        (b'{"a": NaN}', "not-a-number", 6),
        (b'{"a": "NaN", "b": -Infinity}', "not-a-number", 18),
        (b'{"a": 1} {"a": 2}', "malformed-json", 9),
        (b'{"a": 1,}', "malformed-json", 8),
        ('{"ü": 1, b}'.encode(), "malformed-json", 10),
        (b'{"a": "cut off', "malformed-json", 6),
        (b'{"a": [1, 2', "malformed-json", 11),
        (b'{"a": "\\ud83d"}', "lone-surrogate", 7),
        (b'{"a": "\\ud83d\\ude00 \\\\ud83d \\ude00"}', "lone-surrogate", 28),
        (b'{"a": "\x1b[31m"}', "malformed-json", 7),
        (b"{'a': 1}", "malformed-json", 1),
        (b"[" * 100_000 + b"]" * 100_000, "malformed-json", 0),
        (b"  ", "blank-line", 0),
    ],
)
def test_a_bad_line_tells_the_exact_byte(
    tmp_path: Path, line: bytes, check: str, position: int
) -> None:
    good = b'{"text": "\xe2\x80\xa8 fine"}\n'
    source = open_source(write(tmp_path / "a.jsonl", good * 2 + line + b"\n" + good))
    with pytest.raises(RowError) as caught:
        source.value(2)
    error = caught.value
    assert (error.line, error.offset, error.check) == (3, 2 * len(good), check)
    assert error.position == position
    assert source.value(3) == {"text": "\u2028 fine"}


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize("indent", [None, 0, 2])
def test_elements_of_an_array_keep_their_bytes_and_lines(
    tmp_path: Path, indent: int | None
) -> None:
    rows = [{"text": f'row {n} ]}},{{[ "quoted" \\ \n é', "n": [[n], {"k": {}}]} for n in range(50)]
    content = json.dumps(rows, indent=indent, ensure_ascii=False).encode()
    source = open_source(write(tmp_path / "a.json", content))
    assert source.format == "json" and source.rows == 50
    for row in source.iterate():
        assert json.loads(row.raw) == rows[row.row] == source.value(row.row)
        assert content[row.offset : row.offset + len(row.raw)] == row.raw
        assert row.line == content[: row.offset].count(b"\n") + 1


def test_one_broken_element_is_one_bad_row(tmp_path: Path) -> None:
    parts = [json.dumps({"text": f"row {n}"}, indent=1) for n in range(9)]
    parts[4] = '{\n "text": "no closing quote\n}'
    content = "[\n" + ",\n".join(parts) + "\n]"
    source = open_source(write(tmp_path / "a.json", content))
    assert source.rows == 9
    bad = []
    for row in range(9):
        try:
            assert source.value(row) == {"text": f"row {row}"}
        except RowError as error:
            bad.append((row, error.line))
    assert bad == [(4, 2 + 3 * 4)]


def test_an_array_that_is_never_closed_is_told(tmp_path: Path) -> None:
    content = json.dumps([{"text": "a"}, {"text": "b"}])[:-1]
    source = open_source(write(tmp_path / "a.json", content))
    assert source.rows == 2 and "never closed" in source.file_faults()[0].message


@pytest.mark.parametrize("key", ["data", "train", "whatever"])
def test_an_object_that_wraps_the_rows_is_opened(tmp_path: Path, key: str) -> None:
    content = json.dumps({"version": [1, 2], "note": "[{", key: [CHAT, CHAT, CHAT]}, indent=1)
    source = open_source(write(tmp_path / "a.json", content))
    assert source.rows == 3 and source.value(2) == CHAT
    assert source.line(1) == content[: source.offset(1)].count("\n") + 1


def test_a_single_chat_object_is_one_row_and_not_a_wrapper(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.json", json.dumps(CHAT)))
    assert source.rows == 1 and source.value(0) == CHAT


def test_json_lines_under_the_name_json_are_json_lines(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.json", jsonl(CHAT, CHAT)))
    assert source.format == "jsonl" and source.rows == 2


def test_an_array_under_the_name_jsonl_is_an_array(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.jsonl", json.dumps([CHAT, CHAT], indent=2)))
    assert source.format == "json" and source.rows == 2


def test_a_large_array_shows_its_first_rows_before_it_is_read(tmp_path: Path) -> None:
    rows = [{"text": "z" * 1000, "n": n} for n in range(6000)]
    source = open_source(write(tmp_path / "a.json", json.dumps(rows)))
    assert not source.exact and 1000 < source.rows < 6000
    assert source.value(source.rows - 1) == rows[source.rows - 1]
    assert abs(source.estimated_rows - 6000) < 100
    source.build_index()
    assert source.exact and source.rows == 6000 and source.value(5999) == rows[5999]


def test_a_bracket_that_closes_too_early_costs_one_row_not_the_rest(tmp_path: Path) -> None:
    parts = [json.dumps({"text": f"row {n}", "n": [n, {"k": None}]}) for n in range(9)]
    for broken in ('{"text": "x", "n": [1}', '{"text": "x", "n": 1]}', '{"text" "x", "n": [1]}}'):
        parts[4] = broken
        source = open_source(write(tmp_path / "a.json", "[" + ", ".join(parts) + "]"))
        good = [source.value(row) for row in range(source.rows) if readable(source, row)]
        assert [value["n"][0] for value in good] == [0, 1, 2, 3, 5, 6, 7, 8]  # type: ignore[index]


def readable(source: Source, row: int) -> bool:
    try:
        source.value(row)
    except RowError:
        return False
    return True


def test_a_missing_quote_in_an_array_of_one_line_costs_one_row(tmp_path: Path) -> None:
    parts = [json.dumps({"text": f"row {n}", "n": n}) for n in range(9)]
    parts[4] = '{"text": "row 4, "n": 4}'
    source = open_source(write(tmp_path / "a.json", "[" + ", ".join(parts) + "]"))
    assert source.rows == 9
    assert [row for row in range(9) if not readable(source, row)] == [4]


def test_commas_that_separate_nothing_are_faults_of_the_file(tmp_path: Path) -> None:
    for text, offset in (("[{}, ,{}]", 5), ("[{},{},]", 6), ("[,{}]", 1), ("[,]", 1)):
        source = open_source(write(tmp_path / "a.json", text))
        assert all(source.value(row) == {} for row in range(source.rows))
        assert [fault.offset for fault in source.file_faults()] == [offset], text


def test_text_behind_an_array_is_a_fault_and_a_row(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.json", '[{"a": 1}]\n{"a": 2'))
    assert source.rows == 2 and source.value(0) == {"a": 1}
    assert source.line(1) == 2 and not readable(source, 1)
    assert source.file_faults()[0].line == 2


def test_the_index_of_a_large_array_is_kept_for_the_same_file_only(tmp_path: Path) -> None:
    rows = [{"text": "z" * 1000, "n": n} for n in range(6000)]
    path, cache = write(tmp_path / "a.json", json.dumps(rows)), tmp_path / "cache"
    with open_source(path, cache) as source:
        source.build_index()
    with open_source(path, cache) as again:
        assert again.exact and again.value(5999) == rows[5999]
    path.write_text(json.dumps(rows[1:]))
    with open_source(path, cache) as changed:
        assert not changed.exact


# ---------------------------------------------------------------- long rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_row_over_a_megabyte_is_shown_cut_without_being_read(tmp_path: Path, name: str) -> None:
    long = json.dumps({"text": "y" * (5 << 20)})
    content = {
        "a.jsonl": long + "\n" + jsonl(CHAT),
        "a.json": f"[{long}, {json.dumps(CHAT)}]",
        "a.csv": "text\n" + "y" * (6 << 20) + "\nshort\n",
    }[name]
    source = open_source(write(tmp_path / name, content))
    source.build_index()
    head = source.head_of(0)
    assert head.cut and len(head.raw) == 1 << 20 and head.length == len(source.raw(0)) > 5 << 20
    assert source.raw(0).startswith(head.raw) and source.length(0) == head.length
    assert not source.head_of(1).cut and source.head_of(1).raw == source.raw(1)
    assert "1 of 1 sampled" in source.shape.reason  # the long row is not read for the guess


def test_binary_noise_in_a_line_does_not_refuse_the_file(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.jsonl", b'{"text": "a"}\n\x00\xff\n{"text": "b"}\n'))
    assert source.rows == 3 and source.value(2) == {"text": "b"}
    with pytest.raises(RowError, match="line 2"):
        source.value(1)


# ---------------------------------------------------------------- CSV and Parquet


def test_csv_records_have_the_line_and_bytes_where_they_begin(tmp_path: Path) -> None:
    rng = random.Random(3)
    cells = [
        "plain",
        "two\nlines",
        'a "quote"',
        "comma, here",
        "",
        "é\r\nü",
        '5" pipe',
        '"',
        "x\n\n",
    ]
    rows = [{"question": rng.choice(cells), "answer": rng.choice(cells)} for _ in range(300)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["question", "answer"])
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    source = open_source(write(tmp_path / "a.csv", content))
    assert [source.value(row) for row in range(source.rows)] == rows
    for row in source.iterate():
        assert content[row.offset : row.offset + len(row.raw)] == row.raw
        assert row.line == content[: row.offset].count(b"\n") + 1


def test_a_bare_quote_inside_an_unquoted_cell_opens_nothing(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.csv", 'question,answer\n5" pipe,yes\nnext,no\n'))
    assert source.rows == 2 and source.value(1) == {"question": "next", "answer": "no"}


def test_tab_separated_and_semicolon_files_open(tmp_path: Path) -> None:
    for name, mark in (("a.tsv", "\t"), ("b.csv", ";")):
        source = open_source(write(tmp_path / name, f"prompt{mark}completion\na,b{mark}c\n"))
        assert source.value(0) == {"prompt": "a,b", "completion": "c"}
        assert source.shape.shape is Shape.PROMPT_COMPLETION


def test_a_csv_record_with_too_many_cells_is_a_bad_row_with_its_line(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.csv", 'q,a\n"x\ny",1\n1,2,3\n'))
    with pytest.raises(RowError) as caught:
        source.value(1)
    assert caught.value.line == 4 and "3 cells" in caught.value.message


def test_a_quote_that_nothing_closes_is_one_bad_line(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.csv", 'q,a\none,1\n"two,2\nthree,3\nfour,4\n'))
    assert [source.line(row) for row in range(source.rows)] == [2, 3, 4, 5]
    assert [row for row in range(4) if not readable(source, row)] == [1]


def test_a_carriage_return_alone_loses_nothing_silently(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "a.csv", "q,a\none,1\rtwo,2\nthree,3\n"))
    with pytest.raises(RowError, match="carriage return"):
        source.value(0)
    assert source.value(1) == {"q": "three", "a": "3"}


def test_a_prompt_that_happens_to_be_json_stays_a_text(tmp_path: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["prompt", "completion"], ["[1, 2]", '{"a": 1}']])
    source = open_source(write(tmp_path / "a.csv", text.getvalue()))
    assert source.value(0) == {"prompt": "[1, 2]", "completion": '{"a": 1}'}


def test_chats_as_json_in_a_csv_cell_are_read(tmp_path: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["id", "messages"], ["1", json.dumps(CHAT["messages"])]])
    source = open_source(write(tmp_path / "a.csv", text.getvalue()))
    assert source.shape.shape is Shape.CHAT


def test_parquet_rows_are_the_rows_that_were_written(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    path = tmp_path / "a.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT 'q' || i AS question, {'n': i, 't': [i, i]} AS answer"
            f" FROM range(40_000) r(i)) TO '{path}' (FORMAT parquet)"
        )
    source = open_source(path, tmp_path / "cache")
    assert not source.exact and source.rows > 1000 and source.estimated_rows == 40_000
    assert source.value(7) == {"question": "q7", "answer": {"n": 7, "t": [7, 7]}}
    source.build_index()
    assert source.exact and source.rows == 40_000
    assert source.value(39_999) == {
        "question": "q39999",
        "answer": {"n": 39_999, "t": [39_999, 39_999]},
    }
    assert (source.line(999), source.offset(999)) == (1000, 0)
    source.close()
    with open_source(path, tmp_path / "cache") as again:
        assert again.exact


# ---------------------------------------------------------------- what cannot be opened


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("a.jsonl.gz", b"\x1f\x8b", "cannot be unpacked"),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), "UTF-16"),
        ("a.bin", b"\x00\x01\x02", "binary"),
        ("a.md", b"# title", "not a data set"),
        ("a.parquet", b"nothing", "binary"),
        ("a.csv", b"a,a\n1,2\n", "header"),
    ],
)
def test_what_cannot_be_opened_says_why_and_what_to_do(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    with pytest.raises(UserError) as caught:
        open_source(write(tmp_path / name, content))
    assert what in str(caught.value) and name in str(caught.value)


def test_a_missing_file_and_a_folder_say_so(tmp_path: Path) -> None:
    for path, what in ((tmp_path / "none.jsonl", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(UserError, match=what):
            open_source(path)
