"""The learning rate over a run, with an end that was moved or a peak that was changed midway."""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetui.recipe.forecast import learning_rate_at
from finetui.recipe.schema import Recipe

_POINTS = 200


@dataclass(frozen=True)
class Curve:
    """The recipe's curve over ``total`` planned steps, gone through from ``place`` (in planned
    steps) at step ``turn`` to its end at step ``end``; ``peak`` is its highest rate."""

    total: int
    end: int
    peak: float
    turn: int = 0
    place: float = 0.0

    @classmethod
    def of(cls, recipe: Recipe, total: int) -> Curve:
        """The curve as planned."""
        return cls(total, total, recipe.training.learning_rate)

    def place_of(self, step: int) -> float:
        """Where in the planned curve a step is."""
        left = (self.total - self.place) / max(1, self.end - self.turn)
        return self.place + (step - self.turn) * left

    def share(self, recipe: Recipe, step: int) -> float:
        """The rate of update ``step`` (0-based) as a share of the peak."""
        at = learning_rate_at(recipe, self.place_of(step), self.total)
        return at / recipe.training.learning_rate

    def rate(self, recipe: Recipe, step: int) -> float:
        """The rate of update ``step`` (0-based)."""
        return self.peak * self.share(recipe, step)

    def with_peak(self, peak: float) -> Curve:
        """The same curve with another highest rate."""
        return replace(self, peak=peak)

    def ending(self, step: int, end: int) -> Curve:
        """What is left after ``step`` updates, stretched or shortened to settle at ``end``."""
        return replace(self, place=self.place_of(step), turn=step, end=end)

    def points(self, recipe: Recipe, start: int) -> tuple[tuple[int, float], ...]:
        """(step, rate) of the steps after ``start``, counted from 1; at most 200, evenly spread."""
        last = self.end - 1
        if start > last:
            return ()
        count = min(_POINTS, last - start + 1)
        steps = [start + round(i * (last - start) / max(1, count - 1)) for i in range(count)]
        return tuple((step + 1, self.rate(recipe, step)) for step in steps)
