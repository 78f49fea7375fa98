"""Jobs that answer prompts without training: generate, evaluate, and the two sides of a rating."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetui.data.tokens import ChatTokenizer
from finetui.engine.dataset import Prompt, prompts
from finetui.engine.generate import Settings
from finetui.engine.machine import choose_machine
from finetui.engine.model import load_adapter, load_model, load_tokenizer
from finetui.engine.scoring import score_set
from finetui.errors import UserError
from finetui.jobs.worker import WorkerSession
from finetui.recipe.schema import Model
from finetui.workspace import Workspace

_ALL = 1 << 30


def answer(session: WorkerSession, spec: Mapping[str, Any]) -> None:
    """Answer and score a data set's prompts into outputs-after.jsonl.

    With an adapter the base model answers too, into outputs-before.jsonl, when the job is of
    kind evaluate. ``limit`` 0 takes every row.
    """
    session.events.write("stage", text="loading the model")
    model, tokenizer = load(session, spec)
    rows = rows_to_answer(spec, int(spec.get("limit", 0)) or _ALL)
    metrics: dict[str, Any] = {}
    adapter = str(spec.get("adapter") or "")
    if adapter and spec.get("kind") == "evaluate":
        metrics["before"] = _score(session, spec, model, tokenizer, rows, "before")
    if adapter:
        model = load_adapter(model, Path(adapter))
    metrics["after"] = _score(session, spec, model, tokenizer, rows, "after")
    shares = (metrics["after"]["format"], metrics["after"]["accuracy"])
    session.outcome(
        "finished",
        metrics=metrics,
        sentence="{} answers; format {:.1%}, right {:.1%}".format(len(rows), *shares),
    )


def load(session: WorkerSession, spec: Mapping[str, Any]) -> tuple[Any, ChatTokenizer]:
    """Base model and tokenizer of a spec that names them at its top level."""
    machine = choose_machine(str(spec.get("precision", "auto")), int(spec.get("threads", 0)))
    settings = Model(
        path=_model_path(spec),
        revision=str(spec.get("revision", "")),
        trust_remote_code=bool(spec.get("trust_remote_code", False)),
    )
    tokenizer = load_tokenizer(settings, session.job.path / "tokenizer")
    return load_model(settings, machine), tokenizer


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


def _score(
    session: WorkerSession,
    spec: Mapping[str, Any],
    model: Any,
    tokenizer: ChatTokenizer,
    rows: list[Prompt],
    when: str,
) -> dict[str, float]:
    session.events.write("stage", text=f"answering {len(rows)} rows, {when}")
    file = session.job.path / f"outputs-{when}.jsonl"
    name = Path(str(spec["data"])).name
    return score_set(session, model, tokenizer, rows, settings_of(spec), file, when, name)


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
