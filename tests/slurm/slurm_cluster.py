"""A Slurm cluster of two nodes on the loopback address, and jobs on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from job_workshop import until

from finetui.jobs import procfs, slurm
from finetui.jobs.folder import Job, create
from finetui.jobs.liveness import JobState, state
from finetui.settings import Cluster, Settings

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm-test-cluster.sh"
WORKER = Path(__file__).with_name("slurm_worker.py")


class TestCluster:
    """The daemons in a folder of their own, and jobs on them."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs_dir = folder / "work space $x %j" / "jobs"
        self.jobs_dir.mkdir(parents=True, mode=0o700)
        self.submitted: list[Job] = []

    def daemon(self, name: str) -> int:
        """The process number of slurmctld, slurmd-n1 or slurmd-n2."""
        return int((self.folder / f"{name}.pid").read_text())

    def job(self, processes: int = 1) -> Job:
        recipe = {"training": {"processes": processes}}
        return create(self.jobs_dir, "train", "slurm", {"kind": "train", "recipe": recipe}, {})

    def submit(
        self, *worker: object, profile: Cluster | None = None, job: Job | None = None
    ) -> Job:
        """Hand in a job that runs slurm_worker.py with these arguments."""
        job = job or self.job()
        command = [sys.executable, str(WORKER), str(job.path), *map(str, worker)]
        chosen = Settings(cluster={"test": profile or Cluster(gpus=0, time="30")})
        slurm.submit(job, "test", chosen, command=command)
        self.submitted.append(job)
        return job

    def number(self, job: Job) -> str:
        found = slurm.submission(job)
        assert found is not None and found.id
        return found.id

    def run(self, *words: str) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def requeued(self, job: Job, attempt: int, start: str = "now+2") -> JobState:
        """Wait until an attempt has ended and the job waits again, then let it start soon."""
        found = until(
            lambda: (now := state(job)).name == "requeued" and _ran(job, attempt) and now, 120
        )
        self.let_start(job, start)
        return found

    def let_start(self, job: Job, when: str = "now+2") -> None:
        """Not at once: a machine refuses a job that it ended within the same second."""
        self.run("scontrol", "update", f"jobid={self.number(job)}", f"StartTime={when}")

    def bring_back(self, name: str) -> None:
        """Start a lost machine's daemon again, and wait until the controller counts on it."""
        self.restart(f"slurmd-{name}")
        until(lambda: self.run("sinfo", "-h", "-n", name, "-o", "%T").strip() == "idle")

    def wait_for_save(self) -> None:
        """Wait until the controller has written down what it was told until now."""
        now = time.time()
        until(lambda: (self.folder / "state" / "job_state").stat().st_mtime > now)

    def lose_machine(self, name: str, *jobs: Job) -> None:
        """Kill all that a node runs for these jobs, its daemon included, at once."""
        titles = [f"slurmstepd: [{self.number(job)}." for job in jobs]
        steps = [pid for pid in processes() if command_of(pid).startswith(tuple(titles))]
        for pid in [self.daemon(f"slurmd-{name}"), *(one for one in steps if log_of(one) == name)]:
            kill_with_children(pid)

    def restart(self, name: str) -> None:
        """Start a daemon again that was killed."""
        configuration = str(self.folder / "slurm.conf")
        if name == "slurmctld":
            self.run("slurmctld", "-f", configuration)
        else:
            self.run("slurmd", "-f", configuration, "-N", name.removeprefix("slurmd-"))


def _ran(job: Job, attempt: int) -> bool:
    proc = job.proc()
    return proc is not None and proc.attempt == attempt


def which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def stop(folder: Path) -> None:
    """End the jobs and the daemons."""
    subprocess.run([SCRIPT, "stop", folder], check=False)
    shutil.rmtree(folder, ignore_errors=True)


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_of(pid: int) -> str:
    """The title of a process; slurmstepd's is "slurmstepd: [JOB.STEP]"."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def log_of(pid: int) -> str:
    """The node whose log a slurmstepd writes."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(file)
        if "slurmd-" in target:
            return target.rpartition("slurmd-")[2].partition(".")[0]
    return ""


def kill_with_children(pid: int) -> None:
    for child in procfs.children(pid):
        kill_with_children(child)
    os.kill(pid, 9)
