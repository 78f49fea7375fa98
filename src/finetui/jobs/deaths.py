"""Why a worker's process ended without a word: what its supervisor saw, the evidence, a way out."""

import signal
from collections.abc import Mapping
from typing import Any

from finetui.display import size
from finetui.errors import UserError
from finetui.jobs.folder import ExitRecord, Job, read_json

_SHORTEST = 128  # tokens; nobody trains on shorter rows to save memory
# What these signals come from in programs like ours, where no counter tells more.
_CAUSES = {
    signal.SIGBUS: (
        "a file that was read as memory became shorter or could not be read, or shared memory "
        "(/dev/shm) is full; look at the disk of the model and the data, and at df /dev/shm"
    ),
    signal.SIGSEGV: (
        "a compiled library touched memory that is not there; the log may name it, and an update "
        "of it, or of the GPU driver, may mend it"
    ),
    signal.SIGABRT: "a compiled library gave up; the log says why",
    signal.SIGILL: (
        "a compiled library uses instructions that this CPU does not have; install one built for it"
    ),
    signal.SIGFPE: "a compiled library divided by zero; the log may name it",
    signal.SIGXCPU: "its limit of CPU time (ulimit -t) was reached; raise it",
    signal.SIGXFSZ: "its limit of file size (ulimit -f) was reached; raise it",
}


def exit_sentence(job: Job, ended: ExitRecord) -> str:
    """Say how a worker ended that left no outcome: signal, evidence, and what would help."""
    if ended.error:
        return f"the worker could not be started: {ended.error}"
    if ended.signal is None:
        return f"the worker ended with code {ended.rc} and left no outcome; the log may say why"
    killed = read_json(job.path / "killed.json")
    if killed is not None and killed.get("attempt") == ended.attempt:
        return f"killed on request of {killed.get('user')}"
    sentence = f"killed by signal {ended.signal}{_signal_name(ended.signal)}"
    if ended.signal == signal.SIGKILL:
        return f"{sentence}; {_memory(job, ended)}"
    cause = _CAUSES.get(signal.Signals(ended.signal)) if _known(ended.signal) else None
    return f"{sentence}: {cause}" if cause else sentence


def lighter(recipe: Mapping[str, Any], on_gpu: bool) -> str:
    """The one change of a recipe (as in a spec) that lowers the memory of its steps most cheaply.

    First what changes nothing but the pace, then precision, rows last; "" for no recipe.
    """
    training, method = recipe.get("training") or {}, recipe.get("method") or {}
    if not training:
        return ""
    batch, times = _count(training, "batch_size"), _count(training, "accumulation")
    if batch > 1:
        rows = max(each for each in range(1, batch // 2 + 1) if batch * times % each == 0)
        return (
            f"set training.batch_size to {rows} (now {batch}) and training.accumulation to "
            f"{batch * times // rows} (now {times}): the updates stay the same"
        )
    if training.get("checkpointing") == "off":
        return "set training.checkpointing to on: activations are computed again, not kept"
    kind, states = method.get("kind"), str(training.get("optimizer") or "")
    if on_gpu and kind == "full" and not states.endswith("8bit"):
        now = states or "adamw"
        return f"set training.optimizer to adamw_8bit (now {now}): its states take a quarter"
    if on_gpu and kind == "lora":
        return "set method.kind to qlora: the frozen weights take a quarter"
    length = _count(recipe.get("data") or {}, "max_length")
    if length >= 2 * _SHORTEST:
        half = length // 2
        return f"set data.max_length to {half} (now {length}): longer rows are cut or left out"
    return "take a smaller model"


def _count(table: Mapping[str, Any], name: str) -> int:
    value = table.get(name)
    return value if isinstance(value, int) and value > 0 else 1


def _memory(job: Job, ended: ExitRecord) -> str:
    held = f"; it held {size(ended.peak_rss)} at most" if ended.peak_rss else ""
    if ended.cgroup_oom_kills:
        times = f"{ended.cgroup_oom_kills} times" if ended.cgroup_oom_kills > 1 else "once"
        told = f"its memory limit (cgroup) was hit {times} meanwhile{held}"
    elif ended.oom_kills:
        told = f"the kernel's out-of-memory counter rose by {ended.oom_kills} meanwhile{held}"
    elif ended.oom_kills is None:
        return f"whether memory ran out is not known{held}"
    else:
        return f"the kernel's out-of-memory counter did not rise{held}"
    change = less_memory(job)
    return f"{told}; {change}" if change else told


def less_memory(job: Job) -> str:
    """The one change that lowers a job's main memory, from its own recipe; "" for none."""
    try:
        recipe = job.spec().get("recipe")
    except UserError:
        return ""
    forecast = job.manifest().get("forecast")
    device = forecast.get("device") if isinstance(forecast, dict) else None
    if not isinstance(recipe, dict):
        return ""
    if isinstance(device, str) and device.lower() not in ("", "cpu"):
        # There the batches are not in main memory.
        return "give the job more memory: on a GPU the model is loaded through main memory"
    return lighter(recipe, on_gpu=False)


def _known(number: int) -> bool:
    return number in set(signal.Signals)


def _signal_name(number: int) -> str:
    return f" ({signal.Signals(number).name})" if _known(number) else ""
