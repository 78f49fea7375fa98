"""The weights that a run keeps or leaves: the best so far, and the result.

Checkpoints to go on from are published and found by `jobs.checkpoints`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from finetui.data.tokens import ChatTokenizer
from finetui.engine.adapters import is_adapter, save_adapter_files, trained_weights
from finetui.engine.machine import Machine
from finetui.engine.model import write_tokenizer
from finetui.jobs.checkpoints import draft_folder, drop_old_best, publish
from finetui.jobs.folder import Job
from finetui.workspace import sync_folder

WEIGHTS = "weights.safetensors"


def keep_best(model: Any, folder: Path, step: int, eval_loss: float) -> None:
    """Save the trained weights as the best ones so far; older ones that nobody needs go."""
    draft = draft_folder(folder)
    if is_adapter(model):
        save_adapter_files(model, draft)
    else:
        save_file(trained_weights(model), draft / WEIGHTS)
    publish(draft, folder / f"best-{step}", step=step, eval_loss=eval_loss)
    drop_old_best(folder, step)


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
    try:
        if is_adapter(model):
            save_adapter_files(model, draft, plain=True)
        else:
            save_model_files(model, draft, machine.dtype)
        write_tokenizer(tokenizer, draft)
        (draft / "README.md").write_text(card, encoding="utf-8")
        replace_folder(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)  # on a full disk it keeps what others wait for
        raise
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
