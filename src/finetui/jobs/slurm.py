"""Jobs on a Slurm cluster: hand them in, take them out of the queue.

The job folder lies on a file system that the nodes share, and is all that links a run to the
screens: requests, events, heartbeat and outcome are the same files as on one machine. No daemon
of ours, no accounting data base, no array jobs.
"""

import getpass
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import structs

from finetui.errors import UserError
from finetui.jobs import control, locks
from finetui.jobs.checkpoints import newest
from finetui.jobs.folder import Job, read_json
from finetui.jobs.liveness import state
from finetui.jobs.slurm_note import NOTE as NOTE
from finetui.jobs.slurm_note import Submission as Submission
from finetui.jobs.slurm_note import name_of, noted
from finetui.jobs.slurm_note import submission as submission
from finetui.jobs.slurm_queue import DESK, CommandError, clean_environment, look, run
from finetui.jobs.slurm_script import exported, require_sound, script, shape
from finetui.settings import Cluster, Settings, load
from finetui.workspace import refuse_unsafe, write_atomic

SCRIPT = "slurm.sh"
OUTPUT = "slurm.txt"
_ATTEMPT = "slurm-attempt.json"

_SUBMIT_LIMIT_S = 60.0
_CANCEL_LIMIT_S = 10.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Place:
    """Where a run goes: a profile by its name, "" for none but Slurm's own defaults."""

    profile: str
    cluster: Cluster


def profiles(settings: Settings | None = None) -> Mapping[str, Cluster]:
    """The profiles of the user's settings by name."""
    return dict((settings or load()).cluster)


def place(text: str, settings: Settings | None = None) -> Place | None:
    """Where ``--on TEXT`` means: None for "" and "here"; "slurm", "slurm:PROFILE".

    Without a name the profile "default" counts, or the only one there is. Raises UserError.
    """
    if text in ("", "here", "local"):
        return None
    kind, _, name = text.partition(":")
    known = profiles(settings)
    if kind != "slurm":
        fix = (
            f"Did you mean --on slurm:{text}?" if text in known else "Write slurm or slurm:PROFILE."
        )
        raise UserError(f"{text!r} is no place to run.", "--on", fix)
    return _profile(name, known)


def _profile(name: str, known: Mapping[str, Cluster]) -> Place:
    if not name:
        name = "default" if "default" in known or len(known) != 1 else next(iter(known))
    found = known.get(name)
    if found is None and name != "default":
        names = ", ".join(known) or "none yet"
        raise UserError(
            f"no profile {name!r} for a cluster.", "", f"Your settings have: {names}. "
            f"Add [cluster.{name}] to them."
        )  # fmt: skip
    if found is None and known:
        raise UserError("which profile is meant?", "--on slurm", f"One of: {', '.join(known)}.")
    require_sound(found or Cluster(), name)
    return Place(name if found else "", found or Cluster())


def require_ready(wanted: Place, processes: int) -> None:
    """Raises UserError where no job can be handed in, or not one of so many processes."""
    shape(processes, wanted.cluster)
    if shutil.which("sbatch") is None:
        raise UserError(
            "sbatch is not installed here.", "--on slurm",
            "Run this where jobs are handed in to Slurm: see finetui doctor",
        )  # fmt: skip


def submit(
    job: Job,
    profile: str = "",
    settings: Settings | None = None,
    *,
    takeover: bool = False,
    command: list[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Submission:
    """Write the script of a job and hand it in; returns what slurm.json says from now on.

    `command` takes the engine's place (tests). Raises UserError when the job runs or waits
    already, the profile cannot be used, or Slurm refuses the job; a job that Slurm refused
    says so in its outcome.
    """
    wanted = _profile(profile, profiles(settings))
    if job.path.is_dir():
        refuse_unsafe(job.path)  # its spec says what is run with our rights
    seen = (noted(job), job.proc())
    _refuse_if_busy(job, takeover)
    held = locks.hold(job.launch_lock)
    if held is None:
        raise UserError("the job is being started already.", job.id)
    try:
        if seen != (noted(job), job.proc()):
            raise UserError("the job was started this moment.", job.id)
        return _hand_in(job, wanted, command, environ)
    finally:
        os.close(held)
        DESK.forget()


def refuse_if_waiting(job: Job) -> None:
    """Raises UserError for a job that Slurm has or may have: it must not be started again."""
    found = submission(job)
    if found is None:
        return
    now = state(job)
    if not now.ended:
        raise UserError(
            f"the job is in Slurm ({now.name}: {now.sentence}).", job.id, "Cancel it there first."
        )


def _refuse_if_busy(job: Job, takeover: bool) -> None:
    if not (job.path / "spec.toml").is_file():
        raise UserError("there is no such job.", str(job.path), "See: finetui jobs")
    if takeover:
        return
    refuse_if_waiting(job)
    now = state(job)
    if now.alive or now.name == "unknown":
        raise UserError(f"the job is {now.name}: {now.sentence}.", job.id, "Stop it first.")


def _hand_in(
    job: Job, wanted: Place, command: list[str] | None, environ: Mapping[str, str]
) -> Submission:
    attempt = job.next_attempt()
    found = Submission(
        id="", cluster="", profile=wanted.profile, t=time.time(), attempt=attempt,
        name=name_of(job), token=secrets.token_hex(8), user=user_name(),
    )  # fmt: skip
    text = script(
        job, wanted.cluster, attempt=attempt, token=found.token, command=command or (),
        environ=environ,
    )  # fmt: skip
    control.clear(job)
    job.put_away_records()
    job.control.mkdir(mode=0o700, exist_ok=True)
    write_atomic(job.path / SCRIPT, text, 0o700)
    os.close(os.open(job.path / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    # Before Slurm has it: a script that starts at once, or whose sbatch dies, finds its token.
    job.write_json(NOTE, found)
    try:
        said = run(
            "sbatch", "--parsable", f"--chdir={job.path}", f"--output={_literal(job, OUTPUT)}",
            str(job.path / SCRIPT), cwd=str(job.path), limit_s=_SUBMIT_LIMIT_S,
            environ=_environment(wanted.cluster, environ),
        )  # fmt: skip
    except CommandError as error:
        raise _refused(job, found, error) from error
    number, _, cluster = said.strip().splitlines()[-1].partition(";")
    found = structs.replace(found, id=number, cluster=cluster)
    job.write_json(NOTE, found)
    return found


def notes(environ: Mapping[str, str] = os.environ) -> list[str]:
    """What a person who hands a run in should know: which keys it will not have."""
    told = []
    file = environ.get("HF_TOKEN_PATH") or os.path.expanduser("~/.cache/huggingface/token")
    if environ.get("HF_TOKEN") and not os.path.exists(file):
        told.append(
            "HF_TOKEN is not handed on, because Slurm writes the environment of jobs down: for "
            "gated models put it into a file of yours, see `hf auth login` or HF_TOKEN_PATH"
        )
    return told


def _literal(job: Job, name: str) -> str:
    """A path for sbatch, which fills in % itself."""
    return str(job.path / name).replace("%", "%%")


def _environment(cluster: Cluster, environ: Mapping[str, str]) -> dict[str, str]:
    """What sbatch sees: no key, also where a site's wrapper passes everything on."""
    allowed = {*exported(cluster, environ), "HOME", "PATH", "USER", "LOGNAME", "LANG", "LC_ALL"}
    given = {"SBATCH_PARTITION": cluster.partition, "SBATCH_ACCOUNT": cluster.account,
             "SBATCH_QOS": cluster.qos, "SBATCH_TIMELIMIT": cluster.time,
             "SBATCH_RESERVATION": "", "SBATCH_CONSTRAINT": ""}  # fmt: skip
    # The person's defaults for all jobs count where the profile says nothing.
    allowed |= {name for name, said in given.items() if not said}
    plain = clean_environment(environ)
    kept = {name: value for name, value in environ.items() if name in given and name in allowed}
    return {name: value for name, value in plain.items()
            if name in allowed or name.startswith("SLURM_")} | kept  # fmt: skip


def _refused(job: Job, found: Submission, error: CommandError) -> UserError:
    if not error.silent:
        sentence = f"Slurm refused the job: {_plain(str(error))}"
        record = {"status": "failed", "attempt": found.attempt, "t": time.time(),
                  "error": "SlurmError", "sentence": sentence}  # fmt: skip
        job.write_json("outcome.json", record)
        (job.path / NOTE).unlink(missing_ok=True)
        return UserError(f"{sentence}.", job.id, "Mend the profile, then: finetui resume JOB")
    if "not installed" in str(error):
        (job.path / NOTE).unlink(missing_ok=True)
        return UserError(
            f"{error}.", job.id, "Run this where jobs are handed in to Slurm: see finetui doctor"
        )
    return UserError(
        f"{error}; whether Slurm has the job is not known.", job.id, "See: finetui jobs"
    )


def _plain(said: str) -> str:
    return said.replace("sbatch: error: ", "").rstrip(". ")


def cancel(job: Job, *, hard: bool = False) -> str:
    """Take a waiting job out of Slurm's queue, or have a running one save and end.

    `hard` has Slurm end a running one: it may save within the seconds that Slurm leaves it.
    Returns what was done as a sentence. Raises UserError when it is not in Slurm, has ended, or
    Slurm does not answer.
    """
    found = submission(job)
    if found is None:
        raise UserError("the job is not in Slurm.", job.id)
    DESK.forget()
    now = state(job)
    if now.ended:
        raise UserError(f"there is nothing to cancel: {now.sentence}.", job.id)
    waits = now.name in ("queued", "requeued")
    if not waits and not hard:
        return control.request(job, "stop")
    if not found.id:
        raise UserError("its number in Slurm is not known.", job.id, f"See: squeue -n {found.name}")
    _require_ours(job, found)
    before = read_json(job.path / _ATTEMPT)
    job.write_json(
        "slurm-cancel.json", {"token": found.token, "who": user_name(), "t": time.time()}
    )
    try:
        run("scancel", found.id, cluster=found.cluster)
    except CommandError as error:
        raise UserError(f"Slurm did not cancel it: {_plain(str(error))}.", job.id) from error
    finally:
        DESK.forget()
    if not waits:
        return f"cancelled Slurm job {found.id}: it may save before Slurm ends it"
    return _after_waiting(job, found, before)


def _require_ours(job: Job, found: Submission) -> None:
    """Raises UserError unless Slurm's job of this number is this one: numbers are used again, and
    a folder may come from somebody else."""
    answer = look(found.id, found.cluster, name_of(job))
    if answer.problem:
        raise UserError(f"Slurm did not answer: {answer.problem}.", job.id, "Try again later.")
    if answer.entry is None:
        raise UserError(f"Slurm has no job {found.id} of this name any more.", job.id)


def _after_waiting(job: Job, found: Submission, before: object) -> str:
    """Nothing of a job that waited can write its last word: write it, once Slurm has let it go."""
    deadline = time.monotonic() + _CANCEL_LIMIT_S
    while time.monotonic() < deadline:
        answer = look(found.id, found.cluster, found.name)
        gone = answer.known and (answer.entry is None or answer.entry.state == "CANCELLED")
        if gone and read_json(job.path / _ATTEMPT) == before:
            last = newest(job)
            step = last.step if last else 0
            kept = f"; what was saved at step {step} is kept" if step else ""
            record = {
                "status": "stopped", "attempt": job.next_attempt(), "t": time.time(),
                "sentence": f"cancelled by {user_name()} while it waited in Slurm{kept}",
            }  # fmt: skip
            job.put_away_records()
            job.write_json("outcome.json", record)
            # Should Slurm start it after all, its script finds no token and runs nothing.
            job.write_json(NOTE, structs.replace(found, token="cancelled"))
            return f"took Slurm job {found.id} out of the queue{kept}"
        if gone:
            break
        time.sleep(_POLL_S)
    return f"cancelled Slurm job {found.id}"


def user_name() -> str:
    """Who this is, as others see it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
