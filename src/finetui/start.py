"""What it takes to start a job: the form, the commands and the demo all come through here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetui.data import gate
from finetui.data.dataset import journal_path
from finetui.data.edits.journal import Journal
from finetui.data.versions import Version, version_of
from finetui.errors import UserError
from finetui.jobs.devices import DeviceReader, DeviceSample
from finetui.jobs.folder import Job, create, find_job, list_jobs
from finetui.jobs.launch import launch
from finetui.rating.session import DEFAULT_QUESTION
from finetui.recipe.advice import Advice, advise
from finetui.recipe.facts import Facts, gather, merge
from finetui.recipe.files import resolve, to_spec
from finetui.recipe.schema import Recipe
from finetui.workspace import Workspace


def check_recipe(workspace: Workspace, recipe: Recipe) -> tuple[Facts, list[Advice]]:
    """What is known about the recipe's model, data and machine, and what it means for the run."""
    reader = DeviceReader()
    try:
        facts = gather(recipe, workspace.root, machine_facts(reader.sample()))
    finally:
        reader.close()
    return facts, advise(recipe, facts)


def machine_facts(sample: DeviceSample | None) -> Facts:
    """What the devices tell the advice: memory in bytes of the GPU with the most free of it."""
    if sample is None:
        return Facts()
    used, total = sample.host_memory_used, sample.host_memory_total
    host = Facts(host_free=None if used is None or total is None else total - used)
    known = [gpu for gpu in sample.gpus if gpu.memory_free is not None]
    if not known:
        return merge(host, Facts(gpus=len(sample.gpus)))
    best = max(known, key=lambda gpu: gpu.memory_free or 0)
    return merge(
        host,
        Facts(gpus=len(sample.gpus), gpu_total=best.memory_total, gpu_free=best.memory_free),
    )


def leak_gate(workspace: Workspace, recipe: Recipe) -> gate.Verdict:
    """Whether what the recipe trains on gives away what it is measured on.

    Raises UserError when a data file cannot be read.
    """
    full = resolve(recipe, workspace.root)
    general = [full.data.general] if full.data.general_share > 0 else []
    train = _there([*full.data.train, *general])
    return gate.check(workspace, train, _there([full.data.eval, full.evaluation.suite]))


def _there(files: Sequence[str]) -> list[Path]:
    return [Path(file) for file in files if file and Path(file).is_file()]


def start_training(workspace: Workspace, recipe: Recipe, name: str = "") -> Job:
    """Check a recipe, make its job folder and start it detached.

    Raises UserError when the recipe has an error, or held-out data leaks into the training data
    and nobody has accepted that; warnings and accepted leaks are recorded in the manifest.
    """
    _, advice = check_recipe(workspace, recipe)
    errors = [found for found in advice if found.severity == "error"]
    if errors:
        told = "; ".join(f"{found.field}: {found.message}" for found in errors)
        raise UserError(
            f"the recipe cannot run: {told}", recipe.name, "Mend it in the Recipe screen."
        )
    verdict = leak_gate(workspace, recipe)
    if not verdict.open:
        raise verdict.error(workspace)
    full = resolve(recipe, workspace.root)
    spec = {"kind": "train", "name": name or recipe.name, "workspace": str(workspace.root),
            "recipe": to_spec(full)}  # fmt: skip
    files = [*full.data.train, full.data.eval, full.data.general, full.evaluation.suite]
    manifest = {
        **data_state(workspace, files),
        "versions": data_versions(files),
        "accepted_leaks": [word.as_dict() for word in verdict.acceptances],
        "warnings": [
            *(f"{found.field}: {found.message}" for found in advice if found.severity == "warning"),
            *(f"data.eval: {note}" for note in verdict.notes),
        ],
    }
    return _start(workspace, "train", name or recipe.name, spec, manifest)


def trained_job(workspace: Workspace, name: str = "") -> Job:
    """The named training run, or the newest one that has an adapter. Raises UserError."""
    if name:
        return find_job(workspace.jobs, name)
    done = (
        job for job in list_jobs(workspace.jobs) if job.kind == "train" and job.adapter.is_dir()
    )
    found = next(done, None)
    if found is None:
        raise UserError("no finished training run yet.", fix="Start one: finetui train RECIPE")
    return found


def start_prepare(
    workspace: Workspace,
    trained: Job,
    session: str,
    *,
    items: int = 30,
    question: str = DEFAULT_QUESTION,
    raters: Sequence[str] = (),
    data: str = "",
    max_new_tokens: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
) -> Job:
    """Start the job that answers held-out prompts with base and tuned model and seals a session.

    The prompts are those of ``data``, by default of the run's own held-out file. Raises UserError
    when the run has no adapter, the session's name is taken or there are no held-out prompts.
    """
    recipe = trained.spec().get("recipe", {})
    held_out = str(workspace.resolve(data)) if data else recipe.get("data", {}).get("eval", "")
    if not (trained.adapter / "adapter_config.json").is_file():
        raise UserError(
            "this run has no adapter to rate.", trained.id, "Wait until it has finished."
        )
    if not held_out:
        raise UserError("this run had no held-out data.", trained.id, "Name a file: --data FILE")
    if not Path(held_out).is_file():
        raise UserError("is not there.", held_out)
    if (workspace.ratings / session).exists():
        raise UserError("a rating session of this name exists.", session, "Choose another name.")
    spec = {
        "kind": "prepare", "workspace": str(workspace.root), "session": session,
        "model": recipe["model"]["path"], "revision": recipe["model"].get("revision", ""),
        "trust_remote_code": recipe["model"].get("trust_remote_code", False),
        "precision": recipe["model"].get("precision", "auto"),
        "adapter": str(trained.adapter), "data": held_out, "items": items, "question": question,
        "raters": list(raters), "temperature": temperature, "seed": seed,
        "max_new_tokens": max_new_tokens or recipe["evaluation"]["max_new_tokens"],
    }  # fmt: skip
    return _start(workspace, "prepare", session, spec, data_state(workspace, [held_out]))


def start_generation(
    workspace: Workspace,
    model: str,
    data: str,
    *,
    adapter: str = "",
    limit: int = 0,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> Job:
    """Start the job that answers the prompts of a data set; ``limit`` 0 is all of them."""
    file = workspace.resolve(data)
    if not file.is_file():
        raise UserError("is not there.", str(file))
    spec = {
        "kind": "generate", "workspace": str(workspace.root), "model": model, "adapter": adapter,
        "data": str(file), "limit": limit, "max_new_tokens": max_new_tokens,
        "temperature": temperature, "seed": seed,
    }  # fmt: skip
    return _start(workspace, "generate", file.stem, spec, data_state(workspace, [str(file)]))


def _start(
    workspace: Workspace, kind: str, name: str, spec: dict[str, Any], manifest: dict[str, Any]
) -> Job:
    job = create(workspace.jobs, kind, name, spec, manifest)
    launch(job)
    return job


def data_state(workspace: Workspace, files: Sequence[str]) -> dict[str, Any]:
    """What a run's data was: SHA-256 of each file, and the newest edit of those with a journal.

    Journals are append-only, so the number of the edit says which rows were trained on.
    """
    paths = [Path(file) for file in files if file and Path(file).is_file()]
    edits = {str(path): Journal(journal_path(path, workspace)).head for path in paths}
    return {
        "data": {str(path): _sha256(path) for path in paths},
        "edits": {file: head for file, head in edits.items() if head},
    }


def data_versions(files: Sequence[str]) -> dict[str, str]:
    """The files that belong to a written version, each with the version's id."""
    found = {str(path): version_of(path) for path in _there(files)}
    return {path: version for path, version in found.items() if version}


def used_by(workspace: Workspace, version: Version) -> list[Job]:
    """The jobs that read a file of this version, newest first."""
    return [job for job in list_jobs(workspace.jobs) if version.id in _versions_of(job)]


def _versions_of(job: Job) -> set[str]:
    """Ids of the versions a job read; told by the folder's name in jobs that say no more."""
    manifest = job.manifest()
    folders = {Path(path).parent.name for path in manifest.get("data") or {}}
    return folders | set((manifest.get("versions") or {}).values())


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
