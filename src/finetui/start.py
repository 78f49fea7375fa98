"""What it takes to start a job: the form, the commands and the demo all come through here."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from msgspec import structs, to_builtins

from finetui import consent
from finetui.data import gate
from finetui.data.dataset import DataSet, journal_path, open_dataset
from finetui.data.edits.journal import Journal
from finetui.data.records import RecordError, prompt_and_reference
from finetui.data.strict import JsonFault, RowError
from finetui.data.template_faults import require_sound, template_faults
from finetui.data.tokens import load_chat_tokenizer
from finetui.data.versions import Version, version_of
from finetui.display import plural
from finetui.errors import UserError
from finetui.evaluation.record import Manifest, Subject, check_manifest, of_job
from finetui.evaluation.scorer import located
from finetui.evaluation.scoring import check_spec
from finetui.foresight import foreseen
from finetui.foresight import machine_facts as machine_facts
from finetui.jobs import room, slurm
from finetui.jobs.devices import DeviceReader
from finetui.jobs.folder import Job, create, find_job, list_jobs
from finetui.jobs.launch import launch
from finetui.jobs.sweep import Sweep, create_sweep, run_sweep
from finetui.rating.burned import burned, prompt_hash
from finetui.rating.drafts import draft_file
from finetui.rating.registration import Registration, checked, recommended
from finetui.rating.session import default_rater, refuse_bad_names
from finetui.recipe.advice import Advice, advise
from finetui.recipe.facts import Facts, gather, hub_folder
from finetui.recipe.files import resolve, to_spec
from finetui.recipe.schema import Recipe
from finetui.recipe.sources import HOUSE
from finetui.recipe.sweep import Trial
from finetui.workspace import Workspace

CONVERTER = "convert_hf_to_gguf.py"
_LONGEST = 100  # characters of a file name made from a typed one


def check_recipe(
    workspace: Workspace, recipe: Recipe, *, elsewhere: bool = False
) -> tuple[Facts, list[Advice]]:
    """What is known about the recipe's model, data and machine, and what it means for the run.

    A run ``elsewhere`` has other devices than this machine, which are not known.
    """
    reader = DeviceReader()
    try:
        sample = None if elsewhere else reader.sample()
        facts = gather(recipe, workspace.root, machine_facts(sample))
    finally:
        reader.close()
    return facts, [*_foreign_code(workspace, recipe), *advise(recipe, facts)]


def _foreign_code(workspace: Workspace, recipe: Recipe) -> list[Advice]:
    """An error where the recipe lets the model's own code run and the person did not."""
    model = recipe.model
    if not model.trust_remote_code or not model.path:
        return []
    source, folder = _code_folder(workspace, recipe)
    if folder is None or consent.code_in(folder).wanted:
        try:
            problem = consent.refusal(source, model.revision, folder)
        except UserError as error:
            problem = str(error)
        if problem:
            field, how = "model.trust_remote_code", consent.advice(source, model.revision)
            return [Advice(field, "error", f"The model {problem}.", how, HOUSE, "code-consent")]
    return []


def _code_folder(workspace: Workspace, recipe: Recipe) -> tuple[str, Path | None]:
    """A model's name as the engine gets it, and the folder where its code can be read."""
    name, revision = resolve(recipe, workspace.root).model.path, recipe.model.revision
    folder = Path(name) if Path(name).is_absolute() else hub_folder(name, revision)
    return name, folder if folder is not None and folder.is_dir() else None


def _allowed_code(workspace: Workspace, recipe: Recipe) -> dict[str, Any]:
    """What a manifest keeps of a model's own code that runs; {} where none does."""
    source, folder = _code_folder(workspace, recipe)
    if not recipe.model.trust_remote_code or folder is None or not consent.code_in(folder).wanted:
        return {}
    return {"code": consent.facts(source, recipe.model.revision, folder)}


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


def start_training(
    workspace: Workspace, recipe: Recipe, name: str = "", *, share: bool = False, on: str = ""
) -> Job:
    """Check a recipe, make its job folder and start it detached; raises as queue_training.

    Where its GPUs are taken it waits for them; with ``share`` it starts beside who has them.
    ``on`` "slurm" or "slurm:PROFILE" hands it in to Slurm, by a profile of the user's settings.
    """
    place = slurm.place(on)
    if place is not None:
        slurm.require_ready(place, recipe.training.processes)
    job = queue_training(workspace, recipe, name, elsewhere=place is not None)
    if place is None:
        launch(job, share=share)
    else:
        slurm.submit(job, place.profile)
    return job


def queue_training(
    workspace: Workspace, recipe: Recipe, name: str = "", *, elsewhere: bool = False
) -> Job:
    """Check a recipe and make its job folder, to be started later, here or ``elsewhere``.

    Raises UserError when the recipe has an error, its files will not fit on the disk, or held-out
    data leaks into the training data and nobody has accepted that; warnings and accepted leaks
    are recorded in the manifest.
    """
    facts, advice = check_recipe(workspace, recipe, elsewhere=elsewhere)
    errors = [found for found in advice if found.severity == "error"]
    if errors:
        told = "; ".join(f"{found.field}: {found.message}" for found in errors)
        raise UserError(
            f"the recipe cannot run: {told}", recipe.name, "Mend it in the Recipe screen."
        )
    forecast = foreseen(recipe, facts)
    room.require(workspace.jobs, forecast["disk_bytes"], "the run")
    verdict = leak_gate(workspace, recipe)
    if not verdict.open:
        raise verdict.error(workspace)
    full = resolve(recipe, workspace.root)
    notes = template_notes(full)
    spec = {"kind": "train", "name": name or recipe.name, "workspace": str(workspace.root),
            "recipe": to_spec(full)}  # fmt: skip
    files = [*full.data.train, full.data.eval, full.data.general, full.evaluation.suite]
    manifest = {
        **data_state(workspace, files),
        "versions": data_versions(files),
        **_allowed_code(workspace, recipe),
        "forecast": forecast,
        "accepted_leaks": [word.as_dict() for word in verdict.acceptances],
        "warnings": [
            *(f"{found.field}: {found.message}" for found in advice if found.severity == "warning"),
            *(f"data.eval: {note}" for note in verdict.notes),
            *burned_notes(workspace, _there([full.data.eval])),
            *(f"model.chat_template: {note}" for note in notes),
        ],
    }
    return create(workspace.jobs, "train", name or recipe.name, spec, manifest)


def template_notes(recipe: Recipe) -> list[str]:
    """What is worth knowing about the chat template of a model that lies in a folder.

    Raises UserError when it writes something else in training than when answering.
    """
    folder = Path(recipe.model.path)
    chats = recipe.method.objective != "pretrain"
    if not chats or not (folder / "tokenizer.json").is_file():
        return []
    tokenizer = load_chat_tokenizer(folder, recipe.model.chat_template)
    require_sound(tokenizer, recipe.data.loss_on)
    return [fault.message for fault in template_faults(tokenizer, recipe.data.loss_on)]


def start_sweep(workspace: Workspace, name: str, trials: Sequence[Trial]) -> Sweep:
    """Queue one job a trial and start the runner that runs them one after another.

    Raises UserError before any folder is made when a trial has an error, or when what all of them
    leave will not fit on the disk.
    """
    need = 0
    for trial in trials:
        facts, advice = check_recipe(workspace, trial.recipe)
        need += foreseen(trial.recipe, facts)["disk_bytes"]
        errors = [
            f"{found.field}: {found.message}" for found in advice if found.severity == "error"
        ]
        if errors:
            raise UserError(f"cannot run: {'; '.join(errors)}", trial.name, "Mend the recipe.")
    room.require(workspace.jobs, need, f"the sweep of {len(trials)} runs")
    jobs = [queue_training(workspace, trial.recipe, trial.name) for trial in trials]
    made = create_sweep(
        workspace.sweeps,
        name,
        [(trial.name, trial.changes, job) for trial, job in zip(trials, jobs, strict=True)],
    )
    run_sweep(made)
    return made


def trained_job(workspace: Workspace, name: str = "") -> Job:
    """The named training run, or the newest one that left an adapter or a model.

    Raises UserError when there is none, or the named one has left nothing yet.
    """
    if name:
        found = find_job(workspace.jobs, name, "train")
        tuned_side(found)
        return found
    done = (job for job in list_jobs(workspace.jobs) if job.kind == "train" and job.result)
    newest = next(done, None)
    if newest is None:
        raise UserError("no finished training run yet.", fix="Start one: finetui train RECIPE")
    return newest


def tuned_side(trained: Job) -> dict[str, Any]:
    """What a job's spec needs to answer as a training run does: its base and what the run left.

    ``adapter`` is set after LoRA and QLoRA, ``tuned`` after full tuning. Raises UserError when the
    job is no training run or has left nothing.
    """
    recipe, result = trained.recipe(), trained.result
    if "path" not in recipe.get("model", {}):
        raise UserError("is no training run.", trained.id, "See: finetui jobs")
    if result is None:
        raise UserError(
            "this run has left no adapter or model.", trained.id, "Wait until it has finished."
        )
    model, method = recipe["model"], recipe.get("method", {})
    told = ("revision", "trust_remote_code", "precision", "chat_template", "tf32")
    kept = ("kind", "quantisation", "double_quantisation")
    return {
        "model": model["path"],
        **{name: model[name] for name in told if name in model},
        "method": {name: method[name] for name in kept if name in method},
        "adapter" if result == trained.adapter else "tuned": str(result),
    }


def start_prepare(
    workspace: Workspace,
    systems: Sequence[Subject],
    session: str,
    *,
    items: int = 30,
    registration: Registration | None = None,
    data: str = "",
    max_new_tokens: int = 0,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    hold: bool = False,
    group: str = "",
) -> Job:
    """Start the job that answers held-out prompts with two or more systems and seals a session.

    The first system is the reference, and the first two are the main comparison. ``items`` are
    counted; prompts for practice and catches come on top. The prompts are those of ``data``, by
    default of the held-out file of the run that made one of the systems. With ``hold`` the job
    leaves a draft, to be sealed once a person has read its findings. Raises UserError when the
    session's name is taken, the registration cannot be sealed or there are no held-out prompts.
    """
    chosen = recommended(items) if registration is None else registration
    raters = chosen.raters or (default_rater(),)
    refuse_bad_names(session, raters)
    chosen = checked(structs.replace(chosen, raters=raters))
    if len({subject.name for subject in systems}) < max(2, len(systems)):
        raise UserError("a rating needs two systems or more, each with its own name.", session)
    taken = (workspace.ratings / session).exists()
    if taken or draft_file(workspace.ratings, session).exists():
        raise UserError("a rating session of this name exists.", session, "Choose another name.")
    recipe = _recipe_behind(workspace, systems)
    held_out = str(workspace.resolve(data)) if data else recipe.get("data", {}).get("eval", "")
    if not held_out:
        raise UserError("there are no held-out prompts.", session, "Name a file: --data FILE")
    files = [held_out, *(one.few_shot for one in systems), *(one.outputs for one in systems)]
    for file in filter(None, files):
        if not Path(file).is_file():
            raise UserError("is not there.", file)
    answer_length = max_new_tokens or recipe.get("evaluation", {}).get("max_new_tokens", 256)
    told = {name: value for name, value in to_builtins(chosen).items() if value is not None}
    spec = {
        "kind": "prepare", "workspace": str(workspace.root), "session": session,
        "systems": to_builtins(list(systems)), "registration": told, "data": held_out,
        "items": items, "seed": seed, "max_new_tokens": answer_length,
        "temperature": temperature, "top_p": top_p, "hold": hold, "group": group,
    }  # fmt: skip
    return _start(workspace, "prepare", session, spec, data_state(workspace, files))


def _recipe_behind(workspace: Workspace, systems: Sequence[Subject]) -> dict[str, Any]:
    """The recipe of the run that made one of the systems; {} when none came from a run."""
    named = next((subject.job for subject in systems if subject.job), "")
    found = find_job(workspace.jobs, named, "train").recipe() if named else {}
    return dict(found)


def burned_notes(workspace: Workspace, files: Sequence[Path]) -> list[str]:
    """A sentence for each held-out file of which a rating gave rows to training."""
    notes = []
    for file in files:
        lines = burned_lines(workspace, file)
        if lines:
            notes.append(
                f"{workspace.relative(file)}: {plural(len(lines), 'row')} (the first is line "
                f"{lines[0]:,}) left as training data through a rating; they measure nothing now"
            )
    return notes


def burned_lines(workspace: Workspace, file: Path) -> list[int]:
    """The lines (from 1) of a data set whose prompts left as training data through a rating.

    Nothing should be evaluated on them again. Raises UserError when the file cannot be read.
    """
    gone = burned(workspace.ratings)
    if not gone or not file.is_file():
        return []
    with open_dataset(file) as rows:
        rows.build_index()
        return [
            rows.source.line(row)
            for row in range(rows.rows)
            if (prompt := _prompt_of(rows, row)) and prompt_hash(prompt) in gone
        ]


def _prompt_of(rows: DataSet, row: int) -> list[dict[str, Any]]:
    """What a row asks; [] for one that cannot be read."""
    try:
        return prompt_and_reference(rows.record(row))[0]
    except (RowError, JsonFault, RecordError):
        return []


def start_generation(
    workspace: Workspace,
    side: str | Job,
    data: str,
    *,
    limit: int = 0,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> Job:
    """Start the job that answers the prompts of a data set; ``limit`` 0 is all of them.

    ``side`` is a model (folder or hub id) as it is, or a training run: its base with what it
    learned. Raises UserError when the data or the run's result is not there.
    """
    file = workspace.resolve(data)
    if not file.is_file():
        raise UserError("is not there.", str(file))
    spec = {
        "kind": "generate", "workspace": str(workspace.root),
        **({"model": side} if isinstance(side, str) else tuned_side(side)),
        "data": str(file), "limit": limit, "max_new_tokens": max_new_tokens,
        "temperature": temperature, "seed": seed,
    }  # fmt: skip
    return _start(workspace, "generate", file.stem, spec, data_state(workspace, [str(file)]))


def start_export(
    workspace: Workspace,
    trained: Job,
    *,
    merge: bool = False,
    dtype: str = "auto",
    gguf: str = "",
    converter: str = "",
    name: str = "",
) -> Job:
    """Start the job that makes what a run left ready to serve.

    ``merge`` also writes the whole model with the adapter in its weights, in ``dtype`` (auto: as
    the base is stored); ``gguf`` names a format of llama.cpp's ``converter`` script (bf16, q8_0,
    ...) and needs the merged model. Raises UserError when the run has left nothing or the
    converter is not there.
    """
    spec = {
        "kind": "export", "workspace": str(workspace.root), "trained": str(trained.path),
        "name": name or trained.slug, **tuned_side(trained),
        "merge": merge or bool(gguf), "dtype": dtype,
    }  # fmt: skip
    if gguf:
        spec |= {"gguf": gguf, "converter": str(find_converter(converter))}
    return _start(workspace, "export", name or trained.slug, spec, {"trained": trained.id})


def find_converter(named: str = "", environ: Mapping[str, str] = os.environ) -> Path:
    """llama.cpp's script that writes GGUF: named, or under FINETUI_LLAMA_CPP, or on PATH.

    Never from a workspace's settings: the script runs with the person's rights. Raises UserError.
    """
    place = named or environ.get("FINETUI_LLAMA_CPP", "")
    if place:
        path = Path(place).expanduser().absolute()
        found: Path | None = path / CONVERTER if path.is_dir() else path
    else:
        on_path = shutil.which(CONVERTER, path=environ.get("PATH"))
        found = Path(on_path) if on_path else None
    if found is None or not found.is_file():
        raise UserError(
            f"{CONVERTER} is not there.",
            place,
            "Get llama.cpp and say where: --llama-cpp FOLDER, or FINETUI_LLAMA_CPP=FOLDER.",
        )
    return found


def start_fetch(
    workspace: Workspace,
    source: str,
    *,
    split: str = "train",
    config: str = "",
    revision: str = "",
    limit: int = 0,
    name: str = "",
) -> Job:
    """Start the job that brings a split of a hub data set into ``datasets/`` as JSON Lines.

    Raises UserError when a file of this name is there already.
    """
    typed = name or f"{Path(source).name}-{split}"
    stem = re.sub(r"[^\w.-]+", "-", typed).strip("-.")[:_LONGEST] or "data"
    target = workspace.datasets / f"{stem.removesuffix('.jsonl')}.jsonl"
    if target.exists():
        raise UserError("is there already.", str(target), "Choose another name: --name")
    spec = {
        "kind": "fetch", "workspace": str(workspace.root), "source": source, "split": split,
        "config": config, "revision": revision, "limit": limit, "target": str(target),
        "libraries": ["datasets"],
    }  # fmt: skip
    return _start(workspace, "fetch", stem, spec, {})


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
    """Hash of a file's bytes; the same file, unchanged, is read once (a sweep asks many times)."""
    state = path.stat()
    return _sha256_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def start_tokenloss(
    workspace: Workspace,
    recipe: Recipe,
    rows: Sequence[tuple[Path, int]],
    trained: Job | None = None,
) -> Job:
    """Start the job that tells the loss of each token of some rows: (data file, line).

    The tokens are those that ``recipe`` trains on; with ``trained`` the model after that run is
    asked beside its base. Raises UserError when that run trained another model, or has left
    nothing.
    """
    full = resolve(recipe, workspace.root)
    side = tuned_side(trained) if trained is not None else model_side(full)
    if side["model"] != full.model.path:
        raise UserError(
            f"this run trained {side['model']}, not the recipe's {full.model.path}.",
            trained.id if trained is not None else "",
            "Choose a run of the same model.",
        )
    data, name = full.data, Path(rows[0][0]).stem if rows else "rows"
    spec = {
        "kind": "tokenloss", "workspace": str(workspace.root), **side,
        "chat_template": full.model.chat_template,
        "rows": [[str(workspace.resolve(path)), line] for path, line in rows],
        "rules": {
            "objective": full.method.objective, "max_length": data.max_length,
            "loss_on": data.loss_on, "cut": data.truncation_side, "overlong": data.overlong,
        },
    }  # fmt: skip
    return _start(workspace, "tokenloss", name, spec, {})


def model_side(recipe: Recipe) -> dict[str, Any]:
    """What a job's spec needs to answer as a recipe's model does before training."""
    table = to_spec(recipe)
    told = ("revision", "trust_remote_code", "precision", "chat_template", "attention", "tf32")
    return {
        "model": recipe.model.path,
        **{name: table["model"][name] for name in told if name in table["model"]},
        "method": {"kind": recipe.method.kind},
    }


def start_rehearsal(workspace: Workspace, recipe: Recipe, name: str = "") -> Job:
    """Start the job that tries a recipe: its longest batch, one update, one save.

    Raises UserError when the recipe has an error.
    """
    facts, advice = check_recipe(workspace, recipe)
    errors = [f"{found.field}: {found.message}" for found in advice if found.severity == "error"]
    if errors:
        raise UserError(f"the recipe cannot run: {'; '.join(errors)}", recipe.name)
    full = resolve(recipe, workspace.root)
    spec = {"kind": "rehearse", "name": name or recipe.name, "workspace": str(workspace.root),
            "recipe": to_spec(full)}  # fmt: skip
    files = [*full.data.train, full.data.eval, full.data.general]
    manifest = {**data_state(workspace, files), "forecast": foreseen(recipe, facts)}
    return _start(workspace, "rehearse", name or recipe.name, spec, manifest)


def start_evaluation(workspace: Workspace, manifest: Manifest, threads: int = 0) -> Job:
    """Start the job that evaluates what a manifest asks for; a record's manifest asks it again.

    The manifest is frozen in the job's folder with the hash of each file that it reads. Raises
    UserError when one is not there, a set could not be scored, a scorer is no function or is not
    allowed, or the rows of a task leak into the training data and nobody has accepted that.
    """
    check_manifest(manifest)
    files = _files_of(workspace, manifest)
    for spec in manifest.sets:
        check_spec(spec)
        if spec.scorer:
            consent.require_file(located(workspace.root, spec.scorer)[0])
    tests = [str(workspace.resolve(spec.path)) for spec in manifest.sets if spec.role == "test"]
    training = [str(workspace.resolve(path)) for path in manifest.training]
    verdict = gate.check(workspace, _there(training), _there(tests))
    if not verdict.open:
        raise verdict.error(workspace)
    state = data_state(workspace, files)
    changed = [path for path, digest in manifest.files.items() if state["data"].get(path) != digest]
    warnings = [
        *verdict.notes,
        *(f"{path} is not what it was" for path in changed),
        *burned_notes(workspace, _there(tests)),
    ]
    asked = structs.replace(
        manifest,
        created=time.time(),
        files=state["data"],
        provenance={"edits": state["edits"], "versions": data_versions(files), "changed": changed},
    )
    kinds = {(subject.loading.get("method") or {}).get("kind") for subject in manifest.subjects}
    libraries = [*(["bitsandbytes"] if "qlora" in kinds else []),
                 *(["datasets"] if manifest.harness else [])]  # fmt: skip
    told = {"kind": "evaluate", "name": manifest.name, "workspace": str(workspace.root),
            "threads": threads, "libraries": libraries}  # fmt: skip
    job = create(workspace.jobs, "evaluate", manifest.name, told, {**state, "warnings": warnings})
    of_job(job.path).write_manifest(asked)
    launch(job)
    return job


def _files_of(workspace: Workspace, manifest: Manifest) -> list[str]:
    """The data files that an evaluation reads. Raises UserError for one that is not there."""
    named = [
        *(spec.path for spec in manifest.sets if spec.path),
        *(subject.few_shot for subject in manifest.subjects if subject.few_shot),
        *(subject.outputs for subject in manifest.subjects if subject.outputs),
        *manifest.training,
    ]
    files = list(dict.fromkeys(str(workspace.resolve(path)) for path in named))
    for file in files:
        if not Path(file).exists():
            raise UserError("is not there.", file)
    return files
