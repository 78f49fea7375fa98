"""``python -m finetui.engine.torchrun JOB --processes N``: one job's ranks on this machine.

torch.distributed.run starts and watches them; here is what a job needs around it. The launcher
lives through a hang-up, hands SIGTERM on and lets the ranks take their time to save. When they
ended without a last word (a rank was killed, a GPU rank hung in a collective that nobody joins)
it writes the one outcome that is true: which rank, and what.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetui.engine.silent import failures, note_failure
from finetui.jobs import heartbeat, procfs
from finetui.jobs.deaths import less_memory
from finetui.jobs.engine_command import RENDEZVOUS_VARIABLE
from finetui.jobs.folder import Job, Process, ProcRecord
from finetui.jobs.worker import ATTEMPT_VARIABLE, FOLDER_VARIABLE, WorkerSession

# After the last word: what a rank may still need, and rank 0 with its results.
_GRACE_S, _GRACE_FIRST_S = 15.0, 120.0
_WATCH_S = 0.25
# The launchers of other machines note how their ranks died, for the one that had rank 0.
_OTHERS_S = 5.0


@dataclass
class _Ranks:
    """The ranks that were seen on this machine: process number by rank."""

    seen: dict[int, int] = field(default_factory=dict)

    def look(self) -> dict[int, int]:
        """The live ones; torchrun's other children have no rank."""
        live = {}
        for pid in _children():
            rank = next((one for one, known in self.seen.items() if known == pid), None)
            if rank is None:
                rank = _rank_of(pid)
            if rank is not None:
                live[rank] = self.seen[rank] = pid
        return live


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 after finished or stopped, 1 after anything else."""
    parser = argparse.ArgumentParser("python -m finetui.engine.torchrun")
    parser.add_argument("job", type=Path)
    parser.add_argument("--processes", type=int, required=True, help="on this machine")
    parser.add_argument("--nodes", type=int, default=1)
    asked = parser.parse_args(arguments)
    job = Job(asked.job.resolve())
    attempt = _attempt(job)
    _prepare(job, attempt, asked.nodes)
    ranks = _Ranks()
    _listen(ranks)
    threading.Thread(target=_watch, args=(job, attempt, ranks), daemon=True).start()
    killed = procfs.oom_kills()
    with tempfile.TemporaryDirectory(prefix="finetui-torchrun-") as scratch:
        said = _run(job, asked.processes, asked.nodes, scratch)
    if asked.nodes > 1:
        _note_deaths(job, attempt, said)
        if 0 not in ranks.seen:
            return 1 if said else 0  # the launcher of rank 0 has the last word
    if not _said(job, attempt):
        if asked.nodes > 1:
            time.sleep(_OTHERS_S)
        _last_word(job, attempt, said, _rise(killed), asked.processes * asked.nodes)
    return 0 if _said(job, attempt) in ("finished", "stopped", "preempted") else 1


# -- before ---------------------------------------------------------------------------------------


def _attempt(job: Job) -> int:
    """The attempt that a supervisor numbered, or the next one with a record of its own."""
    number = os.environ.get(ATTEMPT_VARIABLE, "")
    if number.isdigit() and os.environ.get(FOLDER_VARIABLE) == str(job.path):
        return int(number)
    attempt = job.next_attempt()
    job.put_away_records()
    me = Process(os.getpid(), procfs.start_time(os.getpid()) or 0)
    record = ProcRecord(procfs.boot_id(), procfs.host(), None, me, attempt, time.time())
    job.write_json("proc.json", record)
    return attempt


def _prepare(job: Job, attempt: int, nodes: int) -> None:
    os.environ[ATTEMPT_VARIABLE], os.environ[FOLDER_VARIABLE] = str(attempt), str(job.path)
    # The engine sets its threads itself; torchrun would warn that it set one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if nodes == 1:
        # What one machine says to itself stays on it.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")


def _listen(ranks: _Ranks) -> None:
    """SIGTERM and SIGINT go on to the ranks, which save and stop; a hang-up ends nothing."""

    def hand_on(number: int, frame: object) -> None:
        for pid in ranks.look().values():
            _signal(pid, signal.SIGTERM)

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, hand_on)


def _run(job: Job, processes: int, nodes: int, scratch: str) -> dict[int, int]:
    """Run the ranks to their end. Returns the exit code of each that failed, by rank."""
    from torch.distributed import run as launcher
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    engine = [sys.executable, "-P", "-m", "finetui.engine", str(job.path)]
    if nodes == 1:
        meet_on_loopback()
    try:
        words = [*_options(job, processes, nodes, scratch), *engine]
        launcher.run(launcher.get_args_parser().parse_args(words))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}
    return {}


def meet_on_loopback() -> None:
    """Let the stores in which the ranks meet listen on this machine alone.

    torch's own listen on every network of the machine, and take orders from whoever connects.
    """
    from torch import distributed
    from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend as backend

    makers: tuple[Any, ...] = (distributed, backend)
    plain: Any = makers[0].TCPStore

    class Store(plain):  # type: ignore[misc]
        def __init__(
            self, host_name: str, port: int, *, is_master: bool = False, **rest: Any
        ) -> None:
            if is_master:
                door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                door.bind(("127.0.0.1", port))
                door.listen()
                port = door.getsockname()[1]
                rest["master_listen_fd"] = door.detach()
            super().__init__(host_name, port, is_master=is_master, **rest)

    for module in makers:
        module.TCPStore = Store


def _options(job: Job, processes: int, nodes: int, scratch: str) -> list[str]:
    options = {
        "--nnodes": str(nodes),
        "--nproc-per-node": str(processes),
        "--max-restarts": "0",
        "--monitor-interval": "0.2",
        "--log-dir": scratch,
        "--rdzv-backend": "c10d",
        # Our own handler hands signals on: torchrun's would end the ranks while they save.
        "--signals-to-handle": "SIGQUIT",
    }
    if nodes == 1:
        options |= {"--rdzv-endpoint": "localhost:0", "--rdzv-id": uuid.uuid4().hex}
        options |= {"--local-addr": "127.0.0.1"}
    else:
        attempt = os.environ[ATTEMPT_VARIABLE]
        options |= {"--rdzv-endpoint": os.environ[RENDEZVOUS_VARIABLE]}
        options |= {"--rdzv-id": f"{job.id}-{attempt}"}
    return [word for pair in options.items() for word in pair] + ["--no-python"]


# -- meanwhile ------------------------------------------------------------------------------------


def _watch(job: Job, attempt: int, ranks: _Ranks) -> None:
    """Know the ranks, and end those that stay on after the job's last word."""
    until: float | None = None
    while True:
        live = ranks.look()
        if until is None and _said(job, attempt):
            until = time.monotonic()
        if until is not None:
            waited = time.monotonic() - until
            for rank, pid in live.items():
                if waited > (_GRACE_S if rank else _GRACE_FIRST_S):
                    _signal(pid, signal.SIGKILL)
        time.sleep(_WATCH_S)


def _children() -> list[int]:
    """Children of every thread of this process: torchrun may start them from any."""
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in task.read_text().split()]
    return found


def _rank_of(pid: int) -> int | None:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if line.startswith(b"RANK="):
                return int(line[5:])
    return None


def _signal(pid: int, number: int) -> None:
    # Children of ours that nobody reaped between: the number is theirs.
    with suppress(OSError):
        os.kill(pid, number)


# -- after ----------------------------------------------------------------------------------------


def _said(job: Job, attempt: int) -> str:
    """The status of this attempt's outcome, "" while there is none."""
    outcome = job.outcome() or {}
    return str(outcome.get("status", "")) if outcome.get("attempt") == attempt else ""


def _last_word(job: Job, attempt: int, codes: dict[int, int], killed: int, world: int) -> None:
    beat = heartbeat.read(job.heartbeat)
    step = beat.step if beat is not None and beat.attempt == attempt else 0
    os.environ.pop("FINETUI_BACKEND", None)  # the record of who works here stays as it is
    with WorkerSession(job) as session:
        if not _said(job, attempt):
            session.outcome("failed", step=step, **explain(job, attempt, codes, killed, world))


def explain(
    job: Job, attempt: int, codes: dict[int, int], killed: int, world: int
) -> dict[str, Any]:
    """The fields of a failed outcome: the first rank that failed by itself, or was killed.

    ``codes`` are exit codes by rank, negative for a signal; ``killed`` counts the processes that
    the kernel killed for want of memory meanwhile.
    """
    notes = failures(job, attempt)
    own = [note for note in notes if not note.get("lost")]
    if own:
        return _told(own[0], world)
    noted = {note["rank"] for note in notes}
    silent = {rank: code for rank, code in codes.items() if rank not in noted}
    # torchrun ends the others with SIGTERM: whoever died of anything else was first.
    first = min(silent, key=lambda rank: (silent[rank] == -signal.SIGTERM, rank), default=None)
    if first is None:
        sentence = "a process lost the connection to the others, and none of them said why"
        return {"reason": "rank", "error": "LostRankError", "sentence": sentence}
    sentence = f"rank {first} of {world} {_death(silent[first])}; the others were ended with it"
    if killed and silent[first] == -signal.SIGKILL:
        sentence += f"; the kernel killed {killed} for want of memory meanwhile"
        if change := less_memory(job):
            sentence += f"; {change}"
    return {"reason": "rank", "error": "LostRankError", "sentence": sentence, "rank": first}


def _note_deaths(job: Job, attempt: int, codes: dict[int, int]) -> None:
    """Leave word of ranks that died without one; those that torchrun ended were not the first."""
    noted = {note["rank"] for note in failures(job, attempt)}
    for rank, code in codes.items():
        if rank not in noted:
            said = {"reason": "rank", "error": "LostRankError", "sentence": _death(code)}
            note_failure(job, attempt, said, code == -signal.SIGTERM, rank)


def _told(note: dict[str, Any], world: int) -> dict[str, Any]:
    where = f"rank {note['rank']} of {world}"
    if note.get("host") != procfs.host():
        where += f" on {note.get('host')}"
    kept = {key: value for key, value in note.items() if key not in ("lost", "t", "sentence")}
    return {**kept, "sentence": f"{where}: {note.get('sentence', '')}"}


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def _rise(before: int | None) -> int:
    after = procfs.oom_kills()
    return max(0, after - before) if before is not None and after is not None else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
