"""How likely a model finds given answers, and how far it is from another model on them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetui.data.tokens import Encoded
from finetui.engine.answer_cache import Likelihood
from finetui.engine.batches import Collator, Example, on_device, single
from finetui.engine.head import scored
from finetui.engine.kl import distance_to_start
from finetui.engine.losses import IGNORE, Batch, token_losses
from finetui.engine.machine import Machine

Distances = Callable[[Any, Batch], torch.Tensor]
"""(model, batch) -> KL(model || other) (N,) in nats where tokens are predicted."""

to_its_base: Distances = distance_to_start
"""The distance of an adapted model from the same model with its adapter switched off."""


@dataclass(frozen=True)
class Measure:
    """A model at work: ``distances`` says what it is compared with, None for nothing."""

    model: Any
    machine: Machine
    pad_id: int
    batch_size: int
    distances: Distances | None = None

    def of(self, rows: Sequence[Encoded]) -> Iterator[dict[int, Likelihood]]:
        """The likelihoods of whole chats by place, a batch at a time, shortest first.

        Rows of fewer than two tokens predict nothing and are left out.
        """
        order = sorted(
            (at for at, row in enumerate(rows) if len(row.ids) > 1),
            key=lambda at: (len(rows[at].ids), at),
        )
        self.model.eval()
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            yield dict(zip(batch, self._halving([rows[at] for at in batch]), strict=True))

    def _halving(self, rows: Sequence[Encoded]) -> list[Likelihood]:
        try:
            return self._batch(rows)
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(rows) // 2
        return [*self._halving(rows[:half]), *self._halving(rows[half:])]

    @torch.no_grad()
    def _batch(self, rows: Sequence[Encoded]) -> list[Likelihood]:
        tensors = Collator(self.pad_id).tensors(single(_all_tokens(row) for row in rows))
        batch = on_device(tensors, self.machine.device)
        with self.machine.autocast():
            losses = token_losses(self.model, batch)
            away = None if self.distances is None else self.distances(self.model, batch)
        sizes = [len(row.ids) - 1 for row in rows]
        nats = torch.split(losses.double().cpu(), sizes)
        nothing: list[torch.Tensor | None] = [None] * len(rows)
        apart = nothing if away is None else [*torch.split(away.double().cpu(), sizes)]
        return [_summed(*each) for each in zip(rows, nats, apart, strict=True)]


def distance_to(other: Any) -> Distances:
    """The distance from a second model with the same vocabulary, which is loaded beside."""

    def distances(model: Any, batch: Batch) -> torch.Tensor:
        start = scored(other, batch)

        def each(logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
            now = logits.float().log_softmax(-1)
            then = start.logits(hidden).float().log_softmax(-1)
            return (now.exp() * (now - then)).sum(-1)

        return scored(model, batch).each(each, start.hidden)

    return distances


def _all_tokens(row: Encoded) -> Example:
    """A row of which every token but the first is asked for."""
    ids = array("i", row.ids)
    labels = array("i", ids)
    labels[0] = IGNORE
    return Example(ids, labels, 0, 0)


def _summed(row: Encoded, nats: torch.Tensor, away: torch.Tensor | None) -> Likelihood:
    trained = torch.tensor(row.trained[1:])
    return Likelihood(
        nll=_number(nats[trained].sum()),
        nll_tokens=int(trained.sum()),
        nll_all=_number(nats.sum()),
        nll_all_tokens=len(nats),
        kl=None if away is None else _number(away.sum().clamp(min=0)),
        kl_tokens=0 if away is None else len(away),
    )


def _number(value: torch.Tensor) -> float | None:
    """A sum as JSON can hold it; None for no finite number."""
    number = float(value)
    return number if math.isfinite(number) else None
