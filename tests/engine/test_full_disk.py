"""A disk that fills up while a run saves: it waits for room, and loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from job_workshop import until
from small_disk import SmallDisk, small_disk
from tiny_jobs import run_inside

from finetui.engine import train
from finetui.engine.trainer import JobTrainer
from finetui.jobs.checkpoints import valid_checkpoints
from finetui.jobs.control import request
from finetui.jobs.events import EventTail
from finetui.jobs.folder import Job, create
from finetui.jobs.liveness import state
from finetui.jobs.worker import WorkerSession
from finetui.recipe import schema
from finetui.recipe.files import to_spec


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as found:
        yield found


@pytest.fixture
def on_disk(disk: SmallDisk) -> Callable[[schema.Recipe], Job]:
    """Make a job whose folder is on the small disk."""

    def make(recipe: schema.Recipe) -> Job:
        return create(disk.path, "train", "test", {"kind": "train", "recipe": to_spec(recipe)}, {})

    return make


def fill_before(patch: pytest.MonkeyPatch, disk: SmallDisk, owner: Any, name: str) -> None:
    """Let the disk be full when a function is called for the first time from step 4 on."""
    real, left = getattr(owner, name), [True]

    def called(*arguments: Any, **named: Any) -> Any:
        if left[0] and ready(arguments):
            left[0] = False
            disk.fill()
        return real(*arguments, **named)

    patch.setattr(owner, name, called)


def ready(arguments: tuple[Any, ...]) -> bool:
    first = arguments[0] if arguments else None
    return not isinstance(first, JobTrainer) or first.state.global_step >= 4


@contextmanager
def meanwhile(job: Job, when_paused: Callable[[], None]) -> Iterator[list[str]]:
    """Beside the run, do something each time that it waits for room; yields what it said."""
    said: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            now = state(job)
            if now.name == "paused" and " is full: " in now.sentence:
                said.append(now.sentence)
                when_paused()
                until(lambda: done.is_set() or state(job).name != "paused")
            done.wait(0.02)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield said
    finally:
        done.set()
        watcher.join()


def whole_events(job: Job, kind: str) -> list[dict[str, Any]]:
    """Events as readers see them: a full disk takes a part of a line now and then."""
    return [event for event in EventTail(job).read() if event["kind"] == kind]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_run_waits_for_room_wherever_it_saves_and_learns_the_same(
    recipe: Callable[..., schema.Recipe],
    make_job: Callable[[schema.Recipe], Job],
    on_disk: Callable[[schema.Recipe], Job],
    disk: SmallDisk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = recipe(checkpoints={"every": 2, "keep": 5})
    free_run, job = make_job(made), on_disk(made)
    assert run_inside(free_run) == 0
    for owner, name in (
        (JobTrainer, "_write_checkpoint"),
        (JobTrainer, "_keep_best"),
        (train, "save_result"),
    ):
        fill_before(monkeypatch, disk, owner, name)
    real_append = WorkerSession.append

    def append(session: WorkerSession, descriptor: int, data: bytes, what: str) -> None:
        if whole_events(job, "checkpoint") and not (job.path / "filled").exists():
            (job.path / "filled").touch()
            disk.fill()
        real_append(session, descriptor, data, what)

    monkeypatch.setattr(WorkerSession, "append", append)
    kept: list[dict[str, bytes]] = []

    def make_room() -> None:
        kept.append(content(job.path / "checkpoints" / "step-2"))
        disk.clear()

    with meanwhile(job, make_room) as said:
        assert run_inside(job) == 0
    wanted = [sentence.partition(" is full: ")[2].partition(" needs ")[0] for sentence in said]
    assert wanted == [
        "the best adapter or model, of step 4",
        "the checkpoint of step 4",
        "the adapter",
        "the file of answers",
    ]
    assert state(job).name == "finished" and job.result == job.adapter
    now = content(job.path / "checkpoints" / "step-2")
    assert len(kept) == 4 and all(found == now for found in kept)
    assert [step for step, _ in valid_checkpoints(job.path / "checkpoints")] == [2, 4, 6, 8]
    losses = [event["loss"] for event in whole_events(job, "step")]
    assert losses == [event["loss"] for event in whole_events(free_run, "step")]
    answers = (job.path / "outputs-after.jsonl").read_bytes()
    assert answers == (free_run.path / "outputs-after.jsonl").read_bytes()


def test_a_stop_while_the_disk_is_full_ends_the_run_and_says_what_is_left_of_it(
    recipe: Callable[..., schema.Recipe],
    on_disk: Callable[[schema.Recipe], Job],
    disk: SmallDisk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = on_disk(recipe(checkpoints={"every": 2}, evaluation={"every": 0, "generate": 0}))
    fill_before(monkeypatch, disk, JobTrainer, "_write_checkpoint")
    with meanwhile(job, lambda: request(job, "stop") and None) as said:
        assert run_inside(job) == 0
    assert "the checkpoint of step 4 needs " in said[0]
    found = state(job)
    assert found.name == "stopped" and job.result is None
    assert found.sentence.startswith("stopped on request at step 5 of 8; ")
    assert "is full: the adapter needs " in found.sentence
    assert found.sentence.endswith("the newest checkpoint is of step 2: make room and resume it")
    assert [step for step, _ in valid_checkpoints(job.path / "checkpoints")] == [2]
    assert not list(job.path.glob(".*draft*")) and not list(job.path.glob("checkpoints/.partial/*"))
    disk.clear()
    kinds = [event["kind"] for event in EventTail(job).read()]
    assert kinds.count("step") == 5


def test_a_fault_that_is_no_full_disk_still_ends_the_run(
    recipe: Callable[..., schema.Recipe],
    make_job: Callable[[schema.Recipe], Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = make_job(recipe(checkpoints={"every": 2}))

    def broken(*arguments: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(JobTrainer, "_write_checkpoint", broken)
    assert run_inside(job) == 1
    assert state(job).name == "failed" and "Input/output error" in state(job).sentence
