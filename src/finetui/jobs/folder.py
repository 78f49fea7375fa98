"""The job folder: the only link between the screens and the processes that do the work.

spec.toml manifest.json         frozen when the job is made, no secrets
proc.json exit.json             written by the supervisor
queue.json                      what it waits for, while it waits for a GPU
outcome.json heartbeat          written by the worker
events-a<N>.jsonl log-a<N>.txt  one of each an attempt
stack-a<N>.txt                  where its processes stood, when somebody asked
waiting.json ballast            what a paused run waits for, and room kept for its last word
worker.lock supervisor.lock launch.lock
control/                        requests to the worker
adapter/ or model/              the result
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from finetui.errors import BROKEN, UserError
from finetui.workspace import refuse_unsafe, write_atomic

KINDS = (*("train", "generate", "prepare", "evaluate", "export", "rehearse", "tokenloss", "fetch"),)

_SLUG_LIMIT = 40
_MANY_DIGITS = re.compile(rb"\d{19}")
_ATTEMPT = re.compile(r"-a(\d+)\.\w+$")


class Process(msgspec.Struct, frozen=True):
    """One process of this boot: its number, and its start in clock ticks against reuse."""

    pid: int
    start: int


class ProcRecord(msgspec.Struct, frozen=True):
    """proc.json: who works in the folder. `t` is the unix time of the start.

    `gpus` are the UUIDs of the GPUs that it was given, in the order of its ranks; none where it
    takes what it finds.
    """

    boot_id: str
    host: str
    supervisor: Process | None
    worker: Process
    attempt: int
    t: float
    backend: str = "local"
    gpus: tuple[str, ...] = ()


class ExitRecord(msgspec.Struct, frozen=True):
    """exit.json: how the worker's process ended, as its supervisor saw it.

    `signal` is None after an ordinary exit. The counters are rises during the run; None when
    the kernel does not tell. `orphans` counts left-over child processes that were ended. `peak_rss`
    is the most main memory that the worker held at once, in bytes; 0 where it is not known.
    """

    attempt: int
    rc: int
    t: float
    signal: int | None = None
    oom_kills: int | None = None
    cgroup_oom_kills: int | None = None
    orphans: int = 0
    stop_asked: bool = False
    error: str = ""
    peak_rss: int = 0


_Record = TypeVar("_Record", ProcRecord, ExitRecord)


class Job:
    """One job folder. Reads what is there; remembers nothing that can change."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"Job({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def kind(self) -> str:
        """The kind in the id, "" when the folder is not named by `create`."""
        words = self.id.split("-", 3)
        return words[2] if len(words) > 2 else ""

    @property
    def slug(self) -> str:
        words = self.id.split("-", 3)
        return words[3] if len(words) > 3 else self.id

    @cached_property
    def created(self) -> float:
        """Unix time of `create`; the folder's own time where the manifest does not say."""
        value = self.manifest().get("created")
        if isinstance(value, int | float) and abs(value) < 1e15:
            return float(value)
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    @property
    def worker_lock(self) -> Path:
        return self.path / "worker.lock"

    @property
    def supervisor_lock(self) -> Path:
        return self.path / "supervisor.lock"

    @property
    def launch_lock(self) -> Path:
        return self.path / "launch.lock"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat"

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def adapter(self) -> Path:
        """Where the trained adapter is, or will be."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """Where the model is, or will be, after full tuning."""
        return self.path / "model"

    @property
    def result(self) -> Path | None:
        """What training left: the adapter or the model; None while there is neither."""
        if (self.adapter / "adapter_config.json").is_file():
            return self.adapter
        return self.model if (self.model / "config.json").is_file() else None

    def events_path(self, attempt: int) -> Path:
        return self.path / f"events-a{attempt}.jsonl"

    def log_path(self, attempt: int) -> Path:
        return self.path / f"log-a{attempt}.txt"

    def events_files(self) -> list[Path]:
        """Return the event files, oldest attempt first."""
        return sorted(self.path.glob("events-a*.jsonl"), key=attempt_of)

    def log_files(self) -> list[Path]:
        """Return the log files, oldest attempt first."""
        return sorted(self.path.glob("log-a*.txt"), key=attempt_of)

    def spec(self) -> dict[str, Any]:
        """Return spec.toml; a UserError when it is missing or broken."""
        import tomli

        path = self.path / "spec.toml"
        try:
            return tomli.loads(path.read_text(encoding="utf-8"))
        except (OSError, *BROKEN) as error:
            raise UserError(
                f"the job's spec cannot be read ({error}).", str(path), "Start a new job."
            ) from error

    def recipe(self) -> dict[str, dict[str, Any]]:
        """Return the tables of the recipe in the spec; what is no table is left out.

        Raises UserError when the spec is missing or broken.
        """
        found = self.spec().get("recipe")
        tables = found if isinstance(found, dict) else {}
        return {name: table for name, table in tables.items() if isinstance(table, dict)}

    def manifest(self) -> dict[str, Any]:
        """Return manifest.json, {} when it cannot be read."""
        return read_json(self.path / "manifest.json") or {}

    def proc(self) -> ProcRecord | None:
        return _read_record(self.path / "proc.json", ProcRecord)

    def exit(self) -> ExitRecord | None:
        return _read_record(self.path / "exit.json", ExitRecord)

    def outcome(self) -> dict[str, Any] | None:
        """Return the worker's last word {status, attempt, t, ...}, None while there is none."""
        return read_json(self.path / "outcome.json")

    def next_attempt(self) -> int:
        """Return the number that no file of this job bears yet, from 1."""
        used = [attempt_of(path) for path in self.events_files() + self.log_files()]
        if proc := self.proc():
            used.append(proc.attempt)
        return max(used, default=0) + 1

    def put_away_records(self) -> None:
        """Keep the last attempt's outcome and exit under its number; they count no more."""
        for name in ("outcome", "exit"):
            path = self.path / f"{name}.json"
            record = read_json(path)
            if record is not None:
                number = record.get("attempt")
                kept = number if isinstance(number, int) else 0
                path.replace(self.path / f"{name}-a{kept}.json")

    def write_json(self, name: str, value: object) -> None:
        """Publish one JSON file of the folder, whole or not at all."""
        write_atomic(self.path / name, msgspec.json.encode(value) + b"\n")


def create(
    jobs_dir: Path | str,
    kind: str,
    slug: str,
    spec: Mapping[str, Any],
    manifest: Mapping[str, Any],
) -> Job:
    """Make a job folder with a name of its own and return it; nothing is started.

    `spec` and `manifest` are plain values; keys and passwords are taken out of both, and the
    manifest gains machine, versions and git state. Raises UserError for an unknown kind and
    when the folder cannot be written or others could write there.
    """
    from finetui.jobs.manifest import surroundings

    if kind not in KINDS:
        raise UserError(f'"{kind}" is no kind of job.', fix=f"Choose one of {', '.join(KINDS)}.")
    jobs = Path(jobs_dir)
    now = time.time()
    facts = {"created": now, "kind": kind, **surroundings(jobs.parent), **manifest}
    try:
        jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (jobs.parent, jobs):
            refuse_unsafe(folder)
        draft = Path(tempfile.mkdtemp(prefix=".new-", dir=jobs))
        try:
            return _fill_and_name(draft, _job_name(now, kind, slug), spec, facts)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(
            f"the job folder cannot be written ({error.strerror}).",
            str(jobs),
            "Check its permissions and the free space.",
        ) from error


def list_jobs(jobs_dir: Path | str) -> list[Job]:
    """Return the jobs of a workspace, newest first; [] when there is no such folder."""
    try:
        entries = [Path(entry.path) for entry in os.scandir(jobs_dir) if entry.is_dir()]
    except OSError:
        return []
    jobs = [Job(path) for path in entries if not path.name.startswith(".") and _has_spec(path)]
    return sorted(jobs, key=lambda job: (job.created, job.id), reverse=True)


def _has_spec(path: Path) -> bool:
    """Whether a folder is a job's; one that may not be looked into hides no other."""
    try:
        return (path / "spec.toml").is_file()
    except PermissionError:
        return False


def find_job(jobs_dir: Path | str, text: str, kind: str = "") -> Job:
    """Return the job a person means: its id or path, a unique part of the id, or "last".

    With a kind, only jobs of that kind are meant. Raises UserError when none fits, or more than
    one.
    """
    if "/" in text and (Path(text) / "spec.toml").is_file():
        return Job(Path(text).resolve())
    jobs = [job for job in list_jobs(jobs_dir) if kind in ("", job.kind)]
    if text in ("last", "latest") and jobs:
        return jobs[0]
    found = [job for job in jobs if job.id == text] or [job for job in jobs if text in job.id]
    if not text or not found:
        noun = f"{kind} job" if kind else "job"
        raise UserError(f'no {noun} is called "{text}".', str(jobs_dir), "See: finetui jobs")
    if len(found) > 1:
        names = ", ".join(job.id for job in found[:3])
        raise UserError(f'"{text}" fits {len(found)} jobs ({names}).', fix="Write more of it.")
    return found[0]


def attempt_of(path: Path) -> int:
    """Return the attempt number in a file's name, 0 when it bears none."""
    match = _ATTEMPT.search(path.name)
    return int(match[1]) if match else 0


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object from a file, None when it is missing or is not one.

    Whole numbers that no float and no machine word holds become None: nobody counts that far.
    """
    try:
        data = path.read_bytes()
        value = msgspec.json.decode(data)
        if _MANY_DIGITS.search(data):
            value = _countable(value)
    except (OSError, *BROKEN):
        return None
    return value if isinstance(value, dict) else None


def _countable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _countable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_countable(item) for item in value]
    return None if isinstance(value, int) and abs(value) >= 2**63 else value


def _read_record(path: Path, kind: type[_Record]) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, *BROKEN):
        return None


def _job_name(now: float, kind: str, slug: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", slug.lower()).strip("-")[:_SLUG_LIMIT].rstrip("-")
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{kind}-{plain or 'run'}"


def _fill_and_name(
    draft: Path, name: str, spec: Mapping[str, Any], manifest: Mapping[str, Any]
) -> Job:
    import tomlkit

    from finetui.jobs.scrubbing import scrub

    plain = scrub(spec)
    assert isinstance(plain, dict)
    (draft / "control").mkdir(mode=0o700)
    write_atomic(draft / "spec.toml", tomlkit.dumps(plain))
    write_atomic(draft / "manifest.json", msgspec.json.encode(scrub(manifest)) + b"\n")
    number = 1
    while True:
        path = draft.parent / (name if number == 1 else f"{name}-{number}")
        try:
            # Renaming onto a job folder, which is never empty, fails: the name is ours alone.
            draft.rename(path)
            return Job(path)
        except OSError:
            if not path.exists():
                raise
            number += 1
