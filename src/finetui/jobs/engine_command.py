"""The command that does a job's work: the engine by itself, or once a GPU under torchrun."""

import sys
from collections.abc import Mapping
from typing import Any

from finetui.errors import UserError
from finetui.jobs.checkpoints import spec_of_attempt
from finetui.jobs.folder import Job

# Where the ranks of several machines meet: HOST:PORT, set by who starts them on each machine.
RENDEZVOUS_VARIABLE = "FINETUI_RENDEZVOUS"


def processes(job: Job) -> int:
    """How many processes do a job's work, each on a GPU of its own where there are GPUs."""
    spec = spec_of_attempt(job)
    if spec.get("kind", job.kind) != "train":
        return 1
    return processes_of(spec.get("recipe") or {})


def processes_of(recipe: Mapping[str, Any]) -> int:
    """`training.processes` of a recipe as plain tables; 1 where it is not said."""
    number = (recipe.get("training") or {}).get("processes", 1)
    return number if isinstance(number, int) and number > 0 else 1


def engine_command(job: Job, *, nodes: int = 1, python: str = sys.executable) -> list[str]:
    """The arguments that start a job's engine; with several processes, torchrun around it.

    With `nodes` above 1 the same command runs once on every machine, with FINETUI_RENDEZVOUS
    (HOST:PORT of one of them) in its environment. Raises UserError where the processes cannot be
    spread evenly over them.
    """
    # -P: a file in the working folder must not be imported instead of a module of the same name.
    count = processes(job)
    if count % nodes:
        raise UserError(
            f"{count} processes do not spread evenly over {nodes} machines.",
            job.id,
            f"Set training.processes to a multiple of {nodes}.",
        )
    if count == 1:
        return [python, "-P", "-m", "finetui.engine", str(job.path)]
    several = [python, "-P", "-m", "finetui.engine.torchrun", str(job.path)]
    return [*several, "--processes", str(count // nodes), "--nodes", str(nodes)]
