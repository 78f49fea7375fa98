"""How far one model's answers are from another's, over a fixed set of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import log_softmax

_POSITIONS = 16
# Above these a model answers noticeably unlike the other.
_MUCH_NATS, _LEAST_AGREEMENT = 0.05, 0.95


@dataclass(frozen=True)
class Drift:
    """How far the merged model is from the adapter on its base.

    ``kl_nats`` is the mean KL divergence a token, ``agreement`` the share of positions with the
    same likeliest token, ``largest`` and ``mean`` are differences of logits.
    """

    prompts: int
    positions: int
    largest: float
    mean: float
    kl_nats: float
    agreement: float

    @property
    def much(self) -> bool:
        return self.kl_nats > _MUCH_NATS or self.agreement < _LEAST_AGREEMENT

    @property
    def sentence(self) -> str:
        return (
            f"merged against adapter: KL {self.kl_nats:.2g} nats a token, same likeliest token at "
            f"{self.agreement:.1%} of {self.positions} positions, logits {self.mean:.2g} apart "
            f"(largest {self.largest:.2g})"
        )


@torch.no_grad()
def last_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Logits (positions, vocabulary) of the last positions of a prompt, fp32 on the host."""
    batch = torch.tensor([list(ids)], device=model.device)
    logits: torch.Tensor = model(input_ids=batch, use_cache=False).logits
    return logits[0, -_POSITIONS:].float().cpu()


def compare(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> Drift:
    """Drift of ``after`` from ``before``, one tensor (positions, vocabulary) a prompt."""
    left, right = torch.cat(list(before)), torch.cat(list(after))
    difference = (left - right).abs()
    known, new = log_softmax(left, -1), log_softmax(right, -1)
    return Drift(
        prompts=len(before),
        positions=len(left),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        kl_nats=max(0.0, float((known.exp() * (known - new)).sum(-1).mean())),
        agreement=float((left.argmax(-1) == right.argmax(-1)).float().mean()),
    )
