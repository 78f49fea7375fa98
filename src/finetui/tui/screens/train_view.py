"""What the Train screen says: snapshots, samples of the devices and jobs as lines of text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from finetui.display import clean
from finetui.tui import figures
from finetui.tui.screens import lines
from finetui.tui.widgets.table import TableRow, Tone

if TYPE_CHECKING:
    from finetui.jobs.devices import DeviceSample, Gpu
    from finetui.jobs.monitor import EventLine, Rank, Score, Snapshot
    from finetui.tui.lookout import JobLine

LIVE = frozenset({"starting", "queued", "requeued", "running", "paused", "stalled"})
"""States in which a process works, or is about to."""

RESUMABLE = frozenset({"failed", "interrupted", "preempted", "stopped"})
"""States in which a training run can go on from its last checkpoint."""
SENTENCE_LINES = 9
BRIEF_LINES = 10
"""Lines that progress, state and figures share where there is little room; why a run failed
comes before its figures."""
RANK_LINES = 8
"""Ranks that the panel of the machine has room for; the machine page has all."""
ROOMY_GPUS = 2
"""GPUs that get three lines each; more of them get one."""
LITTLE_DISK = 5 << 30
"""Free bytes of the disk below which it is shown as a worry."""
SET_NAMES = {"suite": "general"}
"""What the engine's sets are called where a person reads them."""

_FRAME = re.compile(r'  File "(.+)", line (\d+) in (.*)')
_LIBRARY = re.compile(r".*/(?:site-packages|dist-packages|src|python3\.\d+)/")

_TONES: dict[str, Tone] = {
    "running": "good",
    "starting": "info",
    "queued": "info",
    "finished": "",
    "failed": "error",
    "interrupted": "error",
}
_EVENTS: dict[str, tuple[str, Tone]] = {
    "error": ("✗", "error"),
    "warning": ("!", "warning"),
    "good": ("✓", "good"),
}


def job_row(job: JobLine) -> TableRow:
    """One line of the list of jobs."""
    mark = lines.MARKS.get(job.state, ("?", ""))[0]
    tone = _TONES.get(job.state, "warning")
    cells = (f"{mark} {job.state}", job.slug, job.kind, figures.day(job.created), job.sentence)
    return TableRow(cells, tone)


def run_panel(snapshot: Snapshot, width: int, brief: bool = False, steps: bool = True) -> Content:
    """Where the run stands: state, progress, time left, the last figures; `brief` for few rows.

    `steps` is False for a job that does not train: it has no figures.
    """
    told = _figures(snapshot)
    progress = _progress(snapshot, width)
    head = [*progress, *_onward(snapshot, steps)]
    if not steps or waits(snapshot):
        return lines.join(head)
    if brief:
        few = [*told[:3], told[4]][: max(0, BRIEF_LINES - len(progress))]
        return lines.join([*head, *few, *_spread(snapshot)])
    return lines.join([*head, Content(""), *told, *_spread(snapshot)])


def _progress(snapshot: Snapshot, width: int) -> list[Content]:
    done, total, words = _how_far(snapshot)
    share = done / total if total else 0.0
    percent = f" {figures.percent(share):>5}" if total else ""
    style = lines.MARKS.get(snapshot.state.name, ("", "$success"))[1]
    track = Content.assemble(lines.bar(share, max(4, width - len(percent)), style), percent)
    head = Content.assemble(lines.state_cell(snapshot.state.name), (f"  {words}", "bold"))
    if waits(snapshot):
        return [head, _times(snapshot), *_what(snapshot, width, 0)]
    return [head, track, _times(snapshot), *_what(snapshot, width, SENTENCE_LINES)]


def waits(snapshot: Snapshot) -> bool:
    """Whether it has nothing to show yet but what it waits for."""
    return snapshot.state.name in ("queued", "requeued") and not snapshot.step


def _onward(snapshot: Snapshot, steps: bool) -> list[Content]:
    """How a run that ended before its time goes on, or one that waits or stalls."""
    name = snapshot.state.name
    if steps and name in RESUMABLE:
        saved = [one.step for one in snapshot.checkpoints]
        words = f"resume after step {max(saved):,}" if saved else "begin again: no checkpoint"
        return [_key("r", words)]
    if name == "stalled":
        return [_key("t", "where it stands")]
    if snapshot.state.waits:
        keys = [("w", "start anyway"), ("s", "cancel"), ("Q", "GPU queue")]
        if "Slurm" in snapshot.state.sentence:  # whose queue is its own
            keys = [("s", "cancel")]
        return [Content("   ").join(_key(key, words) for key, words in keys)]
    return []


def _key(key: str, words: str) -> Content:
    return Content.assemble((key, "bold $key"), (f" {words}", "$muted"))


def _spread(snapshot: Snapshot) -> list[Content]:
    """How many GPUs a run of several has, and what they hold."""
    if len(snapshot.ranks) < 2:
        return []
    hosts = len({rank.host for rank in snapshot.ranks})
    where = f" on {hosts} hosts" if hosts > 1 else ""
    return [lines.pair("ranks", f"{len(snapshot.ranks)}{where} · {_range(snapshot.ranks)}")]


def _range(ranks: Sequence[Rank]) -> str:
    held = [rank.memory for rank in ranks if rank.memory is not None]
    if not held:
        return figures.UNKNOWN
    low, high = figures.size(min(held)), figures.size(max(held))
    return low if low == high else f"{low} to {high}"


def _how_far(snapshot: Snapshot) -> tuple[int, int, str]:
    """Done, total and words: of the stage while it has a progress of its own, or of the steps."""
    if snapshot.progress is not None and snapshot.state.name in LIVE:
        progress = snapshot.progress
        return progress.done, progress.total, f"{progress.done:,} of {progress.total:,}"
    if snapshot.total_steps:
        words = f"step {snapshot.step:,} of {snapshot.total_steps:,}"
        return snapshot.step, snapshot.total_steps, words
    done = int(snapshot.state.name == "finished")
    return done, done, ""


def _what(snapshot: Snapshot, width: int, most: int) -> list[Content]:
    """What it does now while it works; why it is in this state when it does not."""
    if snapshot.state.name in ("running", "starting"):
        progress = snapshot.progress
        return [Content.styled(clean((progress and progress.text) or snapshot.stage), "$accent")]
    style = lines.MARKS.get(snapshot.state.name, ("", ""))[1]
    return lines.wrapped(snapshot.state.sentence, width, style, most)


def _times(snapshot: Snapshot) -> Content:
    if waits(snapshot):
        since = figures.clock(snapshot.state.since) if snapshot.state.since else figures.UNKNOWN
        return Content.styled(f"waits since {since}", "$muted")
    spent = figures.duration(snapshot.elapsed_s) if snapshot.elapsed_s else figures.UNKNOWN
    if snapshot.state.name not in LIVE:
        return Content.styled(f"took {spent}", "$muted")
    left = figures.UNKNOWN if snapshot.eta_s is None else f"≈ {figures.duration(snapshot.eta_s)}"
    return Content.assemble(("ETA ", "$muted"), left, (f"   {spent} so far", "$muted"))


def _figures(snapshot: Snapshot) -> list[Content]:
    best = snapshot.best_eval_loss
    note = "" if best is None else f"   best {figures.number(best)}"
    if best is not None and snapshot.best_eval_step is not None:
        note += f" at {snapshot.best_eval_step:,}"
    speed = f"{figures.compact(snapshot.tokens_per_s)} tok/s"
    step_s = "" if snapshot.step_s is None else f" · {snapshot.step_s:.2g} s/step"
    probe = [] if snapshot.probe_loss is None else [
        lines.pair("probe loss", _value(snapshot.probe_loss))
    ]  # fmt: skip
    own = [lines.pair(clean(name.replace("_", " "))[:11], _value(value))
           for name, value in snapshot.figures.items()]  # fmt: skip
    return [
        lines.pair("loss", _value(snapshot.loss)),
        lines.pair("eval loss", Content.assemble(_value(snapshot.eval_loss), (note, "$muted"))),
        lines.pair("grad norm", _value(snapshot.grad_norm)),
        lines.pair("rate", _value(snapshot.lr)),
        lines.pair("speed", figures.UNKNOWN if not snapshot.tokens_per_s else speed + step_s),
        lines.pair("trained on", _share(snapshot.supervised_share)),
        lines.pair("memory", _memory(snapshot)),
        lines.pair("parameters", _adapter(snapshot)),
        *probe,
        *own,
    ]


def _value(value: float | None) -> Content:
    """A figure; one that is not a number stands out."""
    bad = value is not None and not math.isfinite(value)
    return Content.styled(figures.number(value), "bold $error" if bad else "")


def _share(value: float | None) -> str:
    return figures.UNKNOWN if value is None else f"{figures.percent(value)} of tokens"


def _memory(snapshot: Snapshot) -> str:
    """What the run takes on the device, or of the host where there is no device."""
    if snapshot.memory is not None:
        peak = snapshot.memory_peak
        return figures.size(snapshot.memory) + (f" · peak {figures.size(peak)}" if peak else "")
    return figures.UNKNOWN if snapshot.rss is None else f"{figures.size(snapshot.rss)} of the host"


def _adapter(snapshot: Snapshot) -> str:
    if not snapshot.trainable:
        return figures.UNKNOWN
    of = f" of {figures.compact(snapshot.parameters)}" if snapshot.parameters else ""
    return f"{figures.compact(snapshot.trainable)}{of}"


def devices_panel(
    sample: DeviceSample | None,
    width: int,
    disk_free: int | None = None,
    ranks: Sequence[Rank] = (),
) -> Content:
    """The GPUs, or why there are none, and the host; a line each where there are many. The ranks
    of a run on several GPUs stand below, those of other machines too."""
    if sample is None:
        return Content.styled("reading the devices…", "$muted")
    rows: list[Content] = []
    for gpu in sample.gpus:
        rows.extend(_gpu(gpu, width) if len(sample.gpus) <= ROOMY_GPUS else [_gpu_line(gpu, width)])
    if not sample.gpus:
        rows.append(Content.styled(clean(sample.problem or "no GPU found"), "$warning"))
    return lines.join(
        [*rows, *rank_lines(ranks, sample, RANK_LINES), *host_lines(sample, disk_free, width)]
    )


def rank_lines(ranks: Sequence[Rank], sample: DeviceSample | None, most: int = 0) -> list[Content]:
    """A line a rank: its host, its GPU, what it holds and held at most; none for one process."""
    if len(ranks) < 2:
        return []
    known = {gpu.uuid: gpu.index for gpu in sample.gpus if gpu.uuid} if sample is not None else {}
    shown = ranks[:most] if most and len(ranks) > most else ranks
    rows = [["rank", "GPU", "GiB", "peak"]]
    rows += [
        [str(rank.rank), _place(rank, known), *map(_tenths, (rank.memory, rank.memory_peak))]
        for rank in shown
    ]
    head, *rest = lines.columns(rows)
    more = len(ranks) - len(shown)
    tail = [Content.styled(f"and {more:,} more ranks: m", "$muted")] if more else []
    return [head.stylize("$muted"), *rest, *tail]


def _tenths(value: int | None) -> str:
    return figures.UNKNOWN if value is None else f"{value / 2**30:.1f}"


def _place(rank: Rank, known: Mapping[str, int]) -> str:
    """``node7:3``; the end of a UUID where the index is not known here."""
    gpu = str(known.get(rank.gpu, rank.gpu if len(rank.gpu) < 8 else f"…{rank.gpu[-6:]}"))
    host = clean(rank.host.partition(".")[0])[:16]
    return f"{host}:{clean(gpu)}" if gpu else f"{host} CPU"


def host_lines(sample: DeviceSample, disk_free: int | None, width: int) -> list[Content]:
    """Memory, processors and disk of the host."""
    busy = figures.UNKNOWN if sample.cpu_percent is None else f"{sample.cpu_percent:.0f} %"
    rows = [
        meter("host", sample.host_memory_used, sample.host_memory_total, width),
        lines.pair("CPU", busy, 5),
    ]
    if disk_free is not None:
        style = "$error" if disk_free < LITTLE_DISK else ""
        rows.append(lines.pair("disk", Content.styled(f"{figures.size(disk_free)} free", style), 5))
    return rows


def _gpu(gpu: Gpu, width: int) -> list[Content]:
    facts = [
        "" if gpu.utilisation is None else f"{gpu.utilisation:.0f} % busy",
        "" if gpu.temperature is None else f"{gpu.temperature:.0f} °C",
        "" if gpu.power_w is None else f"{gpu.power_w:.0f} W",
        "" if len(gpu.processes) < 2 else f"{len(gpu.processes)} processes",
    ]
    head = Content.assemble((f"GPU{gpu.index} ", "bold"), (clean(gpu.name or ""), "$muted"))
    if gpu.problem:
        return [head, Content.styled(clean(gpu.problem), "$error")]
    told = " · ".join(fact for fact in facts if fact)
    return [head, Content(told), meter("", gpu.memory_used, gpu.memory_total, width)]


def _gpu_line(gpu: Gpu, width: int) -> Content:
    name = (f"{gpu.index} ", "bold")
    if gpu.problem:
        return Content.assemble(name, (clean(gpu.problem), "$error"))
    busy = figures.UNKNOWN if gpu.utilisation is None else f"{gpu.utilisation:.0f}%"
    heat = figures.UNKNOWN if gpu.temperature is None else f"{gpu.temperature:.0f}°"
    told = f" {_gibibytes(gpu.memory_used)}/{_gibibytes(gpu.memory_total)} GiB {busy:>4} {heat:>4}"
    room = max(4, width - len(told) - 2)
    return Content.assemble(name, _memory_bar(gpu.memory_used, gpu.memory_total, room), told)


def _gibibytes(value: int | None) -> str:
    return figures.UNKNOWN if value is None else f"{value / 2**30:.0f}"


def meter(label: str, used: int | None, total: int | None, width: int) -> Content:
    """Memory in use as a bar and in figures."""
    name = f"{label} " if label else ""
    text = f" {figures.size(used)} of {figures.size(total)}"
    room = max(4, width - len(text) - len(name))
    return Content.assemble((name, "$muted"), _memory_bar(used, total, room), text)


def _memory_bar(used: int | None, total: int | None, width: int) -> Content:
    share = used / total if used is not None and total else 0.0
    style = "$error" if share > 0.95 else "$warning" if share > 0.85 else "$series-3"
    return lines.bar(share, width, style)


def event_row(event: EventLine) -> TableRow:
    """Time, sign and words of one event."""
    mark, tone = _EVENTS.get(event.level, ("·", ""))
    return TableRow((figures.clock(event.t)[:5], mark, event.text), tone)


def scores_panel(scores: Sequence[Score]) -> Content:
    """Held-out form and correctness before and after training, as far as they are known."""
    rows = [["", "before", "after"]]
    for name in dict.fromkeys(score.set for score in scores):
        found = {score.when: score for score in scores if score.set == name}
        label = SET_NAMES.get(name, clean(name))
        for key, words in (("format", "form"), ("accuracy", "right")):
            values = [getattr(found.get(when), key, None) for when in ("before", "after")]
            if any(value is not None for value in values):
                cells = [figures.percent(value) for value in values]
                rows.append([f"{label} {words}", *cells])
    if len(rows) == 1:
        return Content.styled("not scored yet", "$muted")
    head, *rest = lines.columns(rows, ["$muted", "", "bold"])
    return lines.join([head.without_spans.stylize("$muted"), *rest])


def stack_text(told: str) -> Content:
    """Where threads stand: a line a frame, ``torch/nn/linear.py:134 forward``, and its code; the
    frames of finetui itself stand out, because they say what the run is about."""
    rows: list[Content] = []
    own = False
    for line in told.splitlines():
        frame = _FRAME.match(line)
        if frame:
            path = _LIBRARY.sub("", frame[1])
            own = path.startswith("finetui/")
            place = f"{path}:{frame[2]} "
            rows.append(Content.assemble((clean(place), "$accent" if own else "$muted"),
                                         (clean(frame[3]), "bold" if own else "")))  # fmt: skip
        elif line.startswith("    "):
            rows.append(Content.styled(clean(line), "" if own else "$muted"))
        else:
            rows.append(Content.styled(clean(line), "bold" if line.startswith("rank") else ""))
    return lines.join(rows)


def log_lines(tail: Sequence[str]) -> Content:
    """The end of the job's log; what a program printed is data."""
    if not tail:
        return Content.styled("the log is empty", "$muted")
    return lines.join(Content(clean(line)) for line in tail)
