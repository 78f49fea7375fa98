"""What a run will take: the panel beside the form, and a page with the changes that make it fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.content import Content

from finetui.display import plural
from finetui.recipe.advice import Advice
from finetui.recipe.facts import Facts, Holder
from finetui.recipe.field import show_number
from finetui.recipe.fitting import name_of
from finetui.recipe.forecast import Part, Plan, Remedy, Verdict, fits, plan, remedies
from finetui.recipe.schema import Recipe, changed, field
from finetui.tui import figures
from finetui.tui.actions import Action, register
from finetui.tui.screens import lines
from finetui.tui.screens.page import Page
from finetui.tui.screens.recipe_view import tally
from finetui.tui.widgets.chart import BrailleChart, Line
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, Tone, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

_NAME = 16
_STYLES = {
    "fits": "$success", "tight": "$warning", "held": "$error", "too big": "$error",
    "unknown": "$muted",
}  # fmt: skip
_SIGNS = {"fits": "✓", "tight": "!", "held": "✗", "too big": "✗", "unknown": "?"}
_TONES: dict[str, Tone] = {"fits": "good", "tight": "warning"}
_MOST_HOLDERS = 3


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a rehearsal measured: bytes at the peak, seconds a step, bytes a checkpoint."""

    recipe: Recipe
    peak: float | None
    step_s: float | None
    checkpoint: float | None

    def line(self, recipe: Recipe) -> Content:
        """The figures; ``recipe`` is the one on screen, which may have changed since."""
        told = f"{figures.size(self.peak)}, {figures.number(self.step_s, 3)} s/step"
        told += f", saves {figures.size(self.checkpoint)}"
        same = not set(changed(recipe, self.recipe)) - {"name", "notes"}
        words = told if same else f"before: {told}"
        return lines.pair("rehearsed", Content.styled(words, "$success" if same else "$muted"))


def forecast_panel(
    plan: Plan,
    facts: Facts,
    fixes: Sequence[Remedy],
    width: int,
    rehearsed: Content | None = None,
) -> Content:
    """Steps, time, memory by component against what is free, disk; the best change first."""
    rows = [
        lines.pair("steps", _steps(plan)),
        lines.pair("time", _time(plan)),
        lines.pair("trained", _count(plan.adapter_parameters, "parameter")),
        *([rehearsed] if rehearsed is not None else []),
        *memory_lines(plan, facts, width),
    ]
    if fixes:
        first = fixes[0]
        told = f"{change_words(first)}: {figures.size(first.peak_bytes_high)}"
        rows.append(Content.assemble(("F ", "bold $key"), (told, _STYLES[first.kind])))
    return lines.join([*rows, _disk(plan, facts)])


def memory_lines(plan: Plan, facts: Facts, width: int) -> list[Content]:
    """The peak as a range on a bar of what is free now, its components, and who holds the rest."""
    low, high = plan.peak_bytes_low, plan.peak_bytes_high
    if low is None or high is None:
        return [lines.pair("memory", Content.styled("unknown until the model is named", "$muted"))]
    verdict = fits(plan, facts)
    style = _STYLES[verdict.kind]
    peak = Content.assemble(
        (_range(low, high, plan.memory_source), "bold"),
        (f"  {_SIGNS[verdict.kind]} {_WORDS[verdict.kind]}", style),
    )
    rows = [lines.pair("memory", peak)]
    if verdict.free:
        rows.append(_free_bar(high, verdict, facts, width))
    biggest = max(part.high for part in plan.memory) if plan.memory else 1.0
    rows += [_part_line(part, biggest, width) for part in plan.memory if part.high > 0]
    rows += holder_lines(facts.gpu_holders)
    return rows


_WORDS = {
    "fits": "fits", "tight": "tight", "held": "not now", "too big": "too big",
    "unknown": "nothing to compare with",
}  # fmt: skip


def _range(low: float, high: float, source: str) -> str:
    about = "" if source == "measured" else "≈ "
    small, large = figures.size(low), figures.size(high)
    return f"{about}{small}" if small == large else f"{about}{small} to {large}"


def _free_bar(high: float, verdict: Verdict, facts: Facts, width: int) -> Content:
    where = "GPU" if facts.gpus else "host"
    total = f" of {figures.size(verdict.total)}" if verdict.total else ""
    text = f" {figures.size(verdict.free)}{total} free, {where}"
    room = max(4, width - len(text))
    bar = lines.bar(high / (verdict.free or 1), room, _STYLES[verdict.kind])
    return Content.assemble(bar, (text, "$muted"))


def _part_line(part: Part, biggest: float, width: int) -> Content:
    """One component; ``≈`` where it comes from the formula and not from a measurement."""
    about = "" if part.source == "measured" else "≈"
    size = f"{about:>1}{figures.size(part.high):>9}"
    room = max(0, min(24, width - _NAME - len(size) - 4))
    filled = round(room * part.high / biggest) if biggest else 0
    return Content.assemble(
        (f"  {part.name[:_NAME]:<{_NAME}}", "$muted"), size, (f" {'▪' * filled}", "$primary")
    )


def holder_lines(holders: Sequence[Holder]) -> list[Content]:
    """Who holds GPU memory now, the biggest first, one a line."""
    known = sorted(holders, key=lambda holder: holder.bytes or 0, reverse=True)
    rows = [
        lines.pair("held by" if not place else "", _holder(holder), 8)
        for place, holder in enumerate(known[:_MOST_HOLDERS])
    ]
    more = len(known) - len(rows)
    return [*rows, lines.pair("", f"and {plural(more, 'other')}", 8)] if more > 0 else rows


def _holder(holder: Holder) -> Content:
    return Content.styled(f"{figures.size(holder.bytes)}  {name_of(holder)}", "$warning")


def _count(value: int | None, noun: str) -> str:
    if value is None:
        return figures.UNKNOWN
    return f"{figures.compact(value)} {noun}{'' if value == 1 else 's'}"


def _steps(plan: Plan) -> Content:
    if plan.steps is None:
        return Content.styled("unknown until the data are named", "$muted")
    parts = [f"{plan.steps_per_epoch:,} an epoch"] if plan.steps_per_epoch else []
    if plan.tokens is not None:
        parts.append(f"{'' if plan.exact else '≈ '}{figures.compact(plan.tokens)} tokens")
    return Content.assemble((f"{plan.steps:,}", "bold"), ("  " + ", ".join(parts), "$muted"))


def _time(plan: Plan) -> Content:
    low, high = plan.seconds_low, plan.seconds_high
    if low is None or high is None:
        return Content.styled("no earlier run here; R rehearses", "$muted")
    small, large = figures.duration(low), figures.duration(high)
    told = f"≈ {small}" if small == large else f"≈ {small} to {large}"
    each = f"  {show_number(round(plan.step_seconds, 2))} s a step" if plan.step_seconds else ""
    return Content.assemble((told, ""), (each, "$muted"))


def _disk(plan: Plan, facts: Facts) -> Content:
    free = "" if facts.disk_free is None else f"  {figures.size(facts.disk_free)} free"
    short = facts.disk_free is not None and (plan.disk_bytes or 0) > facts.disk_free
    words = Content.assemble(
        (figures.size(plan.disk_bytes), "$error" if short else ""), (free, "$muted")
    )
    return lines.pair("disk", words)


def forecast_line(plan: Plan, facts: Facts, advice: Sequence[Advice]) -> Content:
    """The forecast in one line, for a small screen."""
    low, high = plan.peak_bytes_low, plan.peak_bytes_high
    parts = [Content.styled(figures.UNKNOWN if plan.steps is None else f"{plan.steps:,} steps",
                            "bold")]  # fmt: skip
    if low is not None and high is not None:
        verdict = fits(plan, facts)
        style = _STYLES[verdict.kind]
        peak = f"{_range(low, high, plan.memory_source)} {_SIGNS[verdict.kind]}"
        parts.append(Content.styled(peak, style))
    if plan.seconds_high is not None:
        parts.append(Content.styled(f"≈ {figures.duration(plan.seconds_high)}", "$muted"))
    return Content("  ").join([*parts, tally(advice)])


def change_words(remedy: Remedy) -> str:
    """``batch size 2, accumulation 4``."""
    return ", ".join(f"{field(id).label} {field(id).show(value)}" for id, value in remedy.changes)


def _peak(remedy: Remedy) -> str:
    return _range(remedy.peak_bytes_low or 0, remedy.peak_bytes_high or 0, "")


def feed_rates(chart: BrailleChart, plan: Plan) -> None:
    """Draw the learning-rate curve of a plan."""
    rates = plan.learning_rates
    last = max(1, len(rates) - 1)
    steps = [index * ((plan.steps or 1) - 1) / last for index in range(len(rates))]
    chart.clear()
    chart.feed("last step", steps, rates)
    chart.set_end(float(plan.steps) if plan.steps else None)


def rate_chart(ascii: bool, id: str) -> BrailleChart:
    """An empty chart for ``feed_rates``."""
    return BrailleChart(
        "learning rate",
        [Line("last step", "$series-3")],
        ascii=ascii,
        smoothed=False,
        low=0.0,
        form=partial(figures.number, digits=2),
        id=id,
    )


class ForecastPage(Page[Recipe | None]):
    """Memory, time and disk in full, and the changes that make it fit; dismisses with a recipe."""

    PARTS = ("fixes", "curve")
    KEYS = "1 to 9 make this change · tab learning rate · esc close"
    BINDINGS: ClassVar = register(
        *(
            Action(f"fit.take-{n}", str(n), f"change {n}", f"Make change number {n} of the list.",
                   call=f"take({n})")
            for n in range(1, 10)
        )
    )  # fmt: skip
    DEFAULT_CSS = """
    ForecastPage #figures { height: auto; margin-bottom: 1; }
    ForecastPage #fixes { height: 1fr; min-height: 4; }
    ForecastPage #curve { height: 9; }
    ForecastPage.-nothing #curve { height: 1fr; }
    ForecastPage.-nothing #fixes { display: none; }
    ForecastPage.-short.-curve #figures { display: none; }
    """

    def __init__(
        self, recipe: Recipe, facts: Facts, ascii: bool, rehearsed: Content | None = None
    ) -> None:
        super().__init__(f"forecast · {recipe.name or 'this recipe'}")
        self.recipe, self.facts, self.ascii, self.rehearsed = recipe, facts, ascii, rehearsed
        self.plan = plan(recipe, facts)
        self.fixes = remedies(recipe, facts)

    def body(self) -> ComposeResult:
        yield TextPanel(wrap=True, id="figures")
        columns = [
            Column("", 1, "right"),
            Column("change", weight=2, low=16, tone=True),
            Column("peak", 20, "right"),
            Column("what it costs", weight=3, low=12),
        ]
        yield VirtualTable(columns, id="fixes", classes="panel")
        yield rate_chart(self.ascii, "curve")

    def on_mount(self) -> None:
        if not self.fixes:
            self.add_class("-nothing")
            entitle(self.query_one(".page"), subtitle="tab learning rate · esc close")
        entitle(self.query_one("#fixes"), _fixes_title(self.fixes))
        self.query_one("#figures", TextPanel).show(self._told())
        self.table("fixes").show(ListSource([self._row(n) for n in range(len(self.fixes))]))
        feed_rates(self.query_one("#curve", BrailleChart), self.plan)

    def _told(self) -> Content:
        verdict = fits(self.plan, self.facts)
        width = min(100, self.app.size.width - 6)
        told = [
            lines.pair("steps", _steps(self.plan)),
            lines.pair("time", _time(self.plan)),
            lines.pair("warm-up", _warm_up(self.plan)),
            _disk(self.plan, self.facts),
            *([self.rehearsed] if self.rehearsed is not None else []),
            *memory_lines(self.plan, self.facts, width),
        ]
        if verdict.sentence:
            told.append(Content.styled(verdict.sentence, _STYLES[verdict.kind]))
        if self.plan.notes:
            told.append(Content.styled("; ".join(self.plan.notes), "$muted"))
        return lines.join(told)

    def _row(self, index: int) -> TableRow:
        fix = self.fixes[index]
        number = str(index + 1) if index < 9 else ""
        return TableRow(
            (number, change_words(fix), _peak(fix), fix.sentence),
            _TONES.get(fix.kind, ""),
        )

    def action_part(self) -> None:
        """Figures and changes, or the curve: a small screen has room for one of them."""
        self.turn_to("fixes" if self.has_class("-curve") else "curve")

    def turn_to(self, name: str) -> None:
        self.set_class(name == "curve", "-curve")
        super().turn_to(name)

    def action_take(self, number: int) -> None:
        if number <= len(self.fixes):
            self.dismiss(self.fixes[number - 1].recipe)

    @on(VirtualTable.RowSelected, "#fixes")
    def _chosen(self, message: VirtualTable.RowSelected) -> None:
        self.action_take(message.row + 1)


def _fixes_title(fixes: Sequence[Remedy]) -> str:
    if any(fix.kind == "fits" for fix in fixes):
        return "changes that make it fit, the mildest first"
    return "nothing makes it fit; these come nearest"


def _warm_up(plan: Plan) -> str:
    looks = "" if plan.evaluations is None else f", {plural(plan.evaluations, 'evaluation')}"
    return _count(plan.warmup_steps, "step") + looks
