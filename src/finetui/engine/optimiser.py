"""The optimiser of a recipe: AdamW as torch has it, or with states in 8 bits, or paged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from finetui.engine.libraries import require_bitsandbytes
from finetui.recipe.schema import Recipe, Training

_BETA1 = 0.9
_EPSILON = 1e-8


def build(model: Any, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over the trained parameters of ``model``.

    Matrices decay, vectors (norms, biases, DoRA's lengths) and embeddings do not. With LoRA+ the
    B matrices get a group of their own at ``lora_plus`` times the rate (Hayou et al., 2024).
    Raises UserError when the recipe needs bitsandbytes and it is not installed.
    """
    ratio = recipe.method.lora_plus if recipe.method.kind != "full" else 0.0
    groups = list(_groups(model, recipe.training, ratio))
    named = recipe.training.optimizer
    common: dict[str, Any] = {
        "lr": recipe.training.learning_rate,
        "betas": (_BETA1, recipe.training.beta2),
        "eps": _EPSILON,
    }
    if named == "adamw":
        return torch.optim.AdamW(groups, fused=True, **common)
    return _bitsandbytes(model, named, groups, common)


def _groups(model: Any, training: Training, ratio: float) -> Iterator[dict[str, Any]]:
    """Parameter groups, empty ones left out; their order is that of the model, so it resumes."""
    kept = _undecayed(model)
    parted: dict[tuple[bool, bool], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            faster = ratio > 0 and ("lora_B" in name or "lora_embedding_B" in name)
            decays = parameter.ndim >= 2 and id(parameter) not in kept
            parted.setdefault((faster, decays), []).append(parameter)
    for (faster, decays), parameters in sorted(parted.items()):
        yield {
            "params": parameters,
            "lr": training.learning_rate * (ratio if faster else 1.0),
            "weight_decay": training.weight_decay if decays else 0.0,
        }


def _undecayed(model: Any) -> set[int]:
    """Embeddings: a token that is rare in the data would only be pulled to zero."""
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }


def _bitsandbytes(
    model: Any, named: str, groups: list[dict[str, Any]], common: dict[str, Any]
) -> torch.optim.Optimizer:
    library = require_bitsandbytes("training.optimizer", "Choose adamw.")
    kinds = {
        "adamw_8bit": library.optim.AdamW8bit,
        "paged_adamw": library.optim.PagedAdamW,
        "paged_adamw_8bit": library.optim.PagedAdamW8bit,
    }
    optimiser: torch.optim.Optimizer = kinds[named](groups, **common)
    if named.endswith("8bit"):
        _embeddings_in_full(library, model)
    return optimiser


def _embeddings_in_full(library: Any, model: Any) -> None:
    """Keep the states of trained embeddings in 32 bits: their gradients are too uneven for 8."""
    manager = library.optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight.requires_grad:
            manager.register_module_override(module, "weight", {"optim_bits": 32})
