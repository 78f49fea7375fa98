"""The batch script, run by bash with stand-ins for srun and scontrol."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from job_workshop import PROGRAM, Workshop, until

from finetui.errors import UserError
from finetui.jobs import checkpoints, slurm_script
from finetui.jobs.folder import Job, create
from finetui.jobs.liveness import state
from finetui.jobs.slurm_note import Submission
from finetui.jobs.slurm_state import starts_again
from finetui.settings import Cluster

CPU = Cluster(gpus=0)


def noted(job: Job, attempt: int = 1) -> Submission:
    found = Submission("7", "", "", 0.0, attempt, job.id, "cafe", "me")
    job.write_json("slurm.json", found)
    return found


def programs(folder: Path, **texts: str) -> dict[str, str]:
    """An environment whose PATH begins with these shell programs, and nothing of a real Slurm."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o700)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}


SRUN = 'while [[ $1 == --* ]]; do shift; done; exec "$@"'
REQUEUE = 'echo "$@" >>"$HOME/scontrol.txt"; (sleep 0.1; kill -TERM $PPID) &'


def begin(
    job: Job, folder: Path, *worker: object, restarts: int = 0, scontrol: str = REQUEUE
) -> subprocess.Popen[bytes]:
    """Run the job's script as a batch shell would."""
    command = [sys.executable, str(PROGRAM), *map(str, worker)] if worker else []
    text = slurm_script.script(job, CPU, attempt=1, token="cafe", command=command)
    path = job.path / "slurm.sh"
    path.write_text(text)
    environ = programs(folder / "bin", srun=SRUN, scontrol=scontrol)
    environ |= {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n1",
                "SLURM_RESTART_COUNT": str(restarts), "LANG": "C.UTF-8"}  # fmt: skip
    return subprocess.Popen(["bash", path], env=environ, stdout=subprocess.DEVNULL)


def requeues(folder: Path) -> list[str]:
    path = folder / "bin" / "scontrol.txt"
    return path.read_text().splitlines() if path.exists() else []


def published(job: Job, step: int) -> None:
    draft = checkpoints.draft_folder(checkpoints.folder_of(job))
    (draft / "weights").write_text("x")
    checkpoints.publish(draft, checkpoints.folder_of(job) / f"step-{step}", step=step)


def test_a_run_that_ends_by_itself_ends_its_slurm_job(workshop: Workshop, tmp_path: Path) -> None:
    job = workshop.job()
    noted(job)
    assert begin(job, tmp_path, "steps", job.path, 3, 0).wait(30) == 0
    assert state(job).name == "finished"
    proc = job.proc()
    assert proc is not None and (proc.backend, proc.attempt) == ("slurm", 1)
    assert "step 3" in job.log_path(1).read_text()
    assert begin(job, tmp_path, "failing", job.path, restarts=1).wait(30) == 1
    assert state(job).name == "failed" and state(job).sentence.startswith("ValueError")
    assert not requeues(tmp_path)


def test_the_warning_before_the_time_limit_saves_and_requeues(
    workshop: Workshop, tmp_path: Path
) -> None:
    job = workshop.job()
    noted(job)
    batch = begin(job, tmp_path, "steps", job.path, 10_000, 0.01)
    until(lambda: "step 3" in (job.log_path(1).read_text() if job.log_path(1).exists() else ""))
    published(job, 3)
    os.kill(batch.pid, signal.SIGUSR1)
    assert batch.wait(30) == 0
    assert (job.outcome() or {})["status"] == "preempted"
    assert requeues(tmp_path) == ["requeue 7"]
    note = json.loads((job.path / "slurm-end.json").read_text())
    assert note["again"] is True and note["attempt"] == 1


def test_what_slurm_ends_is_not_requeued_by_the_script(workshop: Workshop, tmp_path: Path) -> None:
    job = workshop.job()
    noted(job)
    batch = begin(job, tmp_path, "steps", job.path, 10_000, 0.01)
    until(lambda: "step 3" in (job.log_path(1).read_text() if job.log_path(1).exists() else ""))
    published(job, 3)
    os.kill(batch.pid, signal.SIGTERM)
    assert batch.wait(30) == 0
    assert (job.outcome() or {})["status"] == "preempted" and not requeues(tmp_path)


def test_a_dead_worker_is_requeued_only_when_it_brought_a_new_checkpoint(
    workshop: Workshop, tmp_path: Path
) -> None:
    job = workshop.job()
    noted(job)
    published(job, 5)
    killing = ["-c", "import os; os.kill(os.getpid(), 9)"]
    saving = ["-c", f"import sys, os; sys.path[:0] = {sys.path!r}\n"
              "from test_slurm_script import published; from finetui.jobs.folder import Job\n"
              f"published(Job({str(job.path)!r}), 10); os.kill(os.getpid(), 9)"]  # fmt: skip
    for number, command in enumerate((saving, killing)):
        text = slurm_script.script(
            job, CPU, attempt=1, token="cafe", command=[sys.executable, *command]
        )
        batch = begin_text(job, tmp_path, text, number)
        assert batch.wait(30) == (0, 1)[number]
    assert requeues(tmp_path) == ["requeue 7"]
    ended = job.exit()
    assert ended is not None and (ended.attempt, ended.rc, ended.signal) == (2, 137, 9)
    assert state(job).name == "failed" and "SIGKILL" in state(job).sentence


def begin_text(job: Job, folder: Path, text: str, restarts: int) -> subprocess.Popen[bytes]:
    (job.path / "slurm.sh").write_text(text)
    environ = programs(folder / "bin", srun=SRUN, scontrol=REQUEUE)
    environ |= {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n1",
                "SLURM_RESTART_COUNT": str(restarts)}  # fmt: skip
    return subprocess.Popen(["bash", job.path / "slurm.sh"], env=environ,
                            stdout=subprocess.DEVNULL)  # fmt: skip


def test_attempts_have_an_end(workshop: Workshop, tmp_path: Path) -> None:
    job = workshop.job()
    noted(job)
    few = Cluster(gpus=0, attempts=2)
    saving = f"mkdir -p checkpoints/step-9; touch checkpoints/step-9/{checkpoints.MANIFEST}"
    text = slurm_script.script(
        job, few, attempt=1, token="cafe", command=["bash", "-c", f"{saving}; exit 3"]
    )
    assert begin_text(job, tmp_path, text, 1).wait(30) == 1
    assert not requeues(tmp_path)
    assert "2 of 2" in json.loads((job.path / "slurm-end.json").read_text())["why"]
    ended = job.exit()
    assert ended is not None and (ended.rc, ended.signal) == (3, None)


def test_a_requeue_that_slurm_refuses_is_said(workshop: Workshop, tmp_path: Path) -> None:
    job = workshop.job()
    noted(job)
    saving = f"mkdir -p checkpoints/step-9; touch checkpoints/step-9/{checkpoints.MANIFEST}"
    text = slurm_script.script(
        job, CPU, attempt=1, token="cafe", command=["bash", "-c", f"{saving}; exit 3"]
    )
    environ = programs(tmp_path / "bin", srun=SRUN, scontrol="exit 1")
    environ |= {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n1"}
    (job.path / "slurm.sh").write_text(text)
    done = subprocess.run(["bash", job.path / "slurm.sh"], env=environ, capture_output=True)
    assert done.returncode == 1 and b"would not requeue" in done.stdout
    assert state(job).name == "failed"


def test_a_script_that_was_overtaken_runs_nothing(workshop: Workshop, tmp_path: Path) -> None:
    job = workshop.job()
    job.write_json("slurm.json", Submission("8", "", "", 0.0, 2, job.id, "beef", "me"))
    assert begin(job, tmp_path, "steps", job.path, 3, 0).wait(30) == 0
    assert job.proc() is None and not job.events_files()


def test_a_folder_of_any_name_is_quoted(tmp_path: Path) -> None:
    jobs = tmp_path / "a b$(touch x)'\";#%j" / "jobs"
    jobs.mkdir(parents=True)
    job = create(jobs, "train", "q", {"kind": "train"}, {})
    noted(job)
    assert begin(job, tmp_path, "steps", job.path, 1, 0).wait(30) == 0
    assert state(job).name == "finished"
    assert not list(tmp_path.rglob("x"))
    odd = create(tmp_path / "line\nbreak", "train", "q", {"kind": "train"}, {})
    with pytest.raises(UserError, match="folder of this name"):
        slurm_script.script(odd, CPU, attempt=1, token="t")


def test_the_script_holds_what_the_profile_says(workshop: Workshop) -> None:
    job = create(workshop.jobs_dir, "train", "gpu",
                 {"kind": "train", "recipe": {"training": {"processes": 4}}}, {})  # fmt: skip
    profile = Cluster(
        partition="gpu", account="proj", qos="long", time="1-00:00:00", nodes=2, gpus=2,
        gpu_type="a100", cpus=8, memory="64G", modules=["cuda/12", "x y"], setup=["source ~/e.sh"],
        container="apptainer exec --nv 'my image.sif'", python="/opt/py/bin/python",
        options=["--reservation=course"], srun=["--mpi=none"],
    )  # fmt: skip
    text = slurm_script.script(job, profile, attempt=3, token="t", environ={"HOME": "/h"})
    for line in (
        "#!/bin/bash -l", "#SBATCH --partition=gpu", "#SBATCH --account=proj",
        "#SBATCH --time=1-00:00:00", "#SBATCH --nodes=2", "#SBATCH --gres=gpu:a100:2",
        "#SBATCH --mem=64G", "#SBATCH --signal=B:USR1@240", "#SBATCH --export=HOME",
        "#SBATCH --requeue", "#SBATCH --reservation=course", "module load cuda/12 'x y'",
        "source ~/e.sh", "first=3",
    ):  # fmt: skip
        assert line in text.splitlines() or line + "  #" in text, line
    step = next(line for line in text.splitlines() if line.startswith("srun"))
    assert "--nodes=2 --ntasks=2" in step and "--cpus-per-task=8 --mpi=none apptainer" in step
    assert "'my image.sif' /opt/py/bin/python -P -m finetui.engine.torchrun" in step
    assert "--processes 2 --nodes 2" in step and "FINETUI_RENDEZVOUS" in text
    assert subprocess.run(["bash", "-n"], input=text.encode()).returncode == 0


def test_no_key_of_the_environment_goes_to_slurm(workshop: Workshop) -> None:
    environ = {
        "HOME": "/h", "HF_TOKEN": "hf_" + "a" * 30, "WANDB_API_KEY": "k" * 40, "HF_TOKEN_PATH":
        "/h/token", "HTTPS_PROXY": "http://me:sesame@proxy:3128", "AWS_SECRET_ACCESS_KEY": "s" * 30,
        "MY_DATA": "/d", "PATH": "/bin",
    }  # fmt: skip
    job = workshop.job()
    text = slurm_script.script(job, Cluster(gpus=0, export=["MY_DATA"]), attempt=1, token="t",
                               environ=environ)  # fmt: skip
    assert "#SBATCH --export=HOME,PATH,HF_TOKEN_PATH,MY_DATA" in text
    for secret in ("hf_a", "kkkk", "sesame", "ssss"):
        assert secret not in text
    with pytest.raises(UserError, match="holds a key"):
        slurm_script.require_sound(Cluster(export=["WANDB_API_KEY"]), "x")


@pytest.mark.parametrize(
    ("profile", "field"),
    [
        (Cluster(partition="a b"), "partition"),
        (Cluster(account="x;rm"), "account"),
        (Cluster(time="soon"), "time"),
        (Cluster(time="4"), "no more than the 240 s"),
        (Cluster(time="30", lead=1800), "time"),
        (Cluster(memory="lots"), "memory"),
        (Cluster(gpus=0, gpu_type="a100"), "gpu_type"),
        (Cluster(options=["-p", "x"]), "options"),
        (Cluster(options=["--export=ALL"]), "set by finetui itself"),
        (Cluster(options=["--array=1-9"]), "set by finetui itself"),
        (Cluster(options=["--comment=a b"]), "cannot hold"),
        (Cluster(setup=["a\nb"]), "line break"),
        (Cluster(container="run 'open"), "quotation"),
        (Cluster(export=["A-B"]), "name of a variable"),
    ],
)
def test_a_wrong_profile_names_its_field(profile: Cluster, field: str) -> None:
    with pytest.raises(UserError) as error:
        slurm_script.require_sound(profile, "mine")
    assert field in str(error.value) and "[cluster.mine]" in str(error.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("90:30", 5430), ("4:00:00", 14400), ("2-12", 216000), ("1-00:30:00", 88200),
     ("UNLIMITED", 0), ("infinite", 0), ("", 0), ("1-", 0)],
)  # fmt: skip
def test_time_limits_are_read_as_slurm_reads_them(text: str, seconds: int) -> None:
    assert slurm_script.seconds(text) == seconds


@pytest.mark.parametrize(
    ("count", "nodes", "gpus", "shape"),
    [(1, 1, 1, (1, 1, 1)), (1, 4, 8, (1, 1, 1)), (8, 4, 8, (1, 8, 8)), (8, 4, 4, (2, 4, 4)),
     (6, 4, 2, (3, 2, 2)), (2, 2, 0, (2, 1, 0)), (3, 2, 0, (1, 3, 0))],
)  # fmt: skip
def test_processes_are_spread_over_as_few_machines_as_have_gpus(
    count: int, nodes: int, gpus: int, shape: tuple[int, int, int]
) -> None:
    found = slurm_script.shape(count, Cluster(nodes=nodes, gpus=gpus))
    assert (found.nodes, found.processes, found.gpus) == shape
    with pytest.raises(UserError, match="do not fit"):
        slurm_script.shape(5, Cluster(nodes=2, gpus=2))


def test_a_lost_process_among_several_is_requeued_though_the_others_said_so(
    workshop: Workshop, tmp_path: Path
) -> None:
    lost = '{"status":"failed","attempt":%d,"t":1.0,"reason":"rank","error":"LostRankError"}'
    said = '{"status":"failed","attempt":%d,"t":1.0,"error":"ValueError","sentence":"%s"}'
    hostile = said % (1, r"\"error\":\"LostRankError\"")
    for outcome, code, again in ((lost % 1, 0, True), (hostile, 1, False), (lost % 1, 1, False)):
        job = workshop.job()
        noted(job)
        save = f"mkdir -p checkpoints/step-9; touch checkpoints/step-9/{checkpoints.MANIFEST}"
        if not again:
            save = "true"
        command = ["bash", "-c", f"{save}; printf '%s\\n' '{outcome}' >outcome.json; exit 1"]
        text = slurm_script.script(job, CPU, attempt=1, token="cafe", command=command)
        assert begin_text(job, tmp_path, text, 0).wait(30) == code
        assert requeues(tmp_path) == ["requeue 7"]
        # What is requeued has not failed, whatever its outcome says.
        assert starts_again(job) is again
