"""Do jobs one after the other, each in as many processes as its recipe asks for.

``python forked_ranks.py JOB[:STEP] [JOB ...]``: the libraries are loaded once, the ranks are
forked; a person asks for a stop at STEP. What torchrun adds (its watch over the ranks, the one
outcome) is left to the tests that start it.
"""

from __future__ import annotations

import os
import socket
import sys
from itertools import count
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["GLOO_SOCKET_IFNAME"] = "lo"
os.environ["OMP_NUM_THREADS"] = "1"

from finetui.engine import __main__ as engine
from finetui.engine.silent import rank_here
from finetui.jobs.control import request
from finetui.jobs.engine_command import processes
from finetui.jobs.folder import Job
from finetui.jobs.worker import ATTEMPT_VARIABLE, FOLDER_VARIABLE


def main(folders: list[str]) -> int:
    engine.prepare_environment()
    engine.hide_unused_libraries()
    from finetui.engine import train  # loads everything

    # On a CPU a run is refused; here the very same path is tried on gloo.
    train.require_shardable = lambda *_: None
    train.shard = shard_and_look
    codes = []
    for asked in folders:
        folder, _, step = asked.partition(":")
        job = Job(folder)
        job.put_away_records()
        codes.append(do(job, processes(job), int(step or 0)))
    return max(codes)


def shard_and_look(model: Any, machine: Any, ranks: Any) -> None:
    from finetui.engine.sharding import shard

    shard(model, machine, ranks)
    for name, share in model.named_parameters():
        assert share.to_local().numel() * 2 <= share.numel() + 64, f"{name} is not shared out"


def stop_at(job: Job, step: int) -> None:
    """Make the request just before the run looks for requests at the edge of a step."""
    from finetui.engine.ranks import Requests

    poll, edges = Requests.poll, count(1)

    def ask_then_poll(self: Requests) -> set[str]:
        if next(edges) == step and rank_here() == 0:
            request(job, "stop")
        return poll(self)

    Requests.poll = ask_then_poll  # type: ignore[method-assign]


def do(job: Job, world: int, stop: int) -> int:
    """The worst exit code of the ranks."""
    attempt = str(job.next_attempt())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            os.environ |= {ATTEMPT_VARIABLE: attempt, FOLDER_VARIABLE: str(job.path)}
            if world > 1:
                os.environ |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                    "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }  # fmt: skip
            if stop:
                stop_at(job, stop)
            os._exit(engine.main([str(Path(job.path))]))
        children.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
