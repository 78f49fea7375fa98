"""Write a version: the data as edited, split if asked, with a manifest that proves what it is.

A version's id is the hash of its manifest without names and times, so the same data, edits and
seed give the same id. Unedited rows of a JSONL file are the same bytes as in the source.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from finetui.data.dataset import DataSet
from finetui.data.ledger import FILE as FROZEN
from finetui.data.ledger import Ledger, read_ledger
from finetui.data.split import Group, Split, SplitSpec, spec_of, split_datasets
from finetui.data.strict import JsonFault
from finetui.data.version_rows import (
    Order,
    Output,
    Part,
    Tally,
    file_hash,
    row_line,
    total,
    write_rows,
)
from finetui.errors import BROKEN, UserError

if TYPE_CHECKING:
    from finetui.workspace import Workspace

FORMAT = 2  # 1 had SHA-256 for the files and no ledger of the split
_ID_LENGTH = 12
_NOT_HASHED = ("id", "name", "created", "checks")
_NAME = re.compile(r"[^\w .-]+")


@dataclass(frozen=True)
class Version:
    """A written version: its folder holds the data files and ``manifest.json``."""

    id: str
    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest.get("name", ""))

    @property
    def created(self) -> str:
        """When it was written, as ISO 8601 with the zone."""
        return str(self.manifest.get("created", ""))

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each file, by its name without the suffix."""
        return {Path(out["file"]).stem: int(out["rows"]) for out in self.manifest["outputs"]}

    @property
    def files(self) -> list[Path]:
        return [self.path / str(output["file"]) for output in self.manifest["outputs"]]

    @property
    def spec(self) -> SplitSpec | None:
        """How it was split, if it was."""
        said = self.manifest.get("split")
        return spec_of(said) if said else None

    @property
    def ledger(self) -> Ledger:
        """Which row went to which split; raises UserError when it was not split."""
        return read_ledger(self.path)

    def file(self, name: str) -> Path:
        """``train``, ``validation``, ``test`` or ``data`` to its file."""
        return self.path / f"{name}.jsonl"


def write_version(
    datasets: DataSet | Sequence[DataSet],
    workspace: Workspace,
    name: str = "",
    spec: SplitSpec | None = None,
    skip_malformed: bool = False,
    alike: Iterable[Group] = (),
    earlier: Version | None = None,
    checks: Mapping[str, Any] | None = None,
) -> Version:
    """Write ``versions/<id>/`` with ``data.jsonl``, or one file a split, and a manifest.

    Dropped, quarantined and blank rows are left out, and counted. A malformed row is a UserError
    that names the first and how many there are, unless ``skip_malformed`` leaves them out as well.
    ``alike`` and ``earlier`` (the version to go on from) are for the split; ``checks`` is what was
    known of the rows, for the manifest (None: what the last scan of each source found).
    """
    sets = [datasets] if isinstance(datasets, DataSet) else list(datasets)
    if not sets:
        raise UserError("there is no data set to write a version of.")
    result = None
    if spec:
        result = split_datasets(sets, spec, alike, earlier.ledger if earlier else None)
    places = result.assignment if result else [None] * len(sets)
    parts = [Part(dataset, own) for dataset, own in zip(sets, places, strict=True)]
    return write_parts(parts, workspace, name, result, skip_malformed, checks=checks)


def write_parts(
    parts: Sequence[Part],
    workspace: Workspace,
    name: str = "",
    result: Split | None = None,
    skip_malformed: bool = False,
    *,
    facts: Mapping[str, Any] | None = None,
    order: Order | None = None,
    checks: Mapping[str, Any] | None = None,
) -> Version:
    """Write a version of rows that are already sorted out; see `write_version`.

    ``facts`` are further sections of the manifest, ``order`` that of the rows of the first file.
    """
    names = result.names if result else ("data",)
    with _new_folder(workspace.versions) as folder:
        with ExitStack() as stack:
            outputs = [stack.enter_context(Output(folder / f"{own}.jsonl")) for own in names]
            written = write_rows(parts, outputs, skip_malformed, order)
            entries = [output.entry() for output in outputs]
        manifest = _manifest(parts, workspace, written, entries)
        if result:
            manifest["split"] = _split_facts(result, folder)
        manifest |= dict(facts or {})
        manifest = {"id": version_id(manifest), "name": _NAME.sub("-", name)[:80]} | manifest
        manifest["created"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        known = checks_of([part.dataset for part in parts], workspace) if checks is None else checks
        if known:
            manifest["checks"] = dict(known)
        target = _publish(folder, workspace.versions / str(manifest["id"]), manifest)
    return read_version(target)


def checks_of(datasets: Sequence[DataSet], workspace: Workspace) -> dict[str, Any]:
    """What finished scans found in the sources, edits not counted: findings of each check."""
    from finetui.data.findings import open_findings

    known = {}
    for dataset in datasets:
        store = open_findings(dataset.source, workspace)
        if store is None:
            continue
        with store:
            if store.complete:
                known[workspace.relative(dataset.path.resolve())] = store.counts()
    return known


# ---------------------------------------------------------------- what there is


def read_version(path: Path) -> Version:
    """Open a written version's folder; raises UserError when it is none."""
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        version = Version(str(manifest["id"]), path, manifest)
        _refuse_odd(manifest)
    except (OSError, LookupError, TypeError, AttributeError, OverflowError, *BROKEN):
        raise UserError("is not a data set version.", str(path), "Write it again.") from None
    return version


def _refuse_odd(manifest: Mapping[str, Any]) -> None:
    """Raise LookupError, TypeError or ValueError where a version would not tell what it holds."""
    for output in manifest["outputs"]:
        int(output["rows"])
        if "/" in output["file"] or output["file"] in ("", ".", ".."):
            raise ValueError("a file of another folder")
    for source in manifest.get("sources") or ():
        source["path"].encode()
    if not isinstance(manifest.get("split") or {}, dict):
        raise TypeError("a split is a table")


def list_versions(workspace: Workspace) -> list[Version]:
    """All written versions, newest first."""
    files = list(workspace.versions.glob("*/manifest.json"))
    files.sort(key=lambda file: file.stat().st_mtime_ns, reverse=True)  # of the same second
    found = [read_version(file.parent) for file in files]
    return sorted(found, key=lambda version: version.created, reverse=True)


def find_version(workspace: Workspace, word: str) -> Version:
    """A version by its id, the beginning of it, its name (the newest of that name) or its folder.

    Raises UserError when there is none, or more than one begins so.
    """
    known = list_versions(workspace)
    folder = Path(word).resolve()
    found = [version for version in known if version.path.resolve() in (folder, folder.parent)]
    found = found or [version for version in known if word and version.id.startswith(word)]
    found = found or [version for version in known if word and version.name == word][:1]
    if len(found) == 1:
        return found[0]
    some = ", ".join(version.id for version in (found or known)[:5]) or "none yet"
    raise UserError(
        f"{len(found)} versions begin with {word!r}." if found else f"no version {word!r}.",
        str(workspace.versions),
        f"Versions: {some}",
    )


def rows_in_split(dataset: DataSet, workspace: Workspace, name: str) -> set[int]:
    """Rows that the newest split version of a data set put into one of its files.

    A row is told by its bytes as they are now; one edited since is in none. Raises UserError when
    there is no such version or no such split.
    """
    own = workspace.relative(dataset.path.resolve())
    split = [
        version
        for version in list_versions(workspace)
        if version.manifest.get("split")
        and own in {str(source["path"]) for source in version.manifest["sources"]}
    ]
    if not split:
        raise UserError("no version of this set is split.", own, "Split it first (s).")
    if name not in split[0].rows:
        known = ", ".join(split[0].rows)
        raise UserError(f"there is no split {name!r}.", split[0].id, f"Use one of: {known}.")
    lines = split[0].file(name).read_bytes().split(b"\n")
    written = {xxhash.xxh3_64_intdigest(line) for line in lines if line}
    return {
        row
        for row in range(dataset.rows)
        if xxhash.xxh3_64_intdigest(_line_of(dataset, row)) in written
    }


def _line_of(dataset: DataSet, row: int) -> bytes:
    """What a version would hold for a row; its bytes where that is nothing."""
    try:
        return row_line(dataset, dataset.source.raw(row), dataset.state(row).text)
    except JsonFault:
        return dataset.raw(row)


def version_of(path: Path) -> str:
    """The id of the version that a data file belongs to; ``""`` for a file of another kind."""
    try:
        version = read_version(path.resolve().parent)
    except UserError:
        return ""
    return version.id if path.name in {file.name for file in version.files} else ""


def verify_version(version: Version) -> list[str]:
    """The files that are not what the manifest says; [] when all is as written."""
    if version_id(version.manifest) != version.id:
        return [str(version.path / "manifest.json")]
    entries = list(version.manifest["outputs"])
    frozen = (version.manifest.get("split") or {}).get("frozen")
    wrong = []
    for entry in [*entries, frozen] if frozen else entries:
        path = version.path / entry["file"]
        kind = "blake3" if "blake3" in entry else "sha256"
        if not path.is_file() or file_hash(path, kind) != entry[kind]:
            wrong.append(str(path))
    return wrong


def version_id(manifest: Mapping[str, Any]) -> str:
    """The first 12 digits of the SHA-256 of the manifest without names and times."""
    kept = {key: value for key, value in manifest.items() if key not in _NOT_HASHED}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:_ID_LENGTH]


# ---------------------------------------------------------------- manifest and folder


def _manifest(
    parts: Sequence[Part],
    workspace: Workspace,
    written: Sequence[tuple[Tally, dict[str, str]]],
    outputs: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "sources": [
            _source_facts(part, workspace, tally, hashes)
            for part, (tally, hashes) in zip(parts, written, strict=True)
        ],
        "counts": total(tally for tally, _ in written),
        "outputs": outputs,
    }


def _source_facts(
    part: Part, workspace: Workspace, tally: Tally, hashes: Mapping[str, str]
) -> dict[str, Any]:
    dataset = part.dataset
    facts: dict[str, Any] = {
        "path": workspace.relative(dataset.path.resolve()),
        "bytes": dataset.source.size,
        "format": dataset.source.format,
        "shape": str(dataset.shape),
        "journal_head": dataset.journal.head if dataset.journal else 0,
    }
    if len(hashes) == 1:
        facts["blake3"] = next(iter(hashes.values()))
    else:
        facts["files"] = [
            {"path": workspace.relative(Path(path).resolve()), "blake3": digest}
            for path, digest in hashes.items()
        ]
    if dataset.unplaced:
        facts["unplaced_edits"] = len(dataset.unplaced)
    if part.column:
        facts["column"] = dict([part.column])
    return facts | tally.as_dict()


def _split_facts(result: Split, folder: Path) -> dict[str, Any]:
    """The split's section of the manifest; its ledger is written beside it."""
    from finetui.workspace import write_atomic

    write_atomic(folder / FROZEN, result.ledger.dumps())
    return result.spec.as_dict() | {
        "stratified_by": result.stratified_by,
        "groups": result.groups,
        "notes": result.notes,
        "frozen": {"file": FROZEN, "blake3": file_hash(folder / FROZEN)},
    }


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
