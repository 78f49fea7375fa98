"""Runs on real Slurm daemons: whatever ends an attempt, no step beyond the last checkpoint is lost.

`make test-slurm` runs these. The order of samples is compared with a run that was never
interrupted, by a hash over all samples up to each step.
"""

from __future__ import annotations

import json
import os
import signal
from itertools import pairwise

import pytest
from job_workshop import ended, step_reached, until
from slurm_cluster import TestCluster
from slurm_worker import grown

from finetui.errors import UserError
from finetui.jobs import slurm
from finetui.jobs.folder import Job
from finetui.jobs.liveness import state
from finetui.settings import Cluster

EVERY = 10
TWO = Cluster(gpus=0, nodes=2)


def steps_of(job: Job) -> dict[int, list[tuple[int, str]]]:
    """attempt -> [(step, hash of the samples so far)]"""
    found: dict[int, list[tuple[int, str]]] = {}
    for path in job.events_files():
        events = [json.loads(line) for line in path.read_text().splitlines()]
        attempt = int(path.stem.rpartition("-a")[2])
        found[attempt] = [(e["step"], e["order"]) for e in events if e["kind"] == "step"]
    return found


def expected(steps: int) -> dict[int, str]:
    hashes, order = {}, ""
    for step in range(1, steps + 1):
        hashes[step] = order = grown(order, step)
    return hashes


def assert_unbroken(job: Job, steps: int, repeated: int = 0) -> None:
    """Every step was done on the samples of an uninterrupted run, each attempt from where the
    last checkpoint was; at most `repeated` steps were done twice."""
    found, wanted = steps_of(job), expected(steps)
    assert dict(pair for done in found.values() for pair in done) == wanted
    assert all(order == wanted[step] for done in found.values() for step, order in done)
    attempts = [found[number] for number in sorted(found) if found[number]]
    for before, after in pairwise(attempts):
        assert before[-1][0] + 1 - repeated <= after[0][0] <= before[-1][0] + 1
    assert sum(map(len, attempts)) <= steps + repeated * (len(attempts) - 1)


def near_its_time_limit(cluster: TestCluster, job: Job) -> None:
    cluster.run("scancel", "--batch", "--signal=USR1", cluster.number(job))


def requeued_by_an_administrator(cluster: TestCluster, job: Job) -> None:
    cluster.run("scontrol", "requeue", cluster.number(job))


def killed(cluster: TestCluster, job: Job) -> None:
    proc = job.proc()
    assert proc is not None
    os.kill(proc.worker.pid, signal.SIGKILL)


# What is done to a run, what its state says, and how many steps may be done twice.
INTERRUPTIONS = [
    (near_its_time_limit, "saved before the time limit", 0),
    (requeued_by_an_administrator, "", 0),
    (killed, "no last word", EVERY),
]


def test_an_interrupted_run_goes_on_from_its_last_checkpoint(cluster: TestCluster):
    jobs = [cluster.submit(40, EVERY, 0.05) for _ in INTERRUPTIONS]
    for job, (interrupt, _, _) in zip(jobs, INTERRUPTIONS, strict=True):
        until(lambda job=job: step_reached(job, 13))
        interrupt(cluster, job)
    for job, (_, words, _) in zip(jobs, INTERRUPTIONS, strict=True):
        said = cluster.requeued(job, 1)
        assert said.waits and not said.ended and words in said.sentence
    for job, (_, _, repeated) in zip(jobs, INTERRUPTIONS, strict=True):
        assert ended(job).name == "finished", state(job)
        assert_unbroken(job, 40, repeated)


def test_a_cancelled_run_is_saved_and_can_be_handed_in_again(cluster: TestCluster):
    job = cluster.submit(40, EVERY, 0.05)
    until(lambda: step_reached(job, 13))
    said = slurm.cancel(job, hard=True)
    assert "may save" in said
    assert ended(job).name == "stopped" and "cancelled by" in state(job).sentence
    cluster.submit(40, EVERY, 0.01, job=job)
    assert ended(job).name == "finished", state(job)
    assert_unbroken(job, 40)


def test_a_stop_of_a_person_is_obeyed_and_not_requeued(cluster: TestCluster):
    job = cluster.submit(200, 50, 0.05)
    until(lambda: step_reached(job, 3))
    with pytest.raises(UserError, match="in Slurm"):
        cluster.submit(40, EVERY, 0.05, job=job)
    assert "stop" in slurm.cancel(job)
    assert ended(job).name == "stopped"
    until(lambda: "COMPLETED" in cluster.run("squeue", "-htall", "-o%T", "-j", cluster.number(job)))
    assert job.proc().attempt == 1


def test_a_worker_that_always_dies_at_the_same_step_is_given_up(cluster: TestCluster):
    job = cluster.submit(40, 5, 0.01, "die:8")
    cluster.requeued(job, 1)
    found = ended(job)
    assert found.name == "failed" and "SIGKILL" in found.sentence
    assert job.proc().attempt == 2
    assert "no new checkpoint" in json.loads((job.path / "slurm-end.json").read_text())["why"]


def test_a_lost_machine_costs_no_step_beyond_the_last_checkpoint(cluster: TestCluster):
    both = cluster.submit(80, EVERY, 0.05, profile=TWO, job=cluster.job(processes=2))
    alone = cluster.submit(80, EVERY, 0.05, profile=Cluster(gpus=0, options=["--nodelist=n2"]))
    until(lambda: step_reached(both, 13) and step_reached(alone, 13))
    cluster.lose_machine("n2", both, alone)
    # Slurm would see it by itself after SlurmdTimeout, half a minute here.
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=lost")
    for job in (both, alone):
        cluster.requeued(job, 1, start="now+1hour")
    cluster.bring_back("n2")
    for job in (both, alone):
        cluster.let_start(job)
    for job in (both, alone):
        assert ended(job).name == "finished", state(job)
        assert_unbroken(job, 80, EVERY)


def test_without_its_controller_a_run_goes_on_and_a_waiting_job_is_unknown(cluster: TestCluster):
    running = cluster.submit(400, 100, 0.05)
    until(lambda: step_reached(running, 3))
    held = cluster.submit(5, 5, 0.01, profile=Cluster(gpus=0, options=["--begin=now+1hour"]))
    until(lambda: "start time" in state(held).sentence)
    cluster.wait_for_save()
    os.kill(cluster.daemon("slurmctld"), signal.SIGKILL)
    until(lambda: state(held).name == "unknown")
    assert state(running).name == "running"
    cluster.restart("slurmctld")
    until(lambda: state(held).name == "queued")
    assert "took Slurm job" in slurm.cancel(held)
    assert state(held).name == "stopped" and "while it waited" in state(held).sentence
    slurm.cancel(running)
    assert ended(running).name == "stopped"
    assert_unbroken(running, max(step for done in steps_of(running).values() for step, _ in done))
