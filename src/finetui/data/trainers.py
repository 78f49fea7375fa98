"""What becomes of a row in other trainers: trained on, cut, dropped without a word, or a stop.

Read from their sources: LLaMA-Factory (data/converter.py, data/processor/supervised.py), Axolotl
(utils/data/utils.py, utils/trainer.py) and TRL 1.16 (trainer/sft_trainer.py). All three load JSON
through `datasets`, which stops at the first line that is not JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from finetui.data.records import Record, Shape

Kind = Literal["trained", "cut", "dropped", "stops"]


@dataclass(frozen=True, slots=True)
class Fate:
    """What a trainer does with a row, and why in one sentence."""

    kind: Kind
    why: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """A readable row with its lengths in tokens; ``trained_kept`` are the trained tokens that
    are left when the row is cut behind ``limit``."""

    record: Record
    tokens: int
    trained: int
    trained_kept: int
    limit: int

    @property
    def over(self) -> bool:
        return self.tokens > self.limit


@dataclass(frozen=True)
class Trainer:
    """A trainer, the key its length limit goes by, and how it treats a row."""

    name: str
    limit_key: str
    judge: Callable[[Measured], Fate]


_TRAINED = Fate("trained")
_PAIRS = (Shape.PROMPT_COMPLETION, Shape.ALPACA)


def finetui_fate(row: Measured) -> Fate:
    """As this program does it with its default, `data.overlong = drop`: told and counted."""
    if not row.trained:
        return Fate("dropped", "no token of it would be trained on")
    return Fate("dropped", "longer than the limit") if row.over else _TRAINED


def llama_factory_fate(row: Measured) -> Fate:
    """Roles must alternate from a user turn to an answer; long rows are cut turn by turn."""
    fault = _not_alternating(row.record)
    if fault:
        return Fate("dropped", f"“Invalid role tag” or “Invalid message count”: {fault}")
    if row.over:
        return Fate("cut", "question and answer are cut in proportion; turns behind are lost")
    return _TRAINED


def axolotl_fate(row: Measured) -> Fate:
    """`excess_length_strategy` is drop unless set; so are rows with no trained token."""
    if row.over:
        return Fate("dropped", "longer than sequence_len")
    return _TRAINED if row.trained else Fate("dropped", "no trainable token")


def trl_fate(row: Measured) -> Fate:
    """Cut from the end at `max_length`, then dropped when no trained token is left."""
    if not row.trained and row.record.shape not in _PAIRS:
        return Fate("stops", "with assistant_only_loss a row without an answer stops the run")
    if not row.trained_kept:
        return Fate("dropped", "no trained token is left after the cut")
    return (
        Fate("cut", "the end is cut off, the end-of-answer token with it") if row.over else _TRAINED
    )


TRAINERS: tuple[Trainer, ...] = (
    Trainer("finetui", "data.max_length", finetui_fate),
    Trainer("LLaMA-Factory", "cutoff_len", llama_factory_fate),
    Trainer("Axolotl", "sequence_len", axolotl_fate),
    Trainer("TRL", "max_length", trl_fate),
)


def _not_alternating(record: Record) -> str:
    """Why LLaMA-Factory refuses the order of turns; "" when it takes it.

    A first system turn is set apart, answers of several tools count as one turn.
    """
    if record.shape is Shape.TEXT or record.chosen is not None:
        return ""
    roles = [turn.role for turn in record.turns]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    merged = [role for before, role in zip(["", *roles], roles, strict=False)
              if not before == role == "tool"]  # fmt: skip
    for number, role in enumerate(merged):
        if (role == "assistant") != (number % 2 == 1) or role == "system":
            return f"turn {number + 1} is a {role} turn"
    return "the last turn is not an answer" if len(merged) % 2 or not merged else ""
