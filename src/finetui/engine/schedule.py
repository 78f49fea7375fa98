"""The learning rate over a run, as the recipe and the forecast have it, open to change midway."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from finetui.recipe.curve import Curve
from finetui.recipe.schema import Recipe


class Schedule(LRScheduler):
    """Each group's rate follows the recipe's curve; the ratio between groups (LoRA+) stays.

    ``end_at`` moves the end: what is left of the curve is stretched or shortened, without a jump,
    so that the run still settles at its end. All of it is saved with a checkpoint.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, total: int) -> None:
        self._recipe = recipe
        self.curve = Curve.of(recipe, total)
        super().__init__(optimizer)

    @property
    def peak(self) -> float:
        """The highest rate of the curve."""
        return self.curve.peak

    def get_lr(self) -> list[float | Tensor]:
        share = self.curve.share(self._recipe, self.last_epoch)
        return [float(base) * share for base in self.base_lrs]

    def set_peak(self, peak: float) -> None:
        """Scale the whole curve from the next update on, ``peak`` being its highest rate."""
        factor = peak / self.peak
        self.curve = self.curve.with_peak(peak)
        self.base_lrs = [base * factor for base in self.base_lrs]
        self.apply()

    def follow(self, curve: Curve) -> None:
        """Go on with another curve from the next update on."""
        self.set_peak(curve.peak)
        self.curve = curve
        self.apply()

    def end_at(self, step: int) -> None:
        """Let the curve reach its end at ``step``, which is ahead of the current one."""
        self.curve = self.curve.ending(self.last_epoch, step)

    def state_dict(self) -> dict[str, Any]:
        kept = {name: value for name, value in super().state_dict().items() if name != "_recipe"}
        return kept | {"curve": asdict(self.curve)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"curve": Curve(**state_dict["curve"])})

    def apply(self) -> None:
        """Give the optimiser the rates of the next update."""
        rates = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates
