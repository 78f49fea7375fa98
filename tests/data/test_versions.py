"""A version is reproducible, proven by its manifest, and keeps unedited bytes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from finetui import workspace
from finetui.data import versions
from finetui.data.dataset import open_dataset
from finetui.data.source import open_source
from finetui.data.split import SplitSpec
from finetui.data.versions import list_versions, verify_version, write_version
from finetui.errors import UserError
from finetui.workspace import Workspace

ODD = b'{ "prompt" : "sp\\u00e9cial",\t"completion":1.50e0 , "completion": "last" }\r'


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return workspace.create(tmp_path / "work")


@pytest.fixture
def path(space: Workspace) -> Path:
    file = space.datasets / "a.jsonl"
    lines = [json.dumps({"prompt": f"q{n}", "completion": f"a{n}"}).encode() for n in range(100)]
    lines[10] = ODD
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


def test_unedited_rows_are_the_same_bytes(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.edit(3, '{"prompt": "new", "completion": "x"}')
        dataset.drop([5])
        version = write_version(dataset, space, "first try")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b'{"prompt": "new", "completion": "x"}\n'
    del lines[5]
    written = version.file("data").read_bytes()
    assert written == b"".join(lines) and ODD in written


def test_the_manifest_tells_sources_counts_and_hashes(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        dataset.edit(3, '{"prompt": "new", "completion": "x"}')
        dataset.drop([5, 6])
        version = write_version(dataset, space, "first")
    (source,) = version.manifest["sources"]
    assert source["path"] == "datasets/a.jsonl" and source["journal_head"] == 2
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source["dropped_lines"] == [6, 7]
    assert version.manifest["counts"] == {
        "rows": 100, "written": 98, "edited": 1, "dropped": 2, "blank": 0, "malformed": 0,
    }  # fmt: skip
    (output,) = version.manifest["outputs"]
    content = version.file("data").read_bytes()
    assert output["sha256"] == hashlib.sha256(content).hexdigest()
    assert (output["rows"], output["bytes"]) == (98, len(content))
    assert verify_version(version) == []
    version.file("data").write_bytes(content + b"x")
    assert verify_version(version) == [str(version.file("data"))]


def test_the_same_data_and_seed_give_the_same_id(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        first = write_version(dataset, space, "one", SplitSpec(seed=1))
        same = write_version(dataset, space, "two", SplitSpec(seed=1))
        other = write_version(dataset, space, "three", SplitSpec(seed=2))
    assert first.id == same.id == first.path.name and other.id != first.id
    assert {version.id for version in list_versions(space)} == {first.id, other.id}


def test_a_split_version_has_every_row_once(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        version = write_version(dataset, space, spec=SplitSpec())
    parts = [
        version.file(name).read_bytes().splitlines() for name in ("train", "validation", "test")
    ]
    assert [len(part) for part in parts] == [80, 10, 10]
    assert sorted(line for part in parts for line in part) == sorted(path.read_bytes().splitlines())
    assert version.manifest["split"]["fractions"] == [0.8, 0.1, 0.1]


def test_malformed_rows_stop_a_version_unless_it_is_said(space: Workspace, path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"{broken\n\nxx\n")
    with open_dataset(path, space) as dataset:
        with pytest.raises(UserError, match="2 malformed rows") as caught:
            write_version(dataset, space)
        assert "a.jsonl:101" in str(caught.value)
        assert list_versions(space) == []
        version = write_version(dataset, space, skip_malformed=True)
        assert version.manifest["sources"][0]["malformed_lines"] == [101, 103]
        assert version.manifest["counts"]["blank"] == 1
        dataset.drop([100, 102])
        assert write_version(dataset, space).manifest["counts"]["malformed"] == 0


def test_other_formats_become_one_json_object_a_line(space: Workspace) -> None:
    rows = [{"prompt": f"q\n{n}", "completion": "é"} for n in range(5)]
    file = space.datasets / "b.json"
    file.write_text(json.dumps(rows, indent=2))
    table = space.datasets / "c.csv"
    table.write_text('question,answer\n"a\nb",c\n')
    with open_dataset(file, space) as dataset, open_dataset(table, space) as other:
        version = write_version([dataset, other], space)
    source = open_source(version.file("data"))
    values = [source.value(row) for row in range(source.rows)]
    assert values == [*rows, {"question": "a\nb", "answer": "c"}]


def test_a_version_that_fails_leaves_nothing(
    space: Workspace, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(versions, "_manifest", fail)
    with open_dataset(path, space) as dataset, pytest.raises(OSError, match="disk full"):
        write_version(dataset, space)
    assert list(space.versions.iterdir()) == []


def test_version_files_are_private(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        version = write_version(dataset, space)
    assert version.path.stat().st_mode & 0o777 == 0o700
    assert version.file("data").stat().st_mode & 0o777 == 0o600
