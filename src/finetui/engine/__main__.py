"""``python -m finetui.engine JOB``: do the work of one job folder, then end."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from finetui import floors
from finetui.engine.silent import (
    introduce,
    listen_for_loss,
    note_failure,
    others_failed,
    rank_here,
    session_of,
    several,
)
from finetui.errors import UserError
from finetui.jobs.checkpoints import spec_of_attempt
from finetui.jobs.folder import Job
from finetui.jobs.logs import forgive_full_disk
from finetui.jobs.scrubbing import cover_output
from finetui.jobs.worker import SupersededError, UnsavedError, WorkerSession
from finetui.workspace import Workspace

_ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Waiting threads must not spin: the screen runs on the same cores.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}


def main(arguments: list[str]) -> int:
    """Exit code 0 after finished or stopped, 1 after failed, 2 when it could not start."""
    if len(arguments) != 1 or not (Path(arguments[0]) / "spec.toml").is_file():
        print("usage: python -m finetui.engine JOB (a job folder)", file=sys.stderr)
        return 2
    forgive_full_disk()
    cover_output()
    prepare_environment()
    hide_unused_libraries(needed_libraries(Path(arguments[0])))
    with session_of(Path(arguments[0]).resolve()) as session:
        listen_for_interrupt(session)
        if several():
            introduce(session.job, session.attempt)
            listen_for_loss(session)
        return work(session)


def listen_for_interrupt(session: WorkerSession) -> None:
    """Ctrl+C saves and stops; a second one ends the process at once."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        session.control.terminate()

    signal.signal(signal.SIGINT, stop)


def prepare_environment() -> None:
    """What must be set before torch is imported; what the person set stays."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if several():
        return  # each of the processes takes its own of the GPUs in sight
    # One process uses one GPU: with more in sight the Trainer would silently go data-parallel.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = "0" if visible is None else visible.split(",")[0]


def needed_libraries(folder: Path) -> set[str]:
    """The libraries of `hide_unused_libraries` that this job's recipe or model asks for."""
    try:
        spec = spec_of_attempt(Job(folder))
    except UserError:
        return set()  # the session says so, where people see it
    recipe = spec.get("recipe") or {}
    needed = {*recipe.get("logging", {}).get("report_to", ()), *spec.get("libraries", ())}
    methods = (spec.get("method") or {}, recipe.get("method") or {})
    in_few_bits = any(method.get("kind") == "qlora" for method in methods)
    optimizer = recipe.get("training", {}).get("optimizer", "adamw")
    if in_few_bits or optimizer != "adamw":
        needed.add("bitsandbytes")
    return needed


def hide_unused_libraries(needed: Collection[str] = ()) -> None:
    """Keep libraries out that transformers and peft import unasked and this process never uses.

    Together they are almost half of the start (7 of 16 CPU seconds on a busy machine). bitsandbytes
    stays where there is an NVIDIA driver: a model may be stored quantised.
    """
    unused = {"datasets", "tensorboard", "wandb", "trackio", "mlflow"}
    if not Path("/dev/nvidiactl").exists():
        unused.add("bitsandbytes")
    for name in unused - set(needed):
        if name not in sys.modules:
            sys.modules[name] = None  # type: ignore[assignment]  # import fails, find_spec is None


def work(session: WorkerSession) -> int:
    """Do the job and write its outcome; the traceback of a failure goes to the log only."""
    spec: dict[str, Any] = {}
    try:
        session.events.write("stage", text="starting")
        spec = spec_of_attempt(session.job, session.attempt)
        require_libraries()
        quiet_libraries()
        dispatch(session, spec)
    except SupersededError:
        raise
    except BaseException as error:
        return _end(session, error, spec)
    return 0


def dispatch(session: WorkerSession, spec: Mapping[str, Any]) -> None:
    """Hand the job to its kind. Raises UserError for a kind that the engine does not know."""
    kind = spec.get("kind") or session.job.kind
    if kind == "train":
        from finetui.engine.train import train

        train(session, recipe_of(spec), workspace_of(spec))
    elif kind == "prepare":
        from finetui.engine.prepare import prepare

        prepare(session, spec)
    elif kind == "evaluate":
        from finetui.engine.evaluate import evaluate

        evaluate(session, spec)
    elif kind == "generate":
        from finetui.engine.answer import answer

        answer(session, spec)
    elif kind == "rehearse":
        from finetui.engine.rehearse import rehearse

        rehearse(session, recipe_of(spec), workspace_of(spec))
    elif kind == "export":
        from finetui.engine.export import export

        export(session, spec)
    elif kind == "fetch":
        from finetui.engine.fetch import fetch

        fetch(session, spec)
    elif kind == "tokenloss":
        from finetui.engine.tokenloss import token_loss

        token_loss(session)
    else:
        raise UserError(f"the engine knows no job of kind {kind!r}.", session.job.id)


def recipe_of(spec: Mapping[str, Any]) -> Any:
    """The recipe of a train job, its paths resolved against the workspace."""
    from finetui.recipe.files import from_spec, resolve

    recipe = from_spec(spec.get("recipe", {}))
    return resolve(recipe, Path(spec["workspace"])) if spec.get("workspace") else recipe


def workspace_of(spec: Mapping[str, Any]) -> Workspace | None:
    """The workspace that the spec names, None when it names none that exists."""
    root = Path(spec.get("workspace") or "/nonexistent")
    return Workspace(root) if root.is_dir() else None


def require_libraries() -> None:
    """Raises UserError where what training stands on is missing, or too old to be safe."""
    from importlib.util import find_spec

    missing = [
        name for name in ("torch", "transformers", "peft", "accelerate") if not find_spec(name)
    ]
    if missing:
        raise UserError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed.",
            fix="Install the train extra: pip install 'finetui[train]'",
        )
    floors.require()


def quiet_libraries() -> None:
    """Leave warnings in the log, take out progress bars and advice."""
    import warnings

    from transformers.utils import logging

    logging.set_verbosity_warning()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def _end(session: WorkerSession, error: BaseException, spec: Mapping[str, Any]) -> int:
    from finetui.engine.attention import StopRequested

    if isinstance(error, StopRequested):
        who = "told to end by the system" if session.terminated else "stopped on request"
        unsaved = isinstance(error, UnsavedError)
        why = f"; {error}" if unsaved else " before there was anything to save"
        session.outcome("stopped", sentence=f"{who}{why}")
        return 0
    traceback.print_exception(error)
    said = _description(error, spec)
    if several() and _left_to_launcher(session, error, said):
        return 1
    session.outcome("failed", **said)
    return 1


def _left_to_launcher(session: WorkerSession, error: BaseException, said: dict[str, Any]) -> bool:
    """Whether this rank's word is only a note for the one outcome: rank 0 writes its own."""
    from finetui.engine.ranks import is_lost

    # When another one is gone, whatever this one ran into comes of that.
    lost = is_lost(error) or others_failed(session.job, session.attempt)
    note_failure(session.job, session.attempt, said, lost)
    return lost or rank_here() > 0


def _description(error: BaseException, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The failure in words, also when torch itself could not be imported."""
    from finetui.jobs.worker import explain

    plain = {"error": type(error).__name__, "sentence": explain(error), "reason": "error"}
    try:
        from finetui.engine.failures import describe

        recipe = recipe_of(spec) if spec.get("kind") in ("train", "rehearse") else None
        return describe(error, recipe)
    except Exception:
        return plain


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
