"""Holding a model to its start on everyday rows: the distance to it as a term of the loss.

The start is the model with its adapter switched off, so no second model is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch

from finetui.engine.adapters import reference
from finetui.engine.batches import Collate, Collator, Row
from finetui.engine.head import alone, as_logits, scored, trains_head, untracked
from finetui.engine.losses import Batch, Loss, Told

# One general row for four of the task: a third more time a step.
_ROWS_PER_GENERAL = 4


@dataclass(frozen=True)
class WithGeneral:
    """A collator's batches, each with some of the ``general`` rows beside it.

    Which ones follows from ``seed`` and the rows of the batch, so a resumed run draws the same.
    """

    collate: Collate
    collator: Collator
    general: Sequence[Row]
    seed: int

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        batch = self.collate(rows)
        count = min(len(self.general), max(1, len(rows) // _ROWS_PER_GENERAL))
        drawn = Random(f"{self.seed} {batch['contents'].sources}").sample(self.general, count)
        return batch | {"general": self.collator.tensors(drawn)}


def with_kl(loss: Loss, items_of: Callable[[Batch], int], weight: float) -> Loss:
    """``loss`` plus ``weight`` times the mean distance from the start on the general rows.

    Over accumulated batches the means are weighted by their items. The figure is ``base_kl``, in
    nats a token.
    """

    def both(model: Any, batch: Batch, items: float) -> tuple[torch.Tensor, Told]:
        if "general" not in batch:
            return loss(model, batch, items)
        distances = distance_to_start(model, batch["general"])
        away = distances.sum() / max(len(distances), 1)
        total, told = loss(model, batch, items)
        own = items_of(batch)
        figures = {**told.figures, "base_kl": away.detach() * own}
        return total + weight * away * own / max(items, 1), replace(told, figures=figures)

    return both


def distance_to_start(model: Any, batch: Batch) -> torch.Tensor:
    """KL(model || start) (N,) in nats where trained tokens are predicted."""
    adapted, own = trains_head(model), alone(model)
    with untracked(), reference(own):
        start = scored(own, batch)
        if adapted:  # the head is another one outside of this block
            start = as_logits(start.logits(start.hidden))
    hidden = start.hidden.detach()

    def distances(logits: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        now = logits.float().log_softmax(-1)
        with untracked():
            then = start.logits(before).float().log_softmax(-1)
        return (now.exp() * (now - then)).sum(-1)

    return scored(model, batch).each(distances, hidden)
