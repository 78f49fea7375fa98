"""``finetui queue``: who has the GPUs of this machine, and who waits for them."""

from __future__ import annotations

import argparse
import time

from finetui.commands import console
from finetui.display import size, span
from finetui.jobs.devices import DeviceReader, GpuProcess
from finetui.jobs.leases import Lease, Overview, Ticket, key_of, overview
from finetui.jobs.waiting import names_of, reason


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Say who has the GPUs of this machine and who waits for them, of all its users.",
        json=True,
        workspace=False,
    )
    made.epilog = "start a waiting job now, beside what is at work: finetui control JOB share"
    return made


def run(arguments: argparse.Namespace) -> int:
    reader = DeviceReader()
    try:
        seen = overview(reader.sample())
    finally:
        reader.close()
    if arguments.json:
        for value in as_values(seen):
            console.emit(value)
    else:
        _tell(seen)
    return 0


def as_values(seen: Overview) -> list[dict[str, object]]:
    """One value for each GPU, then for each waiter in the order of the queue."""
    gpus = [_gpu_value(one) for one in seen.leases]
    return [*gpus, *({"waits": place, **_ticket_value(one)}
                     for place, one in enumerate(seen.waiters, 1))]  # fmt: skip


def _gpu_value(one: Lease) -> dict[str, object]:
    gpu = one.gpu
    return {
        "gpu": gpu.index, "uuid": key_of(gpu), "name": gpu.name, "free": one.free,
        "leased": one.held, "holder": _ticket_value(one.holder) if one.holder else None,
        "sharers": [_ticket_value(each) for each in one.sharers],
        "strangers": [_process_value(each) for each in one.strangers],
        "memory_used": gpu.memory_used, "memory_total": gpu.memory_total, "problem": gpu.problem,
    }  # fmt: skip


def _ticket_value(one: Ticket) -> dict[str, object]:
    return {
        "job": one.job, "user": one.user, "supervisor": one.pid, "worker": one.worker,
        "wants": one.wants, "among": list(one.among), "since": one.t,
    }  # fmt: skip


def _process_value(one: GpuProcess) -> dict[str, object]:
    return {"pid": one.pid, "user": one.user, "name": one.name, "memory": one.memory}


def _tell(seen: Overview) -> None:
    if seen.problem:
        console.say(f"{seen.problem}.")
    if seen.leases:
        console.table([_cells(one) for one in seen.leases], ("gpu", "memory", "for", "state"))
    if seen.waiters:
        rows = [(place, one.job, one.user, _wanted(one, seen), _ago(one))
                for place, one in enumerate(seen.waiters, 1)]  # fmt: skip
        console.out()
        console.table(rows, ("place", "waits", "user", "wants", "since"))
    elif seen.leases:
        console.say("nobody waits.")


def _cells(one: Lease) -> tuple[str, ...]:
    gpu = one.gpu
    memory = f"{size(gpu.memory_used or 0)} of {size(gpu.memory_total or 0)}"
    told = reason(one) or "free"
    more = [f"beside it {each.job} of {each.user}" for each in one.sharers if one.held]
    since = _ago(one.holder) if one.holder else ""
    return f"{gpu.index} {gpu.name or ''}", memory, since, "; ".join([told, *more])


def _wanted(one: Ticket, seen: Overview) -> str:
    among = [each.gpu for each in seen.leases if key_of(each.gpu) in one.among]
    return f"{one.wants} of {names_of(among)}" if len(among) > one.wants else names_of(among)


def _ago(one: Ticket) -> str:
    return span(time.time() - one.t)
