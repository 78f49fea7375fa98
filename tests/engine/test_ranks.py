"""Two processes that train together: the figures of one, one stop, one end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_jobs import chat, write_rows

from finetui.engine import __main__ as engine
from finetui.engine import torchrun
from finetui.engine.silent import (
    LostRankError,
    SilentSession,
    failures,
    listen_for_loss,
    session_of,
)
from finetui.errors import UserError
from finetui.jobs import procfs
from finetui.jobs.engine_command import engine_command
from finetui.jobs.events import EventTail
from finetui.jobs.folder import Job
from finetui.jobs.worker import StopRequested
from finetui.recipe import schema
from finetui.workspace import Workspace

WORKER = Path(__file__).with_name("forked_ranks.py")
QUIET = {"every": 0, "generate": 0, "keep_best": False}
# Uneven rows: some update leaves a process without any.
ROWS = 29

Recipe = Callable[..., schema.Recipe]
MakeJob = Callable[[schema.Recipe], Job]


def steps(job: Job, attempt: int = 1) -> dict[int, dict[str, Any]]:
    events = EventTail(job).read()
    return {
        one["step"]: one for one in events if one["kind"] == "step" and one["attempt"] == attempt
    }


def told(job: Job, kind: str) -> list[dict[str, Any]]:
    return [one for one in EventTail(job).read() if one["kind"] == kind]


def do(*jobs: Job, stop: tuple[Job, ...] = ()) -> None:
    """Each job in its processes, one after the other; those to ``stop`` first, up to step 1."""
    names = [f"{job.path}:1" for job in stop] + [str(job.path) for job in jobs]
    done = subprocess.run(
        [sys.executable, str(WORKER), *names],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def uneven(workspace: Workspace) -> Workspace:
    rows = [chat(f"What is {n} plus one{'?' * (n % 4)}", f"It is {n + 1}.") for n in range(ROWS)]
    write_rows(workspace.datasets / "train.jsonl", rows)
    return workspace


def alike(one: Job, two: Job, first: int = 1, attempt: int = 1) -> None:
    """The same rows in the same updates, the same losses and gradients from step ``first`` on."""
    left, right = steps(one), steps(two, attempt)
    assert left and [step for step in left if step >= first] == sorted(right)
    for step, theirs in right.items():
        ours = left[step]
        assert theirs["rows"] == ours["rows"] and theirs["order"] == ours["order"]
        assert theirs["tokens"] == ours["tokens"]
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-6)
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-4)


def test_two_processes_train_as_one(uneven: Workspace, recipe: Recipe, make_job: MakeJob) -> None:
    """Accumulated, packed by length, full, and held to the start: equal to one process."""
    plain = {"epochs": 1.0, "batch_size": 2, "threads": 1, "warmup": 0.0}
    general = str(uneven.datasets / "general.jsonl")
    kinds: dict[str, dict[str, dict[str, Any]]] = {
        "accumulated": {"training": {}, "evaluation": {"every": 2, "generate": 0, "samples": 1}},
        "packed": {
            "data": {"packing": True, "order": "length"},
            "training": {"learning_rate": 1e-3, "batch_size": 1},
            "method": {"kind": "full"},
        },
        "held": {"data": {"general": general}, "training": {"kl_weight": 0.3}},
    }
    jobs = []
    for sections in kinds.values():
        made = {"evaluation": QUIET} | sections
        training = plain | made.pop("training")
        one = make_job(recipe(training=training | {"accumulation": 4}, **made))
        two = make_job(recipe(training=training | {"accumulation": 2, "processes": 2}, **made))
        jobs.append((one, two))
    do(*(job for pair in jobs for job in pair))
    for one, two in jobs:
        alike(one, two)
        before, after = told(one, "eval"), told(two, "eval")
        assert [e["loss"] for e in after] == pytest.approx([e["loss"] for e in before], rel=1e-6)
    accumulated, held = jobs[0][1], jobs[2]
    assert [seen["rank"] for seen in steps(accumulated)[1]["ranks"]] == [0, 1]
    assert all(seen["memory_bytes"] > 0 for seen in steps(accumulated)[1]["ranks"])
    assert len(told(accumulated, "sample")) == len(told(accumulated, "eval"))
    assert "ranks" not in steps(jobs[0][0])[1]
    distances = [steps(job)[2]["figures"]["base_kl"] for job in held]
    assert distances[1] == pytest.approx(distances[0], abs=1e-6) and distances[1] > 0
    assert (accumulated.adapter / "adapter_model.safetensors").is_file()
    assert not list((accumulated.path / "ranks").glob("*.json"))


def test_a_stop_is_obeyed_by_both_and_the_run_goes_on_as_if_there_was_none(
    uneven: Workspace, recipe: Recipe, make_job: MakeJob
) -> None:
    """Also in one process instead of two: the place in the data is that of all of them."""
    training = {"epochs": 2.0, "batch_size": 2, "accumulation": 2, "processes": 2, "threads": 1}
    # Dropout draws from the random state of each process.
    method = {"dropout": 0.1}
    whole = make_job(recipe(training=training, evaluation=QUIET, method=method))
    stopped = make_job(recipe(training=training, evaluation=QUIET, method=method))
    lone = make_job(recipe(training=training, evaluation=QUIET))
    same = make_job(recipe(training=training, evaluation=QUIET))
    do(whole, same, stop=(stopped, lone))
    outcome = stopped.outcome() or {}
    assert (
        outcome["status"] == "stopped"
        and "stopped on request at step 1 of 8" in outcome["sentence"]
    )
    spec = (lone.path / "spec.toml").read_text()
    spec = spec.replace("processes = 2", "processes = 1").replace(
        "accumulation = 2", "accumulation = 4"
    )
    (lone.path / "spec.toml").write_text(spec)
    do(stopped, lone)
    alike(whole, stopped, first=2, attempt=2)
    alike(same, lone, first=2, attempt=2)


def test_weights_that_are_shared_out_learn_the_same(
    uneven: Workspace, recipe: Recipe, make_job: MakeJob
) -> None:
    """An adapter, and all weights over accumulated batches, stopped and gone on with."""
    training = {"epochs": 1.0, "batch_size": 2, "threads": 1, "warmup": 0.0}
    shared = {"processes": 2, "sharding": "fsdp"}
    rare = {"every": 3, "generate": 0, "samples": 0}
    full: dict[str, dict[str, Any]] = {"method": {"kind": "full"}, "evaluation": rare}
    rate = {"learning_rate": 1e-3}
    plain = make_job(recipe(training=training | {"accumulation": 2}, evaluation=rare))
    parted = make_job(recipe(training=training | shared, evaluation=rare | {"generate": 2}))
    whole = make_job(recipe(training=training | rate | {"accumulation": 4}, **full))
    stopped = make_job(recipe(training=training | rate | shared | {"accumulation": 2}, **full))
    do(plain, parted, whole, stopped, stop=(stopped,))
    alike(plain, parted)
    alike(whole, stopped, first=2, attempt=2)
    for one, two in ((plain, parted), (whole, stopped)):
        before, after = told(one, "eval"), told(two, "eval")
        assert after[-1]["loss"] == pytest.approx(before[-1]["loss"], rel=1e-6)
    assert same_weights(plain.adapter / "adapter_model.safetensors", parted.adapter)
    assert same_weights(whole.model / "model.safetensors", stopped.model)
    assert any("finetui evaluate" in one["text"] for one in told(parted, "warning"))


def same_weights(file: Path, folder: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    one, two = load_file(file), load_file(folder / file.name)
    return one.keys() == two.keys() and all(
        torch.allclose(one[name], two[name], atol=1e-5) for name in one
    )


def test_on_a_cpu_sharding_is_refused_and_never_done_as_something_else(recipe: Recipe) -> None:
    import torch

    from finetui.engine.machine import Machine
    from finetui.engine.ranks import Ranks
    from finetui.engine.sharding import require_shardable

    asked = recipe(training={"processes": 2, "sharding": "fsdp"})
    two, cpu = Ranks(0, 2, sharded=True), Machine(torch.device("cpu"), "fp32")
    with pytest.raises(UserError, match="needs GPUs"):
        require_shardable(asked, cpu, two)
    few_bits = recipe(training={"processes": 2, "sharding": "fsdp"}, method={"kind": "qlora"})
    with pytest.raises(UserError, match="qlora .* cannot be trained with sharding"):
        require_shardable(few_bits, Machine(torch.device("cuda"), "bf16"), two)
    require_shardable(asked, cpu, Ranks(0, 2))


# -- under torchrun --------------------------------------------------------------------------------


def wait_for(
    what: Callable[[], bool], process: subprocess.Popen[bytes], limit_s: float = 300
) -> None:
    until = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)


def under_torchrun(job: Job) -> subprocess.Popen[bytes]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    with (job.path / "log.txt").open("ab") as log:
        return subprocess.Popen(engine_command(job), env=environment, stdout=log, stderr=log)


def test_torchrun_hands_a_stop_on_and_a_dead_rank_ends_the_run_with_a_true_sentence(
    recipe: Recipe, make_job: MakeJob
) -> None:
    training = {"max_steps": 100_000, "batch_size": 2, "processes": 2, "threads": 1}
    job = make_job(recipe(training=training, evaluation=QUIET, logging={"row_losses": False}))
    launcher = under_torchrun(job)
    try:
        wait_for(lambda: bool(steps(job)), launcher)
        launcher.send_signal(signal.SIGHUP)
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(300) == 0
        outcome = job.outcome() or {}
        assert outcome["status"] == "preempted" and outcome["step"] == max(steps(job))
        job.put_away_records()
        launcher = under_torchrun(job)
        wait_for(lambda: bool(steps(job, 2)), launcher)
        who = json.loads((job.path / "ranks" / "r1.json").read_bytes())
        os.kill(who["pid"], signal.SIGKILL)
        assert launcher.wait(300) == 1
    finally:
        launcher.kill()
        launcher.wait()
    assert min(steps(job, 2)) == outcome["step"] + 1
    outcome = job.outcome() or {}
    assert outcome["status"] == "failed" and outcome["attempt"] == 2 and outcome["rank"] == 1
    assert outcome["sentence"].startswith("rank 1 of 2 was killed by SIGKILL")


# -- what is said --------------------------------------------------------------------------------


def note(job: Job, rank: int, t: float, **fields: Any) -> None:
    (job.path / "ranks").mkdir(exist_ok=True)
    said = {"rank": rank, "host": procfs.host(), "lost": False, "t": t} | fields
    job.write_json(f"ranks/failed-a1-r{rank}.json", said)


def test_the_rank_that_failed_first_by_itself_has_the_word(
    recipe: Recipe, make_job: MakeJob
) -> None:
    job = make_job(recipe())
    assert "none of them said why" in torchrun.explain(job, 1, {}, 0, 4)["sentence"]
    killed = torchrun.explain(job, 1, {2: -9, 0: -15, 1: -15}, 1, 4)
    assert killed["rank"] == 2 and killed["sentence"] == (
        "rank 2 of 4 was killed by SIGKILL; the others were ended with it; the kernel killed 1 "
        "for want of memory meanwhile; set training.batch_size to 2 (now 4) and "
        "training.accumulation to 2 (now 1): the updates stay the same"
    )
    note(job, 0, 10.0, lost=True, sentence="Connection closed by peer")
    note(job, 3, 11.0, sentence="the GPU ran out of memory", reason="cuda_oom", error="OOM")
    found = torchrun.explain(job, 1, {0: 1, 3: 1}, 0, 4)
    assert found["sentence"] == "rank 3 of 4: the GPU ran out of memory"
    assert found["reason"] == "cuda_oom" and found["rank"] == 3


def test_a_rank_leaves_word_of_its_failure_and_not_of_the_silence_of_others(
    recipe: Recipe, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(recipe())
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "FINETUI_ATTEMPT": "1"}.items():
        monkeypatch.setenv(name, value)
    with session_of(job.path) as session:
        assert isinstance(session, SilentSession) and session.events.write("step") is True
        assert engine._end(session, RuntimeError("gloo/transport: Connection closed"), {}) == 1
        assert engine._end(session, ValueError("row 7"), {}) == 1
    assert job.outcome() is None and not list(job.path.glob("events-*"))
    (only,) = failures(job, 1)
    assert only["rank"] == 1 and not only["lost"] and "row 7" in only["sentence"]
    monkeypatch.setenv("RANK", "0")
    with session_of(job.path) as session:
        listen_for_loss(session)
        # torchrun ends the others so: it is no wish to stop.
        with pytest.raises(LostRankError):
            os.kill(os.getpid(), signal.SIGTERM)
        assert not session.terminated
        only["rank"] = 0
        job.write_json("ranks/failed-a1-r1.json", only)
        os.kill(os.getpid(), signal.SIGTERM)
        assert session.terminated
        assert engine._end(session, RuntimeError("Connection closed by peer"), {}) == 1
    assert job.outcome() is None


def test_the_command_starts_as_many_processes_as_the_recipe_asks_for(
    recipe: Recipe, make_job: MakeJob
) -> None:
    assert engine_command(make_job(recipe()))[3] == "finetui.engine"
    job = make_job(recipe(training={"processes": 4}))
    assert engine_command(job)[-4:] == ["--processes", "4", "--nodes", "1"]
    assert engine_command(job, nodes=2)[-4:] == ["--processes", "2", "--nodes", "2"]
    with pytest.raises(UserError, match="do not spread evenly over 3 machines"):
        engine_command(job, nodes=3)


def test_one_process_does_not_pretend_to_be_two(
    recipe: Recipe, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetui.engine.ranks import ALONE, join

    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="asks for 2 processes, and 1 was started"):
        join(2)
    assert join(1) == ALONE and ALONE.gather({"a": 1}) == [{"a": 1}]
    with pytest.raises(StopRequested):
        ALONE.first_does(_stop)


def _stop() -> None:
    raise StopRequested
