"""Does a run fit into the memory there is, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

from finetui.display import clean, size
from finetui.recipe.facts import Facts, Holder
from finetui.recipe.field import Value
from finetui.recipe.memory import largest_batch, peak, precision
from finetui.recipe.schema import Recipe, replace

if TYPE_CHECKING:
    from finetui.recipe.forecast import Plan

Kind = Literal["fits", "tight", "held", "too big", "unknown"]
Cost = Literal["nothing", "time", "precision", "rows", "method"]

_RANK: dict[Cost, int] = {"nothing": 0, "time": 1, "precision": 2, "rows": 3, "method": 4}
_MOST = 6  # remedies worth a person's time
_SHORTEST = 128  # tokens; nobody trains on shorter rows to save memory


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the peak fits: "held" would fit if others let go, "too big" never on this device."""

    kind: Kind
    sentence: str
    free: int | None = None
    total: int | None = None
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True, slots=True)
class Remedy:
    """Changes that lower the peak, as one key press; ``cost`` says what is given up for it."""

    changes: tuple[tuple[str, Value], ...]
    recipe: Recipe
    peak_bytes_low: int
    peak_bytes_high: int
    kind: Kind
    cost: Cost
    sentence: str


def fits(plan: Plan, facts: Facts) -> Verdict:
    """Compare the forecast peak with what is free on the device that the run would take."""
    low, high = plan.peak_bytes_low, plan.peak_bytes_high
    free, total = memory_there(facts)
    if low is None or high is None:
        return Verdict("unknown", "Unknown until the model is named.", free, total)
    kind = _kind(low, high, facts)
    need = f"{size(low)} to {size(high)}"
    where = "GPU memory" if facts.gpus else "memory"
    words = {
        "unknown": f"Needs {need}; what is free here is not known.",
        "fits": f"Fits: {need} of {size(free or 0)} free {where}.",
        "tight": f"Tight: {need}, and {size(free or 0)} of {where} is free.",
        "held": f"Does not fit now: needs {need}, {size(free or 0)} is free{_held_by(facts)}.",
        "too big": f"Does not fit: needs {need}, there is {size(total or free or 0)} in all.",
    }
    return Verdict(kind, words[kind], free, total, facts.gpu_holders if facts.gpus else ())


def memory_there(facts: Facts) -> tuple[int | None, int | None]:
    """(free, all) bytes of the device that a run takes; main memory where there is no GPU."""
    if facts.gpus:
        return facts.gpu_free, facts.gpu_total
    return (facts.host_free, facts.host_total) if facts.gpus == 0 else (None, None)


def _kind(low: int, high: int, facts: Facts) -> Kind:
    free, total = memory_there(facts)
    there = free if free is not None else total
    if there is None:
        return "unknown"
    if high <= there:
        return "fits"
    if low <= there:
        return "tight"
    return "held" if total is not None and low <= total else "too big"


def _held_by(facts: Facts) -> str:
    if not facts.gpu_holders:
        return ""
    told = [f"{name_of(holder)} holds {size(holder.bytes)}" for holder in facts.gpu_holders[:2]]
    more = len(facts.gpu_holders) - len(told)
    return ": " + ", ".join(told) + (f" and {more} more" if more else "")


def name_of(holder: Holder) -> str:
    """A holder as a person knows it: ``anna's python (412)``."""
    if not holder.pid:
        return "driver or another container"
    who = f"{clean(holder.user)}'s " if holder.user else ""
    return f"{who}{clean(holder.name) or 'process'} ({holder.pid})"


def remedies(recipe: Recipe, facts: Facts) -> list[Remedy]:
    """What would make a run fit that does not, cheapest first; empty when it fits.

    Single changes first; where none is enough two together, then as many as it takes. What does
    not fit even then is given too, smallest peak first, so that the way is seen.
    """
    now = peak(recipe, facts)
    if now is None or _kind(now.low, now.high, facts) in ("fits", "unknown"):
        return []
    steps = [step for step in _steps(recipe, facts) if step.peak_bytes_high < now.high]
    steps.sort(key=_rank)
    enough = [step for step in steps if step.kind == "fits"]
    if not enough:
        pairs = (_both(one, other, facts) for one, other in combinations(steps, 2))
        enough = sorted((pair for pair in pairs if pair and pair.kind == "fits"), key=_rank)
    if not enough and (many := _together(steps, facts)):
        enough = [many]
    return (enough or sorted(steps, key=lambda step: step.peak_bytes_high))[:_MOST]


def _rank(remedy: Remedy) -> tuple[int, int]:
    """By what is given up, then by the number of fields that change."""
    return _RANK[remedy.cost], len(remedy.changes)


def _together(steps: list[Remedy], facts: Facts) -> Remedy | None:
    """The cheapest steps one after another until it fits; None when all of them are not enough.

    Of steps on the same field the one that saves most is taken.
    """
    taken: Remedy | None = None
    for step in sorted(steps, key=lambda step: (_RANK[step.cost], step.peak_bytes_high)):
        both = _both(taken, step, facts) if taken else step
        if both is None or (taken and both.peak_bytes_high >= taken.peak_bytes_high):
            continue
        taken = both
        if taken.kind == "fits":
            return taken
    return None


def _steps(recipe: Recipe, facts: Facts) -> Iterator[Remedy]:
    for changes, cost, sentence in _changes(recipe, facts):
        yield _remedy(recipe, facts, changes, cost, sentence)


_Change = tuple[tuple[tuple[str, Value], ...], Cost, str]


def _changes(recipe: Recipe, facts: Facts) -> Iterator[_Change]:
    yield from _cheap(recipe, facts)
    yield from _smaller_batches(recipe)
    yield from _dear(recipe, facts)


def _cheap(recipe: Recipe, facts: Facts) -> Iterator[_Change]:
    """Changes after which the same is learned."""
    training = recipe.training
    if recipe.model.attention == "eager":
        yield (("model.attention", "auto"),), "nothing", "no tokens x tokens matrix is kept"
    if training.checkpointing == "off":
        text = "activations are computed again: about a third slower"
        yield (("training.checkpointing", "on"),), "time", text
    if training.checkpointing != "offload" and facts.gpus:
        text = "layer inputs wait on the host: slower, and takes host memory"
        yield (("training.checkpointing", "offload"),), "time", text
    if not training.optimizer.endswith("8bit"):
        name = "paged_adamw_8bit" if training.optimizer.startswith("paged") else "adamw_8bit"
        yield (("training.optimizer", name),), "precision", "optimiser states in 8 bits"
    if precision(recipe, facts) == "fp32" and recipe.method.kind != "full":
        yield (("model.precision", "bf16"),), "precision", "weights and arithmetic in 16 bits"


def _smaller_batches(recipe: Recipe) -> Iterator[_Change]:
    """Fewer rows at once and more of them added up: the same update."""
    training = recipe.training
    rows, times = training.batch_size, training.accumulation
    while rows % 2 == 0:
        rows, times = rows // 2, times * 2
        changes = (("training.batch_size", rows), ("training.accumulation", times))
        yield changes, "time", f"{rows} at once, {times} batches an update: the same update, slower"


def _dear(recipe: Recipe, facts: Facts) -> Iterator[_Change]:
    """Changes after which something else is learned."""
    half = recipe.data.max_length // 2
    if half >= _SHORTEST and largest_batch(recipe, facts).length > half:
        yield (("data.max_length", half),), "rows", _lost_rows(recipe, facts, half)
    if recipe.method.kind == "lora":
        yield (("method.kind", "qlora"),), "precision", "frozen weights in 4 bits: slower"
    if recipe.method.kind == "full":
        text = "an adapter learns instead of all weights: needs about ten times the learning rate"
        yield (("method.kind", "lora"),), "method", text
        yield (("method.kind", "qlora"),), "method", f"{text}, frozen weights in 4 bits"


def _lost_rows(recipe: Recipe, facts: Facts, limit: int) -> str:
    if recipe.data.packing and facts.longest is not None and facts.longest <= limit:
        return "shorter packed rows; no row is lost"
    lost = sum(length > limit for length in facts.lengths)
    share = (
        f"about {lost / len(facts.lengths):.0%} of rows are" if facts.lengths else "longer rows are"
    )
    return f"{share} {'left out' if recipe.data.overlong == 'drop' else 'cut'}"


def _both(one: Remedy, other: Remedy, facts: Facts) -> Remedy | None:
    """Two remedies together; None when they change the same field."""
    if {id for id, _ in one.changes} & {id for id, _ in other.changes}:
        return None
    cost = max(one.cost, other.cost, key=_RANK.__getitem__)
    sentence = f"{one.sentence}; {other.sentence}"
    return _remedy(one.recipe, facts, other.changes, cost, sentence, before=one.changes)


def _remedy(
    recipe: Recipe,
    facts: Facts,
    changes: tuple[tuple[str, Value], ...],
    cost: Cost,
    sentence: str,
    before: tuple[tuple[str, Value], ...] = (),
) -> Remedy:
    for id, value in changes:
        recipe = replace(recipe, id, value)
    new = peak(recipe, facts)
    assert new is not None
    kind = _kind(new.low, new.high, facts)
    return Remedy((*before, *changes), recipe, new.low, new.high, kind, cost, sentence)
