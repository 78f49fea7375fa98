"""One open job as a frozen snapshot: events in, curves and figures out.

One reader a job, polled at most once a second or so from one thread; the snapshots are plain
values for any thread. Texts come from data and logs: they are not yet fit for a terminal.
"""

import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from finetui.display import span
from finetui.jobs import logs
from finetui.jobs.events import Event, EventTail
from finetui.jobs.folder import Job
from finetui.jobs.liveness import JobState, state
from finetui.jobs.series import MinMaxPyramid, Series, SeriesBuilder

CURVES = ("loss", "eval_loss", "lr", "grad_norm", "tokens_per_s", "memory")

_EVENT_LINES = 1000
_LOG_LINES = 500
_RATE_STEPS = 50

_WHOLE_FIGURES = frozenset(
    {"total_steps", "parameters", "trainable", "tokens", "trained_tokens"},
)

_STEP_FIGURES = (
    *("epoch", "loss", "lr", "grad_norm", "tokens", "trained_tokens", "tokens_per_s", "step_s"),
)
# Curve by the field of a step event that it draws.
_STEP_CURVES = (
    ("loss", "loss"),
    ("lr", "lr"),
    ("grad_norm", "grad_norm"),
    ("tokens_per_s", "tokens_per_s"),
    ("memory", "memory_bytes"),
)

# What a number that is not finite is called where people read it.
_NUMBER_NAMES = {
    "loss": "loss",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "tokens_per_s": "token rate",
}


@dataclass(frozen=True)
class EventLine:
    """One thing that happened: unix time, level (info, good, warning, error), and words."""

    t: float
    level: str
    text: str


@dataclass(frozen=True)
class Score:
    """A held-out score: when is "before" or "after"; format and accuracy are 0 to 1."""

    when: str
    set: str
    format: float | None
    accuracy: float | None
    n: int
    seconds: float | None


@dataclass(frozen=True)
class Sample:
    """An answer that the model gave during the run."""

    step: int
    prompt: str
    answer: str
    reference: str


@dataclass(frozen=True)
class Progress:
    """How far a stage without steps is."""

    done: int
    total: int
    text: str


_NO_SERIES = Series(array("d"), MinMaxPyramid(), 0)


@dataclass(frozen=True)
class Snapshot:
    """All that is known of a job at one moment; None where nothing was said yet.

    Times are seconds, memory is bytes: `memory` on the device, `rss` of the process.
    `supervised_share` is trained tokens over all tokens, 0 to 1.
    """

    job_id: str
    state: JobState
    attempt: int = 0
    device: str = ""
    stage: str = ""
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    epochs: float | None = None
    parameters: int | None = None
    trainable: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    best_eval_loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    tokens_per_s: float | None = None
    step_s: float | None = None
    supervised_share: float | None = None
    eta_s: float | None = None
    elapsed_s: float = 0.0
    memory: int | None = None
    memory_peak: int | None = None
    rss: int | None = None
    progress: Progress | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    events: tuple[EventLine, ...] = ()
    scores: tuple[Score, ...] = ()
    samples: tuple[Sample, ...] = ()
    log: tuple[str, ...] = ()
    bad_lines: int = 0

    def log_tail(self, count: int) -> tuple[str, ...]:
        """Return the last lines of the newest attempt's log."""
        return self.log[-count:] if count > 0 else ()

    def curve(self, name: str) -> Series:
        """Return a series by name (see CURVES), empty when nothing was logged for it."""
        return self.series.get(name, _NO_SERIES)


class JobReader:
    """Reads one job's folder as it grows."""

    def __init__(self, job: Job, clock: Callable[[], float] = time.time) -> None:
        self.job = job
        self._clock = clock
        self._tail = EventTail(job)
        self._facts = _Facts()
        self._shown: tuple[object, ...] | None = None

    def poll(self) -> Snapshot | None:
        """Return a new snapshot, None when nothing changed since the last one."""
        events = self._tail.read()
        for event in events:
            self._facts.add(event)
        found = state(self.job, self._clock)
        log = self.job.log_files()[-1:]
        size = log[0].stat().st_size if log else 0
        marks = (found, size, self._tail.bad)
        if not events and marks == self._shown:
            return None
        self._shown = marks
        return self._snapshot(found)

    def log_tail(self, count: int) -> list[str]:
        """Return the last lines of the newest attempt's log, oldest first, as plain lines."""
        files = self.job.log_files()
        return logs.tail(files[-1], count) if files else []

    def _snapshot(self, found: JobState) -> Snapshot:
        facts = self._facts
        now = self._clock()
        return Snapshot(
            job_id=self.job.id,
            state=found,
            **facts.now(),
            eta_s=facts.eta() if found.name == "running" else None,
            elapsed_s=facts.elapsed(now if found.alive else None),
            series={name: curve.view() for name, curve in facts.curves.items()},
            events=tuple(facts.lines),
            scores=tuple(facts.scores),
            samples=tuple(facts.samples),
            log=tuple(self.log_tail(_LOG_LINES)),
            bad_lines=self._tail.bad,
        )


class _Facts:
    """What the events so far add up to. `figures` are fields of a Snapshot by name."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.curves = {name: SeriesBuilder() for name in CURVES}
        self.lines: deque[EventLine] = deque(maxlen=_EVENT_LINES)
        self.scores: list[Score] = []
        self.samples: deque[Sample] = deque(maxlen=100)
        self._spans: dict[int, tuple[float, float]] = {}
        self._pace: deque[float] = deque(maxlen=_RATE_STEPS)
        self._last_step: tuple[int, float] | None = None
        self._missing: set[str] = set()
        self._newest: Event = {}
        self._memory_peak = 0.0
        self._progress_start: tuple[float, int] | None = None

    def add(self, event: Event) -> None:
        """Take one event in; unknown kinds and fields of a wrong type are passed over."""
        t = _number(event.get("t")) or 0.0
        attempt = event["attempt"]
        if attempt != self.figures.get("attempt", 0):
            self._new_attempt(t, attempt)
        first, _ = self._spans.get(attempt, (t, t))
        self._spans[attempt] = (first, t)
        handler = getattr(self, f"_on_{event['kind']}", None)
        if handler is not None:
            handler(t, event)

    def now(self) -> dict[str, Any]:
        """Return the fields of a snapshot that events alone decide."""
        newest = self._newest
        self._keep(newest, *_STEP_FIGURES)
        self._share(newest)
        for name in self._missing:
            self.figures[name] = float("nan")
        for name, source in (("memory", "memory_bytes"), ("rss", "rss_bytes")):
            if (value := _number(newest.get(source))) is not None:
                self.figures[name] = int(value)
        self.figures["memory_peak"] = int(self._memory_peak) or None
        return self.figures

    def elapsed(self, now: float | None) -> float:
        """Return the working time of all attempts; `now` ends the newest while it lives."""
        spans = list(self._spans.values())
        if now is not None and spans:
            spans[-1] = (spans[-1][0], max(now, spans[-1][1]))
        return sum((end - start for start, end in spans), 0.0)

    def eta(self) -> float | None:
        """Return the seconds left of the steps or of the stage, at its recent pace, or None."""
        if self.figures.get("progress") is not None:
            return self._stage_eta()
        total: int | None = self.figures.get("total_steps")
        step: int = self.figures.get("step", 0)
        if total is None or not self._pace:
            return None
        return max(0.0, (total - step) * median(self._pace))

    def _stage_eta(self) -> float | None:
        progress: Progress | None = self.figures.get("progress")
        if progress is None or self._progress_start is None:
            return None
        start, done = self._progress_start
        worked = progress.done - done
        spent = self._spans[self.figures["attempt"]][1] - start
        return (progress.total - progress.done) * spent / worked if worked > 0 else None

    def _new_attempt(self, t: float, attempt: int) -> None:
        self.figures["attempt"] = attempt
        self._last_step = None
        self._pace.clear()
        self._missing.clear()
        if attempt > 1:
            self._say(t, "info", f"attempt {attempt} began")

    def _say(self, t: float, level: str, text: str) -> None:
        self.lines.append(EventLine(t, level, text))

    def _keep(self, event: Event, *names: str) -> None:
        """Keep the figures that an event has under their own names."""
        for name in names:
            if (value := _number(event.get(name))) is not None:
                self.figures[name] = int(value) if name in _WHOLE_FIGURES else value

    def _on_start(self, t: float, event: Event) -> None:
        self._keep(event, "total_steps", "epochs", "parameters", "trainable")
        self.figures["device"] = str(event.get("device") or "")
        self.figures["progress"] = None
        total = _number(event.get("total_steps"))
        self._say(t, "info", f"training began: {total:,.0f} steps" if total else "started")

    def _on_stage(self, t: float, event: Event) -> None:
        self.figures["stage"] = str(event.get("text", ""))
        self.figures["progress"] = self._progress_start = None
        self._say(t, "info", self.figures["stage"])

    def _on_data(self, t: float, event: Event) -> None:
        skip = ("t", "kind", "attempt", "nonfinite")
        self.figures["data"] = {name: event[name] for name in event if name not in skip}
        self._share(event)
        self._say(t, "info", _data_sentence(event))

    def _on_step(self, t: float, event: Event) -> None:
        # A long history is read in one go: only what no later step replaces is worked out here.
        step = int(_number(event.get("step")) or 0)
        self._note_pace(t, step)
        self._newest.update(event)
        self.figures["step"] = step
        self.figures["progress"] = None
        self._memory_peak = max(self._memory_peak, _number(event.get("memory_bytes")) or 0.0)
        if self._missing or "nonfinite" in event:
            self._note_missing(t, step, event)
        for curve, name in _STEP_CURVES:
            if name in event:
                self.curves[curve].append(step, _number(event[name]))

    def _note_pace(self, t: float, step: int) -> None:
        if self._last_step is not None:
            before, then = self._last_step
            if step > before and t >= then:
                self._pace.append((t - then) / (step - before))
        self._last_step = (step, t)

    def _share(self, event: Event) -> None:
        tokens, trained = _number(event.get("tokens")), _number(event.get("trained_tokens"))
        if tokens and trained is not None:
            self.figures["supervised_share"] = trained / tokens

    def _note_missing(self, t: float, step: int, event: Event) -> None:
        """Say it once when a number stops being one, and once when it is one again."""
        missing = {name for name in _nonfinite(event) if name in _NUMBER_NAMES}
        for name in sorted(missing - self._missing):
            self._say(t, "error", f"{_NUMBER_NAMES[name]} is not a number at step {step}")
        back = {name for name in self._missing - missing if _number(event.get(name)) is not None}
        for name in sorted(back):
            self._say(t, "info", f"{_NUMBER_NAMES[name]} is a number again at step {step}")
        self._missing = (self._missing | missing) - back

    def _on_eval(self, t: float, event: Event) -> None:
        step = int(_number(event.get("step")) or 0)
        loss = _number(event.get("loss"))
        self.curves["eval_loss"].append(step, loss)
        if loss is None:
            self.figures["eval_loss"] = float("nan")
            self._say(t, "error", f"eval loss is not a number at step {step}")
            return
        best = self.figures.get("best_eval_loss")
        is_best = best is None or loss < best
        self.figures["eval_loss"] = loss
        self.figures["best_eval_loss"] = loss if is_best else best
        self._say(t, "good", f"eval loss {loss:.4g} at step {step}{' (best)' if is_best else ''}")

    def _on_score(self, t: float, event: Event) -> None:
        score = Score(
            when=str(event.get("when", "")),
            set=str(event.get("set", "")),
            format=_number(event.get("format")),
            accuracy=_number(event.get("accuracy")),
            n=int(_number(event.get("n")) or 0),
            seconds=_number(event.get("seconds")),
        )
        self.scores.append(score)
        self._say(t, "good", _score_sentence(score))

    def _on_sample(self, t: float, event: Event) -> None:
        step = int(_number(event.get("step")) or 0)
        texts = (str(event.get(name) or "") for name in ("prompt", "answer", "reference"))
        self.samples.append(Sample(step, *texts))

    def _on_checkpoint(self, t: float, event: Event) -> None:
        self._say(t, "good", f"checkpoint saved at step {event.get('step')}")

    def _on_warning(self, t: float, event: Event) -> None:
        self._say(t, "warning", str(event.get("text", "")))

    def _on_message(self, t: float, event: Event) -> None:
        self._say(t, "info", str(event.get("text", "")))

    def _on_control(self, t: float, event: Event) -> None:
        self._say(t, "info", f"{event.get('verb')}: the worker took the request")

    def _on_progress(self, t: float, event: Event) -> None:
        done, total = (int(_number(event.get(name)) or 0) for name in ("done", "total"))
        text = str(event.get("text") or "")
        known = self.figures.get("progress")
        if known is None or known.text != text or self._progress_start is None:
            self._progress_start = (t, done)
        self.figures["progress"] = Progress(done, total, text)

    def _on_end(self, t: float, event: Event) -> None:
        self.figures["progress"] = None
        reason = str(event.get("reason", ""))
        level = {"finished": "good", "failed": "error"}.get(reason, "warning")
        took = span(self.elapsed(None))
        self._say(t, level, f"{reason} after {took}")


def _number(value: Any) -> float | None:
    """Return a number of an event as float, None for anything else (a bool too)."""
    if type(value) is float:
        return value
    return float(value) if type(value) is int else None


def _nonfinite(event: Event) -> list[object]:
    names = event.get("nonfinite")
    return names if isinstance(names, list) else []


def _data_sentence(event: Event) -> str:
    words = []
    if (rows := _number(event.get("rows"))) is not None:
        words.append(f"{rows:,.0f} rows")
    if (tokens := _number(event.get("tokens"))) is not None:
        words.append(f"{tokens:,.0f} tokens")
    for name, text in (("dropped_long", "too long, dropped"), ("truncated", "truncated")):
        if count := _number(event.get(name)):
            words.append(f"{count:,.0f} {text}")
    return f"data: {', '.join(words)}" if words else "data ready"


def _score_sentence(score: Score) -> str:
    parts = [
        f"{name} {value:.0%}"
        for name, value in (("format", score.format), ("accuracy", score.accuracy))
        if value is not None
    ]
    where = f" on {score.set}" if score.set else ""
    return f"{score.when} tuning{where}: {', '.join(parts) or 'no score'} ({score.n} rows)"
