"""The job that answers a data set's prompts, and the models that such jobs answer with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from finetui.data.tokens import ChatTokenizer
from finetui.engine.adapters import load_adapter
from finetui.engine.dataset import Prompt, prompts
from finetui.engine.generate import Settings
from finetui.engine.machine import Machine, choose_machine
from finetui.engine.model import load_model, load_tokenizer
from finetui.engine.scoring import score_set
from finetui.errors import UserError
from finetui.jobs.worker import WorkerSession
from finetui.recipe.schema import Method, Model
from finetui.workspace import Workspace

_ALL = 1 << 30


def answer(session: WorkerSession, spec: Mapping[str, Any]) -> None:
    """Answer and score a data set's prompts into outputs-after.jsonl; ``limit`` 0 takes every row.

    The model is the one that was trained, where the spec names one (``adapter`` or ``tuned``).
    """
    session.events.write("stage", text="loading the model")
    tokenizer, machine = tokenizer_of(session, spec), machine_of(spec)
    rows = rows_to_answer(spec, int(spec.get("limit", 0)) or _ALL)
    model = tuned_model(spec, machine)
    session.events.write("stage", text=f"answering {len(rows)} rows")
    file, name = session.job.path / "outputs-after.jsonl", Path(str(spec["data"])).name
    shares = score_set(session, model, tokenizer, rows, settings_of(spec), file, "after", name)
    session.outcome(
        "finished",
        metrics={"after": shares},
        sentence="{} answers; format {:.1%}, right {:.1%}".format(
            len(rows), shares["format"], shares["accuracy"]
        ),
    )


def is_tuned(spec: Mapping[str, Any]) -> bool:
    """Whether a spec names something trained beside its base."""
    return bool(spec.get("adapter") or spec.get("tuned"))


def machine_of(spec: Mapping[str, Any]) -> Machine:
    return choose_machine(str(spec.get("precision", "auto")), int(spec.get("threads", 0)))


def tokenizer_of(session: WorkerSession, spec: Mapping[str, Any]) -> ChatTokenizer:
    return load_tokenizer(model_settings(spec), session.job.path / "tokenizer")


def base_model(spec: Mapping[str, Any], machine: Machine) -> Any:
    """The model of a spec before training, its weights stored as they were in training."""
    method = msgspec.convert(dict(spec.get("method") or {}), Method)
    return load_model(model_settings(spec), machine, method if method.kind == "qlora" else None)


def tuned_model(spec: Mapping[str, Any], machine: Machine, base: Any = None) -> Any:
    """The model of a spec after training: the base with its adapter, or the model that was left.

    Takes a ``base`` that is loaded already, and changes it. Without anything trained, the base.
    """
    if spec.get("tuned"):
        settings = structs.replace(model_settings(spec), path=str(spec["tuned"]), revision="")
        return load_model(settings, machine)
    base = base_model(spec, machine) if base is None else base
    return load_adapter(base, Path(str(spec["adapter"]))) if spec.get("adapter") else base


def model_settings(spec: Mapping[str, Any]) -> Model:
    """The model table of a spec that has its values at the top level."""
    names = ("revision", "trust_remote_code", "precision", "chat_template", "tf32")
    given = {name: spec[name] for name in names if name in spec}
    return msgspec.convert({**given, "path": _model_path(spec)}, Model)


def rows_to_answer(spec: Mapping[str, Any], count: int) -> list[Prompt]:
    """The prompts of a spec. Raises UserError when there is none."""
    workspace = _workspace(spec)
    found = prompts(str(spec["data"]), count, int(spec.get("seed", 0)), workspace)
    if not found:
        raise UserError("has no prompt with a reference answer.", str(spec["data"]))
    return found


def settings_of(spec: Mapping[str, Any]) -> Settings:
    return Settings(
        max_new_tokens=int(spec.get("max_new_tokens", 64)),
        temperature=float(spec.get("temperature", 0.0)),
        top_p=float(spec.get("top_p", 1.0)),
        seed=int(spec.get("seed", 0)),
    )


def _workspace(spec: Mapping[str, Any]) -> Workspace | None:
    root = Path(str(spec.get("workspace") or ""))
    return Workspace(root) if spec.get("workspace") and root.is_dir() else None


def _model_path(spec: Mapping[str, Any]) -> str:
    """A folder relative to the workspace, or a hub id as it stands."""
    named = str(spec.get("model", ""))
    workspace = _workspace(spec)
    if named and workspace is not None and workspace.resolve(named).is_dir():
        return str(workspace.resolve(named))
    return named
