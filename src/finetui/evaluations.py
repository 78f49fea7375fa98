"""Who is evaluated on what: the parts of a manifest, taken from runs and from the workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from finetui import start
from finetui.errors import UserError
from finetui.evaluation import suites
from finetui.evaluation.record import Manifest, SetSpec, Subject, name_of
from finetui.jobs.folder import Job
from finetui.workspace import Workspace

SUITES = "suites"
DRIFT_ROWS = 100
_MOVING_STARTS = ("pissa", "olora")  # their checkpoints stand on a base that only training has


def plan(
    workspace: Workspace,
    trained: Job,
    *,
    name: str = "",
    checkpoints: bool = False,
    shots: int = 0,
    sets: Sequence[SetSpec] = (),
    **asked: Any,
) -> Manifest:
    """The evaluation of a run: its base against what it left, on its held-out rows and the suites.

    With ``checkpoints`` the run's checkpoints answer too, with ``shots`` the base behind so many
    rows of the training data. ``asked`` are further fields of the manifest. Raises UserError when
    the run has left nothing, or had no held-out rows and no set is named.
    """
    base = base_of(trained)
    subjects = [base, tuned_of(trained)]
    if shots:
        subjects.append(few_shot_of(base, trained, shots))
    if checkpoints:
        subjects += checkpoints_of(trained)
    chosen = list(sets) or sets_of(workspace, trained)
    if not any(spec.role == "test" for spec in chosen):
        raise UserError("this run had no held-out rows.", trained.id, "Name a data set: --data")
    recipe = _recipe(trained)
    return structs.replace(
        Manifest(
            name=name or trained.slug,
            subjects=_apart(subjects),
            sets=chosen,
            base=base.name,
            max_new_tokens=int(recipe.get("evaluation", {}).get("max_new_tokens", 256)),
            training=_texts(recipe.get("data", {}).get("train")),
        ),
        **asked,
    )


# -- subjects ------------------------------------------------------------------------------------


def base_of(trained: Job, name: str = "base") -> Subject:
    """The model that a run began with, loaded as in training."""
    side = dict(start.tuned_side(trained))
    for part in ("adapter", "tuned"):
        side.pop(part, None)
    return Subject(name, "base", model=str(side.pop("model")), loading=side)


def tuned_of(trained: Job, name: str = "tuned") -> Subject:
    """What a run left: its adapter on the base, or its model after full tuning."""
    side = dict(start.tuned_side(trained))
    if "tuned" in side:
        return Subject(name, "model", model=side["tuned"], job=trained.id, loading=_whole(side))
    adapter, model = str(side.pop("adapter")), str(side.pop("model"))
    return Subject(name, "adapter", model=model, adapter=adapter, job=trained.id, loading=side)


def checkpoints_of(trained: Job) -> list[Subject]:
    """The valid checkpoints of a run, the first step first; none that need training's own base."""
    if _recipe(trained).get("method", {}).get("init") in _MOVING_STARTS:
        return []
    tuned = tuned_of(trained)
    found = [
        (int(folder.name.removeprefix("step-")), folder)
        for folder in (trained.path / "checkpoints").glob("step-*")
        if folder.name.removeprefix("step-").isdigit() and (folder / "MANIFEST.json").is_file()
    ]
    if not tuned.adapter:  # a checkpoint of all weights has no tokenizer beside it
        tuned = structs.replace(tuned, loading={**tuned.loading, "tokenizer": tuned.model})
    part = "adapter" if tuned.adapter else "model"
    return [
        structs.replace(
            tuned, name=f"step-{step}", kind="checkpoint", step=step, **{part: str(folder)}
        )
        for step, folder in sorted(found)
    ]


def few_shot_of(base: Subject, data: Job | str, shots: int, name: str = "") -> Subject:
    """A subject behind the first ``shots`` rows of a data set, or of a run's training data."""
    file = (
        data
        if isinstance(data, str)
        else (_texts(_recipe(data).get("data", {}).get("train")) or [""])[0]
    )
    if not file:
        raise UserError("has no training data to take examples from.", base.name)
    return structs.replace(
        base, name=name or f"{base.name}-{shots}-shot", kind="few-shot", few_shot=file, shots=shots
    )


def model_of(workspace: Workspace, model: str, name: str = "") -> Subject:
    """Any model folder or hub id as it stands."""
    folder = workspace.resolve(model)
    path = str(folder) if folder.is_dir() else model
    return Subject(name or name_of(Path(model).name), "model", model=path)


def outputs_of(workspace: Workspace, file: str, name: str = "") -> Subject:
    """Answers that were written elsewhere. Raises UserError when the file is not there."""
    path = workspace.resolve(file)
    if not path.is_file():
        raise UserError("is not there.", str(path))
    return Subject(name or name_of(path.stem), "outputs", outputs=str(path))


# -- sets ----------------------------------------------------------------------------------------


def sets_of(workspace: Workspace, trained: Job) -> list[SetSpec]:
    """What a run is measured on: held-out rows, suites, drift on general rows, leaked rows."""
    recipe = _recipe(trained)
    data, look = recipe.get("data", {}), recipe.get("evaluation", {})
    found: list[SetSpec] = []
    if data.get("eval"):
        found.append(SetSpec(_named(data["eval"], found), "test", path=data["eval"]))
    if look.get("suite"):
        found.append(SetSpec(_named(look["suite"], found), "suite", path=look["suite"]))
    found += [_suite(path, found) for path in suite_files(workspace)]
    general = str(look.get("suite") or suites.shipped("general").path)
    found.append(SetSpec("drift", "drift", path=general, limit=DRIFT_ROWS))
    if data.get("train"):
        found.append(SetSpec("leak", "leak"))
    return found


def suite_files(workspace: Workspace) -> list[Path]:
    """The workspace's own suites; those we ship where it has none."""
    own = sorted((workspace.root / SUITES).glob("*.jsonl"))
    return own or [Path(suites.shipped(name).path) for name in suites.SHIPPED]


def _suite(path: Path, others: Sequence[SetSpec]) -> SetSpec:
    """A suite by its name: one we ship as we mean it, one with ``safety`` in it as such."""
    name = _named(str(path), others)
    if path.stem in suites.SHIPPED:
        return structs.replace(suites.shipped(path.stem), name=name, path=str(path))
    return SetSpec(name, "safety" if "safety" in path.stem else "suite", path=str(path))


def _named(path: str, others: Sequence[SetSpec]) -> str:
    return name_of(Path(path).stem, [*(spec.name for spec in others), "drift", "leak"])


# -- parts ---------------------------------------------------------------------------------------


def _recipe(trained: Job) -> Mapping[str, Any]:
    found: Mapping[str, Any] = trained.recipe()
    return found


def _texts(value: object) -> list[str]:
    """A list of a spec; [] where it is none, in a spec that somebody broke."""
    return [str(one) for one in value] if isinstance(value, list) else []


def _whole(side: Mapping[str, Any]) -> dict[str, Any]:
    """How a model that a run left is loaded: as its base was, at no revision of the hub."""
    return {
        name: value
        for name, value in side.items()
        if name not in ("model", "tuned", "revision", "method")
    }


def _apart(subjects: Sequence[Subject]) -> list[Subject]:
    """The same subjects, each under a name of its own."""
    found: list[Subject] = []
    for subject in subjects:
        name = name_of(subject.name, [other.name for other in found])
        found.append(structs.replace(subject, name=name))
    return found
