"""Prepare a blind rating: both sides answer the same prompts alike, then the session is sealed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetui.data.tokens import ChatTokenizer
from finetui.engine.answer import (
    base_model,
    is_tuned,
    machine_of,
    rows_to_answer,
    settings_of,
    tokenizer_of,
    tuned_model,
)
from finetui.engine.dataset import Prompt
from finetui.engine.scoring import answer_all
from finetui.errors import UserError
from finetui.evaluation.compare import read_outputs
from finetui.jobs.worker import WorkerSession
from finetui.rating.session import DEFAULT_QUESTION, Item, seal
from finetui.workspace import Workspace

BASE, TUNED = "base", "tuned"


def prepare(session: WorkerSession, spec: Mapping[str, Any]) -> None:
    """Generate base and tuned answers for ``items`` prompts and seal them. Raises UserError.

    The answers by side are deleted from the job once the session is sealed: whoever rates may
    read the job folder.
    """
    if not is_tuned(spec):
        raise UserError("there is nothing trained to compare with its base.", session.job.id)
    session.events.write("stage", text="loading the model")
    tokenizer, machine = tokenizer_of(session, spec), machine_of(spec)
    model = base_model(spec, machine)
    rows = rows_to_answer(spec, int(spec.get("items", 30)))
    files = {side: session.job.path / f".side-{side}.jsonl" for side in (BASE, TUNED)}
    _answer(session, spec, model, tokenizer, rows, files[BASE], "first side")
    model = tuned_model(spec, machine, model)
    _answer(session, spec, model, tokenizer, rows, files[TUNED], "second side")
    session.events.write("stage", text="sealing the session")
    session.require_newest()
    sealed = seal(
        Workspace(Path(str(spec["workspace"]))).ratings,
        str(spec["session"]),
        _items(rows, {side: _texts(file) for side, file in files.items()}),
        str(spec.get("question") or DEFAULT_QUESTION),
        tuple(str(rater) for rater in spec.get("raters", ())),
        systems=(BASE, TUNED),
        generation=_generation(spec),
        provenance={
            "model": str(spec.get("model")),
            "adapter": str(spec.get("adapter") or ""),
            "tuned": str(spec.get("tuned") or ""),
            "data": str(spec["data"]),
            "job": session.job.id,
        },
        special_tokens=tuple(tokenizer.special.values()),
    )
    for file in files.values():
        file.unlink()
    session.outcome(
        "finished",
        session=str(spec["session"]),
        sentence=f"sealed {len(rows)} items in {spec['session']}",
        metrics={"items": len(rows), "shown": sealed.manifest.shown},
    )


def _answer(
    session: WorkerSession,
    spec: Mapping[str, Any],
    model: Any,
    tokenizer: ChatTokenizer,
    rows: list[Prompt],
    file: Path,
    text: str,
) -> None:
    session.events.write("stage", text=f"answering {len(rows)} prompts, {text}")
    answer_all(session, model, tokenizer, rows, settings_of(spec), file, f"answering, {text}")


def _texts(file: Path) -> dict[str, str]:
    return {output.id: output.answer for output in read_outputs(file)}


def _items(rows: list[Prompt], texts: Mapping[str, Mapping[str, str]]) -> list[Item]:
    return [
        Item(
            id=row.id,
            prompt=row.messages,
            reference=row.reference,
            outputs={side: answers[row.id] for side, answers in texts.items()},
        )
        for row in rows
    ]


def _generation(spec: Mapping[str, Any]) -> dict[str, Any]:
    settings = settings_of(spec)
    return {
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": settings.seed,
        "items": int(spec.get("items", 30)),
    }
