"""The workspace folder: find it, make it, name the paths in it, write files safely."""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetui import readonly
from finetui.errors import UserError

MARKER = "finetui.toml"
ALLOW_SHARED = "FINETUI_ALLOW_SHARED"
FOLDERS = ("datasets", "recipes", "jobs", "ratings", "versions", ".finetui")
DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
PACKED_SUFFIXES = (".gz", ".zst", ".xz", ".bz2")
_SAVED = ("dataset_info.json", "state.json")  # in a folder that `datasets` wrote
_HIDDEN_TRUTH = ".faults.json"  # what was planted in a sample set, for the tests
_MARKER_TEXT = """\
# This file marks a finetui workspace. Workspace settings go here.
# theme = "finetui-dark"
"""


@dataclass(frozen=True)
class Workspace:
    """One workspace on disk; every path in it has a name here."""

    root: Path

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def recipes(self) -> Path:
        return self.root / "recipes"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    @property
    def sweeps(self) -> Path:
        return self.root / "sweeps"

    @property
    def ratings(self) -> Path:
        return self.root / "ratings"

    @property
    def versions(self) -> Path:
        return self.root / "versions"

    @property
    def cache(self) -> Path:
        """Rebuildable files only: deleting it loses nothing. Elsewhere where it is read only."""
        return readonly.cache_of(self.root) or self.root / ".finetui"

    @property
    def readonly(self) -> bool:
        """Whether this process only looks at it (``--readonly``)."""
        return readonly.holds(self.root)

    def dataset_files(self) -> list[Path]:
        """The data sets the person brought, by name; packed ones and `datasets` folders too."""
        if not self.datasets.is_dir():
            return []
        return sorted(path for path in self.datasets.iterdir() if _is_data(path))

    def version_files(self) -> list[Path]:
        """The data files of the written versions, newest version first."""
        manifests = sorted(
            self.versions.glob("*/manifest.json"), key=os.path.getmtime, reverse=True
        )
        return [file for found in manifests for file in _files(found.parent, (".jsonl",))]

    def recipe_files(self) -> list[Path]:
        return _files(self.recipes, (".toml",))

    def relative(self, path: Path) -> str:
        """``path`` as a person of this workspace would name it."""
        try:
            return str(path.resolve().relative_to(self.root.resolve()))
        except ValueError:
            return str(path)

    def resolve(self, name: str | Path) -> Path:
        """A typed path: absolute as it is, otherwise from the workspace."""
        path = Path(name).expanduser()
        return path if path.is_absolute() else self.root / path


def _is_data(path: Path) -> bool:
    if path.is_dir():
        return any((path / name).is_file() for name in _SAVED)
    name = Path(path.stem) if path.suffix in PACKED_SUFFIXES else path
    return name.suffix in DATA_SUFFIXES and not name.name.endswith(_HIDDEN_TRUTH)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())


def find(start: Path) -> Workspace | None:
    """The workspace that holds ``start``, looking upwards; None where there is none."""
    here = start.resolve()
    for folder in (here, *here.parents):
        if (folder / MARKER).is_file():
            return Workspace(folder)
    return None


def require(start: Path) -> Workspace:
    """Like ``find``; raises UserError where there is no workspace."""
    found = find(start)
    if found is None:
        raise UserError(
            "no finetui workspace here.", str(start), "Make one with: finetui init " + str(start)
        )
    return found


def create(root: Path) -> Workspace:
    """Make the folders of a workspace (0700); what is there already stays as it is."""
    if root.exists() and not root.is_dir():
        raise UserError("is a file, not a folder.", str(root), "Choose another folder.")
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    workspace = Workspace(root.resolve())
    for name in FOLDERS:
        (workspace.root / name).mkdir(mode=0o700, exist_ok=True)
    if not (workspace.root / MARKER).exists():
        write_atomic(workspace.root / MARKER, _MARKER_TEXT)
    return workspace


def create_sample(root: Path) -> Workspace:
    """A workspace with the demo model, its data sets and a recipe; existing files are kept."""
    workspace = create(root)
    source = sample_data()
    for name in ("datasets", "recipes", "model", "suites"):
        target = workspace.root / name
        target.mkdir(mode=0o700, exist_ok=True)
        for file in sorted((source / name).iterdir()):
            if file.is_file() and not (target / file.name).exists():
                shutil.copyfile(file, target / file.name)
    return workspace


def refuse_unsafe(folder: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Raise UserError for a folder in which somebody else could choose what our jobs do.

    That is one that another account owns, or that others may write to (a group of one's own
    aside). FINETUI_ALLOW_SHARED=1 takes it at the person's word.
    """
    if environ.get(ALLOW_SHARED, "") not in ("", "0"):
        return
    state = folder.stat()
    way_out = f"or, if you trust everybody who may write there: {ALLOW_SHARED}=1"
    if state.st_uid != os.getuid():
        raise UserError(
            "belongs to another account, which could change what is run there in your name.",
            str(folder),
            f"Use a workspace of your own, {way_out}",
        )
    others = state.st_mode & stat.S_IWOTH
    if others or (state.st_mode & stat.S_IWGRP and not _own_group(state.st_gid)):
        raise UserError(
            f"may be written by {'everybody' if others else 'its group'}, who could change what is "
            "run there in your name.",
            str(folder),
            f"Make it yours alone: chmod go-w {shlex.quote(str(folder))}, {way_out}",
        )


def _own_group(number: int) -> bool:
    """Whether a group is the person's own and holds nobody else, as many systems make them."""
    try:
        me, group = pwd.getpwuid(os.getuid()), grp.getgrgid(number)
    except KeyError:
        return False
    mine = number == me.pw_gid and group.gr_name == me.pw_name
    return mine and not set(group.gr_mem) - {me.pw_name}


def _shipped(name: str) -> Path:
    """A folder shipped with the package: inside it in a wheel, beside ``src`` in a clone."""
    package = Path(__file__).parent
    for folder in (package / name, package.parent.parent / name):
        if folder.is_dir():
            return folder
    raise UserError(f"the folder {name!r} is missing from this installation.", fix="Reinstall.")


def sample_data() -> Path:
    return _shipped("sample_data")


def themes_dir() -> Path:
    return _shipped("themes")


def write_atomic(path: Path, content: bytes | str, mode: int = 0o600) -> None:
    """Write a whole file: temporary name, fsync, rename, fsync of the folder.

    A reader sees the old file or the new one, never half of one, also after a power cut.
    """
    with new_file(path, mode) as descriptor:
        view = memoryview(content.encode() if isinstance(content, str) else content)
        while view:
            view = view[os.write(descriptor, view) :]


@contextmanager
def new_file(path: Path, mode: int = 0o600) -> Iterator[int]:
    """Yield a descriptor of a temporary file that becomes ``path`` when the block succeeds."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        try:
            os.fchmod(descriptor, mode)
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
