"""Usual learning rates by method, objective and size of the model."""

from __future__ import annotations

import math
from typing import NamedTuple

_SMALL, _LARGE = 50e6, 1e9  # parameters
_SMALL_MODEL_GAIN = 50 / 3  # how much more a small model takes: 5e-3 against 3e-4

# (low, high) for models of 1 B parameters and more; LoRA takes about ten times the rate of full
# tuning (LoRA Without Regret). Full DPO and KTO: 5e-7 to 5e-6 (their papers and TRL's default of
# 1e-6); ORPO: its paper's 8e-6, as it starts from a model that was not tuned before.
_FULL = {
    "sft": (1e-5, 5e-5),
    "pretrain": (1e-5, 1e-4),
    "dpo": (5e-7, 5e-6),
    "kto": (5e-7, 5e-6),
    "orpo": (5e-6, 2e-5),
}
_ADAPTER = {
    "sft": (1e-4, 3e-4),
    "pretrain": (5e-5, 3e-4),
    "dpo": (5e-6, 5e-5),
    "kto": (5e-6, 5e-5),
    "orpo": (1e-5, 1e-4),
}


class Rates(NamedTuple):
    """Usual learning rates: from ``low`` to ``high``, and one to begin with."""

    low: float
    high: float
    start: float


def usual_rates(kind: str, objective: str, parameters: int | None) -> Rates:
    """The usual rates of a method and an objective, wider for small models.

    The guides' figures hold from 1 B parameters on. The demo model (3.45 M) learns best at 4e-3
    and breaks at 1e-2, so the upper end grows, on a straight line of logarithms, to 5e-3 (LoRA,
    sft) at 50 M and stays there. ``start`` lies two thirds of the way up, in logarithms.
    """
    table = _FULL if kind == "full" else _ADAPTER
    low, high = table.get(objective, table["sft"])
    gain = _SMALL_MODEL_GAIN ** _smallness(parameters)
    high *= gain
    return Rates(low, high, _one_digit(low * (high / low) ** (2 / 3)))


def _smallness(parameters: int | None) -> float:
    """0 from 1 B parameters on, 1 up to 50 M."""
    if parameters is None or parameters >= _LARGE:
        return 0.0
    return min(1.0, math.log(_LARGE / parameters) / math.log(_LARGE / _SMALL))


def _one_digit(value: float) -> float:
    return float(f"{value:.0e}")
