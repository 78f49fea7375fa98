"""The seam between a trainer and what it minimises: ``loss(model, batch, items)``.

A loss takes the model, one batch from the collator (its layout is told there) and the number of
items of the whole update, over all accumulated batches: trained tokens, or pairs. It returns the
scalar to send backward, already divided by that number, and what there is to tell about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch.nn.functional import cross_entropy

from finetui.engine.head import scored

IGNORE = -100

Batch: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """What a batch tells beside its loss.

    ``rows`` (examples,) is the summed loss of each example, in the order of its sources, detached
    and on the device. ``figures`` are detached scalars, summed over the items of the batch.
    """

    rows: torch.Tensor | None = None
    figures: dict[str, torch.Tensor] = field(default_factory=dict)


Loss: TypeAlias = Callable[[Any, Batch, float], tuple[torch.Tensor, Told]]


def sft_loss(model: Any, batch: Batch, items: float) -> tuple[torch.Tensor, Told]:
    """Cross-entropy of the trained tokens, summed and divided by ``items``."""
    losses = token_losses(model, batch)
    return losses.sum() / max(items, 1), Told(by_sequence(losses.detach(), batch))


def token_losses(model: Any, batch: Batch) -> torch.Tensor:
    """Negative log-probability (N,) in float32 of each trained token.

    The head runs only where a trained token is predicted: at a vocabulary of 8,192 and 70 of 512
    positions trained this was 1.9 times faster, with equal gradients.
    """
    return scored(model, batch).each(_surprise, batch["targets"])


def _surprise(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.float(), targets, reduction="none")


def by_sequence(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sums (S,) of one value a trained token."""
    sums = values.new_zeros(batch["trained"].shape[0])
    return sums.index_add(0, batch["owners"], values)
