"""Prepare a blind rating: every system answers the same prompts alike, then all is sealed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from msgspec import structs

from finetui.display import plural
from finetui.engine import outside
from finetui.engine.answer import settings_of
from finetui.engine.dataset import Prompt, prompts
from finetui.engine.scoring import answer_all
from finetui.engine.subjects import Bench, shots_of, with_shots
from finetui.errors import UserError
from finetui.evaluation.record import Item as Asked
from finetui.evaluation.record import Subject
from finetui.jobs.worker import WorkerSession
from finetui.rating.burned import burned_among
from finetui.rating.drafts import Draft, drop_draft, hold, seal_draft
from finetui.rating.identity import telling
from finetui.rating.registration import Registration
from finetui.rating.session import Item
from finetui.workspace import Workspace

_ALL = 1 << 30
_SET = "rated"


def prepare(session: WorkerSession, spec: Mapping[str, Any]) -> None:
    """Answer the prompts of a spec with each of its systems and seal the answers.

    With ``hold`` they wait as a draft, until a person has read the findings and seals them.
    Raises UserError. The answers by system are deleted from the job: whoever rates may read it.
    """
    workspace = Workspace(Path(str(spec["workspace"])))
    systems = msgspec.convert(spec["systems"], list[Subject])
    chosen = msgspec.convert(spec["registration"], Registration)
    rows, gone = _rows(workspace, spec, int(spec["items"]) + chosen.aside)
    files, special = _answered(session, spec, workspace, systems, rows)
    draft = Draft(
        name=str(spec["session"]),
        created=session.job.created,
        systems=tuple(subject.name for subject in systems),
        items=_items(rows, {name: _outputs(file, rows) for name, file in files.items()}),
        registration=structs.replace(chosen, words=(*chosen.words, *_names(systems))),
        generation=_generation(spec),
        provenance={
            "systems": [msgspec.to_builtins(subject) for subject in systems],
            "data": str(spec["data"]),
            "burned_left_out": gone,
            "job": session.job.id,
        },
        special_tokens=sorted(special),
        group=str(spec.get("group", "")),
    )
    session.require_newest()
    hold(workspace.ratings, draft)
    for file in files.values():
        file.unlink()
    told = {
        "session": draft.name,
        "findings": draft.findings().sentences,
        "metrics": {"items": len(rows), "burned_left_out": gone},
    }
    if spec.get("hold"):
        waits = f"{draft.name} waits to be sealed: read its findings first"
        session.outcome("finished", draft=draft.name, sentence=waits, **told)
        return
    _seal(session, workspace, draft, told)


def _seal(
    session: WorkerSession, workspace: Workspace, draft: Draft, told: Mapping[str, Any]
) -> None:
    session.events.write("stage", text="sealing the session")
    try:
        made = seal_draft(workspace.ratings, draft.name)
    except UserError:
        drop_draft(workspace.ratings, draft.name)
        raise
    manifest = made.manifest
    out = sum(manifest.excluded.values())
    session.outcome(
        "finished",
        sentence=f"sealed {plural(manifest.items, 'item')} in {draft.name}"
        + (f", {out} left out" if out else ""),
        **{**told, "metrics": {**told["metrics"], "shown": manifest.shown, "excluded": out}},
    )


def _rows(workspace: Workspace, spec: Mapping[str, Any], count: int) -> tuple[list[Prompt], int]:
    """(at most ``count`` prompts that were never given away, how many were)."""
    data = str(spec["data"])
    found = prompts(data, _ALL, 0, workspace)
    gone = set(burned_among(workspace.ratings, [row.messages for row in found]))
    left = [row for n, row in enumerate(found) if n not in gone]
    if not left:
        told = f"all its {len(found)} prompts are burned: they left as training data."
        nothing = "has no prompt with a reference answer."
        raise UserError(told if found else nothing, data, "Name another file: --data FILE")
    if len(left) > count:
        drawn = Random(int(spec.get("seed", 0))).sample(range(len(left)), count)
        left = [left[n] for n in sorted(drawn)]
    return left, len(gone)


def _answered(
    session: WorkerSession,
    spec: Mapping[str, Any],
    workspace: Workspace,
    systems: Sequence[Subject],
    rows: Sequence[Prompt],
) -> tuple[dict[str, Path], set[str]]:
    """(system -> the file of its answers, the special tokens of all tokenizers).

    The files bear numbers, not names.
    """
    files = {
        subject.name: session.job.path / f".answers-{number}.jsonl"
        for number, subject in enumerate(systems, start=1)
    }
    special: set[str] = set()
    for subject in systems:  # first, as a missing answer costs no model then
        if subject.kind == "outputs":
            _take_in(subject, rows, files[subject.name])
    with Bench(session.job.path / "tokenizers", int(spec.get("threads", 0))) as bench:
        for number, subject in enumerate(systems, start=1):
            if subject.kind == "outputs":
                continue
            text = f"answering, system {number} of {len(systems)}"
            session.events.write("stage", text=text)
            model, tokenizer = bench.model(subject), bench.tokenizer(subject)
            asked, file = _with_shots(subject, workspace, rows), files[subject.name]
            special.update(tokenizer.special.values())
            answer_all(session, model, tokenizer, asked, settings_of(spec), file, text)
    return files, special


def _with_shots(subject: Subject, workspace: Workspace, rows: Sequence[Prompt]) -> list[Prompt]:
    shots = shots_of(subject, workspace, [row.messages for row in rows])
    return [
        Prompt(row.id, with_shots(row.messages, shots), row.reference, row.tools) for row in rows
    ]


def _take_in(subject: Subject, rows: Sequence[Prompt], file: Path) -> None:
    """Put answers that were written elsewhere to the prompts. Raises UserError where one misses."""
    path = Path(subject.outputs)
    asked = [Asked(row.id, row.messages, row.reference) for row in rows]
    answers = outside.outputs_of(path, {_SET: asked})[_SET]
    missing = [row.id for row in rows if row.id not in answers]
    if missing:
        raise UserError(
            f"has no answer to {plural(len(missing), 'prompt')} of {len(rows)}, "
            f"the first is {missing[0]}.",
            str(path),
            "Give it an answer to every prompt, or take other prompts: --data",
        )
    lines = (json.dumps({"id": row.id, "answer": answers[row.id]}) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


class _Output(msgspec.Struct):
    id: str
    answer: str
    ended: bool = True


def _outputs(file: Path, rows: Sequence[Prompt]) -> dict[str, _Output]:
    lines = file.read_bytes().splitlines()
    found = {one.id: one for one in (msgspec.json.decode(line, type=_Output) for line in lines)}
    return {row.id: found[row.id] for row in rows}


def _items(rows: Sequence[Prompt], by_system: Mapping[str, Mapping[str, _Output]]) -> list[Item]:
    return [
        Item(
            id=_item_id(row.id),
            prompt=row.messages,
            reference=row.reference,
            outputs={system: found[row.id].answer for system, found in by_system.items()},
            meta={"row": row.id},
            finish={
                system: "stop" if found[row.id].ended else "length"
                for system, found in by_system.items()
            },
        )
        for row in rows
    ]


def _item_id(row: str) -> str:
    """file:line, without the folders before."""
    return Path(row).name


def _names(systems: Sequence[Subject]) -> list[str]:
    """What the models and runs are called, as an answer could say it."""
    told = (Path(one.model).name for one in systems)
    return telling(
        [*told, *(Path(one.outputs).stem for one in systems), *(one.job for one in systems)]
    )


def _generation(spec: Mapping[str, Any]) -> dict[str, Any]:
    settings = settings_of(spec)
    return {
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": settings.seed,
        "items": int(spec["items"]),
    }
