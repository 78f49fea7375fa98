"""What the tests of the screens share: waiting, and jobs and sessions made by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from textual.pilot import Pilot

from finetui.jobs.events import EventWriter
from finetui.jobs.folder import Job, create
from finetui.rating.session import Item, Registration, Session, default_rater, seal
from finetui.tui.app import FinetuiApp
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import Workspace

LIMIT = 20.0
HOSTILE = "\x1b]52;c;aGk=\x07[/b][@click=quit]x[/]\u202e"


async def until(pilot: Pilot[Any], condition: Callable[[], object], limit: float = LIMIT) -> None:
    """Let the app run until the condition holds; fails when it never does."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        await pilot.pause(0.01)


def words(app: FinetuiApp, selector: str) -> str:
    """The text of a panel of the mode on screen."""
    assert app.pane is not None
    return app.pane.query_one(selector, TextPanel).text.plain


def finished_job(workspace: Workspace, slug: str = "demo", **spec: Any) -> Job:
    """A train job with a history of 20 steps, one NaN, scores and an outcome."""
    job = create(workspace.jobs, "train", slug, {"kind": "train", **spec}, {})
    events = EventWriter(job, 1)
    events.write("start", total_steps=20, parameters=3_450_000, trainable=299_008, device="CPU")
    for step in range(1, 21):
        loss = float("nan") if step == 10 else 2.0 / step
        events.write("step", step=step, loss=loss, lr=1e-3, grad_norm=0.5, tokens=100 * step,
                     trained_tokens=24 * step, tokens_per_s=900.0, step_s=0.1)  # fmt: skip
    events.write("eval", step=20, loss=0.25, seconds=1.0)
    for when, share in (("before", 0.0), ("after", 1.0)):
        events.write("score", when=when, set="held-out", format=share, accuracy=share, n=10)
    events.write("warning", text=f"odd {HOSTILE}")
    events.write("end", reason="finished")
    events.close()
    outcome = {"status": "finished", "attempt": 1, "t": time.time(), "sentence": "finished"}
    job.write_json("outcome.json", outcome)
    job.log_path(1).write_text(f"first line\nlast line {HOSTILE}\n")
    (job.adapter).mkdir()
    (job.adapter / "adapter_config.json").write_text("{}")
    return job


def write_outputs(job: Job, held_out: Path, right: dict[str, list[bool]]) -> None:
    """Answers before and after, right where the lists say so."""
    for when, marks in right.items():
        entries = [
            {
                "id": f"{held_out}:{number}",
                "prompt": [{"role": "user", "content": f"question {number} {HOSTILE}"}],
                "answer": "yes" if mark else f"no {HOSTILE}",
                "reference": "yes",
                "format": True,
                "correct": mark,
            }
            for number, mark in enumerate(marks, start=1)
        ]
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        (job.path / f"outputs-{when}.jsonl").write_text(text)


def sealed_session(
    workspace: Workspace,
    items: int = 4,
    long: str = "",
    also: str = "",
    registration: Mapping[str, Any] = MappingProxyType({}),
) -> Session:
    """A session over made-up answers; `long` is added to the base's answers, `also` to the
    tuned ones."""
    made = [
        Item(
            id=f"item-{number}",
            prompt=[{"role": "user", "content": f"question {number}"}],
            outputs={
                "base": f"base answer {number}{long}",
                "tuned": f"tuned answer {number}{also}",
            },
        )
        for number in range(items)
    ]
    chosen = Registration(
        question="Which is better?", raters=(default_rater(),), repeats=0.0, **registration
    )
    return seal(workspace.ratings, "blind-1", made, chosen)
