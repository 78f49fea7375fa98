"""What went wrong, as the fields of an outcome: a reason, the error's class, one sentence."""

from __future__ import annotations

from typing import Any

from finetui.engine.steering import GuardError
from finetui.errors import UserError
from finetui.jobs.worker import explain
from finetui.recipe.schema import Recipe


def describe(error: BaseException, recipe: Recipe | None = None) -> dict[str, Any]:
    """``reason`` (cuda_oom, nonfinite, zero, user, error), ``error`` and ``sentence``."""
    name = type(error).__name__
    if name == "OutOfMemoryError":
        return {"reason": "cuda_oom", "error": name, "sentence": _out_of_memory(error, recipe)}
    if isinstance(error, GuardError):
        return _stopped_by_guard(error, recipe)
    reason = "user" if isinstance(error, UserError) else "error"
    return {"reason": reason, "error": name, "sentence": explain(error)}


def _out_of_memory(error: BaseException, recipe: Recipe | None) -> str:
    """The one change that helps most: smaller batches, then recomputing, then shorter rows."""
    detail = " ".join(str(error).split())[:200]
    if recipe is None:
        change = "generate with a smaller batch."
    elif recipe.training.batch_size > 1:
        half = recipe.training.batch_size // 2
        change = (
            f"set training.batch_size to {half} and training.accumulation to "
            f"{recipe.training.accumulation * 2}: the updates stay the same."
        )
    elif recipe.training.checkpointing == "off":
        change = "set training.checkpointing to on: activations are computed again, not kept."
    else:
        change = f"lower data.max_length from {recipe.data.max_length}."
    return f"the GPU ran out of memory; {change} ({detail})"


def _stopped_by_guard(error: GuardError, recipe: Recipe | None) -> dict[str, Any]:
    ending = error.ending
    guard = ending.sight.guard if ending.sight else ""
    sentence = f"{ending.text}; {_remedy(guard, recipe)}"
    if ending.rows:
        sentence += f", and look at the rows of this update: {', '.join(ending.rows[:3])}"
    if error.saved:
        sentence += f". {error.saved}"
    return {
        "reason": guard,
        "error": type(error).__name__,
        "sentence": sentence,
        "step": ending.step,
        "rows": list(ending.rows),
    }


def _remedy(guard: str, recipe: Recipe | None) -> str:
    if guard == "zero":
        return "check data.loss_on and the chat template"
    rate = f" (now {recipe.training.learning_rate:g})" if recipe else ""
    return f"lower training.learning_rate{rate}"
