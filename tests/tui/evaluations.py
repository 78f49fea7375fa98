"""A finished evaluation made by hand: real answers, really scored, no model."""

from __future__ import annotations

import json
import time

from look import HOSTILE

from finetui.evaluation import figures
from finetui.evaluation.record import Answer, Item, Manifest, SetSpec, Subject, Timing, of_job
from finetui.evaluation.scoring import score_set
from finetui.jobs.folder import Job, create
from finetui.workspace import Workspace

SUBJECTS = [
    Subject("base", "base", model="m"),
    Subject("tuned", "adapter", model="m", adapter="a"),
    Subject("step-10", "checkpoint", model="m", adapter="c", step=10),
    Subject("step-20", "checkpoint", model="m", adapter="d", step=20),
]
RIGHT = {"base": 6, "tuned": 20, "step-10": 12, "step-20": 20}
"""Of 24 rows of the task; the base is right on other rows than the tuned model."""


def evaluation(workspace: Workspace, slug: str = "triage", right: dict[str, int] = RIGHT) -> Job:
    """An evaluation of four subjects on a task with labels and on a suite that got worse."""
    job = create(workspace.jobs, "evaluate", slug, {"kind": "evaluate"}, {})
    record = of_job(job.path)
    held = workspace.datasets / "held.jsonl"
    held.write_text('{"text": "x"}\n' * 24)
    sets = [SetSpec("task", path=str(held)), SetSpec("general", "suite", margin=0.05)]
    record.write_manifest(
        Manifest(slug, SUBJECTS, sets, "base", resamples=200, files={str(held): "0" * 64})
    )
    _answer(record, sets[0], _tickets(str(held)), right)
    shares = {name: 30 if name == "base" else 3 for name in right}
    _answer(record, sets[1], [_sum(number) for number in range(30)], shares)
    with record.timings_writer() as out:
        for condition, pace in (("base", 1.0), ("adapter", 1.4)):
            for prompt in "abc":
                out.add(Timing(condition, prompt, 0, 0.02 * pace, 0.5 * pace, 20))
    found = figures.write(record)
    sentence = figures.main_sentence(found, record.manifest())
    outcome = {"status": "finished", "attempt": 1, "t": time.time(), "sentence": sentence}
    job.write_json("outcome.json", outcome)
    return job


def _answer(record, spec, items, right):  # type: ignore[no-untyped-def]
    """The tuned ones are right from the front, the base from the back."""
    record.write_items(spec.name, items)
    for subject, count in right.items():
        chosen = items[len(items) - count :] if subject == "base" else items[:count]
        good = {item.id for item in chosen}
        answers = [
            Answer(item.id, item.reference if item.id in good else f"no {HOSTILE}", tokens=9)
            for item in items
        ]
        with record.writer(subject, spec.name) as out:
            for answer in answers:
                out.add(answer)
        record.write_scores(subject, spec.name, score_set(spec, items, answers))


def _tickets(file: str) -> list[Item]:
    return [
        Item(
            f"{file}:{number + 1}",
            [{"role": "user", "content": f"ticket {number} {HOSTILE}"}],
            json.dumps({"urgency": ["low", "high"][number % 2]}),
            tags={"language": [["en", "de", "fr"][number % 3]]},
        )
        for number in range(24)
    ]


def _sum(number: int) -> Item:
    prompt = [{"role": "user", "content": f"{number} + 1?"}]
    return Item(f"general.jsonl:{number + 1}", prompt, str(number + 1))
