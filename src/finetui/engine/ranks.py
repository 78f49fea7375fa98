"""Several processes that train one model: who is who, how they agree, and how they fail as one.

torchrun starts them (``engine.torchrun``) and each is told its rank. Rank 0 owns the job folder;
the others have a session that says nothing (``engine.silent``). What all must know goes over a
group of its own on the CPU, which waits as long as it takes: a GPU group would give up on a rank
that scores answers or waits for room on the disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self, TypeVar, cast

import torch

from finetui.engine.attention import StopRequested
from finetui.engine.silent import LostRankError, take_leave
from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.jobs.worker import WorkerSession

_PATIENCE = timedelta(days=365)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Ranks:
    """This process among ``world``; ``local`` is its number on this machine of ``here``.

    Every method is a collective: all ranks call it in the same order, and each gets the same
    answer. One process alone pays nothing for them. Values are what JSON holds.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    here: int = 1
    sharded: bool = False
    _group: Any = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.world > 1

    def wait(self) -> None:
        """Go on when all ranks are here."""
        self.highest(0)

    def highest(self, *numbers: int) -> list[int]:
        """The highest of each number over the ranks."""
        if not self.several:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.int64)
        with _connected():
            torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, self._group)
        return [int(value) for value in values.tolist()]

    def total(self, *numbers: float) -> list[float]:
        """The sum of each number over the ranks."""
        if not self.several:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        with _connected():
            torch.distributed.all_reduce(values, torch.distributed.ReduceOp.SUM, self._group)
        return [float(value) for value in values.tolist()]

    def gather(self, value: _T) -> list[_T]:
        """Every rank's value, in the order of the ranks."""
        if not self.several:
            return [value]
        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        with _connected():
            torch.distributed.all_gather(sizes, torch.tensor([len(mine)]), self._group)
            longest = max(int(size) for size in sizes)
            room = torch.zeros(longest, dtype=torch.uint8)
            room[: len(mine)] = mine
            parts = [torch.empty_like(room) for _ in range(self.world)]
            torch.distributed.all_gather(parts, room, self._group)
        return [
            json.loads(part[: int(size)].numpy().tobytes())
            for part, size in zip(parts, sizes, strict=True)
        ]

    def share(self, value: _T) -> _T:
        """Rank 0's value; what the others hand in does not matter."""
        if not self.several:
            return value
        mine = json.dumps(value).encode() if self.first else b""
        size = self.highest(len(mine))[0]
        whole = torch.zeros(size, dtype=torch.uint8)
        if self.first:
            whole[:] = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
        with _connected():
            torch.distributed.broadcast(whole, 0, self._group)
        found: _T = json.loads(whole.numpy().tobytes())
        return found

    def first_then_all(self, act: Callable[[], _T]) -> _T:
        """Every rank acts, the first before the others: what it tidies up is tidy for them."""
        found = act() if self.first else None
        self.wait()
        return act() if found is None and not self.first else cast(_T, found)

    def first_does(self, act: Callable[[], Any]) -> None:
        """Rank 0 acts while the others wait; a stop that it meets there stops them all."""
        stopped = False
        if self.first:
            try:
                act()
            except StopRequested:
                if not self.several:
                    raise
                stopped = True
        if self.share(stopped):
            raise StopRequested


ALONE = Ranks()


def join(processes: int, sharded: bool = False) -> Ranks:
    """Meet the other processes of this run, as many as its recipe asks for.

    Raises UserError where torchrun started another number, or a GPU is missing.
    """
    environment = os.environ
    world = int(environment.get("WORLD_SIZE", 1)) if "RANK" in environment else 1
    if world != processes:
        raise UserError(
            f"the recipe asks for {processes} processes, and {world} "
            f"{'was' if world == 1 else 'were'} started.",
            "training.processes",
            "Start it with finetui train, which starts as many as it asks for.",
        )
    if world == 1:
        return ALONE
    here = int(environment.get("LOCAL_WORLD_SIZE", world))
    local = int(environment.get("LOCAL_RANK", 0))
    on_gpu = torch.cuda.is_available()
    if on_gpu and torch.cuda.device_count() < here:
        raise UserError(
            f"{here} processes are to run on this machine, which shows "
            f"{torch.cuda.device_count()} GPUs.",
            "training.processes",
            "Lower it to the number of GPUs.",
        )
    if on_gpu:
        torch.cuda.set_device(local)
    with _connected():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
    return Ranks(torch.distributed.get_rank(), world, local, here, sharded, group)


def leave(job: Job) -> None:
    """This rank is done. Close the connections to the other ranks, where there are any."""
    take_leave(job)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        with suppress(RuntimeError):
            torch.distributed.destroy_process_group()


def is_lost(error: BaseException) -> bool:
    """Whether an error only says that another rank went away."""
    if isinstance(error, LostRankError):
        return True
    if isinstance(error, getattr(torch.distributed, "DistError", ())):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(word in text for word in _LOST_WORDS)


_LOST_WORDS = ("gloo/transport", "Connection closed by peer", "Connection reset", "NCCL", "nccl")


class _connected:
    """Turns the errors of a collective into LostRankError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RuntimeError):
            raise LostRankError(" ".join(str(error).split())[:300]) from error


# -- what is asked of a run ----------------------------------------------------------------------


class Requests:
    """What people and the system ask of a run, taken by all ranks in the same step."""

    def __init__(self, session: WorkerSession, ranks: Ranks) -> None:
        self._session, self._ranks = session, ranks
        self._fields: dict[str, Any] = {}

    def poll(self) -> set[str]:
        """The verbs asked for since the last call. A SIGTERM at any rank is one at all."""
        session, ranks = self._session, self._ranks
        if not ranks.several:
            return session.control.poll()
        told = int(session.terminated)
        verbs = session.control.poll() if ranks.first else set()
        anywhere, asked = ranks.highest(told, len(verbs))
        if anywhere and not told:
            session.terminated = True
            session.control.terminate()
            verbs |= session.control.poll()
        return self._agreed(verbs) if asked or anywhere else set()

    def fields(self, verb: str) -> Any:
        """What came with the newest requests of a verb, {} before any."""
        if not self._ranks.several:
            return self._session.control.fields(verb)
        return self._fields.get(verb, {})

    def hold(self, *arguments: Any, **named: Any) -> set[str]:
        """Stay paused as WorkerSession.hold does, the other ranks with the first."""
        verbs = self._session.hold(*arguments, **named) if self._ranks.first else set()
        return self._agreed(verbs) if self._ranks.several else verbs

    def _agreed(self, verbs: set[str]) -> set[str]:
        control = self._session.control
        told = self._ranks.share({verb: control.fields(verb) for verb in sorted(verbs)})
        self._fields |= told
        return set(told)


# -- shares of a list ----------------------------------------------------------------------------


def spread(count: int, ranks: Ranks) -> range:
    """This rank's share of ``count`` things: every world-th of them."""
    return range(ranks.rank, count, ranks.world)


def merged(parts: Sequence[Sequence[_T]]) -> list[_T]:
    """Shares of `spread`, put together again in their first order."""
    longest = max((len(part) for part in parts), default=0)
    return [part[at] for at in range(longest) for part in parts if at < len(part)]
