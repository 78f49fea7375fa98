"""A version is reproducible, proven by its manifest, and keeps unedited bytes."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from finetui import workspace
from finetui.data import versions
from finetui.data.dataset import open_dataset
from finetui.data.formats.source import open_source
from finetui.data.split import SplitSpec
from finetui.data.versions import (
    find_version,
    list_versions,
    read_version,
    verify_version,
    version_id,
    version_of,
    write_version,
)
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
    assert source["blake3"] == blake3(path.read_bytes()).hexdigest()
    assert source["dropped_lines"] == [6, 7]
    assert version.manifest["counts"] == {
        "rows": 100, "written": 98, "edited": 1, "dropped": 2, "blank": 0, "malformed": 0,
    }  # fmt: skip
    (output,) = version.manifest["outputs"]
    content = version.file("data").read_bytes()
    assert output["blake3"] == blake3(content).hexdigest()
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


def test_edits_over_many_blocks_are_spliced_in(space: Workspace) -> None:
    """A reference that goes row by row says the same, whatever is edited, dropped or broken."""
    rng = random.Random(3)
    lines = [
        json.dumps({"prompt": f"q{n} é" + "x" * rng.choice((5, 900, 70_000)), "completion": "a"},
                   ensure_ascii=bool(n % 2)).encode()
        for n in range(600)
    ]  # fmt: skip
    for n in rng.sample(range(600), 60):
        lines[n] = rng.choice((b"", b"  ", b"{broken", b'{"a": "\xff"}', b"\r"))
    file = space.datasets / "many.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    edited = {n: json.dumps({"prompt": f"new {n}"}) for n in rng.sample(range(600), 50)}
    out = set(rng.sample(range(600), 80))
    with open_dataset(file, space) as dataset:
        dataset.build_index()
        for n, text in edited.items():
            dataset.edit(n, text)
        dataset.drop([n for n in out if n % 2])
        dataset.quarantine([n for n in out if not n % 2], "later")
        version = write_version(dataset, space, skip_malformed=True)
    expected = []
    for n, line in enumerate(lines):
        line = edited[n].encode() if n in edited else line
        try:
            json.loads(line)
        except ValueError:
            continue
        if n not in out:
            expected.append(line)
    assert version.file("data").read_bytes() == b"".join(line + b"\n" for line in expected)
    counts = version.manifest["counts"]
    assert counts["dropped"] + counts["quarantined"] == 80
    assert counts["written"] == len(expected)
    assert counts["rows"] == 600 == sum(
        counts[name] for name in ("written", "dropped", "quarantined", "blank", "malformed")
    )  # fmt: skip
    assert version.manifest["sources"][0]["blake3"] == blake3(file.read_bytes()).hexdigest()


def test_a_packed_file_is_told_by_its_own_hash(space: Workspace, path: Path) -> None:
    packed = space.datasets / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with open_dataset(packed, space) as dataset:
        version = write_version(dataset, space)
    assert version.file("data").read_bytes() == path.read_bytes()
    (source,) = version.manifest["sources"]
    assert source["blake3"] == blake3(packed.read_bytes()).hexdigest()


def test_several_files_as_one_set_are_all_told(space: Workspace, path: Path) -> None:
    other = space.datasets / "b.jsonl"
    other.write_text('{"prompt": "other", "completion": "x"}\n')
    with open_dataset([path, other], space) as dataset:
        version = write_version(dataset, space)
    assert version.manifest["counts"]["written"] == 101
    (source,) = version.manifest["sources"]
    assert source["files"] == [
        {"path": f"datasets/{file.name}", "blake3": blake3(file.read_bytes()).hexdigest()}
        for file in (path, other)
    ]


def test_a_source_that_changes_meanwhile_is_refused(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        path.write_bytes(path.read_bytes() + b"{}\n")
        with pytest.raises(UserError, match="changed while it was read"):
            write_version(dataset, space)
    assert list_versions(space) == []


def test_a_version_is_found_by_what_a_person_knows_of_it(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        one = write_version(dataset, space, "one", SplitSpec(seed=1))
        two = write_version(dataset, space, "two", SplitSpec(seed=2))
    for word in (one.id, one.id[:6], "one", str(one.path), str(one.file("test"))):
        assert find_version(space, word) == one
    assert version_of(two.file("train")) == two.id
    assert version_of(path) == version_of(two.path / "manifest.json") == ""
    with pytest.raises(UserError, match="no version 'three'"):
        find_version(space, "three")


def test_a_split_version_goes_on_from_another(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        first = write_version(dataset, space, spec=SplitSpec())
    more = [json.dumps({"prompt": f"new {n}", "completion": "a"}) for n in range(50)]
    path.write_bytes(path.read_bytes() + "".join(f"{line}\n" for line in more).encode())
    with open_dataset(path, space) as dataset:
        second = write_version(dataset, space, spec=SplitSpec(after=first.id), earlier=first)
    for name in ("train", "validation", "test"):
        before = set(first.file(name).read_bytes().splitlines())
        assert before < set(second.file(name).read_bytes().splitlines())
    assert second.manifest["split"]["after"] == first.id and second.spec == SplitSpec(
        after=first.id
    )
    assert second.rows == {"train": 120, "validation": 15, "test": 15}
    assert verify_version(second) == []
    (second.path / "frozen.bin").write_bytes(b"")
    assert verify_version(second) == [str(second.path / "frozen.bin")]
    with pytest.raises(UserError, match="does not say which row went where"):
        _ = second.ledger


def test_what_a_scan_found_is_told_and_is_no_part_of_the_id(space: Workspace, path: Path) -> None:
    with open_dataset(path, space) as dataset:
        one = write_version(dataset, space)
        two = write_version(dataset, space, spec=SplitSpec(), checks={"datasets/a.jsonl": {"x": 2}})
    assert "checks" not in one.manifest
    assert version_id(one.manifest | {"checks": {"datasets/a.jsonl": {"x": 2}}}) == one.id
    assert two.manifest["checks"] == {"datasets/a.jsonl": {"x": 2}} and verify_version(two) == []
    command = [sys.executable, "-m", "finetui", "check", str(path), "--store", "--quick", "-w"]
    subprocess.run([*command, str(space.root)], capture_output=True, check=False)
    with open_dataset(path, space) as dataset:
        found = versions.checks_of([dataset], space)
    assert set(found) == {"datasets/a.jsonl"}


def test_a_version_of_the_first_format_is_still_verified(space: Workspace) -> None:
    folder = space.versions / "old"
    folder.mkdir()
    content = b'{"prompt": "q", "completion": "a"}\n'
    (folder / "data.jsonl").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifest = {"format": 1, "outputs": [{"file": "data.jsonl", "rows": 1, "sha256": digest}]}
    manifest |= {"id": version_id(manifest), "name": "old", "created": "2026-01-01"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    version = read_version(folder)
    assert verify_version(version) == []
    (folder / "data.jsonl").write_bytes(b"x")
    assert verify_version(version) == [str(folder / "data.jsonl")]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    assert verify_version(read_version(folder)) == [str(folder / "manifest.json")]
