"""Why a worker died without a word: evidence, and the one change that would help."""

import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from job_workshop import ended, until

from finetui.errors import UserError
from finetui.jobs import deaths
from finetui.jobs.folder import ExitRecord, Job, create
from finetui.jobs.launch import launch
from finetui.jobs.liveness import state

RECIPE = {
    "training": {"batch_size": 6, "accumulation": 1, "checkpointing": "off", "optimizer": "adamw"},
    "method": {"kind": "lora"},
    "data": {"max_length": 2048},
}


def job_of(tmp_path: Path, device: str = "CPU", recipe: dict = RECIPE) -> Job:
    spec = {"kind": "train", "recipe": recipe}
    return create(tmp_path, "train", "test", spec, {"forecast": {"device": device}})


def killed(number: int = signal.SIGKILL, **evidence) -> ExitRecord:
    return ExitRecord(1, -number, 0.0, signal=number, **evidence)


def test_memory_that_ran_out_is_told_with_its_evidence_and_one_change(tmp_path):
    record = killed(oom_kills=1, cgroup_oom_kills=0, peak_rss=3 << 30)
    assert deaths.exit_sentence(job_of(tmp_path), record) == (
        "killed by signal 9 (SIGKILL); the kernel's out-of-memory counter rose by 1 meanwhile; it "
        "held 3.0 GiB at most; set training.batch_size to 3 (now 6) and training.accumulation to 2 "
        "(now 1): the updates stay the same"
    )


def test_on_a_gpu_the_batches_are_not_what_fills_main_memory(tmp_path):
    record = killed(oom_kills=0, cgroup_oom_kills=2)
    told = deaths.exit_sentence(job_of(tmp_path, "NVIDIA H200"), record)
    assert "its memory limit (cgroup) was hit 2 times meanwhile; give the job more memory" in told


def test_without_evidence_no_cause_is_claimed_and_no_change_advised(tmp_path):
    job = job_of(tmp_path)
    told = deaths.exit_sentence(job, killed(oom_kills=0))
    assert told.endswith("the kernel's out-of-memory counter did not rise")
    assert deaths.exit_sentence(job, killed()).endswith("whether memory ran out is not known")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGBUS, "shared memory (/dev/shm) is full"),
        (signal.SIGSEGV, "a compiled library touched memory that is not there"),
        (signal.SIGABRT, "a compiled library gave up"),
        (signal.SIGILL, "instructions that this CPU does not have"),
        (signal.SIGXFSZ, "ulimit -f"),
    ],
)
def test_signals_of_libraries_are_explained(tmp_path, number, words):
    told = deaths.exit_sentence(job_of(tmp_path), killed(number))
    assert told.startswith(f"killed by signal {number.value} ({number.name}): ") and words in told


def test_signals_without_a_name_or_a_story_are_only_named(tmp_path):
    job = job_of(tmp_path)
    assert deaths.exit_sentence(job, killed(signal.SIGTERM)) == "killed by signal 15 (SIGTERM)"
    assert deaths.exit_sentence(job, killed(63)) == "killed by signal 63"


def test_the_change_is_the_cheapest_that_is_left():
    def told(on_gpu: bool = True, **changes) -> str:
        recipe = {table: {**RECIPE[table]} for table in RECIPE}
        for name, value in changes.items():
            table = next(table for table in recipe if name in recipe[table])
            recipe[table][name] = value
        return deaths.lighter(recipe, on_gpu)

    assert told(batch_size=5, accumulation=2).startswith(
        "set training.batch_size to 2 (now 5) and training.accumulation to 5 (now 2)"
    )
    assert told(batch_size=7).startswith("set training.batch_size to 1 (now 7)")
    assert told(batch_size=1).startswith("set training.checkpointing to on")
    small = {"batch_size": 1, "checkpointing": "on"}
    assert told(**small) == "set method.kind to qlora: the frozen weights take a quarter"
    assert "adamw_8bit (now adamw)" in told(kind="full", **small)
    assert "max_length to 1024 (now 2048)" in told(kind="full", optimizer="adamw_8bit", **small)
    assert "max_length to 1024 (now 2048)" in told(on_gpu=False, **small)
    assert told(kind="qlora", max_length=200, **small) == "take a smaller model"
    assert deaths.lighter({}, True) == ""


def test_a_worker_that_a_library_kills_is_told_with_the_story(workshop):
    job = workshop.job("kill-me")
    with suppress(UserError):  # said by the launch already where it dies soon enough
        launch(job, workshop.command(job, "kill_me", int(signal.SIGSEGV)))
    assert ended(job).name == "failed"
    assert state(job).sentence.startswith("killed by signal 11 (SIGSEGV): a compiled library")


@pytest.fixture
def small_cgroup(monkeypatch):
    """A memory cgroup of 96 MB that the supervisor and worker are put into."""
    group = Path("/sys/fs/cgroup/memory") / f"finetui-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(96 << 20))
    except OSError:
        group = Path("/sys/fs/cgroup") / f"finetui-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / "memory.max").write_text(str(96 << 20))
            (group / "memory.swap.max").write_text("0")
        except OSError:
            pytest.skip("no memory cgroup can be made here")
    home = group.parent / "cgroup.procs"
    yield group
    for pid in (group / "cgroup.procs").read_text().split():
        home.write_text(pid)
    group.rmdir()


def test_a_worker_that_hits_its_memory_limit_is_told_with_the_kernels_word(workshop, small_cgroup):
    job = create(workshop.jobs_dir, "train", "eater", {"kind": "train", "recipe": RECIPE}, {})
    workshop.jobs.append(job)
    command = workshop.command(job, "memory_eater")
    enter = f'echo $$ > {small_cgroup / "cgroup.procs"}; exec "$@"'
    with suppress(UserError):
        launch(job, ["/bin/sh", "-c", enter, "sh", *command])
    assert ended(job).name == "failed"
    told = until(job.exit)
    assert told.signal == signal.SIGKILL and told.peak_rss > 50 << 20
    if not told.oom_kills:
        pytest.skip("the kernel counts no out-of-memory kills here")
    assert "out-of-memory counter rose" in state(job).sentence
    assert "; it held " in state(job).sentence
    assert "set training.batch_size to 3 (now 6)" in state(job).sentence
