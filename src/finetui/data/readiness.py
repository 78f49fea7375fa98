"""Is this set ready to train on: what is trained on, what is lost, what it costs.

Two steps, so that a screen can show the first at once: `measure` reads rows with the model's own
tokenizer (all of a small set, an even sample of a large one, marked by ``exact``), and `points`
turns what is known into lines for people.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from finetui.data.filter import Report, counted
from finetui.data.guides import FEWEST, Unit, enough_for, judge_size
from finetui.data.records import Record, RecordError, messages
from finetui.data.strict import JsonFault, RowError
from finetui.data.trainers import TRAINERS, Fate, Measured
from finetui.display import plural
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.data.dataset import DataSet
    from finetui.data.tokens import ChatTokenizer

State = Literal["good", "warn", "bad", "unknown"]
SAMPLE = 20_000
"""Rows that are tokenised at most; of a larger set this many, spread evenly."""
_EXAMPLES = 50  # rows kept for jumping to, for each trainer and fate


@dataclass
class FateCount:
    """How many of the measured rows met one fate at one trainer, why, and the first of them."""

    kind: str
    why: str
    count: int = 0
    rows: list[int] = field(default_factory=list)


@dataclass
class Measure:
    """What the rows are under one tokenizer and one length limit.

    ``rows`` are the lines of the file that hold something, ``kept`` those neither dropped nor
    quarantined, ``broken`` kept ones that no trainer can read. Token figures speak of the
    ``measured`` rows; while ``exact`` is False they are a sample of the ``kept`` ones.
    """

    limit: int
    rows: int = 0
    kept: int = 0
    broken: int = 0
    first_broken: int | None = None
    measured: int = 0
    exact: bool = True
    tokens: int = 0
    trained: int = 0
    longest: int = 0
    longest_row: int | None = None
    over: int = 0
    masked: int = 0
    refused: int = 0
    refusal: str = ""
    end_trained: bool | None = None
    fates: dict[str, list[FateCount]] = field(default_factory=dict)
    sizes: array[int] = field(default_factory=lambda: array("I"))
    """Tokens of each measured row."""

    @property
    def scale(self) -> float:
        """Kept rows for one measured row."""
        return (self.kept - self.broken) / self.measured if self.measured else 0.0

    def estimate(self, figure: int) -> int:
        """A figure of the measured rows for the whole set."""
        return round(figure * self.scale)

    def lost(self, trainer: str) -> int:
        """Measured rows that a trainer drops."""
        return sum(entry.count for entry in self.fates.get(trainer, ()) if entry.kind == "dropped")


@dataclass(frozen=True)
class Point:
    """One line of the readiness page; ``rows`` are the rows it speaks of, for jumping."""

    state: State
    title: str
    detail: str
    fix: str = ""
    rows: tuple[int, ...] = ()


def measure(
    dataset: DataSet,
    tokenizer: ChatTokenizer | None,
    limit: int,
    progress: Report | None = None,
) -> Measure:
    """Read the set as a trainer would; without a tokenizer only rows and roles are judged."""
    dataset.build_index()
    found = Measure(limit, end_trained=tokenizer.end_trained if tokenizer else None)
    every = max(1, -(-dataset.rows // SAMPLE))
    found.exact = every == 1
    for row in counted(range(dataset.rows), progress):
        if not dataset.state(row).kept or not dataset.raw(row).strip():
            found.rows += bool(dataset.raw(row).strip())
            continue
        found.rows += 1
        found.kept += 1
        if row % every == 0:
            _measure_row(found, dataset, row, tokenizer)
    if not found.exact:
        found.broken = round(found.broken * every)
    return found


def _measure_row(
    found: Measure, dataset: DataSet, row: int, tokenizer: ChatTokenizer | None
) -> None:
    try:
        record = dataset.record(row)
    except (RowError, RecordError, JsonFault):
        found.broken += 1
        if found.first_broken is None:
            found.first_broken = row
        return
    try:
        tokens, trained, kept = _lengths(record, tokenizer, found.limit)
    except UserError as error:
        found.refused += 1
        found.refusal = found.refusal or f"line {dataset.source.line(row):,}: {error}"
        return
    found.measured += 1
    found.tokens += tokens
    found.sizes.append(tokens)
    found.trained += trained
    found.over += tokens > found.limit
    found.masked += tokenizer is not None and not trained
    if tokens > found.longest:
        found.longest, found.longest_row = tokens, row
    judged = Measured(record, tokens, trained, kept, found.limit)
    for trainer in TRAINERS:
        if tokenizer is not None or trainer.name == "LLaMA-Factory":
            _count(found.fates.setdefault(trainer.name, []), trainer.judge(judged), row)


def _count(counts: list[FateCount], fate: Fate, row: int) -> None:
    for entry in counts:
        if (entry.kind, entry.why) == (fate.kind, fate.why):
            break
    else:
        entry = FateCount(fate.kind, fate.why)
        counts.append(entry)
    entry.count += 1
    if len(entry.rows) < _EXAMPLES and fate.kind != "trained":
        entry.rows.append(row)


def _lengths(record: Record, tokenizer: ChatTokenizer | None, limit: int) -> tuple[int, int, int]:
    """Tokens, trained tokens, and trained tokens before the limit; 0, 0, 0 without a tokenizer."""
    if tokenizer is None:
        return 0, 0, 0
    if record.shape == "text":
        encoded = tokenizer.encode_text(record.turns[0].content)
    else:
        encoded = tokenizer.encode(messages(record), tools=record.extra.get("tools"))
    return len(encoded.ids), encoded.trained_tokens, sum(encoded.trained[:limit])


# ---------------------------------------------------------------- lines for people


@dataclass(frozen=True)
class Plan:
    """What the run would be; None is unknown. ``held_out`` are rows set apart for testing,
    ``pairs`` tells a preference set."""

    epochs: float = 3.0
    batch: int = 8
    steps: int | None = None
    held_out: int | None = None
    leaks: int | None = None
    pairs: bool = False


def points(
    found: Measure,
    checks: Mapping[str, int],
    severities: Mapping[str, str],
    plan: Plan | None = None,
) -> list[Point]:
    """The page, most pressing first; ``checks`` are finding counts by id."""
    plan = plan or Plan()
    lines = [
        _readable(found),
        _size(found, plan),
        _faults(checks, severities),
        *_template(found),
        *_lengths_told(found),
        _held_out(plan),
        _leaks(plan),
    ]
    order = {"bad": 0, "warn": 1, "unknown": 2, "good": 3}
    return sorted((line for line in lines if line), key=lambda line: order[line.state])


def ready(lines: Sequence[Point]) -> State:
    """The whole page in one word: bad when any line is bad, and so on."""
    states = {line.state for line in lines}
    return next((state for state in ("bad", "warn", "unknown") if state in states), "good")


def _readable(found: Measure) -> Point:
    said = f"{plural(found.kept, 'row')} of {found.rows:,} kept"
    if not found.kept:
        return Point("bad", "rows", "there is no row to train on", "Add rows, or restore some.")
    if found.broken:
        about = "" if found.exact else "≈ "
        first = () if found.first_broken is None else (found.first_broken,)
        return Point(
            "bad",
            "rows",
            f"{said}; {about}{found.broken:,} of them cannot be read as this shape",
            "Mend or drop them: every trainer stops at the first line that is no JSON.",
            first,
        )
    return Point("good", "rows", said)


def _size(found: Measure, plan: Plan) -> Point:
    """The count against the guides' figures, and the next purpose it would serve."""
    unit: Unit = "pairs" if plan.pairs else "rows"
    count = found.kept
    judged = judge_size(count, unit)
    below = next((entry.sentence for entry in judged if entry.verdict == "below"), "")
    reached = enough_for(count, unit)
    if count < FEWEST:
        return Point("bad", "size", f"{plural(count, 'row')}: nothing can be learnt from so few",
                     below)  # fmt: skip
    if reached is None:
        return Point("warn", "size", f"{plural(count, 'row')} are few", below)
    return Point("good", "size", f"{count:,} {unit} are enough for {reached.purpose}", below)


def _faults(checks: Mapping[str, int], severities: Mapping[str, str]) -> Point:
    if not checks and not severities:
        return Point("unknown", "checks", "the set has not been checked", "Run the checks.")
    errors = {name: count for name, count in checks.items() if severities.get(name) == "error"}
    others = sum(checks.values()) - sum(errors.values())
    if errors:
        worst = ", ".join(f"{name} {count:,}" for name, count in list(errors.items())[:4])
        return Point("bad", "checks", f"errors: {worst}", "Go through the findings.")
    if others:
        return Point("warn", "checks", f"no error, {plural(others, 'other finding')}")
    return Point("good", "checks", "nothing found")


def _template(found: Measure) -> list[Point]:
    if found.end_trained is None:
        return [Point("unknown", "tokens", "no model is named, so tokens cannot be counted",
                      "Name a model in a recipe.")]  # fmt: skip
    lines = []
    if not found.end_trained:
        lines.append(
            Point(
                "bad",
                "end of answer",
                "the end-of-turn token is not trained on: answers would never learn to stop",
                "Use a chat template whose generation part holds the end token.",
            )
        )
    if found.refused:
        lines.append(
            Point("bad", "template", f"{found.refused:,} rows are refused: {found.refusal}")
        )
    return lines


def _lengths_told(found: Measure) -> list[Point]:
    if found.end_trained is None or not found.measured:
        return []
    about = "" if found.exact else "≈ "
    share = found.trained / found.tokens if found.tokens else 0.0
    tokens, trained = found.estimate(found.tokens), found.estimate(found.trained)
    told = f"trained on {about}{trained:,} of {about}{tokens:,} tokens ({share:.0%})"
    lines = [Point("good" if trained else "bad", "tokens", told)]
    if found.over:
        lines.append(
            Point(
                "warn",
                "length",
                f"{about}{found.estimate(found.over):,} rows are longer than {found.limit:,} tokens"
                f" (the longest has {found.longest:,})",
                "Raise the limit, or shorten them; see what each trainer does with them below.",
                () if found.longest_row is None else (found.longest_row,),
            )
        )
    if found.masked:
        lines.append(
            Point(
                "bad",
                "masked rows",
                f"{about}{found.estimate(found.masked):,} rows have no token to be trained on",
                "Add an answer, or drop them.",
            )
        )
    return lines


def _held_out(plan: Plan) -> Point | None:
    if plan.held_out is None:
        return None
    if not plan.held_out:
        return Point(
            "bad", "held-out rows", "none: success could not be told from failure",
            "Split the set 80/10/10.",
        )  # fmt: skip
    state: State = "good" if plan.held_out >= 50 else "warn"
    wide = "" if state == "good" else "; below 50, intervals are wide"
    return Point(state, "held-out rows", f"{plan.held_out:,}{wide}")


def _leaks(plan: Plan) -> Point | None:
    if plan.leaks is None:
        return None
    if plan.leaks:
        return Point(
            "bad", "leaks", f"{plan.leaks:,} held-out rows are in the training data",
            "Mend them, or accept them in writing.",
        )  # fmt: skip
    return Point("good", "leaks", "no held-out row is in the training data")


def losses(found: Measure) -> dict[str, Counter[str]]:
    """Measured rows by trainer and fate."""
    told: dict[str, Counter[str]] = {}
    for name, counts in found.fates.items():
        told[name] = Counter()
        for entry in counts:
            told[name][entry.kind] += entry.count
    return told
