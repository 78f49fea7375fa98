"""A supervisor's wait for the GPUs of its job: from the queue of this machine to leases.

No GPU in sight is no reason to wait: the job starts at once, as on a machine without any. A GPU on
which somebody works without a lease is not taken unasked either.
"""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from finetui.display import clean, plural, size
from finetui.errors import UserError
from finetui.jobs import control, leases, procfs, queued
from finetui.jobs.devices import DeviceReader, DeviceSample, Gpu, GpuProcess, visible_gpus
from finetui.jobs.engine_command import processes
from finetui.jobs.folder import Job
from finetui.jobs.leases import Lease, QueueBusyError, Request
from finetui.jobs.queued import QueueRecord

LOOK_S = 0.5
_NAMED = 3
_BUSY = "the queue of the GPUs does not answer: a process that was stopped has it"


class StoppedWaiting(Exception):
    """Somebody asked the job to stop before it had its GPUs; `by_system` after a SIGTERM."""

    def __init__(self, sentence: str, by_system: bool) -> None:
        self.sentence, self.by_system = sentence, by_system
        super().__init__(sentence)


@dataclass(frozen=True)
class Grant:
    """What a job got: the GPUs by key, and what its worker's CUDA_VISIBLE_DEVICES is to be.

    ``visible`` is None where nothing is to be said about it.
    """

    keys: tuple[str, ...] = ()
    visible: str | None = None
    request: Request | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        return self.request.descriptors if self.request else ()

    def name_worker(self, pid: int) -> None:
        if self.request:
            self.request.name_worker(pid)

    def give_back(self) -> None:
        if self.request:
            self.request.leave()


def gpus_needed(job: Job) -> int:
    """How many GPUs a job works on at once, where there are any. Raises UserError."""
    spec = job.spec()
    kind = spec.get("kind", job.kind)
    if kind == "fetch" or (kind == "export" and not spec.get("merge")):
        return 0
    if kind == "prepare" and all(one.get("kind") == "outputs" for one in spec.get("systems", ())):
        return 0
    return processes(job)


def leases_serve(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether jobs started here go through the queue: there are GPUs, and leases are on."""
    if leases.leases_folder(environ) is None:
        return False
    reader = DeviceReader()
    try:
        return bool(_usable(reader.sample(), environ))
    finally:
        reader.close()


def take_gpus(
    job: Job,
    attempt: int,
    *,
    share: bool = False,
    terminated: Callable[[], bool] = lambda: False,
    look_s: float = LOOK_S,
    environ: Mapping[str, str] = os.environ,
) -> Grant:
    """Wait for the GPUs that a job needs and lease them.

    While it waits, queue.json says for what. With ``share``, or when somebody asks for it
    meanwhile, it takes GPUs that others use. Raises UserError when the job needs more GPUs than
    it may use, or the queue cannot be used; StoppedWaiting.
    """
    wants = gpus_needed(job)
    folder = leases.leases_folder(environ)
    if not wants or folder is None:
        return Grant()
    reader = DeviceReader()
    try:
        gpus = _usable(reader.sample(), environ)
        if not gpus:
            return Grant()
        if len(gpus) < wants:
            raise UserError(
                f"it needs {plural(wants, 'GPU')} and may use {len(gpus)} here.",
                "training.processes",
                "Ask for fewer, or show it more in CUDA_VISIBLE_DEVICES.",
            )
        request = Request(folder, job.id, wants, [leases.key_of(gpu) for gpu in gpus])
        wait = _Wait(job, attempt, request, reader, environ, terminated, look_s)
        return wait.to_its_end(share)
    finally:
        reader.close()


def _usable(sample: DeviceSample, environ: Mapping[str, str]) -> list[Gpu]:
    return [gpu for gpu in visible_gpus(sample, environ) if not gpu.problem]


@dataclass
class _Wait:
    job: Job
    attempt: int
    request: Request
    reader: DeviceReader
    environ: Mapping[str, str]
    terminated: Callable[[], bool]
    look_s: float
    since: float = field(default_factory=time.time)
    said: str = ""
    beaten: float = 0.0

    def to_its_end(self, share: bool) -> Grant:
        entered = False
        try:
            while True:
                self._obey_stop()
                share = share or control.take(self.job, ["share"]) is not None
                try:
                    if not entered:
                        self.request.enter()
                        entered = True
                    grant = self._look(share)
                except QueueBusyError:
                    grant = None
                    self._say(_BUSY)
                except FileNotFoundError:  # somebody cleared the folder away
                    grant, entered = None, False
                    self.request.leave()
                if grant is not None:
                    return grant
                time.sleep(self.look_s)
        except BaseException:
            self.request.leave()
            raise

    def _obey_stop(self) -> None:
        asked = control.take(self.job, ["stop", "stop_best"])
        if asked is None and not self.terminated():
            return
        who = f"on request of {asked[1]}" if asked else "by the system"
        saved = "; what was saved before is still there" if self.attempt > 1 else ""
        text = f"stopped {who} while it waited for a GPU, so it never started{saved}"
        raise StoppedWaiting(text, asked is None)

    def _look(self, share: bool) -> Grant | None:
        """Take what is free now; None where it is not enough, which queue.json says then."""
        sample = self.reader.sample()
        view = leases.overview(sample, self.request.folder)
        gpus = _usable(sample, self.environ)
        seen = [one for one in view.leases if one.gpu in gpus] + [
            Lease(gpu, False, None) for gpu in gpus if gpu not in sample.gpus
        ]
        if share and len(gpus) >= self.request.wants:
            return self._grant(self.request.share(_best_first(seen, free_only=False)), gpus)
        # Beside a lease they may be its holder's own, under numbers of another container.
        blocked = [one for one in view.leases if one.sharers or (one.strangers and not one.held)]
        usable = _best_first(seen, free_only=True)
        if self.request.take(usable, [leases.key_of(one.gpu) for one in blocked]):
            return self._grant(self.request.holds, gpus)
        if len(gpus) < self.request.wants:
            self._say(sample.problem or f"only {plural(len(gpus), 'GPU')} that it may use answer")
        else:
            self._say(self._sentence(seen), len(self.request.ahead()), gpus)
        return None

    def _grant(self, keys: Sequence[str], gpus: Sequence[Gpu]) -> Grant:
        by_key = {leases.key_of(gpu): gpu for gpu in gpus}
        # In the machine's own order, so that rank 0 is on the first of them.
        ours = sorted((by_key[key] for key in keys), key=lambda gpu: gpu.index)
        if self.said:
            print(f"got {names_of(ours)} after {time.time() - self.since:.0f} s", flush=True)
        visible = ",".join(gpu.uuid or str(gpu.index) for gpu in ours)
        return Grant(tuple(leases.key_of(gpu) for gpu in ours), visible, self.request)

    def _sentence(self, seen: Sequence[Lease]) -> str:
        wants, gpus = self.request.wants, [one.gpu for one in seen]
        what = "a GPU" if wants == 1 else f"{wants} GPUs"
        if len(gpus) == wants:
            what = names_of(gpus)
        elif wants > 1:
            what = f"{wants} of {len(gpus)} GPUs"
        parts = [f"waits for {what}", *_reasons(seen)]
        ahead = len(self.request.ahead())
        if ahead:
            parts.append(f"{plural(ahead, 'job')} before it in the queue")
        return "; ".join(parts)

    def _say(self, sentence: str, ahead: int = 0, gpus: Sequence[Gpu] = ()) -> None:
        """Keep queue.json true, and touched, so that other machines see the wait go on."""
        now = time.time()
        if sentence != self.said:
            print(sentence, flush=True)
            self.said, self.beaten = sentence, now
            among = tuple(gpu.index for gpu in gpus)
            record = QueueRecord(
                self.attempt, procfs.host(), self.since, sentence, self.request.wants, among, ahead
            )
            with contextlib.suppress(OSError):  # a full disk keeps nobody from waiting
                queued.publish(self.job, record)
        elif now - self.beaten >= queued.BEAT_S:
            self.beaten = now
            queued.beat(self.job)


def _best_first(seen: Sequence[Lease], *, free_only: bool) -> list[str]:
    """Keys of GPUs: the free ones first, then by who is there, free memory and number."""

    def rank(one: Lease) -> tuple[bool, int, int, int]:
        there = one.held + len(one.sharers) + len(one.strangers)
        return not one.free, there, -(one.gpu.memory_free or 0), one.gpu.index

    return [leases.key_of(one.gpu) for one in sorted(seen, key=rank) if one.free or not free_only]


def names_of(gpus: Sequence[Gpu]) -> str:
    """``GPU 0``, ``GPUs 0, 1 and 3``; a slice of one (MIG) by its own name."""
    names = [str(gpu.index) if gpu.index >= 0 else clean(gpu.uuid or "?") for gpu in gpus]
    if len(names) == 1:
        return f"GPU {names[0]}"
    return f"GPUs {', '.join(names[:-1])} and {names[-1]}" if names else "no GPU"


def _reasons(seen: Sequence[Lease]) -> list[str]:
    told = [text for one in seen if (text := reason(one))]
    more = len(told) - _NAMED
    return [*told[:_NAMED], f"{more} more are taken"] if more > 1 else told


def reason(one: Lease) -> str:
    """Why a GPU is not to be had, and through whom; "" for one that is free."""
    name = names_of([one.gpu])
    if one.gpu.problem:
        return f"{name}: {one.gpu.problem}"
    if one.holder is not None:
        return f"{name} is leased by {one.holder.job} of {one.holder.user}"
    if one.held:
        return f"{name} is leased by a process that left no ticket"
    if one.sharers:
        return f"{name} is used by {one.sharers[0].job} of {one.sharers[0].user}"
    if one.strangers:
        return _stranger(name, one.strangers[0])
    return ""


def _stranger(name: str, process: GpuProcess) -> str:
    held = f"{size(process.memory or 0)} of {name}"
    if process.pid == 0:
        return f"{held} are used by processes that cannot be seen from here"
    program = clean(process.name or "a program")
    owner = f" of {clean(process.user)}" if process.user else ""
    return f"{program}{owner} (process {process.pid}) uses {held}, without a lease"
