"""The checkpoints of a job, and what its later attempts go on with; no torch.

    checkpoints/step-N/MANIFEST.json   written last: a checkpoint counts once it is there
    checkpoints/best-N/MANIFEST.json   the trained weights with the lowest eval loss, likewise
    resume-a<N>.json                   what a person changed when attempt N was started

A manifest lists every file with its size and BLAKE3, and what a preview compares. Sizes are looked
at by everybody, digests by the attempt that goes on from the checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from finetui.errors import BROKEN, UserError
from finetui.jobs.folder import Job, read_json
from finetui.workspace import sync_folder, write_atomic

MANIFEST = "MANIFEST.json"
PARTIAL = ".partial"

_STEP, _BEST = "step-", "best-"
_EDGE = 1 << 16
_HUGE = 1 << 53


@dataclass(frozen=True)
class Checkpoint:
    """A valid checkpoint: its step, its folder, and what its manifest says."""

    step: int
    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def t(self) -> float:
        """Unix time of its publication."""
        return float(number(self.facts.get("t")))

    @property
    def attempt(self) -> int:
        """The attempt that saved it."""
        return int(number(self.facts.get("attempt")))


def number(value: Any, otherwise: float = 0) -> float:
    """A finite number of a manifest, ``otherwise`` for anything else."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value if plain and abs(value) < _HUGE else otherwise


def folder_of(job: Job) -> Path:
    """Where a job's checkpoints are."""
    return job.path / "checkpoints"


# -- reading -------------------------------------------------------------------------------------


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint whose files are all there; None when it is no whole one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        sizes = {name: _size(entry) for name, entry in manifest["files"].items()}
        whole = all(
            _is_inside(name) and (folder / name).stat().st_size == size
            for name, size in sizes.items()
        )
    except (OSError, *BROKEN, LookupError, TypeError, AttributeError, OverflowError):
        return None
    return manifest if whole and isinstance(manifest, dict) else None


def size_of(manifest: Mapping[str, Any]) -> int:
    """Bytes of a checkpoint."""
    return sum(_size(entry) for entry in manifest.get("files", {}).values())


def valid_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the valid checkpoints to resume from, oldest step first."""
    return [(found.step, found.path) for found in _found(folder)]


def newest(job: Job) -> Checkpoint | None:
    """The checkpoint that the next attempt goes on from, by sizes; None where there is none."""
    return max(_found(folder_of(job)), key=lambda found: found.step, default=None)


def best_result(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The kept weights with the lowest eval loss, the earlier of two alike, and their manifest."""
    found = [
        (path, manifest)
        for path in folder.glob(f"{_BEST}*")
        if (manifest := manifest_of(path)) is not None
    ]
    return min(found, key=_goodness, default=None)


def _goodness(found: tuple[Path, dict[str, Any]]) -> tuple[float, float]:
    _, manifest = found
    return number(manifest.get("eval_loss"), math.inf), number(manifest.get("step"))


def damage(found: Checkpoint) -> str:
    """What is wrong with the bytes of a checkpoint, "" for nothing. Reads all of it.

    Raises UserError where they cannot be read now: that tells nothing about them.
    """
    for name, entry in found.facts["files"].items():
        if not isinstance(entry, Mapping):
            continue  # written before manifests had digests
        try:
            digest = _digest(found.path / name)
        except FileNotFoundError:
            return f"{name} is gone"
        except OSError as error:
            raise UserError(
                f"the checkpoint cannot be read ({error.strerror}).", str(found.path / name),
                "Nothing was changed: resume again when it can.",
            ) from error  # fmt: skip
        if digest != entry.get("blake3"):
            return f"{name} is not what was saved"
    return ""


def weight_marks(*folders: str) -> dict[str, str]:
    """By folder, a mark of the weights in it: their names, sizes, and how they begin and end.

    Reads little of them, so it tells replaced weights, and no single number that was changed.
    """
    return {folder: mark for folder in folders if folder and (mark := _mark(Path(folder)))}


def _mark(folder: Path) -> str:
    from blake3 import blake3

    found, files = blake3(), sorted(folder.glob("*.safetensors"))
    try:
        for path in files:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                found.update(f"{path.name} {size} ".encode() + file.read(_EDGE))
                file.seek(max(0, size - _EDGE))
                found.update(file.read(_EDGE))
    except OSError:
        return ""
    digest: str = found.hexdigest(length=6)
    return digest if files else ""


def _found(folder: Path) -> list[Checkpoint]:
    found = []
    for path in folder.glob(f"{_STEP}*"):
        digits = path.name.removeprefix(_STEP)
        if digits.isdecimal() and (manifest := manifest_of(path)) is not None:
            found.append(Checkpoint(int(digits), path, manifest))
    return sorted(found, key=lambda one: one.step)


def _is_inside(name: str) -> bool:
    """Whether a name in a manifest is one of the checkpoint's own files."""
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts


def _size(entry: Any) -> int:
    return int(entry["size"]) if isinstance(entry, Mapping) else int(entry)


def _digest(path: Path) -> str:
    from blake3 import blake3

    found: str = blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
    return found


# -- saving --------------------------------------------------------------------------------------


def draft_folder(folder: Path) -> Path:
    """An empty folder to save into before publishing; rests of a broken save are removed."""
    draft = folder / PARTIAL
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def publish(draft: Path, target: Path, **facts: Any) -> None:
    """Sync ``draft``, move it to ``target`` and make it valid; what was there goes.

    The manifest comes last, so whatever ends this leaves a valid checkpoint or the rest of a save.
    """
    files = {}
    for path in sorted(draft.rglob("*")):
        if path.is_file():
            _sync(path)
            entry = {"size": path.stat().st_size, "blake3": _digest(path)}
            files[str(path.relative_to(draft))] = entry
        else:
            sync_folder(path)
    sync_folder(draft)
    discard(target)
    draft.rename(target)
    sync_folder(target.parent)
    manifest = {"t": round(time.time(), 3), **facts, "files": files}
    write_atomic(target / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def discard(path: Path) -> None:
    """Remove a checkpoint; without its manifest it is gone for readers before its files are."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def rotate(folder: Path, keep: int) -> None:
    """Remove the oldest valid checkpoints; at least two stay, so a broken newest one is no loss."""
    for _, path in valid_checkpoints(folder)[: -max(2, keep)]:
        discard(path)


def drop_old_best(folder: Path, best: int) -> None:
    """Remove kept weights, except the best ones and those that were the best at a checkpoint: a
    run that goes on from there still needs them."""
    needed = {best, *(found.facts.get("best") for found in _found(folder))}
    for path in folder.glob(f"{_BEST}*"):
        digits = path.name.removeprefix(_BEST)
        if not (digits.isdecimal() and int(digits) in needed):
            discard(path)


def remove_rests(folder: Path) -> list[str]:
    """Remove what broken saves left, for a worker that has just begun; returns the names."""
    names = []
    for path in [folder / PARTIAL, *folder.glob(f"{_STEP}*"), *folder.glob(f"{_BEST}*")]:
        if path.is_dir() and manifest_of(path) is None:
            if any(path.iterdir()):  # a draft is left empty by every save that went well
                names.append(path.name)
            shutil.rmtree(path, ignore_errors=True)
    return sorted(names)


def go_back_to(folder: Path, step: int) -> None:
    """Remove what was saved past ``step``: those steps are made again."""
    for kind in (_STEP, _BEST):
        for path in folder.glob(f"{kind}*"):
            digits = path.name.removeprefix(kind)
            if digits.isdecimal() and int(digits) > step:
                discard(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


# -- what later attempts were given --------------------------------------------------------------


def resume_path(job: Job, attempt: int) -> Path:
    """The file with what a person changed when they resumed a job."""
    return job.path / f"resume-a{attempt}.json"


def resume_notes(job: Job, attempt: int | None = None) -> list[dict[str, Any]]:
    """What was changed up to an attempt (default: all), oldest first.

    Each is {attempt, t, changes: {field id: text}, recipe: {table: {key: value}}, accepted: [text],
    data: {file: SHA-256}, edits: {file: number}}; the last two only where they were looked at.
    """
    found = []
    for path in job.path.glob("resume-a*.json"):
        digits = path.stem.removeprefix("resume-a")
        if digits.isdecimal() and (attempt is None or int(digits) <= attempt):
            found.append((int(digits), read_json(path) or {}))
    return [note for _, note in sorted(found, key=lambda one: one[0])]


def spec_of_attempt(job: Job, attempt: int | None = None) -> dict[str, Any]:
    """The job's spec with the recipe as changed up to an attempt (default: the newest changes).

    spec.toml itself never changes. Raises UserError when it cannot be read.
    """
    spec = job.spec()
    recipe = {name: _copy(value) for name, value in (spec.get("recipe") or {}).items()}
    for note in resume_notes(job, attempt):
        for name, value in _table(note.get("recipe")).items():
            if isinstance(value, Mapping):
                recipe[name] = {**_table(recipe.get(name)), **value}
            else:
                recipe[name] = value
    return {**spec, "recipe": recipe} if recipe else spec


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _table(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
