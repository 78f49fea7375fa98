"""The learning rate over a run, as the recipe and the forecast have it, open to change midway."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from finetui.recipe.forecast import learning_rate_at
from finetui.recipe.schema import Recipe


class Schedule(LRScheduler):
    """Each group's rate follows the recipe's curve; the ratio between groups (LoRA+) stays.

    ``end_at`` moves the end: what is left of the curve is stretched or shortened, without a jump,
    so that the run still settles at its end. All of it is saved with a checkpoint.
    """

    def __init__(self, optimizer: Optimizer, recipe: Recipe, total: int) -> None:
        self._recipe = recipe
        self.total = self.end = total
        self.turn, self.place = 0, 0.0
        self.peak = recipe.training.learning_rate
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        share = self._share(self.last_epoch)
        return [float(base) * share for base in self.base_lrs]

    def set_peak(self, peak: float) -> None:
        """Scale the whole curve from the next update on, ``peak`` being its highest rate."""
        factor = peak / self.peak
        self.peak = peak
        self.base_lrs = [base * factor for base in self.base_lrs]
        self._apply()

    def end_at(self, step: int) -> None:
        """Let the curve reach its end at ``step``, which is ahead of the current one."""
        self.place = self._place(self.last_epoch)
        self.turn, self.end = self.last_epoch, step

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "_recipe"}

    def _share(self, step: int) -> float:
        """The rate at a step as a share of its peak."""
        at = learning_rate_at(self._recipe, self._place(step), self.total)
        return at / self._recipe.training.learning_rate

    def _place(self, step: int) -> float:
        """Where in the planned curve a step is."""
        left = (self.total - self.place) / max(1, self.end - self.turn)
        return self.place + (step - self.turn) * left

    def _apply(self) -> None:
        rates = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates
