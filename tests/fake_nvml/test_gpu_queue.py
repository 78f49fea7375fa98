"""Jobs that wait for the GPUs of a machine: queued in words, started in turn, shared when asked."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from job_workshop import ended, kill_process, step_reached, until

from finetui.commands import watch
from finetui.errors import UserError
from finetui.jobs import control, leases, locks, procfs, queued, sweep_runner
from finetui.jobs.folder import create
from finetui.jobs.launch import launch
from finetui.jobs.liveness import state
from finetui.jobs.sweep import create_sweep, stop_sweep, sweep_state

FOREVER = ("steps", 100_000, 0.02)


@pytest.fixture
def one_gpu(gpus, nvml):
    gpus(nvml.device(used=0))


def start(workshop, slug, *program, **options):
    job = workshop.job(slug)
    launch(job, workshop.command(job, *(program or FOREVER)), **options)
    return job


def environment(job):
    """What the worker was started with."""
    words = Path(f"/proc/{job.proc().worker.pid}/environ").read_bytes().decode().split("\0")
    return dict(word.partition("=")[::2] for word in words if word)


def living_tickets(tmp_path):
    with leases._opened(tmp_path / "leases") as place:
        return leases._living(place)


def test_the_second_waits_says_for_whom_and_starts_when_the_first_ends(workshop, one_gpu):
    first = start(workshop, "first")
    assert state(first).alive and first.proc().gpus == ("GPU-0",)
    assert environment(first)["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    second = start(workshop, "second", "steps", 3, 0)
    found = state(second)
    assert (found.name, found.waits, found.alive, found.ended) == ("queued", True, False, False)
    user = procfs.process_user(os.getpid())
    assert found.sentence == f"waits for GPU 0; GPU 0 is leased by {first.id} of {user}"
    assert second.proc() is None
    with pytest.raises(UserError, match="running already"):
        launch(second)
    control.stop(first)
    assert ended(second).name == "finished"
    assert not queued.path_of(second).exists()
    assert "got GPU 0 after" in second.log_path(1).read_text()


def test_the_queue_is_fair_and_says_how_many_are_before(workshop, one_gpu):
    first = start(workshop, "first")
    jobs = [start(workshop, name, "steps", 2, 0) for name in ("a", "b", "c")]
    assert state(jobs[2]).sentence.endswith("; 2 jobs before it in the queue")
    control.stop(first)
    starts = [until(lambda job=job: ended(job) and job.proc()).t for job in jobs]
    assert starts == sorted(starts)


def test_a_queued_job_can_be_stopped_and_says_so(workshop, one_gpu, tmp_path):
    first = start(workshop, "first")
    second = start(workshop, "second")
    assert "leaves the queue" in control.stop(second)
    found = ended(second)
    assert found.name == "stopped" and "while it waited for a GPU" in found.sentence
    assert second.proc() is None and second.exit() is None
    assert [one.job for one in living_tickets(tmp_path)] == [first.id]
    # It may be started again, and waits again.
    until(lambda: not locks.is_held(second.supervisor_lock))
    assert launch(second, workshop.command(second, "steps", 1, 0)) == 2
    assert state(second).waits
    control.stop(first)
    assert ended(second).name == "finished" and second.proc().attempt == 2


def test_a_queued_job_can_be_started_anyway(workshop, one_gpu, tmp_path):
    first = start(workshop, "first")
    second = start(workshop, "second")
    assert "beside" in control.request(second, "share")
    until(lambda: state(second).name == "running")
    assert state(first).name == "running"
    assert environment(second)["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    tickets = living_tickets(tmp_path)
    assert [(one.job, one.holds, one.shares) for one in tickets] == [
        (first.id, ("GPU-0",), ()), (second.id, (), ("GPU-0",)),
    ]  # fmt: skip
    # A lease that comes free is not taken while the other is still at work there.
    third = start(workshop, "third", "steps", 1, 0)
    control.stop(first)
    ended(first)
    until(lambda: f"GPU 0 is used by {second.id}" in state(third).sentence)
    control.stop(second)
    assert ended(third).name == "finished"
    with pytest.raises(UserError, match="nothing to share"):
        control.request(third, "share")


def test_sharing_can_be_said_at_the_start(workshop, one_gpu):
    start(workshop, "first")
    second = start(workshop, "second", "steps", 2, 0, share=True)
    assert ended(second).name == "finished"
    running = start(workshop, "third", share=True)
    with pytest.raises(UserError, match="waits for no GPU"):
        control.request(running, "share")


def test_a_gpu_with_a_strangers_process_is_not_taken_unasked_and_the_stranger_is_named(
    workshop, gpus, nvml, tmp_path
):
    line = nvml.device(used=30 << 30, processes=f"{os.getpid()}:{30 << 30}")
    gpus(line)
    job = start(workshop, "waiting", "steps", 2, 0)
    name, user = procfs.process_name(os.getpid()), procfs.process_user(os.getpid())
    assert state(job).sentence == (
        f"waits for GPU 0; {name} of {user} (process {os.getpid()}) uses 30.0 GiB of GPU 0, "
        "without a lease"
    )
    gpus(nvml.device(used=30 << 30))
    until(lambda: "processes that cannot be seen from here" in state(job).sentence)
    shutil.rmtree(tmp_path / "leases")  # as whoever clears old files away does
    gpus(nvml.device(used=0))
    assert ended(job).name == "finished"


def test_the_free_one_of_two_is_taken_and_cuda_visible_devices_limits_the_choice(
    workshop, gpus, nvml, monkeypatch
):
    busy = nvml.device(uuid="GPU-x", used=30 << 30, processes=f"{os.getpid()}:{30 << 30}")
    gpus(busy, nvml.device(uuid="GPU-y", used=0))
    job = start(workshop, "free")
    assert job.proc().gpus == ("GPU-y",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    waiting = start(workshop, "limited")
    assert state(waiting).sentence.startswith(f"waits for GPU 1; GPU 1 is leased by {job.id}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    blind = start(workshop, "blind", "steps", 1, 0)
    assert ended(blind).name == "finished" and blind.proc().gpus == ()


def several(workshop, processes):
    recipe = {"training": {"processes": processes}}
    job = create(workshop.jobs_dir, "train", "ranks", {"kind": "train", "recipe": recipe}, {})
    workshop.jobs.append(job)
    return job


def test_a_job_of_several_processes_gets_all_its_gpus_at_once(workshop, gpus, nvml):
    gpus(*(nvml.device(uuid=f"GPU-{name}", used=0) for name in "abc"))
    first = start(workshop, "first")
    pair, next_one = several(workshop, 2), workshop.job("next")
    launch(pair, workshop.command(pair, *FOREVER))
    assert first.proc().gpus == ("GPU-a",) and pair.proc().gpus == ("GPU-b", "GPU-c")
    assert environment(pair)["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-c"
    three = several(workshop, 3)
    launch(three, workshop.command(three, "steps", 2, 0))
    assert state(three).sentence.startswith(
        f"waits for GPUs 0, 1 and 2; GPU 0 is leased by {first.id}"
    )
    control.stop(first)
    launch(next_one, workshop.command(next_one, "steps", 1, 0))
    found = state(next_one)
    assert found.name == "queued" and "1 job before it" in found.sentence
    control.stop(pair)
    assert ended(three).name == ended(next_one).name == "finished"
    with pytest.raises(UserError, match="needs 4 GPUs and may use 3"):
        launch(several(workshop, 4))


def test_kinds_without_a_gpu_and_machines_without_one_do_not_wait(workshop, gpus, nvml, tmp_path):
    gpus(nvml.device(used=0))
    start(workshop, "first")
    fetch = workshop.job("fetch", "fetch")
    launch(fetch, workshop.command(fetch, "steps", 1, 0))
    assert ended(fetch).name == "finished"
    gpus(error=9)
    blind = start(workshop, "no-driver", "steps", 1, 0)
    assert ended(blind).name == "finished" and blind.proc().gpus == ()


def test_kill_9_of_a_waiting_supervisor_leaves_nothing_held(workshop, one_gpu, tmp_path):
    first = start(workshop, "first")
    second = start(workshop, "second")
    [waiter] = [one for one in living_tickets(tmp_path) if one.waits]
    kill_process(waiter.pid, procfs.start_time(waiter.pid))
    found = ended(second)
    assert found.name == "interrupted" and "never started" in found.sentence
    control.stop(first)
    third = start(workshop, "third", "steps", 1, 0)
    assert ended(third).name == "finished"
    until(lambda: not locks.is_held(third.supervisor_lock))
    assert [p.name for p in (tmp_path / "leases").iterdir() if "ticket" in p.name] == []


def test_sigterm_to_a_waiting_supervisor_is_a_preemption(workshop, one_gpu, tmp_path):
    start(workshop, "first")
    second = start(workshop, "second")
    [waiter] = [one for one in living_tickets(tmp_path) if one.waits]
    os.kill(waiter.pid, signal.SIGTERM)
    found = ended(second)
    assert found.name == "preempted" and "by the system while it waited" in found.sentence


def test_the_worker_keeps_the_lease_when_its_supervisor_is_killed(workshop, one_gpu):
    first = start(workshop, "first")
    until(lambda: step_reached(first, 2))
    supervisor = first.proc().supervisor
    kill_process(supervisor.pid, supervisor.start)
    until(lambda: not locks.is_held(first.supervisor_lock))
    second = start(workshop, "second", "steps", 1, 0)
    assert state(second).sentence.startswith(f"waits for GPU 0; GPU 0 is leased by {first.id}")
    control.stop(first)
    assert ended(second).name == "finished"


def test_a_worker_that_is_killed_gives_its_gpu_to_the_next_and_its_fork_keeps_nothing(
    workshop, one_gpu
):
    first = start(workshop, "first", "forking")
    second = start(workshop, "second", "steps", 1, 0)
    until(lambda: step_reached(first, 1))
    worker, supervisor = first.proc().worker, first.proc().supervisor
    [child] = until(lambda: procfs.children(worker.pid))
    started = procfs.start_time(child)
    try:
        kill_process(supervisor.pid, supervisor.start)
        kill_process(worker.pid, worker.start)
        assert ended(second).name == "finished"
        assert procfs.is_alive(child, started)
    finally:
        kill_process(child, started)


def test_a_wait_on_another_machine_is_told_and_never_taken_for_dead(workshop):
    job = workshop.job()
    record = queued.QueueRecord(1, "elsewhere", 1.0, "waits for GPU 0")
    queued.publish(job, record)
    assert (state(job).name, state(job).waits) == ("queued", True)
    assert state(job).sentence == "on elsewhere it waits for GPU 0"
    os.utime(queued.path_of(job), (1, 1))
    assert state(job).name == "unknown" and "last sign of life" in state(job).sentence
    queued.path_of(job).write_text(json.dumps({"attempt": "x" * 10_000}))
    assert state(job).name == "queued" and not state(job).waits


def test_leases_that_are_switched_off_or_cannot_be_used_are_no_trap(
    workshop, one_gpu, monkeypatch, tmp_path
):
    start(workshop, "first")
    monkeypatch.setenv("FINETUI_LEASES", "off")
    assert ended(start(workshop, "off", "steps", 1, 0)).name == "finished"
    monkeypatch.setenv("FINETUI_LEASES", str(tmp_path / "not" / "there"))
    with pytest.raises(UserError, match="GPU leases cannot be made"):
        start(workshop, "nowhere")


def test_the_command_lists_leases_holders_and_waiters(workshop, gpus, nvml):
    busy = nvml.device(uuid="GPU-x", used=30 << 30, processes=f"{os.getpid()}:{30 << 30}")
    gpus(nvml.device(uuid="GPU-w", used=0), busy, nvml.device(uuid="GPU-z", used=0))
    first = start(workshop, "first")
    pair = several(workshop, 2)
    launch(pair, workshop.command(pair, *FOREVER))
    command = [sys.executable, "-m", "finetui", "queue"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"GPU 0 is leased by {first.id}" in told
    assert "uses 30.0 GiB of GPU 1, without a lease" in told
    assert "2 of GPUs 0, 1 and 2" in told and f"1      {pair.id}" in told
    lines = subprocess.run([*command, "--json"], capture_output=True, check=True).stdout
    one, two, three, waiter = (json.loads(line) for line in lines.splitlines())
    assert one["holder"]["job"] == first.id and one["holder"]["worker"] == first.proc().worker.pid
    assert two["strangers"][0]["pid"] == os.getpid() and not two["free"] and not two["leased"]
    assert three["free"] and waiter["job"] == pair.id and waiter["wants"] == 2


def test_whoever_follows_a_waiting_job_is_told_and_stays_to_its_end(workshop, one_gpu):
    first, told = start(workshop, "first"), []
    second = start(workshop, "second", "steps", 2, 0)
    follower = threading.Thread(target=watch.follow, args=(second, told.append), daemon=True)
    follower.start()
    until(lambda: told)
    assert f"waits for GPU 0; GPU 0 is leased by {first.id}" in told[0] and len(told) == 1
    control.stop(first)
    follower.join(60)
    assert not follower.is_alive() and state(second).name == "finished"


def test_sweeps_go_through_the_same_leases_and_take_no_turns_where_there_are_gpus(
    workshop, gpus, nvml, monkeypatch
):
    gpus(nvml.device(uuid="GPU-a", used=0), nvml.device(uuid="GPU-b", used=0))
    monkeypatch.setattr(sweep_runner, "leases_serve", lambda: True)
    other = start(workshop, "other")
    sweeps = [
        create_sweep(workshop.jobs_dir.parent / "sweeps", name, [(name, (), workshop.job(name))])
        for name in ("one", "two")
    ]

    def go(job):
        launch(job, workshop.command(job, *FOREVER))

    runners = [
        threading.Thread(target=sweep_runner.run, args=(sweep, 0.02, go), daemon=True)
        for sweep in sweeps
    ]
    jobs = [sweep.trials()[0].job for sweep in sweeps]
    for runner, job in zip(runners, jobs, strict=True):
        runner.start()
        until(lambda job=job: job.proc() or state(job).waits)
    assert jobs[0].proc().gpus == ("GPU-b",) and state(jobs[1]).waits
    assert sweep_state(sweeps[1]).sentence.startswith(
        f"0 of 1 runs ended; now two, which waits for a GPU; GPU 0 is leased by {other.id}"
    )
    assert "save and stop" in stop_sweep(sweeps[1], now=True)
    runners[1].join(30)
    assert state(jobs[1]).name == "stopped" and state(jobs[0]).alive
    control.stop(jobs[0])
    runners[0].join(30)


def test_a_worker_whose_records_cannot_be_written_is_ended_and_its_gpu_is_free(
    workshop, one_gpu, tmp_path
):
    first = start(workshop, "first")
    second = start(workshop, "second")
    (second.path / "proc.json").mkdir()  # nothing can be published there, as on a full disk
    control.stop(first)
    found = ended(second)
    assert found.name == "failed" and "its records cannot be written" in found.sentence
    until(lambda: not locks.is_held(second.supervisor_lock))
    assert living_tickets(tmp_path) == []


@pytest.mark.figures
def test_40_jobs_4_gpus_8_kills_and_no_two_on_one_gpu(workshop, gpus, nvml, tmp_path):
    """Whole supervisors and workers, killed while they wait and while they work."""
    gpus(*(nvml.device(uuid=f"GPU-{name}", used=0) for name in "abcd"))
    first = [start(workshop, f"first-{number}") for number in range(4)]
    waiting = [start(workshop, f"job-{number}", "steps", 10, 0.05) for number in range(36)]
    assert all(state(job).waits for job in waiting)
    killed = {job: kill_all_of(job, tmp_path) for job in waiting[3::9]}
    for job in first:
        killed[job] = kill_all_of(job, tmp_path)
    jobs = [*first, *waiting]
    ends = {job: ended(job, 300).name for job in jobs}
    until(lambda: not any(locks.is_held(job.supervisor_lock) for job in jobs))
    spans = sorted(span for job in jobs for span in spans_of(job, killed.get(job)))
    doubles = [
        (one, two) for one, two in itertools.pairwise(spans) if one[0] == two[0] and two[1] < one[2]
    ]
    last = start(workshop, "last", "steps", 1, 0)
    assert ended(last).name == "finished"
    until(lambda: not locks.is_held(last.supervisor_lock))
    left = [one.name for one in (tmp_path / "leases").iterdir() if "ticket" in one.name]
    lost = sum(name != "finished" for job, name in ends.items() if job not in killed)
    print(
        f"40 jobs, 4 GPUs, {len(killed)} kills: {len(doubles)} double holds, {lost} jobs lost, "
        f"{len(left)} tickets left"
    )
    assert len(killed) == 8 and doubles == [] and lost == 0 and left == []
    assert len({span[0] for span in spans}) == 4


def kill_all_of(job, tmp_path):
    """Kill -9 whatever a job has: a waiting supervisor, or supervisor and worker."""
    before = time.time()
    for ticket in living_tickets(tmp_path):
        if ticket.job == job.id:
            kill_process(ticket.pid, procfs.start_time(ticket.pid) or 0)
    if proc := job.proc():
        kill_process(proc.worker.pid, proc.worker.start)
    return before


def spans_of(job, killed):
    """(GPU, from, to) of a job's work, as its own records tell."""
    proc = job.proc()
    if proc is None:
        return []
    outcome = job.outcome()
    return [(key, proc.t, outcome["t"] if outcome else killed) for key in proc.gpus]
