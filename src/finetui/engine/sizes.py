"""How many bytes a save will take, from what is in memory."""

from __future__ import annotations

from typing import Any

import torch

from finetui.engine.adapters import is_adapter


def weights_bytes(model: Any, dtype: torch.dtype | None = None) -> int:
    """Bytes of the weights that are saved: an adapter's own, or the whole model's in ``dtype``."""
    if is_adapter(model):
        found = [one for one in model.parameters() if one.requires_grad]
    else:
        found = list(model.parameters())
    width = dtype.itemsize if dtype is not None else 0
    return sum(one.numel() * (width or one.element_size()) for one in found)


def checkpoint_bytes(model: Any, optimizer: Any) -> int:
    """Bytes of a checkpoint: the weights and the optimiser's states."""
    return weights_bytes(model) + sum(
        value.numel() * value.element_size()
        for states in getattr(optimizer, "state", {}).values()
        if isinstance(states, dict)
        for value in states.values()
        if isinstance(value, torch.Tensor)
    )
