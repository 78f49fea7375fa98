"""What a person asks of an evaluation, in few words: the dialog and the command share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

from finetui import consent
from finetui.errors import UserError
from finetui.evaluation.record import Format, Manifest, SetSpec, Subject, name_of
from finetui.evaluation.scorer import located
from finetui.evaluations import (
    few_shot_of,
    model_of,
    outputs_of,
    plan,
    sets_of,
    tuned_of,
)
from finetui.jobs.folder import Job
from finetui.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A run and its base on its held-out rows and the suites, and what else is wished.

    ``few_shot`` is a data set for the ``shots``, by default the run's training data; ``others``
    are further runs, ``models`` folders or hub ids, ``outputs`` files of answers. ``data`` stands
    for the run's held-out rows, ``suites`` come besides those there are. ``limit`` is at most so
    many rows of each set, 0 all; ``max_new_tokens`` 0 is what the run's recipe says.
    """

    run: Job
    name: str = ""
    shots: int = 0
    few_shot: str = ""
    checkpoints: bool = False
    others: Sequence[Job] = ()
    models: Sequence[str] = ()
    outputs: Sequence[str] = ()
    data: Sequence[str] = ()
    suites: Sequence[str] = ()
    safety: Sequence[str] = ()
    regression: bool = True
    drift: bool = True
    leak: bool = True
    limit: int = 0
    metrics: Sequence[str] = ()
    labels: Sequence[str] = ()
    tags: Sequence[str] = ()
    schema: str = ""
    pattern: str = ""
    scorer: str = ""
    margin: float = 0.0
    seed: int = 0
    max_new_tokens: int = 0
    temperature: float = 0.0
    batch_size: int = 32
    latency_prompts: int = 0
    harness: Sequence[str] = ()

    def manifest(self, workspace: Workspace) -> Manifest:
        """What is asked, ready for start_evaluation. Raises UserError for what is not there."""
        asked: dict[str, Any] = {
            "seed": self.seed,
            "temperature": self.temperature,
            "batch_size": self.batch_size,
            "latency_prompts": self.latency_prompts,
            "harness": list(self.harness),
        }
        if self.max_new_tokens:
            asked["max_new_tokens"] = self.max_new_tokens
        made = plan(
            workspace,
            self.run,
            name=name_of(self.name or self.run.slug),
            checkpoints=self.checkpoints,
            shots=0 if self.few_shot else self.shots,
            sets=self.sets(workspace),
            **asked,
        )
        return structs.replace(made, subjects=self._with_others(workspace, made.subjects))

    def sets(self, workspace: Workspace) -> list[SetSpec]:
        """The sets to answer: tests first, then suites, safety, drift and leaks."""
        usual = sets_of(workspace, self.run)
        taken = [spec.name for spec in usual]
        own = [self._named(workspace, path, "test", taken) for path in self.data]
        tests = own or [spec for spec in usual if spec.role == "test"]
        tests = [structs.replace(spec, **self._scoring(workspace)) for spec in tests]
        more = [self._named(workspace, path, "suite", taken) for path in self.suites]
        more += [self._named(workspace, path, "safety", taken) for path in self.safety]
        kept = [spec for spec in usual if spec.role != "test" and self._wanted(spec)]
        found = [*tests, *more, *kept]
        if self.margin:
            found = [structs.replace(spec, margin=self.margin) for spec in found]
        return [self._cut(spec) for spec in found]

    def _wanted(self, spec: SetSpec) -> bool:
        return {"suite": self.regression, "safety": self.regression, "drift": self.drift,
                "leak": self.leak}.get(spec.role, True)  # fmt: skip

    def _cut(self, spec: SetSpec) -> SetSpec:
        if not self.limit or (spec.limit and spec.limit <= self.limit):
            return spec
        return structs.replace(spec, limit=self.limit)

    def _scoring(self, workspace: Workspace) -> dict[str, Any]:
        """How the rows of the task are scored, where it is said."""
        if self.scorer:
            consent.allow_file(located(workspace.root, self.scorer)[0])
        told: dict[str, Any] = {
            "metrics": list(self.metrics),
            "labels": list(self.labels),
            "tags": list(self.tags),
            "scorer": self.scorer,
        }
        if self.schema:
            told["format"] = Format("json", schema=_schema(workspace.resolve(self.schema)))
        elif self.pattern:
            told["format"] = Format("regex", pattern=self.pattern)
        return {name: value for name, value in told.items() if value}

    def _named(self, workspace: Workspace, path: str, role: Any, taken: list[str]) -> SetSpec:
        file = workspace.resolve(path)
        if not file.is_file():
            raise UserError("is not there.", str(file))
        taken.append(name_of(file.stem, taken))
        return SetSpec(taken[-1], role, path=str(file))

    def _with_others(self, workspace: Workspace, subjects: Sequence[Subject]) -> list[Subject]:
        """All who answer; each under a name of its own."""
        base, found = subjects[0], list(subjects)
        more = [tuned_of(other, name_of(other.slug)) for other in self.others]
        more += [model_of(workspace, model) for model in self.models]
        more += [outputs_of(workspace, file) for file in self.outputs]
        if self.few_shot:
            data = str(workspace.resolve(self.few_shot))
            more.insert(0, few_shot_of(base, data, self.shots or 4))
        for subject in more:
            name = name_of(subject.name, [other.name for other in found])
            found.append(structs.replace(subject, name=name))
        return found


def main_subject(manifest: Manifest) -> str:
    """Whom an evaluation is about: the first subject after the reference."""
    names = [one.name for one in manifest.subjects if one.name != manifest.reference]
    return names[0] if names else manifest.reference


def _schema(path: Path) -> dict[str, Any]:
    """A JSON Schema from a file. Raises UserError."""
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as a JSON Schema ({error}).", str(path)) from error
    if not isinstance(found, dict):
        raise UserError("is no JSON Schema: it must be an object.", str(path))
    return found
