"""A worker on a disk that fills up: it pauses, takes requests, and ends with a true word."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from job_workshop import Workshop, ended, step_reached, until
from small_disk import SmallDisk, small_disk

from finetui.errors import UserError
from finetui.jobs.control import request
from finetui.jobs.events import EventTail
from finetui.jobs.folder import Job, create
from finetui.jobs.launch import launch
from finetui.jobs.liveness import state
from finetui.recipe.files import load, resolve, to_spec
from finetui.recipe.schema import with_value
from finetui.workspace import create_sample


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "4m") as found:
        yield found


@pytest.fixture
def large_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "32m") as found:
        yield found


@pytest.fixture
def shop(disk: SmallDisk) -> Iterator[Workshop]:
    made = Workshop(disk.path)
    yield made
    made.sweep()


def waits_for_room(job) -> bool:
    now = state(job)
    return now.name == "paused" and " is full: the record of the run needs " in now.sentence


def test_a_run_whose_record_finds_no_room_waits_and_then_has_all_of_it(shop, disk):
    job = shop.start("steps", 10_000, 0.001)
    until(lambda: step_reached(job, 3))
    disk.fill()
    until(lambda: waits_for_room(job))
    disk.clear()
    until(lambda: state(job).name == "running")
    reached = job.path / "heartbeat"
    step = int(reached.read_text().split()[3])
    until(lambda: step_reached(job, step + 20))
    request(job, "stop")
    assert ended(job).name == "stopped"
    tail = EventTail(job)
    found = tail.read()
    steps = [event["step"] for event in found if event["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > step
    said = [event["text"] for event in found if event["kind"] in ("warning", "message")]
    assert said[0].startswith("paused: ") and said[1:] == [
        "there is room again for the record of the run"
    ]


def test_a_run_obeys_a_stop_and_writes_its_last_word_without_a_byte_of_room(shop, disk):
    job = shop.start("steps", 10_000, 0.001)
    until(lambda: step_reached(job, 3))
    disk.fill()
    until(lambda: waits_for_room(job))
    disk.fill()
    assert disk.free() == 0
    assert request(job, "stop").startswith("asked ")
    assert ended(job).name == "stopped"
    assert until(job.exit).rc == 0


def test_a_pause_that_a_person_asks_for_meanwhile_outlasts_the_full_disk(shop, disk):
    job = shop.start("steps", 10_000, 0.001)
    until(lambda: step_reached(job, 3))
    disk.fill()
    until(lambda: waits_for_room(job))
    request(job, "pause")
    until(lambda: not list(job.control.glob("pause*")))
    disk.clear()
    until(lambda: state(job).name == "paused" and "full" not in state(job).sentence)
    request(job, "resume")
    until(lambda: state(job).name == "running")
    request(job, "stop")
    assert ended(job).name == "stopped"


def test_a_job_is_not_started_on_a_full_disk(shop, disk):
    job = shop.job("steps")
    disk.fill()
    with pytest.raises(UserError, match="on disk; 0 B is free"):
        launch(job, shop.command(job, "steps", 1, 0))
    disk.clear()
    launch(job, shop.command(job, "steps", 1, 0))
    assert ended(job).name == "finished"


@pytest.mark.figures
@pytest.mark.torch
def test_a_real_run_goes_on_after_each_of_twenty_full_disks(large_disk, tmp_path):
    """The whole program on a small mount: the detached engine, filled up while it saves."""
    disk, job = large_disk, tiny_training(large_disk, tmp_path)
    launch(job)
    try:
        first = kept = None
        for _ in range(_FILLS):
            request(job, "pause")
            until(lambda: state(job).name == "paused")
            disk.fill()
            request(job, "save")
            request(job, "resume")
            until(lambda: " is full: the checkpoint of step " in state(job).sentence)
            if first is not None:
                assert content(first) == kept, "the old checkpoint is as it was"
            saved = len(checkpoints_of(job))
            disk.clear()
            until(lambda count=saved: len(checkpoints_of(job)) > count)
            first = first or checkpoints_of(job)[0]
            kept = kept or content(first)
        request(job, "stop")
        assert ended(job).name == "stopped" and job.result == job.adapter
        steps = [event["step"] for event in EventTail(job).read() if event["kind"] == "step"]
        assert steps == list(range(1, len(steps) + 1))
        assert len(checkpoints_of(job)) >= _FILLS
        print(f"\nfull disk: went on {_FILLS} of {_FILLS} times, no step or checkpoint lost")
    finally:
        shop = Workshop(disk.path)
        shop.jobs = [job]
        shop.sweep()


_FILLS = 20


def checkpoints_of(job) -> list[Path]:
    return [Path(event["path"]) for event in EventTail(job).read() if event["kind"] == "checkpoint"]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def tiny_training(disk: SmallDisk, folder: Path) -> Job:
    """A run of the sample model that lasts until it is stopped; its job lies on the disk."""
    sample = create_sample(folder / "sample")
    made = load(sample.recipes / "triage-lora.toml")
    for field, value in {
        "training.max_steps": "100000", "training.batch_size": "1", "data.eval": "",
        "evaluation.generate": "0", "evaluation.every": "0", "evaluation.suite": "",
        "checkpoints.keep": str(_FILLS + 1), "checkpoints.every": "0", "data.max_length": "128",
        "logging.every": "1", "data.general": "", "data.general_share": "0", "method.rank": "4",
    }.items():  # fmt: skip
        made = with_value(made, field, value)
    recipe = to_spec(resolve(made, sample.root))
    return create(disk.path, "train", "tiny", {"kind": "train", "recipe": recipe}, {})
