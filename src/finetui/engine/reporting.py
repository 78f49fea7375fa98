"""Other places that a run's figures go to, by transformers' own callbacks; none by default."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.recipe.schema import Recipe

NAMES = ("tensorboard", "wandb", "trackio", "mlflow")


def reports(recipe: Recipe, job: Job) -> list[type[Any]]:
    """The callbacks of ``logging.report_to``.

    TensorBoard's event files lie in the job folder, the others go where their own settings say.
    Raises UserError for a name that is unknown or whose package is not installed.
    """
    return [_callback(name, recipe, job) for name in recipe.logging.report_to]


def _callback(name: str, recipe: Recipe, job: Job) -> type[Any]:
    if name not in NAMES:
        raise UserError(
            f"nothing is known of {name!r}.", "logging.report_to", f"Choose of {', '.join(NAMES)}."
        )
    if not find_spec(name):
        raise UserError(
            f"{name} is not installed.", "logging.report_to", f"pip install {name}, or take it out."
        )
    from transformers.integrations import integration_utils

    _say_where(name, recipe, job)
    chosen: type[Any] = {
        "tensorboard": integration_utils.TensorBoardCallback,
        "wandb": integration_utils.WandbCallback,
        "trackio": integration_utils.TrackioCallback,
        "mlflow": integration_utils.MLflowCallback,
    }[name]
    return chosen


def _say_where(name: str, recipe: Recipe, job: Job) -> None:
    """Folder and project names; what the person set in the environment stays."""
    settings = {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(job.path / "tensorboard")},
        "wandb": {"WANDB_PROJECT": "finetui", "WANDB_NAME": recipe.name or job.id},
        "trackio": {"TRACKIO_PROJECT": "finetui"},
        "mlflow": {"MLFLOW_EXPERIMENT_NAME": "finetui"},
    }
    for key, value in settings[name].items():
        os.environ.setdefault(key, value)
