"""Losses that learn from what people prefer: DPO and its kin, ORPO, KTO.

A batch holds sequences chosen, rejected, chosen, rejected, ...; KTO's holds one a row. One row is
one item. Log-probabilities are sums over an answer's tokens, in nats; ``reference`` has them under
the model before training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch.nn.functional import logsigmoid, relu

from finetui.engine.batches import Collate, Collator, Row, on_device
from finetui.engine.head import untracked
from finetui.engine.losses import Batch, Loss, Told, by_sequence, token_losses
from finetui.engine.machine import Machine
from finetui.recipe.schema import Preference

Tell: TypeAlias = Callable[[int, int], None]


def log_probabilities(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probability (S,) of the trained tokens of each sequence, summed."""
    return -by_sequence(token_losses(model, batch), batch)


def dpo_loss(settings: Preference) -> Loss:
    """Direct preference optimisation (Rafailov et al., 2023, eq. 7) and two of its variants.

    ``h`` is how much more than its start the model prefers the chosen answer. sigmoid:
    -log s(beta h), with a share of the labels doubted; hinge: max(0, 1 - beta h) (SLiC); ipo:
    (h - 1 / 2 beta)^2 with h a token (Azar et al., 2023, eq. 17, normalised as its authors do).
    """

    def loss(model: Any, batch: Batch, items: float) -> tuple[torch.Tensor, Told]:
        now = log_probabilities(model, batch)
        gains = now - batch["reference"]
        lengths = batch["trained"].clamp(min=1)
        scaled = gains / lengths if settings.loss == "ipo" else gains
        rows = _pair_losses(settings, scaled[0::2] - scaled[1::2])
        if settings.sft_weight:
            rows = rows - settings.sft_weight * now[0::2] / lengths[0::2]
        figures = _reward_figures(settings.beta * gains.detach(), now.detach())
        return rows.sum() / max(items, 1), Told(rows.detach(), figures)

    return loss


def orpo_loss(settings: Preference) -> Loss:
    """Odds ratio preference optimisation (Hong et al., 2024, eq. 6-7); needs no reference.

    The plain loss on the chosen answer (its mean over tokens) plus beta times the odds term, with
    p the geometric mean of an answer's token probabilities.
    """

    def loss(model: Any, batch: Batch, items: float) -> tuple[torch.Tensor, Told]:
        now = log_probabilities(model, batch)
        means = now / batch["trained"].clamp(min=1)
        odds = means - _log_one_minus_exp(means)
        rows = -means[0::2] - settings.beta * logsigmoid(odds[0::2] - odds[1::2])
        figures = _reward_figures(settings.beta * means.detach(), now.detach())
        return rows.sum() / max(items, 1), Told(rows.detach(), figures)

    return loss


def kto_loss(settings: Preference) -> Loss:
    """Kahneman-Tversky optimisation (Ethayarajh et al., 2024, eq. 7-8).

    The point of indifference is the distance from the start, estimated on prompts with the answer
    of another row; it is not trained.
    """

    def loss(model: Any, batch: Batch, items: float) -> tuple[torch.Tensor, Told]:
        with untracked():
            elsewhere = log_probabilities(model, batch["mismatched"])
            middle = (elsewhere - batch["mismatched"]["reference"]).mean().clamp(min=0)
        gains = log_probabilities(model, batch) - batch["reference"]
        side = batch["good"] * 2.0 - 1.0  # +1 for a good answer, -1 for a bad one
        weights = torch.where(batch["good"], settings.desirable_weight, settings.undesirable_weight)
        rows = weights * (1 - torch.sigmoid(settings.beta * side * (gains - middle)))
        ahead = (side * (gains.detach() - middle)).sum()
        figures = {
            "reward_margin": settings.beta * ahead,
            "reward_accuracy": (side * (gains.detach() - middle) > 0).float().sum(),
            "kl": middle * len(rows),
        }
        return rows.sum() / max(items, 1), Told(rows.detach(), figures)

    return loss


def _pair_losses(settings: Preference, margins: torch.Tensor) -> torch.Tensor:
    """Loss (pairs,) of the margins (pairs,) between chosen and rejected gains."""
    if settings.loss == "ipo":
        return (margins - 1 / (2 * max(settings.beta, 1e-6))) ** 2
    scaled = settings.beta * margins
    if settings.loss == "hinge":
        return relu(1 - scaled)
    doubt = settings.label_smoothing
    return -(1 - doubt) * logsigmoid(scaled) - doubt * logsigmoid(-scaled)


def _reward_figures(rewards: torch.Tensor, now: torch.Tensor) -> dict[str, torch.Tensor]:
    margins = rewards[0::2] - rewards[1::2]
    return {
        "reward_margin": margins.sum(),
        "reward_accuracy": (margins > 0).float().sum(),
        "chosen_logp": now[0::2].sum(),
        "rejected_logp": now[1::2].sum(),
    }


def _log_one_minus_exp(values: torch.Tensor) -> torch.Tensor:
    """log(1 - e^x) for x < 0 without cancellation (Maechler, 2012)."""
    values = values.clamp(max=-1e-7)
    near = torch.log(-torch.expm1(values.clamp(min=-0.6931)))
    far = torch.log1p(-torch.exp(values.clamp(max=-0.6931)))
    return torch.where(values > -0.6931, near, far)


# -- batches -------------------------------------------------------------------------------------


def pair_batches(collator: Collator) -> Collate:
    """Batches of pairs with their reference, if it has been measured."""

    def collate(rows: Sequence[Row]) -> dict[str, Any]:
        pairs = [item for row in rows for item in row]
        return collator(rows) | _references(pairs)

    return collate


def labelled_batches(collator: Collator) -> Collate:
    """Batches of labelled answers, with the mismatched ones as a batch inside the batch."""

    def collate(rows: Sequence[Row]) -> dict[str, Any]:
        answers: list[tuple[Any, ...]] = list(rows)
        items = [item for row in answers for item in row]
        other = collator.tensors([tuple(item.mismatched for item in row) for row in answers])
        found = _references(items)
        if found:
            both = found["reference"].view(-1, 2)
            found, other["reference"] = {"reference": both[:, 0]}, both[:, 1]
        good = torch.tensor([item.good for item in items])
        return collator(rows) | found | {"good": good, "mismatched": other}

    return collate


def _references(items: Sequence[Any]) -> dict[str, torch.Tensor]:
    known = [item.reference for item in items if item.reference is not None]
    if len(known) < len(items):
        return {}
    return {"reference": torch.tensor(known, dtype=torch.float32).flatten()}


# -- the model before training -------------------------------------------------------------------


@untracked()
def measured(
    model: Any,
    examples: Sequence[Any],
    collate: Collate,
    batch_size: int,
    machine: Machine,
    tell: Tell,
) -> list[Any]:
    """The same pairs or labelled answers with their reference, taken from the model as it is.

    Once before training is cheaper than at every step, needs no second model, and serves full
    tuning too. ``tell`` gets the number done and the number of all.
    """
    order = sorted(range(len(examples)), key=lambda index: -len(examples[index]))
    found: dict[int, tuple[float, float]] = {}
    was_training = model.training
    model.eval()
    for at in range(0, len(order), batch_size):
        places = order[at : at + batch_size]
        batch = collate([(examples[place],) for place in places])
        with machine.autocast():
            both = _both_sides(model, on_device(batch, machine.device))
        found.update(zip(places, map(tuple, both.tolist()), strict=True))
        tell(len(found), len(order))
    model.train(was_training)
    return [replace(item, reference=found[place]) for place, item in enumerate(examples)]


def _both_sides(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probabilities (rows, 2) of chosen and rejected, or of answer and mismatched."""
    if "mismatched" in batch:
        sides = [log_probabilities(model, part) for part in (batch, batch["mismatched"])]
        return torch.stack(sides, dim=1)
    return log_probabilities(model, batch).view(-1, 2)
