"""What Slurm says of a job, by asking squeue.

Of squeue's forms of output only `-o` is the same in every version: its JSON changed the types of
fields, and needs a plugin. Nothing here takes silence for an answer: a controller that does not
answer says nothing about its jobs.
"""

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

ASK_EVERY_S = 10.0
"""A controller serves a whole cluster: each job is asked about at most this often."""
_WAIT_S = 2.0
_LIMIT_S = 8.0
# No parts of array jobs: finetui makes none.
_ID = re.compile("[0-9]{1,12}")
_FIELDS = "%A|%T|%r|%P|%Q|%S|%N|%j"

# What sbatch takes from the environment counts more than the script, so only what a person may
# have set for all jobs stays, and no variable of a job that this process runs in.
_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS")


@dataclass(frozen=True)
class Entry:
    """One job as squeue lists it. `place` counts from 1 among the waiting jobs of the partition
    that can be seen, of `waiting`; None when it waits for something else than its turn."""

    id: str
    state: str
    reason: str = ""
    partition: str = ""
    priority: int = 0
    start: str = ""
    nodes: str = ""
    name: str = ""
    place: int | None = None
    waiting: int = 0


@dataclass(frozen=True)
class Answer:
    """What came back: an entry, or None with `known` when Slurm has no such job; else `problem`
    says why nothing is known. `t` is the unix time of the question."""

    entry: Entry | None = None
    known: bool = False
    problem: str = ""
    t: float = 0.0


class CommandError(Exception):
    """A command of Slurm failed; the text is what it said. `silent`: nobody answered."""

    def __init__(self, said: str, silent: bool = False) -> None:
        super().__init__(said)
        self.silent = silent


def run(
    program: str,
    *arguments: str,
    cluster: str = "",
    cwd: str | None = None,
    limit_s: float = _LIMIT_S,
    environ: Mapping[str, str] | None = None,
) -> str:
    """Run a command of Slurm and return what it printed. Raises CommandError."""
    if shutil.which(program) is None:
        raise CommandError(f"{program} is not installed here", silent=True)
    there = [f"--clusters={cluster}"] if cluster else []
    try:
        done = subprocess.run(
            [program, *there, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            cwd=cwd,
            env=dict(clean_environment() if environ is None else environ),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"Slurm did not answer within {limit_s:.0f} s", silent=True) from error
    except OSError as error:
        raise CommandError(f"{program} cannot be run ({error.strerror})", silent=True) from error
    said = " ".join(os.fsdecode(done.stderr).split())
    if done.returncode:
        raise CommandError(said or f"{program} ended with code {done.returncode}", _is_silent(said))
    return done.stdout.decode("utf-8", "replace")


def _is_silent(said: str) -> bool:
    words = ("unable to contact", "connection", "timed out", "socket", "communication",
             "configuration", "authentication", "munge")  # fmt: skip
    return any(word in said.lower() for word in words)


def clean_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for commands of Slurm: nothing in it changes what they are told."""
    return {
        name: value
        for name, value in environ.items()
        if name in _KEPT or not name.startswith(("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_"))
    }


def look(number: str, cluster: str = "", name: str = "") -> Answer:
    """Ask squeue about a job by its number, or by its name where the number is not known.

    An entry of another name is not ours: controllers that lost their state count from 1 again.
    """
    which = f"--jobs={number}" if number else f"--name={name}"
    asked = time.time()
    try:
        text = run("squeue", "--noheader", "--states=all", f"--format={_FIELDS}", which,
                   cluster=cluster)  # fmt: skip
    except CommandError as error:
        if "invalid job id" in str(error).lower():
            return Answer(known=True, t=asked)
        return Answer(problem=str(error), t=asked)
    entries = [entry for entry in parse(text) if not name or entry.name == name]
    if not entries:
        return Answer(known=True, t=asked)
    newest = max(entries, key=lambda entry: int(entry.id))
    return Answer(_placed(newest, cluster), known=True, t=asked)


def parse(text: str) -> list[Entry]:
    """The jobs in squeue's output; lines of another form are left out."""
    found = []
    for line in text.splitlines():
        words = line.split("|", 7)
        if len(words) == 8 and _ID.fullmatch(words[0]):
            number, state, reason, partition, priority, start, nodes, name = words
            rank = int(priority) if priority.isdecimal() else 0
            begin = "" if start == "N/A" else start
            found.append(Entry(number, state, reason, partition, rank, begin, nodes, name.strip()))
    return found


_IN_TURN = ("None", "Priority", "Resources", "")


def _placed(entry: Entry, cluster: str) -> Entry:
    if entry.state != "PENDING" or entry.reason not in _IN_TURN:
        return entry
    try:
        text = run("squeue", "--noheader", "--states=PENDING", f"--partition={entry.partition}",
                   f"--format={_FIELDS}", cluster=cluster)  # fmt: skip
    except CommandError:
        return entry
    place, waiting = place_of(entry.id, parse(text))
    return replace(entry, place=place, waiting=waiting)


def place_of(number: str, waiting: Sequence[Entry]) -> tuple[int | None, int]:
    """(place from 1, how many wait) of a job among those that wait for their turn."""
    queue = [entry for entry in waiting if entry.reason in _IN_TURN]
    queue.sort(key=lambda entry: (-entry.priority, int(entry.id)))
    places = [i for i, entry in enumerate(queue, 1) if entry.id == number]
    return (places[0] if places else None), len(queue)


class Desk:
    """Asks Slurm in the background and remembers the answers, so that no screen waits for it.

    The first answer about a job is waited for a little, later ones are not.
    """

    def __init__(
        self,
        ask: Callable[[str, str, str], Answer] = look,
        every_s: float = ASK_EVERY_S,
        wait_s: float = _WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.every_s = every_s
        self._ask, self._wait_s, self._clock = ask, wait_s, clock
        self._lock = threading.Lock()
        self._slow = False
        self._answers: dict[tuple[str, str, str], tuple[float, Answer]] = {}
        self._asking: dict[tuple[str, str, str], threading.Event] = {}

    def answer(self, number: str, cluster: str = "", name: str = "") -> Answer:
        """The newest answer about a job; a new one is fetched when it is old."""
        key = (number, cluster, name)
        with self._lock:
            seen = self._answers.get(key)
            if seen is not None and self._clock() - seen[0] < self.every_s:
                return seen[1]
            done, first = self._asking.get(key), seen is None
            if done is None:
                done = self._asking[key] = threading.Event()
                threading.Thread(
                    target=self._fetch, args=(key, done), name="squeue", daemon=True
                ).start()
        # Once Slurm was slow nobody waits again until it answers: a list asks about many jobs.
        if first and not self._slow:
            self._slow = not done.wait(self._wait_s)
        with self._lock:
            seen = self._answers.get(key)
        return seen[1] if seen else Answer(problem="Slurm has not answered yet")

    def forget(self) -> None:
        """Ask anew next time: something was changed just now."""
        with self._lock:
            self._answers.clear()

    def _fetch(self, key: tuple[str, str, str], done: threading.Event) -> None:
        try:
            found = self._ask(*key)
        except Exception as error:  # a thread that dies would leave the question open for good
            found = Answer(problem=f"squeue's answer was not understood ({error})")
        with self._lock:
            self._slow = False
            self._answers[key] = (self._clock(), found)
            del self._asking[key]
        done.set()


DESK = Desk()
"""What all of this process ask."""
