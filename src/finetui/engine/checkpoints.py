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

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from finetui.data.tokens import ChatTokenizer
from finetui.engine.adapters import is_adapter, save_adapter_files, trained_weights
from finetui.engine.machine import Machine
from finetui.engine.model import write_tokenizer
from finetui.jobs.folder import Job
from finetui.workspace import sync_folder, write_atomic

MANIFEST = "MANIFEST.json"
PARTIAL = ".partial"
WEIGHTS = "weights.safetensors"


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


def best_result(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The kept weights with the lowest eval loss, and their manifest."""
    found = [
        (path, manifest)
        for path in folder.glob("best-*")
        if (manifest := manifest_of(path)) is not None
    ]
    return min(found, key=lambda one: one[1]["eval_loss"], default=None)


def keep_best(model: Any, folder: Path, step: int, eval_loss: float) -> None:
    """Save the trained weights as the best ones so far, then drop the ones before."""
    older = list(folder.glob("best-*"))
    draft = draft_folder(folder)
    if is_adapter(model):
        save_adapter_files(model, draft)
    else:
        save_file(trained_weights(model), draft / WEIGHTS)
    publish(draft, folder / f"best-{step}", step=step, eval_loss=eval_loss)
    for path in older:
        if path.name != f"best-{step}":
            shutil.rmtree(path, ignore_errors=True)


def load_best(model: Any, path: Path) -> None:
    """Put kept weights into the model."""
    if is_adapter(model):
        from peft.utils import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(path), device="cpu"))
        return
    parameters = dict(model.named_parameters())
    with torch.no_grad(), safe_open(path / WEIGHTS, "pt") as file:
        for name in file.keys():  # noqa: SIM118  (no mapping)
            parameters[name].copy_(file.get_tensor(name))


def save_result(
    model: Any, job: Job, card: str, tokenizer: ChatTokenizer, machine: Machine
) -> Path:
    """Write what a run leaves, all or nothing: adapter/, or model/ after full tuning.

    Safetensors with their configuration, the tokenizer with the template that was trained on, and
    a card. Full weights, fp32 while they are trained, are written in the machine's format.
    """
    target = job.adapter if is_adapter(model) else job.model
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    if is_adapter(model):
        save_adapter_files(model, draft, plain=True)
    else:
        save_model_files(model, draft, machine.dtype)
    write_tokenizer(tokenizer, draft)
    (draft / "README.md").write_text(card, encoding="utf-8")
    replace_folder(draft, target)
    return target


def save_model_files(model: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a whole model as transformers reads it, its floating weights in ``dtype``.

    Tied weights are written once. The model in memory stays as it is.
    """
    weights = {
        name: value.to("cpu", dtype if value.is_floating_point() else value.dtype)
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(str(folder), state_dict=_tied_again(model, weights))
    _say_format(folder / "config.json", dtype)


def _say_format(file: Path, dtype: torch.dtype) -> None:
    """Name the format of the files: transformers names that of the model in memory."""
    config = json.loads(file.read_text(encoding="utf-8"))
    for table in (config, *(value for value in config.values() if isinstance(value, dict))):
        if "dtype" in table:
            table["dtype"] = str(dtype).removeprefix("torch.")
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _tied_again(model: Any, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names that shared memory before the conversion share it after, so they are saved once."""
    first: dict[int, str] = {}
    for name, value in model.state_dict().items():
        weights[name] = weights[first.setdefault(value.data_ptr(), name)]
    return weights


def replace_folder(draft: Path, target: Path) -> None:
    """Sync a folder's files and move it to its place; what was there goes."""
    for path in draft.rglob("*"):
        if path.is_file():
            _sync(path)
    sync_folder(draft)
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    sync_folder(target.parent)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
