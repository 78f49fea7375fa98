"""What went wrong, as the fields of an outcome: a reason, the error's class, one sentence."""

from __future__ import annotations

from typing import Any

from finetui.engine.trainer import NonFiniteError
from finetui.errors import UserError
from finetui.jobs.worker import explain
from finetui.recipe.schema import Recipe


def describe(error: BaseException, recipe: Recipe | None = None) -> dict[str, Any]:
    """``reason`` (cuda_oom, nonfinite, user, error), ``error`` and ``sentence``."""
    name = type(error).__name__
    if name == "OutOfMemoryError":
        return {"reason": "cuda_oom", "error": name, "sentence": _out_of_memory(error, recipe)}
    if isinstance(error, NonFiniteError):
        return {
            "reason": "nonfinite",
            "error": name,
            "sentence": _not_a_number(error, recipe),
            "step": error.step,
            "rows": error.rows,
        }
    reason = "user" if isinstance(error, UserError) else "error"
    return {"reason": reason, "error": name, "sentence": explain(error)}


def _out_of_memory(error: BaseException, recipe: Recipe | None) -> str:
    """The one change that helps most: halve the batch, or shorten the rows once it is 1."""
    detail = " ".join(str(error).split())[:200]
    if recipe is None:
        change = "generate with a smaller batch."
    elif recipe.training.batch_size > 1:
        half = recipe.training.batch_size // 2
        change = (
            f"set training.batch_size to {half} and training.accumulation to "
            f"{recipe.training.accumulation * 2}: the updates stay the same."
        )
    else:
        change = f"lower data.max_length from {recipe.data.max_length}."
    return f"the GPU ran out of memory; {change} ({detail})"


def _not_a_number(error: NonFiniteError, recipe: Recipe | None) -> str:
    rate = f" (now {recipe.training.learning_rate:g})" if recipe else ""
    rows = (
        f", and look at the rows of this update: {', '.join(error.rows[:3])}" if error.rows else ""
    )
    return (
        f"{error.what} was not a number any more at step {error.step}; "
        f"lower training.learning_rate{rate}{rows}"
    )
