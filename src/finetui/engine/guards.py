"""What is watched for while a run trains: small state machines over plain numbers.

Each guard takes in what a step or an evaluation measured and gives a Sight when there is something
to say. What is done about it (skip the update, lower the rate, stop and keep the best) is the
recipe's choice; the trainer does it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from finetui.recipe.schema import Recipe

# A skipped update costs one batch; this many in a row are no accident any more.
PATIENCE = 20
_WARM = 20
_SETTLED = 5
_RECENT = 64
# The standard deviation of normal noise is 1.4826 times its median absolute deviation.
_TO_SIGMA = 1.4826
# Losses closer together than this (nats) or than this share of their middle are taken as noise.
_LEAST_SIGMA, _LEAST_SHARE = 0.01, 0.02
_TINY = 1e-6  # a loss of 0 has no ratio
_SKEW = 1.5  # fewer deviations are enough for the ratio, which steep learning widens
_DIVERGED_SHARE, _DIVERGED_LEAST = 0.3, 0.1
_RISES = 3
_PARTS, _SHORTEST_PART, _SAME = 30, 5, 0.005
# What each guard remembers; everything else follows from the recipe and the length of the run.
_REMEMBERED = {
    "nonfinite": ("streak",),
    "zero": ("told",),
    "spike": ("above", "recent"),
    "divergence": ("seen", "best", "high"),
    "overfitting": ("total", "steps", "looks"),
    "plateau": ("total", "steps", "parts", "told"),
}


@dataclass(frozen=True)
class Sight:
    """What a guard saw, the action that the recipe wants, and the number it judged by."""

    guard: str
    action: str
    text: str
    value: float | None = None


@dataclass
class NonFinite:
    """A loss or gradient that is no number. The update is never made; `skip` goes on.

    With fp16 the loss scaler skips single updates whose gradient overflows: that is by design,
    and only PATIENCE of them in a row are told.
    """

    action: str = "stop"
    fp16: bool = False
    streak: int = 0

    def judge(self, step: int, loss: float, norm: float) -> Sight | None:
        if math.isfinite(loss) and math.isfinite(norm):
            self.streak = 0
            return None
        self.streak += 1
        what = "the gradient" if math.isfinite(loss) else "the loss"
        by_design = self.fp16 and math.isfinite(loss)
        if by_design and self.streak < PATIENCE:
            return None
        skip = self.action == "skip" and self.streak < PATIENCE
        text = f"{what} is not a number at step {step}; the update was not made"
        if self.streak > 1:
            text += f" ({self.streak} in a row)"
        return Sight("nonfinite", "skip" if skip else "stop", text, norm if by_design else loss)


@dataclass
class Zero:
    """A loss of exactly 0, or an update in which nothing is trained. Told once a streak.

    ``may_be_zero``: the objective has a loss that reaches 0 when all is well (hinge).
    """

    action: str = "stop"
    may_be_zero: bool = False
    told: bool = False

    def judge(self, step: int, loss: float, items: float) -> Sight | None:
        if items and (loss != 0 or self.may_be_zero):
            self.told = False
            return None
        if self.told:
            return None
        self.told = self.action == "warn"
        if not items:
            return Sight("zero", self.action, f"nothing is trained on in step {step}", 0.0)
        text = f"the loss is exactly 0 at step {step}: the model learns nothing from it"
        return Sight("zero", self.action, text, 0.0)


@dataclass
class Spike:
    """A loss far above the last ones, by their median and its absolute deviation.

    Both are robust: the spikes themselves hardly move them. It must stand out as a number and as
    a ratio: losses near zero, and those of small batches, are skewed by far. A warning and a lower
    rate come once until the loss is down again, a skipped update each time.
    """

    action: str
    size: float
    above: bool = False
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def judge(self, step: int, loss: float) -> Sight | None:
        if self.action == "off" or not math.isfinite(loss):
            return None
        sight = self._compare(step, loss) if len(self.recent) >= _WARM else None
        self.recent.append(loss)
        return sight

    def _compare(self, step: int, loss: float) -> Sight | None:
        middle = median(self.recent)
        ratios = [math.log(max(one, _TINY)) for one in self.recent]
        as_number = _height(loss, self.recent, max(_LEAST_SIGMA, _LEAST_SHARE * abs(middle)))
        as_ratio = _height(math.log(max(loss, _TINY)), ratios, _LEAST_SHARE)
        height = min(as_number, _SKEW * as_ratio)
        was_above, self.above = self.above, height > self.size
        if not self.above or (was_above and self.action != "skip"):
            return None
        text = (
            f"loss {loss:.4g} at step {step} is {height:.0f} deviations above the last "
            f"{len(self.recent)} steps (middle {middle:.4g})"
        )
        return Sight("spike", self.action, text, loss)


def _height(value: float, others: Collection[float], least: float) -> float:
    """How many robust standard deviations, at least ``least``, a value is above the others."""
    middle = median(others)
    spread = _TO_SIGMA * median(abs(one - middle) for one in others)
    return (value - middle) / max(spread, least)


@dataclass
class Smooth:
    """An exponential mean of the loss without a start at zero."""

    weight: float = 0.02
    total: float = 0.0
    share: float = 0.0

    def add(self, loss: float) -> float:
        self.total += self.weight * (loss - self.total)
        self.share += self.weight * (1 - self.share)
        return self.total / self.share


@dataclass
class Divergence:
    """Smoothed loss well above its best for many steps in a row. Told once until it is back."""

    action: str
    patience: int
    smooth: Smooth = field(default_factory=Smooth)
    seen: int = 0
    best: float = math.inf
    high: int = 0

    def judge(self, step: int, loss: float) -> Sight | None:
        if self.action == "off" or not math.isfinite(loss):
            return None
        self.seen += 1
        now = self.smooth.add(loss)
        if self.seen < _SETTLED:
            return None
        self.best = min(self.best, now)
        limit = self.best + max(_DIVERGED_SHARE * abs(self.best), _DIVERGED_LEAST)
        self.high = self.high + 1 if now > limit else 0
        if self.high != self.patience:
            return None
        text = (
            f"the smoothed loss has been well above its best for {self.high} steps: "
            f"{now:.4g} at step {step}, best {self.best:.4g}; the rate is likely too high"
        )
        return Sight("divergence", self.action, text, now)


def divergence_over(action: str, total_steps: int) -> Divergence:
    """The guard for a run of so many steps: a short run is smoothed and waited for less."""
    weight = min(0.1, max(0.02, 5 / max(total_steps, 1)))
    return Divergence(action, min(max(total_steps // 20, 10), 200), Smooth(weight))


@dataclass
class Overfitting:
    """Eval loss up three times running while the training loss between them goes down."""

    action: str
    total: float = 0.0
    steps: int = 0
    looks: list[tuple[float, float]] = field(default_factory=list)

    def add(self, loss: float) -> None:
        if math.isfinite(loss):
            self.total += loss
            self.steps += 1

    def judge(self, step: int, eval_loss: float) -> Sight | None:
        train = self.total / self.steps if self.steps else math.nan
        self.total, self.steps = 0.0, 0
        if self.action == "off":
            return None
        rising = bool(self.looks) and eval_loss > self.looks[-1][0]
        self.looks = [*(self.looks if rising else []), (eval_loss, train)]
        if len(self.looks) != _RISES + 1 or not train < self.looks[0][1]:
            return None
        (first, before), *_ = self.looks
        text = (
            f"eval loss rose {_RISES} times running to {eval_loss:.4g} at step {step} (from "
            f"{first:.4g}) while the training loss fell from {before:.4g} to {train:.4g}: "
            "rows are being learned by heart"
        )
        return Sight("overfitting", self.action, text, eval_loss)


@dataclass
class Plateau:
    """No lower mean loss for a third of the run, in parts of a thirtieth each. Told once.

    Runs under 150 steps have parts too short to tell a plateau from noise.
    """

    action: str
    length: int
    total: float = 0.0
    steps: int = 0
    parts: list[float] = field(default_factory=list)
    told: bool = False

    def judge(self, step: int, loss: float) -> Sight | None:
        if self.action == "off" or self.told or self.length < _SHORTEST_PART:
            return None
        if math.isfinite(loss):
            self.total += loss
            self.steps += 1
        if self.steps < self.length:
            return None
        self.parts.append(self.total / self.steps)
        self.total, self.steps = 0.0, 0
        return self._compare(step)

    def _compare(self, step: int) -> Sight | None:
        newest, before = self.parts[-_PARTS // 3 :], self.parts[: -_PARTS // 3]
        if not before or min(newest) < min(before) - _SAME * abs(min(before)):
            return None
        self.told = True
        text = (
            f"no lower loss for the last {len(newest) * self.length} steps: {newest[-1]:.4g} at "
            f"step {step}, {min(before):.4g} before; the rest of the run may buy nothing"
        )
        return Sight("plateau", self.action, text, newest[-1])


class Guards:
    """All guards of one run."""

    def __init__(self, recipe: Recipe, total_steps: int, fp16: bool = False) -> None:
        settings = recipe.guards
        hinge = recipe.method.objective == "dpo" and recipe.preference.loss == "hinge"
        self.nonfinite = NonFinite(settings.nonfinite, fp16)
        self.zero = Zero(settings.zero, hinge)
        self.spike = Spike(settings.spike, settings.spike_size)
        self.divergence = divergence_over(settings.divergence, total_steps)
        self.overfitting = Overfitting(settings.overfitting)
        self.plateau = Plateau(settings.plateau, total_steps // _PARTS)

    def before_update(self, step: int, loss: float, norm: float, items: float) -> Sight | None:
        """The loss of one update and its gradient's norm, before the weights change."""
        return (
            self.nonfinite.judge(step, loss, norm)
            or self.zero.judge(step, loss, items)
            or self.spike.judge(step, loss)
        )

    def after_update(self, step: int, loss: float) -> Iterator[Sight]:
        """The same loss, for the guards that look at the long run."""
        self.overfitting.add(loss)
        for found in (self.divergence.judge(step, loss), self.plateau.judge(step, loss)):
            if found is not None:
                yield found

    def after_evaluation(self, step: int, eval_loss: float) -> Sight | None:
        """The held-out loss of an evaluation while training."""
        return self.overfitting.judge(step, eval_loss)

    def state(self) -> dict[str, Any]:
        """All that the guards remember, as plain values."""
        found: dict[str, Any] = {}
        for guard, names in _REMEMBERED.items():
            kept = {name: getattr(getattr(self, guard), name) for name in names}
            found[guard] = {
                name: list(value) if isinstance(value, deque) else value
                for name, value in kept.items()
            }
        smooth = self.divergence.smooth
        return found | {"smooth": {"total": smooth.total, "share": smooth.share}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what `state` told."""
        for guard, names in _REMEMBERED.items():
            for name in names:
                setattr(getattr(self, guard), name, state[guard][name])
        self.spike.recent = deque(state["spike"]["recent"], maxlen=_RECENT)
        self.overfitting.looks = [
            (first, second) for first, second in state["overfitting"]["looks"]
        ]
        self.divergence.smooth.total = state["smooth"]["total"]
        self.divergence.smooth.share = state["smooth"]["share"]
