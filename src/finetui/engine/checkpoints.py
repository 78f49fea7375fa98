"""Checkpoints that exist wholly or not at all.

A checkpoint counts once its MANIFEST.json is there: it is written last, after every other file
was synced, and lists them with their sizes. What lacks one is the rest of a broken save.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from finetui.workspace import sync_folder, write_atomic

MANIFEST = "MANIFEST.json"
PARTIAL = ".partial"


def publish(draft: Path, target: Path, **facts: Any) -> None:
    """Sync ``draft``, move it to ``target`` and make it valid; an unfinished target is replaced."""
    sizes = {}
    for path in sorted(draft.rglob("*")):
        if path.is_file():
            _sync(path)
            sizes[str(path.relative_to(draft))] = path.stat().st_size
        else:
            sync_folder(path)
    sync_folder(draft)
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    sync_folder(target.parent)
    manifest = {"t": round(time.time(), 3), **facts, "files": sizes}
    write_atomic(target / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of a valid checkpoint; None when it is broken or was never finished."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        sizes = manifest["files"]
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if whole else None


def valid_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of the valid checkpoints to resume from, oldest step first."""
    found = []
    for path in folder.glob("step-*"):
        number = path.name.removeprefix("step-")
        if number.isdigit() and manifest_of(path) is not None:
            found.append((int(number), path))
    return sorted(found)


def rotate(folder: Path, keep: int) -> None:
    """Remove the oldest valid checkpoints; at least two stay, so a broken newest one is no loss."""
    for _, path in valid_checkpoints(folder)[: -max(2, keep)]:
        # Without its manifest it is gone for every reader before its files are.
        (path / MANIFEST).unlink()
        shutil.rmtree(path, ignore_errors=True)


def draft_folder(folder: Path) -> Path:
    """An empty folder to save into before publishing; rests of a broken save are removed."""
    draft = folder / PARTIAL
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    return draft


def best_adapter(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The kept adapter with the lowest eval loss, and its manifest."""
    found = [
        (path, manifest)
        for path in folder.glob("best-*")
        if (manifest := manifest_of(path)) is not None
    ]
    return min(found, key=lambda one: one[1]["eval_loss"], default=None)


def keep_best(model: Any, folder: Path, step: int, eval_loss: float) -> None:
    """Save the adapter as the best one so far, then drop the one before."""
    older = list(folder.glob("best-*"))
    draft = draft_folder(folder)
    save_adapter_files(model, draft)
    publish(draft, folder / f"best-{step}", step=step, eval_loss=eval_loss)
    for path in older:
        if path.name != f"best-{step}":
            shutil.rmtree(path, ignore_errors=True)


def load_best(model: Any, path: Path) -> None:
    """Put a kept adapter's weights into the model."""
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    weights = load_peft_weights(str(path), device="cpu")
    set_peft_model_state_dict(model, weights)


def save_adapter(model: Any, target: Path, card: str) -> None:
    """Write the adapter folder: safetensors, its configuration and a short card. All or nothing."""
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    save_adapter_files(model, draft)
    (draft / "README.md").write_text(card, encoding="utf-8")
    for path in draft.iterdir():
        _sync(path)
    sync_folder(draft)
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    sync_folder(target.parent)


def save_adapter_files(model: Any, folder: Path) -> None:
    # With "auto", peft asks the hub whether the vocabulary has grown; ours never does.
    model.save_pretrained(str(folder), save_embedding_layers=False)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
