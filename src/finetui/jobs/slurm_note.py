"""slurm.json: that a job was handed in to Slurm, under which number, and for which attempts."""

import re

import msgspec

from finetui.errors import BROKEN
from finetui.jobs.folder import Job

NOTE = "slurm.json"
_NUMBER = re.compile("[0-9]{1,12}")


class Submission(msgspec.Struct, frozen=True):
    """The newest hand-in of a job. `id` is Slurm's number, "" while sbatch runs; `attempt` is the
    number of its first attempt; `t` the unix time. Its script runs only while `token` is here."""

    id: str
    cluster: str
    profile: str
    t: float
    attempt: int
    name: str
    token: str
    user: str


def noted(job: Job) -> Submission | None:
    """What slurm.json says; None when there is none or it is broken."""
    try:
        found = msgspec.json.decode((job.path / NOTE).read_bytes(), type=Submission)
    except (OSError, *BROKEN):
        return None
    # The number becomes an argument of scancel: a folder from elsewhere must not smuggle one in.
    return found if not found.id or _NUMBER.fullmatch(found.id) else None


def name_of(job: Job) -> str:
    """The name of a job in Slurm."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", job.id)


def submission(job: Job) -> Submission | None:
    """The newest hand-in to Slurm, None when there was none or the job was started here since."""
    found = noted(job)
    if found is None:
        return None
    proc = job.proc()
    here = proc is not None and proc.backend == "local" and proc.attempt >= found.attempt
    return None if here else found
