"""The job that evaluates: every subject answers every set, then the answers are scored.

Nothing is asked twice. What a killed attempt wrote stays, what any evaluation of the workspace
asked before comes from its cache, and a model is loaded only when something is left to ask.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetui import consent
from finetui.display import plural
from finetui.engine import latency
from finetui.engine.answer import tuned_model
from finetui.engine.answer_cache import tidy
from finetui.engine.asking import Against, Asking, Caches
from finetui.engine.attention import attend
from finetui.engine.generate import Settings
from finetui.engine.harness import TASKS, require_harness, run_tasks
from finetui.engine.items import GENERATED, items_of, read, training_index, without_burned
from finetui.engine.likelihood import Distances, distance_to, to_its_base
from finetui.engine.outside import outputs_of
from finetui.engine.subjects import Bench, base_key, shots_of, spec_of
from finetui.errors import UserError
from finetui.evaluation import figures
from finetui.evaluation.leakage import TrainingIndex
from finetui.evaluation.record import (
    Answer,
    Item,
    Manifest,
    Record,
    SetSpec,
    Subject,
    of_job,
)
from finetui.evaluation.results import Figures
from finetui.evaluation.scorer import Scorer, located
from finetui.evaluation.scoring import score_set
from finetui.jobs.worker import WorkerSession
from finetui.workspace import Workspace

CACHE = "answers"
_LISTEN_S = 1.0
_ASKED_ALONE = ("few-shot", "outputs")  # kinds that only the task itself is asked of
_FIGURES_BYTES = 256 << 10


@dataclass
class Evaluation:
    """What the stages of one evaluation share."""

    session: WorkerSession
    workspace: Workspace
    record: Record
    manifest: Manifest
    bench: Bench
    caches: dict[str, Caches] = field(default_factory=dict)
    listened: float = 0.0

    def stage(self, text: str) -> None:
        self.session.events.write("stage", text=text)
        attend(self.session)

    def beat(self) -> None:
        """Say "alive", and about once a second listen: a batch may take minutes."""
        self.session.beat()
        if time.monotonic() - self.listened > _LISTEN_S:
            self.listened = time.monotonic()
            attend(self.session)

    def items(self, spec: SetSpec) -> list[Item]:
        return self.record.items(spec.name)

    @property
    def settings(self) -> Settings:
        asked = self.manifest
        return Settings(
            asked.max_new_tokens, asked.temperature, asked.top_p, asked.seed, asked.batch_size
        )


def evaluate(session: WorkerSession, spec: Mapping[str, Any]) -> None:
    """Answer, measure, time and score what the manifest in the job's folder asks for.

    Raises UserError when something is missing, StopRequested when somebody asks.
    """
    record = of_job(session.job.path)
    record.around = session.until_saved
    manifest = record.manifest()
    workspace = Workspace(Path(str(spec["workspace"])))
    if manifest.harness:
        require_harness()
    with Bench(session.job.path, int(spec.get("threads", 0))) as bench:
        job = Evaluation(session, workspace, record, manifest, bench)
        _write_items(job)
        for subject in _in_order(manifest.subjects):
            _ask(job, subject)
        bench.clear()
        if manifest.latency_prompts:
            _time(job)
        _score(job)
    tidy(workspace.cache / CACHE)
    job.stage("taking the figures")
    found = session.until_saved(
        "the file of figures", record.folder, _FIGURES_BYTES, lambda: figures.write(record)
    )
    session.outcome(
        "finished",
        metrics={"summaries": _summaries(manifest, found)},
        sentence=figures.main_sentence(found, manifest),
    )


def _write_items(job: Evaluation) -> None:
    job.stage("reading the sets")
    for spec in job.manifest.sets:
        if not job.record.items_path(spec.name).is_file():
            found = _unburned(job, spec, items_of(spec, job.manifest, job.workspace))
            job.session.require_newest()
            job.record.write_items(spec.name, found)
        job.session.beat()


def _unburned(job: Evaluation, spec: SetSpec, items: list[Item]) -> list[Item]:
    """The rows that may be evaluated on. Raises UserError when all of them were given away."""
    if spec.role in ("drift", "leak"):
        return items
    kept = without_burned(items, job.workspace)
    gone = len(items) - len(kept)
    if items and not kept:
        raise UserError("every row of it left as training data.", spec.path, "Hold out new rows.")
    if gone:
        text = f"{plural(gone, 'row')} of {spec.name} left as training data and will not be asked"
        job.session.events.write("warning", text=text)
    return kept


def _in_order(subjects: Iterable[Subject]) -> list[Subject]:
    """Subjects with the same base behind one another, so that it is loaded once."""
    listed = list(subjects)
    first = {base_key(subject): at for at, subject in reversed(list(enumerate(listed)))}
    return sorted(listed, key=lambda subject: first[base_key(subject)])


# -- answers -------------------------------------------------------------------------------------


def _ask(job: Evaluation, subject: Subject) -> None:
    if subject.kind == "outputs":
        _take_outputs(job, subject)
        return
    job.stage(f"{subject.name}: looking for its model")
    loaded = False

    def model() -> Any:
        nonlocal loaded
        if not loaded:
            job.stage(f"{subject.name}: loading the model")
        loaded = True
        return job.bench.model(subject)

    for spec in job.manifest.sets:
        if spec.role == "test" or subject.kind not in _ASKED_ALONE:
            _ask_set(job, subject, spec, model)
    if job.manifest.harness and subject.kind not in _ASKED_ALONE:
        _ask_harness(job, subject, model)
    if loaded:
        job.record.write_usage(subject.name, job.bench.usage(subject))


def _ask_set(job: Evaluation, subject: Subject, spec: SetSpec, model: Any) -> None:
    items = job.items(spec)
    done = {answer.id for answer in job.record.answers(subject.name, spec.name)}
    if len(done) == len(items):
        return
    tokenizer = job.bench.tokenizer(subject)
    shots = shots_of(subject, job.workspace, [item.prompt for item in items])
    rows = [read(item, spec.role, tokenizer, shots) for item in items]

    def tell(count: int, doing: str) -> None:
        text = f"{subject.name}: {doing} {spec.name}"
        job.session.events.write("progress", done=count, total=len(items), text=text)
        attend(job.session)

    asking = Asking(
        model,
        job.bench.machine(subject),
        tokenizer,
        _caches(job, subject),
        job.settings,
        tell,
        job.beat,
    )
    against = _against(job, subject) if spec.role == "drift" else None
    with job.record.writer(subject.name, spec.name) as out:
        for batch in asking.answered(rows, done, against):
            job.session.require_newest()
            for answer in batch:
                out.add(answer)


def _caches(job: Evaluation, subject: Subject) -> Caches:
    """The subject's caches; those of an earlier one with the same model serve again."""
    print_ = job.bench.fingerprint(subject)
    if print_ not in job.caches:
        job.caches[print_] = Caches(job.workspace.cache / CACHE, print_)
    return job.caches[print_]


def _against(job: Evaluation, subject: Subject) -> Against | None:
    """How the distance from the reference is taken; None for the reference itself.

    An adapter is switched off for it; any other model has the reference loaded beside.
    """
    reference = job.manifest.subject(job.manifest.reference)
    if subject.name == reference.name or reference.kind == "outputs":
        return None

    def distances() -> Distances:
        if subject.adapter and not reference.adapter and base_key(subject) == base_key(reference):
            return to_its_base
        _require_same_tokens(job, subject, reference)
        return distance_to(tuned_model(spec_of(reference), job.bench.machine(reference)))

    return Against(job.bench.fingerprint(reference), distances)


def _require_same_tokens(job: Evaluation, subject: Subject, reference: Subject) -> None:
    ours, theirs = (job.bench.tokenizer(each).tokenizer for each in (subject, reference))
    if ours.get_vocab() != theirs.get_vocab():
        raise UserError(
            f"has other tokens than {reference.name}, so its drift cannot be told.",
            subject.name,
            "Leave the sets of role drift away.",
        )


def _take_outputs(job: Evaluation, subject: Subject) -> None:
    """Answers that were written elsewhere, on the sets that they fit."""
    job.stage(f"{subject.name}: reading its answers")
    tests = [spec for spec in job.manifest.sets if spec.role == "test"]
    sets = {spec.name: job.items(spec) for spec in tests}
    found = outputs_of(job.workspace.resolve(subject.outputs), sets)
    for name, answers in found.items():
        done = {answer.id for answer in job.record.answers(subject.name, name)}
        with job.record.writer(subject.name, name) as out:
            for id, text in answers.items():
                if id not in done:
                    out.add(Answer(id, text))


def _ask_harness(job: Evaluation, subject: Subject, model: Any) -> None:
    if job.record.harness_path(subject.name).is_file():
        return
    tasks = job.manifest.harness
    job.stage(f"{subject.name}: {', '.join(tasks)} by the harness")
    found = run_tasks(
        model(),
        job.bench.tokenizer(subject),
        tasks,
        own=job.workspace.root / TASKS,
        batch_size=job.manifest.batch_size,
        seed=job.manifest.seed,
    )
    job.session.require_newest()
    job.record.write_harness(subject.name, found)


# -- speed ---------------------------------------------------------------------------------------


def _time(job: Evaluation) -> None:
    """Time the base against the first trained subject, on the prompts of the first task."""
    base = job.manifest.subject(job.manifest.reference)
    tuned = next((one for one in job.manifest.subjects if _is_trained(one, base)), None)
    questions = list(_questions(job, base))
    if tuned is None or base.kind != "base" or not questions:
        job.session.events.write(
            "warning", text="no speed is measured: it needs a base, something trained, and prompts"
        )
        return
    job.stage("timing answers")
    machine = job.bench.machine(tuned)
    loads = latency.conditions(base, tuned, machine)
    total = len(loads) * len(questions) * job.manifest.latency_repeats
    job.record.timings_path.unlink(missing_ok=True)
    with job.record.timings_writer() as out:
        measured = latency.timings(
            loads, machine, questions, job.manifest.latency_tokens,
            job.manifest.latency_repeats, job.beat,
        )  # fmt: skip
        for count, timing in enumerate(measured, start=1):
            out.add(timing)
            job.session.events.write("progress", done=count, total=total, text="timing answers")
            attend(job.session)


def _is_trained(subject: Subject, base: Subject) -> bool:
    return subject.name != base.name and subject.kind in ("adapter", "checkpoint", "model")


def _questions(job: Evaluation, base: Subject) -> Iterator[latency.Question]:
    spec = next((each for each in job.manifest.sets if each.role == "test"), None)
    if spec is None:
        return
    tokenizer = job.bench.tokenizer(base)
    rows = (read(item, spec.role, tokenizer) for item in job.items(spec))
    asked = [row for row in rows if row.prompt]
    for row in asked[: job.manifest.latency_prompts]:
        yield latency.Question(row.item.id, row.prompt or [])


# -- scores --------------------------------------------------------------------------------------


def _score(job: Evaluation) -> None:
    training = training_index(job.manifest, job.workspace)
    for spec in job.manifest.sets:
        with ExitStack() as stack:
            scorer = stack.enter_context(_scorer(job, spec)) if spec.scorer else None
            for subject in job.manifest.subjects:
                _score_set(job, subject, spec, scorer, training)


def _score_set(
    job: Evaluation,
    subject: Subject,
    spec: SetSpec,
    scorer: Scorer | None,
    training: TrainingIndex | None,
) -> None:
    answers = job.record.answers(subject.name, spec.name)
    if not answers:
        return
    job.stage(f"scoring {spec.name} of {subject.name}")
    known = training if spec.role in GENERATED else None
    scores = score_set(spec, job.items(spec), answers, scorer, known, lambda *_: job.beat())
    job.session.require_newest()
    job.record.write_scores(subject.name, spec.name, scores)


def _scorer(job: Evaluation, spec: SetSpec) -> Scorer:
    log = job.session.job.path / "scorer.log"
    consent.require_file(located(job.workspace.root, spec.scorer)[0])
    return Scorer(job.workspace.root, spec.scorer, spec.scorer_seconds, log=log)


def _summaries(manifest: Manifest, found: Figures) -> dict[str, dict[str, float]]:
    """The figures of the first set by subject, without their intervals."""
    name = manifest.sets[0].name
    return {
        subject: {metric: estimate.value for metric, estimate in sets.get(name, {}).items()}
        for subject, sets in found.summaries.items()
    }
