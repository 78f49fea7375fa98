"""The state table: evidence in the folder, and what it means."""

import os

import msgspec
import pytest

from finetui.jobs import heartbeat, locks, procfs
from finetui.jobs.folder import ExitRecord, Process, ProcRecord, create
from finetui.jobs.liveness import state

NOW = 1_790_000_000.0
GONE = Process(999_999_999, 1)


@pytest.fixture
def job(tmp_path):
    return create(tmp_path, "train", "x", {}, {})


def proc(**changes):
    record = ProcRecord(procfs.boot_id(), procfs.host(), GONE, GONE, 1, NOW)
    return msgspec.structs.replace(record, **changes)


def seen(job):
    found = state(job, clock=lambda: NOW)
    return found.name


def beat(job, *, age=1.0, phase="running", attempt=1, step=7, limit=60.0):
    heart = heartbeat.Heart(job.heartbeat, attempt, clock=lambda: NOW - age)
    heart.phase, heart.step, heart.limit = phase, step, limit
    heart.beat()
    heart.close()


@pytest.fixture
def held(job):
    """The worker's lock is held, by us."""
    lock = locks.hold(job.worker_lock)
    yield lock
    os.close(lock)


@pytest.mark.parametrize("status", ["finished", "stopped", "preempted", "failed"])
def test_an_outcome_wins_over_everything(job, held, status):
    job.write_json("proc.json", proc(host="elsewhere", boot_id="other"))
    job.write_json("exit.json", ExitRecord(1, -9, NOW, signal=9))
    job.write_json("outcome.json", {"status": status, "attempt": 1, "t": NOW, "sentence": "so"})
    found = state(job)
    assert (found.name, found.sentence, found.since) == (status, "so", NOW)
    assert found.ended and not found.alive


@pytest.mark.parametrize("phase", ["starting", "running", "paused"])
def test_a_held_lock_and_a_fresh_heartbeat_is_what_the_worker_says(job, held, phase):
    job.write_json("proc.json", proc())
    beat(job, phase=phase)
    assert seen(job) == phase


def test_a_held_lock_and_an_old_heartbeat_is_stalled_after_the_workers_own_limit(job, held):
    job.write_json("proc.json", proc())
    beat(job, age=299, limit=300)
    assert seen(job) == "running"
    beat(job, age=301, limit=300)
    found = state(job, clock=lambda: NOW)
    assert found.name == "stalled" and found.alive
    assert "no sign of life for 5 min 1 s at step 7" in found.sentence


def test_a_heartbeat_of_an_earlier_attempt_is_no_sign_of_life_of_this_one(job, held):
    job.write_json("proc.json", proc(attempt=2))
    beat(job, age=9999, attempt=1)
    assert seen(job) == "starting"


def test_a_held_lock_without_proc_json_is_running(job, held):
    beat(job)
    assert seen(job) == "running"


def test_a_free_lock_and_another_boot_is_interrupted_by_the_restart(job):
    job.write_json("proc.json", proc(boot_id="another-boot"))
    beat(job)
    found = state(job, clock=lambda: NOW)
    assert found.name == "interrupted" and "restarted" in found.sentence


def test_a_live_number_of_another_boot_is_a_stranger(job):
    me = Process(os.getpid(), procfs.start_time(os.getpid()))
    job.write_json("proc.json", proc(boot_id="another-boot", worker=me, supervisor=me))
    assert seen(job) == "interrupted"


def test_a_reused_process_number_is_not_the_worker(job):
    stranger = Process(os.getpid(), procfs.start_time(os.getpid()) + 1)
    job.write_json("proc.json", proc(worker=stranger, supervisor=stranger))
    assert seen(job) == "interrupted"


def test_a_worker_that_has_no_lock_yet_is_starting(job):
    me = Process(os.getpid(), procfs.start_time(os.getpid()))
    job.write_json("proc.json", proc(worker=me))
    assert seen(job) == "starting"


def test_a_supervisor_that_is_still_writing_is_not_taken_for_dead(job):
    me = Process(os.getpid(), procfs.start_time(os.getpid()))
    job.write_json("proc.json", proc(supervisor=me))
    assert seen(job) == "running"


def test_another_host_is_unknown_and_never_dead(job):
    job.write_json("proc.json", proc(host="node-17", boot_id="other"))
    beat(job, age=3600 * 5)
    found = state(job, clock=lambda: NOW)
    assert found.name == "unknown" and not found.ended
    assert "node-17" in found.sentence and "5 h 0 min ago" in found.sentence


def test_a_file_system_without_locks_is_unknown(job, monkeypatch):
    job.write_json("proc.json", proc())
    job.worker_lock.touch()

    def no_locks(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    assert seen(job) == "unknown"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (ExitRecord(1, -9, NOW, 9, oom_kills=1), "signal 9 (SIGKILL); the kernel's out-of-memory"),
        (ExitRecord(1, -9, NOW, 9, oom_kills=1), "counter rose by 1 meanwhile"),
        (ExitRecord(1, -9, NOW, 9, oom_kills=0), "counter did not rise"),
        (ExitRecord(1, -9, NOW, 9), "whether memory ran out is not known"),
        (ExitRecord(1, -9, NOW, 9, 3, 2), "memory limit (cgroup) was hit 2 times"),
        (ExitRecord(1, -11, NOW, 11), "killed by signal 11 (SIGSEGV)"),
        (ExitRecord(1, 1, NOW), "ended with code 1 and left no outcome"),
        (ExitRecord(1, 127, NOW, error="no such file"), "could not be started: no such file"),
    ],
)
def test_an_exit_without_an_outcome_is_failed_with_the_evidence(job, record, words):
    job.write_json("proc.json", proc())
    job.write_json("exit.json", record)
    found = state(job)
    assert found.name == "failed" and words in found.sentence


def test_records_of_an_earlier_attempt_count_no_more(job, held):
    job.write_json("proc.json", proc(attempt=2))
    job.write_json("outcome.json", {"status": "stopped", "attempt": 1, "t": NOW})
    job.write_json("exit.json", ExitRecord(1, 0, NOW))
    beat(job, attempt=2)
    assert seen(job) == "running"


def test_a_job_that_nobody_started_is_queued(job):
    assert seen(job) == "queued"


def test_a_job_whose_supervisor_died_early_is_failed(job):
    job.log_path(1).touch()
    os.utime(job.log_path(1), (NOW - 5, NOW - 5))
    assert seen(job) == "starting"
    os.utime(job.log_path(1), (NOW - 50, NOW - 50))
    assert seen(job) == "failed"


def test_a_launch_in_progress_is_starting(job):
    lock = locks.hold(job.launch_lock)
    assert seen(job) == "starting"
    os.close(lock)


def test_two_readers_do_not_take_each_other_for_a_worker(job):
    import fcntl

    job.worker_lock.touch()
    reader = os.open(job.worker_lock, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    assert locks.is_held(job.worker_lock) is False
    os.close(reader)


def test_the_memory_counters_come_from_the_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(procfs, "PROC", tmp_path / "proc")
    monkeypatch.setattr(procfs, "_CGROUP_ROOT", tmp_path / "cgroup")
    assert procfs.oom_kills() is procfs.cgroup_oom_kills() is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/vmstat").write_text("pgfault 12\noom_kill 4\n")
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a\n0::/b\n")
    (tmp_path / "cgroup/b").mkdir(parents=True)
    (tmp_path / "cgroup/b/memory.events").write_text("oom 9\noom_kill 2\n")
    assert (procfs.oom_kills(), procfs.cgroup_oom_kills()) == (4, 2)
    (tmp_path / "cgroup/memory/a").mkdir(parents=True)
    (tmp_path / "cgroup/memory/a/memory.oom_control").write_text("under_oom 0\noom_kill 3\n")
    assert procfs.cgroup_oom_kills() == 3
