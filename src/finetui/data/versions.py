"""Write a version: the data as edited, split if asked, with a manifest that proves what it is.

A version's id is the hash of its manifest without names and times, so the same data, edits and
seed give the same id. Unedited rows of a JSONL file are the same bytes as in the source.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from finetui.data.dataset import DataSet
from finetui.data.journal import UNTOUCHED, State
from finetui.data.source import RawRow
from finetui.data.split import LEFT_OUT, Split, SplitSpec, split_datasets
from finetui.data.strict import JsonFault, decode, dumps
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.workspace import Workspace

_ID_LENGTH = 12
_NOT_HASHED = ("id", "name", "created")
_READ = 1 << 20
_NAME = re.compile(r"[^\w .-]+")


@dataclass(frozen=True)
class Version:
    """A written version: its folder holds the data files and ``manifest.json``."""

    id: str
    path: Path
    manifest: dict[str, Any]

    def file(self, name: str) -> Path:
        """``train``, ``validation``, ``test`` or ``data`` to its file."""
        return self.path / f"{name}.jsonl"


@dataclass
class _Tally:
    """What became of one source's rows. Lines are physical and 1-based."""

    rows: int = 0
    written: int = 0
    edited: int = 0
    dropped: int = 0
    blank: int = 0
    dropped_lines: list[int] = field(default_factory=list)
    malformed_lines: list[int] = field(default_factory=list)


def write_version(
    datasets: DataSet | Sequence[DataSet],
    workspace: Workspace,
    name: str = "",
    spec: SplitSpec | None = None,
    skip_malformed: bool = False,
) -> Version:
    """Write ``versions/<id>/`` with ``data.jsonl``, or one file a split, and a manifest.

    Dropped and blank rows are left out, and counted. A malformed row is a UserError that names
    the first and how many there are, unless ``skip_malformed`` leaves them out as well.
    """
    sets = [datasets] if isinstance(datasets, DataSet) else list(datasets)
    if not sets:
        raise UserError("there is no data set to write a version of.")
    for dataset in sets:
        dataset.build_index()
        if not skip_malformed:
            _refuse_malformed(dataset)
    result = split_datasets(sets, spec) if spec else None
    with _new_folder(workspace.versions) as folder:
        tallies, outputs = _write_files(sets, result, folder)
        manifest = _manifest(sets, workspace, tallies, outputs, result)
        manifest = {"id": version_id(manifest), "name": _NAME.sub("-", name)[:80]} | manifest
        manifest["created"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        target = _publish(folder, workspace.versions / str(manifest["id"]), manifest)
    for dataset, source in zip(sets, manifest["sources"], strict=True):
        if dataset.journal and dataset.journal.overlay:
            dataset.journal.set_meta("sha256", source["sha256"])
    return read_version(target)


def read_version(path: Path) -> Version:
    """Open a written version's folder; raises UserError when it is none."""
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        return Version(manifest["id"], path, manifest)
    except (OSError, ValueError, KeyError):
        raise UserError("is not a data set version.", str(path), "Write it again.") from None


def list_versions(workspace: Workspace) -> list[Version]:
    """All written versions, newest first."""
    found = [read_version(file.parent) for file in workspace.versions.glob("*/manifest.json")]
    return sorted(found, key=lambda version: str(version.manifest.get("created")), reverse=True)


def verify_version(version: Version) -> list[str]:
    """The files that are not what the manifest says; [] when all is as written."""
    wrong = []
    for output in version.manifest["outputs"]:
        path = version.path / output["file"]
        if not path.is_file() or _sha256(path) != output["sha256"]:
            wrong.append(str(path))
    return wrong


def version_id(manifest: dict[str, Any]) -> str:
    """The first 12 digits of the SHA-256 of the manifest without names and times."""
    kept = {key: value for key, value in manifest.items() if key not in _NOT_HASHED}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_ID_LENGTH]


# ---------------------------------------------------------------- rows


def _refuse_malformed(dataset: DataSet) -> None:
    bad = [raw for raw, state in _kept(dataset) if _is_malformed(dataset, raw, state)]
    faults = dataset.source.file_faults()
    if bad or faults:
        line = bad[0].line if bad else faults[0].line
        count = len(bad) + len(faults)
        many = f"{count} malformed rows, the first here" if count > 1 else "a malformed row here"
        raise UserError(
            f"{many}; a version cannot hold what no trainer can read.",
            f"{dataset.path}:{line}",
            "Repair or drop them, or write the version without them (--skip-malformed).",
        )


def _kept(dataset: DataSet) -> Iterator[tuple[RawRow, State]]:
    """Rows that are not dropped, with their state."""
    for raw in dataset.source.iterate():
        state = dataset.state(raw.row)
        if not state.dropped:
            yield raw, state


def _is_malformed(dataset: DataSet, raw: RawRow, state: State) -> bool:
    if state.text is not None or not raw.raw.strip():
        return False  # edits were validated; blank lines are no data and are left out
    try:
        dataset.source.decode(raw.raw)
    except JsonFault:
        return True
    return False


def row_bytes(dataset: DataSet, raw: RawRow, state: State = UNTOUCHED) -> bytes:
    """What a version holds for a row: its own bytes where they are one line of JSON.

    Raises JsonFault for a row that cannot be read.
    """
    if state.text is not None:
        decode(state.text.encode())
        return state.text.encode()
    value = dataset.source.decode(raw.raw)
    if dataset.source.verbatim and b"\n" not in raw.raw:
        return raw.raw
    return dumps(value).encode()


def _write_files(
    sets: Sequence[DataSet], result: Split | None, folder: Path
) -> tuple[list[_Tally], list[dict[str, Any]]]:
    names = result.names if result else ("data",)
    with ExitStack() as stack:
        files = [stack.enter_context(_Output(folder / f"{name}.jsonl")) for name in names]
        tallies = []
        for number, dataset in enumerate(sets):
            places = result.assignment[number] if result else None
            tallies.append(_write_rows(dataset, files, places))
    return tallies, [file.entry() for file in files]


def _write_rows(dataset: DataSet, files: Sequence[_Output], places: Any) -> _Tally:
    tally = _Tally()
    for raw in dataset.source.iterate():
        tally.rows += 1
        state = dataset.state(raw.row)
        if state.dropped:
            tally.dropped += 1
            tally.dropped_lines.append(raw.line)
            continue
        try:
            content = row_bytes(dataset, raw, state)
        except JsonFault as fault:
            if fault.check == "blank-line":
                tally.blank += 1
            else:
                tally.malformed_lines.append(raw.line)
            continue
        place = places[raw.row] if places is not None else 0
        if place == LEFT_OUT:
            continue
        files[place].write(content + b"\n")
        tally.written += 1
        tally.edited += state.text is not None
    return tally


class _Output:
    """A file of the version, hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._rows = self._bytes = 0

    def __enter__(self) -> _Output:
        descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._file: IO[bytes] = os.fdopen(descriptor, "wb", buffering=_READ)
        return self

    def write(self, line: bytes) -> None:
        self._file.write(line)
        self._digest.update(line)
        self._rows += 1
        self._bytes += len(line)

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def entry(self) -> dict[str, Any]:
        return {
            "file": self._path.name,
            "rows": self._rows,
            "bytes": self._bytes,
            "sha256": self._digest.hexdigest(),
        }


# ---------------------------------------------------------------- manifest and folder


def _manifest(
    sets: Sequence[DataSet],
    workspace: Workspace,
    tallies: Sequence[_Tally],
    outputs: list[dict[str, Any]],
    result: Split | None,
) -> dict[str, Any]:
    sources = [
        {
            "path": workspace.relative(dataset.path.resolve()),
            "sha256": _sha256(dataset.path),
            "bytes": dataset.source.size,
            "format": dataset.source.format,
            "shape": str(dataset.shape),
            "journal_head": dataset.journal.head if dataset.journal else 0,
        }
        | asdict(tally)
        for dataset, tally in zip(sets, tallies, strict=True)
    ]
    counts: Counter[str] = Counter()
    for tally in tallies:
        counts.update(
            rows=tally.rows,
            written=tally.written,
            edited=tally.edited,
            dropped=tally.dropped,
            blank=tally.blank,
            malformed=len(tally.malformed_lines),
        )
    manifest: dict[str, Any] = {
        "format": 1,
        "sources": sources,
        "counts": dict(counts),
        "outputs": outputs,
    }
    if result:
        manifest["split"] = asdict(result.spec) | {
            "stratified_by": result.stratified_by,
            "groups": result.groups,
            "notes": result.notes,
        }
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _new_folder(parent: Path) -> Iterator[Path]:
    """A hidden folder that becomes the version by a rename; gone if anything fails."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, target: Path, manifest: dict[str, Any]) -> Path:
    from finetui.workspace import sync_folder, write_atomic

    if target.is_dir():
        return target  # the id is the content's hash: it is already there
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    write_atomic(folder / "manifest.json", text)
    folder.rename(target)
    sync_folder(target.parent)
    return target
