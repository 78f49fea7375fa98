"""The events of a run, folded into what is known: figures, curves, lines, scores, marks.

What is folded once is never looked at again, and what is kept is bounded except for the curves
(see `series`), so a run of a million steps costs no more to watch than a short one.
"""

import contextlib
import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter, lt
from statistics import median
from typing import Any, TypeVar

import msgspec

from finetui.display import span
from finetui.errors import BROKEN
from finetui.jobs.events import Event
from finetui.jobs.series import SeriesBuilder
from finetui.jobs.snapshot import (
    CURVES,
    Checkpoint,
    Control,
    EventLine,
    Guard,
    Progress,
    Rank,
    Rows,
    Sample,
    Score,
)

_LINES = 1000
_SAMPLES = 1000
_RANKS = 4096
_LISTS = ("lines", "scores", "samples", "guards", "controls", "checkpoints", "ranks")
_PACE_STEPS = 50
_STEP_MARK = b'"kind":"step"'
_STEP_MARK_WITHIN = 64

_WHOLE_FIGURES = frozenset({"total_steps", "parameters", "trainable"})

# Curve by the field of a step event that it draws.
_STEP_CURVES = (
    *(("loss", "loss"), ("lr", "lr"), ("grad_norm", "grad_norm")),
    *(("tokens_per_s", "tokens_per_s"), ("step_s", "step_s")),
    *(("memory", "memory_bytes"), ("rss", "rss_bytes")),
)
# What a number that is not finite is called where people read it.
_NUMBER_NAMES = {
    "loss": "loss",
    "grad_norm": "gradient norm",
    "lr": "learning rate",
    "tokens_per_s": "token rate",
}
_ONLY_TOLD = ("", "warn")
# No float holds a whole number of hundreds of digits.
_HUGE = 10**300

_Item = TypeVar("_Item")


class RankFields(msgspec.Struct, gc=False):
    """What a step event says of one process of several."""

    rank: int = 0
    host: str = ""
    gpu: str | int | None = None
    memory_bytes: float | None = None
    memory_peak_bytes: float | None = None


class StepEvent(msgspec.Struct, gc=False):
    """The fields of a step event that are folded; None where it has none, or no finite number."""

    t: float = 0.0
    step: int = -1
    epoch: float | None = None
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens: float | None = None
    trained_tokens: float | None = None
    tokens_per_s: float | None = None
    step_s: float | None = None
    memory_bytes: float | None = None
    memory_peak_bytes: float | None = None
    rss_bytes: float | None = None
    total_steps: float | None = None
    nonfinite: list[str] | None = None
    figures: dict[str, float | None] | None = None
    ranks: list[RankFields] | None = None


_NUMBERS = tuple(
    name
    for name in StepEvent.__struct_fields__
    if name not in ("t", "step", "nonfinite", "figures", "ranks")
)
_STEP = msgspec.json.Decoder(StepEvent)
_STEPS = msgspec.json.Decoder(list[StepEvent])
_ANY = msgspec.json.Decoder()


@dataclass
class Ledger:
    """All that a history knows besides its curves, in plain values: a digest keeps it as it is.

    `spans` are first and last time of each attempt; `pace` the newest seconds a step; `counted`
    the token counts of the last step event.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    own_figures: dict[str, float] = field(default_factory=dict)
    eval_figures: dict[str, float] = field(default_factory=dict)
    progress: Progress | None = None
    progress_start: tuple[float, int] | None = None
    lines: list[EventLine] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    ranks: list[Rank] = field(default_factory=list)
    spans: dict[int, tuple[float, float]] = field(default_factory=dict)
    pace: list[float] = field(default_factory=list)
    last_step: tuple[int, float] | None = None
    counted: tuple[float, float] = (0.0, 0.0)
    missing: set[str] = field(default_factory=set)
    memory_peak: float = 0.0


class History:
    """What the events so far add up to. `ledger.figures` are fields of a Snapshot by name."""

    def __init__(
        self, ledger: Ledger | None = None, curves: dict[str, SeriesBuilder] | None = None
    ) -> None:
        self.ledger = Ledger() if ledger is None else ledger
        self.curves = {name: SeriesBuilder() for name in CURVES} | (curves or {})
        self._step_curves = [(self.curves[name], source) for name, source in _STEP_CURVES]
        self._attempt: int = self.ledger.figures.get("attempt", 0)

    def take_all(self, lines: Iterable[bytes], attempt: int) -> int:
        """Fold lines of an event file in; return how many of them are no events."""
        bad = 0
        for steps, group in groupby(lines, _is_step):
            together = list(group)
            if not steps or not self._take_steps(together, attempt):
                bad += sum(not self.take(line, attempt) for line in together)
        return bad

    def take(self, line: bytes, attempt: int) -> bool:
        """Fold one line of an event file in; False when it is no event."""
        if _is_step(line):
            with contextlib.suppress(*BROKEN):
                event = _STEP.decode(line)
                self._begin(event.t, attempt)
                self._on_step_event(event)
                return True
        try:
            found = _ANY.decode(line)
        except BROKEN:
            return False
        if not isinstance(found, dict) or not isinstance(found.get("kind"), str):
            return False
        self.add(found, attempt)
        return True

    def add(self, event: Event, attempt: int) -> None:
        """Fold one event in; unknown kinds and fields of a wrong type are passed over."""
        t = _number(event.get("t")) or 0.0
        self._begin(t, attempt)
        handler = getattr(self, f"_on_{event['kind']}", None)
        if handler is not None:
            handler(t, event)

    def now(self) -> dict[str, Any]:
        """Return the fields of a snapshot that events alone decide."""
        ledger = self.ledger
        known = dict(ledger.figures)
        for name, curve in self.curves.items():
            if name in _NEWEST and len(curve.steps):
                known[name] = curve.view().last
        for name in ("memory", "rss"):
            value = known.get(name)
            known[name] = int(value) if value is not None and value == value else None
        known["memory_peak"] = int(ledger.memory_peak) or None
        known["progress"] = ledger.progress
        known["figures"] = dict(ledger.own_figures)
        known["eval_figures"] = dict(ledger.eval_figures)
        for name in _LISTS:
            known["events" if name == "lines" else name] = tuple(getattr(ledger, name))
        return known

    def elapsed(self, now: float | None) -> float:
        """Return the working time of all attempts; `now` ends the newest while it lives."""
        spans = list(self.ledger.spans.values())
        if now is not None and spans:
            spans[-1] = (spans[-1][0], max(now, spans[-1][1]))
        return sum((end - start for start, end in spans), 0.0)

    def eta(self) -> float | None:
        """Return the seconds left of the steps or of the stage, at its recent pace, or None."""
        if self.ledger.progress is not None:
            return self._stage_eta(self.ledger.progress)
        total: int | None = self.ledger.figures.get("total_steps")
        step: int = self.ledger.figures.get("step", 0)
        if total is None or not self.ledger.pace:
            return None
        return max(0.0, (total - step) * median(self.ledger.pace))

    def _stage_eta(self, progress: Progress) -> float | None:
        if self.ledger.progress_start is None:
            return None
        start, done = self.ledger.progress_start
        worked = progress.done - done
        spent = self.ledger.spans[self._attempt][1] - start
        return (progress.total - progress.done) * spent / worked if worked > 0 else None

    # -- what every event does -----------------------------------------------------------------

    def _begin(self, t: float, attempt: int) -> None:
        if attempt != self._attempt:
            self._new_attempt(t, attempt)
        first, _ = self.ledger.spans.get(attempt, (t, t))
        self.ledger.spans[attempt] = (first, t)

    def _new_attempt(self, t: float, attempt: int) -> None:
        ledger = self.ledger
        self._attempt = ledger.figures["attempt"] = attempt
        ledger.last_step, ledger.counted = None, (0.0, 0.0)
        ledger.pace.clear()
        ledger.missing.clear()
        if attempt > 1:
            self._say(t, "info", f"attempt {attempt} began")

    def _say(
        self, t: float, level: str, text: str, step: int | None = None, rows: Rows = ()
    ) -> None:
        _append(self.ledger.lines, EventLine(t, level, text, step, rows))

    def _keep(self, event: Event, *names: str) -> None:
        """Keep the figures that an event has under their own names."""
        for name in names:
            if (value := _number(event.get(name))) is not None:
                self.ledger.figures[name] = int(value) if name in _WHOLE_FIGURES else value

    # -- steps ---------------------------------------------------------------------------------

    def _on_step(self, t: float, event: Event) -> None:
        """A step event that is not quite as it should be: take what is right."""
        own, step = event.get("figures"), _number(event.get("step"))
        self._on_step_event(
            StepEvent(
                t=t,
                step=-1 if step is None else int(step),
                nonfinite=[name for name in _list(event.get("nonfinite")) if isinstance(name, str)],
                figures={str(k): _number(v) for k, v in own.items()}
                if isinstance(own, dict)
                else {},
                ranks=_ranks(event.get("ranks")),
                **{name: _number(event.get(name)) for name in _NUMBERS},
            )
        )

    def _on_step_event(self, event: StepEvent) -> None:
        ledger, step = self.ledger, event.step
        if step < 0:
            return
        self._note_pace(event.t, step)
        self._on_newest(event)
        for curve, source in self._step_curves:
            if (value := getattr(event, source)) is not None:
                curve.append(step, value)
        if event.memory_bytes is not None:
            peak = event.memory_peak_bytes or event.memory_bytes
            ledger.memory_peak = max(ledger.memory_peak, peak)
        self._count((event,))
        if event.figures:
            self._on_own_figures("figures", step, event.figures, ledger.own_figures)
        if event.nonfinite or ledger.missing:
            self._note_missing(event)

    def _take_steps(self, lines: list[bytes], attempt: int) -> bool:
        """Fold many step events in at once, five times as fast; False where any is special."""
        try:
            events = _STEPS.decode(b"[" + b",".join(lines) + b"]")
        except BROKEN:
            return False
        if len(events) != len(lines) or not self._all_plain(events, attempt):
            return False
        self._begin(events[0].t, attempt)
        for event in events[-_PACE_STEPS - 1 :]:
            self._note_pace(event.t, event.step)
        self._begin(events[-1].t, attempt)
        self._extend_curves(events)
        if events[-1].memory_bytes is not None:
            peaks = [e.memory_peak_bytes or e.memory_bytes or 0.0 for e in events]
            self.ledger.memory_peak = max(self.ledger.memory_peak, *peaks)
        self._count(events)
        for event in events:
            if event.figures:
                self._on_own_figures("figures", event.step, event.figures,
                                     self.ledger.own_figures)  # fmt: skip
        self._on_newest(events[-1])
        return True

    def _all_plain(self, events: list[StepEvent], attempt: int) -> bool:
        """Whether steps only ascend and every number is one."""
        last = self.ledger.last_step
        if attempt != self._attempt or last is None:
            return False
        steps = [last[0], *(event.step for event in events)]
        return (
            not self.ledger.missing
            and all(map(lt, steps, steps[1:]))
            and not any(event.nonfinite for event in events)
        )

    def _extend_curves(self, events: list[StepEvent]) -> None:
        steps = array("d", [event.step for event in events])
        for curve, source in self._step_curves:
            found = list(map(attrgetter(source), events))
            with contextlib.suppress(TypeError):  # some have none
                values = array("d", found)
                if math.isfinite(sum(values)):
                    curve.extend(steps, values)
                    continue
            for step, value in zip(steps, found, strict=True):
                if value is not None:
                    curve.append(step, value)

    def _on_newest(self, event: StepEvent) -> None:
        ledger = self.ledger
        ledger.figures["step"] = event.step
        ledger.progress = None
        if event.epoch is not None:
            ledger.figures["epoch"] = event.epoch
        if event.total_steps is not None:
            ledger.figures["total_steps"] = int(event.total_steps)
        if event.ranks is not None:
            ledger.ranks = [_rank(one) for one in event.ranks[:_RANKS]]

    def _note_pace(self, t: float, step: int) -> None:
        ledger = self.ledger
        if ledger.last_step is not None:
            before, then = ledger.last_step
            if step > before and t >= then:
                ledger.pace.append((t - then) / (step - before))
                if len(ledger.pace) > _PACE_STEPS:
                    del ledger.pace[0]
        ledger.last_step = (step, t)

    def _count(self, events: Iterable[StepEvent]) -> None:
        """Token counts are sums over the attempt; the curve has the share since the last event."""
        before, trained_before = self.ledger.counted
        curve = self.curves["supervised_share"]
        for event in events:
            tokens, trained = event.tokens, event.trained_tokens
            if tokens is None or trained is None:
                continue
            if tokens > before:
                curve.append(event.step, (trained - trained_before) / (tokens - before))
            before, trained_before = tokens, trained
        self.ledger.counted = (before, trained_before)
        if before:
            share = {"supervised_share": trained_before / before}
            counts = {"tokens": int(before), "trained_tokens": int(trained_before)}
            self.ledger.figures |= share | counts

    def _on_own_figures(
        self, kind: str, step: int, found: dict[str, float | None], newest: dict[str, float]
    ) -> None:
        for name, value in found.items():
            curve = self.curves.get(f"{kind}.{name}")
            if curve is None:
                curve = self.curves[f"{kind}.{name}"] = SeriesBuilder()
            curve.append(step, value)
            newest[name] = float("nan") if value is None else value

    def _note_missing(self, event: StepEvent) -> None:
        """Leave a gap; say it once when a number stops being one, and once when it is one again."""
        bad, known, step = set(event.nonfinite or ()), self.ledger.missing, event.step
        for curve, source in self._step_curves:
            if source in bad:
                curve.append(step, None)
        missing = bad & _NUMBER_NAMES.keys()
        for name in sorted(missing - known):
            self._say(event.t, "error", f"{_NUMBER_NAMES[name]} is not a number at step {step}",
                      step)  # fmt: skip
        back = {name for name in known - missing if getattr(event, name) is not None}
        for name in sorted(back):
            words = f"{_NUMBER_NAMES[name]} is a number again at step {step}"
            self._say(event.t, "info", words, step)
        self.ledger.missing = (known | missing) - back

    # -- the other kinds -----------------------------------------------------------------------

    def _on_start(self, t: float, event: Event) -> None:
        self._keep(event, "total_steps", "epochs", "parameters", "trainable")
        self.ledger.figures["device"] = str(event.get("device") or "")
        self.ledger.progress = None
        total = _number(event.get("total_steps"))
        self._say(t, "info", f"training began: {total:,.0f} steps" if total else "started")

    def _on_resume(self, t: float, event: Event) -> None:
        """The attempt goes on from a checkpoint: what was made past it is made again.

        Without one everything is, also what was measured before the first step.
        """
        step, ledger = _whole(event.get("step")), self.ledger
        kept = step if event.get("path") else -1
        for curve in self.curves.values():
            curve.rewind(kept)
        ledger.samples = [one for one in ledger.samples if one.step <= kept]
        ledger.guards = [one for one in ledger.guards if one.step <= kept]
        ledger.checkpoints = [one for one in ledger.checkpoints if one.step <= kept]
        ledger.figures["step"] = step
        self._find_best()
        tokens, trained = _number(event.get("tokens")), _number(event.get("trained_tokens"))
        ledger.counted = (tokens or 0.0, trained or 0.0)
        self._keep(event, "total_steps")
        self._say(t, "info", str(event.get("text") or f"goes on from step {step}"), step)

    def _find_best(self) -> None:
        """The newest and the best eval loss of those that still count."""
        losses, figures = self.curves["eval_loss"].view(), self.ledger.figures
        known = [(losses.value(at), int(losses.step(at))) for at in range(len(losses))]
        if not known:
            figures.pop("eval_loss", None)
        else:
            figures["eval_loss"] = known[-1][0]
        found = [one for one in known if math.isfinite(one[0])]
        figures.pop("best_eval_loss", None)
        figures.pop("best_eval_step", None)
        if found:
            figures["best_eval_loss"], figures["best_eval_step"] = min(found)

    def _on_stage(self, t: float, event: Event) -> None:
        self.ledger.figures["stage"] = str(event.get("text", ""))
        self.ledger.progress = self.ledger.progress_start = None
        self._say(t, "info", self.ledger.figures["stage"])

    def _on_data(self, t: float, event: Event) -> None:
        skip = ("t", "kind", "attempt", "nonfinite")
        self.ledger.figures["data"] = {name: event[name] for name in event if name not in skip}
        tokens, trained = _number(event.get("tokens")), _number(event.get("trained_tokens"))
        if tokens and trained is not None:
            self.ledger.figures["supervised_share"] = trained / tokens
        self._say(t, "info", _data_sentence(event))

    def _on_eval(self, t: float, event: Event) -> None:
        step = _whole(event.get("step"))
        self._on_probe(step, event)
        own = event.get("figures")
        if isinstance(own, dict):
            found = {str(name): _number(value) for name, value in own.items()}
            self._on_own_figures("eval_figures", step, found, self.ledger.eval_figures)
        loss, figures = _number(event.get("loss")), self.ledger.figures
        self.curves["eval_loss"].append(step, loss)
        if loss is None:
            figures["eval_loss"] = float("nan")
            self._say(t, "error", f"eval loss is not a number at step {step}", step)
            return
        best = figures.get("best_eval_loss")
        figures["eval_loss"] = loss
        words = ""
        if best is None or loss < best:
            figures["best_eval_loss"], figures["best_eval_step"], words = loss, step, " (best)"
        self._say(t, "good", f"eval loss {loss:.4g} at step {step}{words}", step)

    def _on_probe(self, step: int, event: Event) -> None:
        if "probe_loss" in _list(event.get("nonfinite")):
            self.curves["probe_loss"].append(step, None)
        elif (probe := _number(event.get("probe_loss"))) is not None:
            self.curves["probe_loss"].append(step, probe)

    def _on_score(self, t: float, event: Event) -> None:
        score = Score(
            when=str(event.get("when", "")),
            set=str(event.get("set", "")),
            format=_number(event.get("format")),
            accuracy=_number(event.get("accuracy")),
            n=_whole(event.get("n")),
            seconds=_number(event.get("seconds")),
        )
        _append(self.ledger.scores, score)
        self._say(t, "good", _score_sentence(score))

    def _on_sample(self, t: float, event: Event) -> None:
        prompt, answer, reference, name, source = (
            str(event.get(part) or "") for part in ("prompt", "answer", "reference", "id", "set")
        )
        sample = Sample(_whole(event.get("step")), prompt, answer, reference, name or prompt,
                        source, t)  # fmt: skip
        self.ledger.samples.append(sample)
        if len(self.ledger.samples) > _SAMPLES:
            self.ledger.samples = _thinned(self.ledger.samples)

    def _on_guard(self, t: float, event: Event) -> None:
        step, action = _whole(event.get("step")), str(event.get("action") or "")
        text, rows = str(event.get("text") or event.get("guard") or ""), _rows(event.get("rows"))
        guard = Guard(t, step, str(event.get("guard") or ""), action, text, rows,
                      _number(event.get("value")))  # fmt: skip
        _append(self.ledger.guards, guard)
        self._say(t, "warning" if action in _ONLY_TOLD else "error", text, step, rows)

    def _on_control(self, t: float, event: Event) -> None:
        fields = event.get("fields")
        step = _whole(event.get("step")) or self.ledger.figures.get("step", 0)
        verb, who = str(event.get("verb") or ""), str(event.get("who") or "")
        text = str(event.get("text") or f"{verb}: the worker took the request")
        control = Control(t, step, verb, dict(fields) if isinstance(fields, dict) else {}, who,
                          text)  # fmt: skip
        _append(self.ledger.controls, control)
        known = not who or f"asked by {who}" in text
        self._say(t, "info", text if known else f"{text} ({who})", step)

    def _on_checkpoint(self, t: float, event: Event) -> None:
        step = _whole(event.get("step"))
        _append(self.ledger.checkpoints, Checkpoint(t, step))
        self._say(t, "good", f"checkpoint saved at step {step}", step)

    def _on_warning(self, t: float, event: Event) -> None:
        self._say(t, "warning", str(event.get("text", "")))

    def _on_message(self, t: float, event: Event) -> None:
        self._say(t, "info", str(event.get("text", "")))

    def _on_progress(self, t: float, event: Event) -> None:
        done, total = _whole(event.get("done")), _whole(event.get("total"))
        text, known = str(event.get("text") or ""), self.ledger.progress
        if known is None or known.text != text or self.ledger.progress_start is None:
            self.ledger.progress_start = (t, done)
        self.ledger.progress = Progress(done, total, text)

    def _on_end(self, t: float, event: Event) -> None:
        self.ledger.progress = None
        reason = str(event.get("reason", ""))
        level = {"finished": "good", "failed": "error"}.get(reason, "warning")
        self._say(t, level, f"{reason} after {span(self.elapsed(None))}")


# The newest value of these curves is a figure of the snapshot under the same name.
_NEWEST = frozenset(name for name, _ in _STEP_CURVES) | {"probe_loss"}


def _append(kept: list[_Item], item: _Item) -> None:
    """Add to a list that keeps its newest items only."""
    kept.append(item)
    if len(kept) > _LINES:
        del kept[0]


def _thinned(samples: list[Sample]) -> list[Sample]:
    """Leave out every second evaluation, but not the first and not the last one."""
    steps = sorted({sample.step for sample in samples})
    out = set(steps[1:-1:2])
    kept = [sample for sample in samples if sample.step not in out]
    return kept[-_SAMPLES:]


def _is_step(line: bytes) -> bool:
    return _STEP_MARK in line[:_STEP_MARK_WITHIN]


def _ranks(value: Any) -> list[RankFields] | None:
    """The ranks of an event of wrong types, None where they are among those."""
    try:
        return msgspec.convert(value, list[RankFields] | None)
    except BROKEN:
        return None


def _rank(found: RankFields) -> Rank:
    gpu = "" if found.gpu is None else str(found.gpu)
    return Rank(found.rank, found.host, gpu, _bytes(found.memory_bytes),
                _bytes(found.memory_peak_bytes))  # fmt: skip


def _bytes(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) else None


def _number(value: Any) -> float | None:
    """Return a number of an event as float, None for anything else (a bool too)."""
    if type(value) is float:
        return value
    if type(value) is not int:
        return None
    return float(value) if abs(value) < _HUGE else None


def _whole(value: Any) -> int:
    return int(_number(value) or 0)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _rows(value: Any) -> Rows:
    return tuple(
        (_whole(row[0]), _whole(row[1]))
        for row in _list(value)
        if isinstance(row, list) and len(row) == 2
    )


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
