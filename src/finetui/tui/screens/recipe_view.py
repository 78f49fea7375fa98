"""What the Recipe screen says: lines of the form, help, forecast, and the page before a launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from textual.content import Content

from finetui.display import clean, plural
from finetui.recipe.advice import Advice
from finetui.recipe.facts import Facts
from finetui.recipe.field import Field
from finetui.recipe.forecast import Plan
from finetui.recipe.schema import FIELDS, GROUPS, Recipe, changed, get
from finetui.tui import figures
from finetui.tui.screens import lines
from finetui.tui.widgets.form import FormField, Kind, Severity

UNDO_LIMIT = 500
_TITLES = {group.id: group.title for group in GROUPS}
_HEADS = {group.table: group.title for group in GROUPS}


@dataclass
class Edits:
    """One recipe under edit, with undo and redo; recipes are plain values, so a step is a value."""

    value: Recipe
    saved: Recipe | None = None
    _past: list[Recipe] = field(default_factory=list)
    _future: list[Recipe] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether the file on disk differs from what is shown."""
        return self.value != self.saved

    def change(self, recipe: Recipe) -> bool:
        """Take a new value; False if it is the same as before."""
        if recipe == self.value:
            return False
        self._past = [*self._past[-UNDO_LIMIT:], self.value]
        self._future.clear()
        self.value = recipe
        return True

    def undo(self) -> bool:
        """Go one value back; False at the start."""
        return self._step(self._past, self._future)

    def redo(self) -> bool:
        """Go forward again; False at the end."""
        return self._step(self._future, self._past)

    def _step(self, source: list[Recipe], target: list[Recipe]) -> bool:
        if not source:
            return False
        target.append(self.value)
        self.value = source.pop()
        return True


# -- the form ------------------------------------------------------------------------------------


def form_fields(recipe: Recipe, advice: Sequence[Advice]) -> list[FormField]:
    """Every field of the schema as a line: value, mark if it is not the default, worst remark."""
    worst = worst_remarks(advice)
    touched = set(changed(recipe))
    return [form_field(found, recipe, found.id in touched, worst.get(found.id)) for found in FIELDS]


def form_field(found: Field, recipe: Recipe, touched: bool, remark: Advice | None) -> FormField:
    """One line of the form; without a remark the note is the field's unit."""
    value = get(recipe, found.id)
    kind: Kind = {"bool": "flag", "choice": "choice"}.get(found.kind, "text")  # type: ignore[assignment]
    open_choices = tuple(
        choice for choice in found.choices if choice not in found.reserved or choice == value
    )
    shown = str(value).lower() if isinstance(value, bool) else found.show(value)
    severity: Severity = remark.severity if remark else ""
    return FormField(
        id=found.id,
        group=_TITLES[found.group],
        label=found.label,
        value=shown.replace("\n", " "),
        kind=kind,
        choices=open_choices,
        changed=touched,
        severity=severity,
        note=remark.message if remark else found.unit,
    )


def worst_remarks(advice: Sequence[Advice]) -> dict[str, Advice]:
    """The first remark on each field; advice comes worst first."""
    worst: dict[str, Advice] = {}
    for remark in advice:
        worst.setdefault(remark.field, remark)
    return worst


def tally(advice: Sequence[Advice]) -> Content:
    """How many remarks of each kind, in one line."""
    counts = {
        kind: sum(a.severity == kind for a in advice) for kind in ("error", "warning", "advice")
    }
    if not any(counts.values()):
        return Content.styled("✓ nothing to remark", "$success")
    parts = []
    for kind, noun in (("error", "error"), ("warning", "warning"), ("advice", "hint")):
        if counts[kind]:
            mark, style = lines.SEVERITIES[kind]
            parts.append(Content.styled(f"{mark} {plural(counts[kind], noun)}", style))
    return Content("   ").join(parts)


def help_panel(found: Field, advice: Sequence[Advice]) -> Content:
    """Everything about the field under the cursor; remarks first, because they are the news."""
    parts: list[Content] = []
    for remark in advice:
        if remark.field == found.id:
            mark, style = lines.SEVERITIES[remark.severity]
            parts.append(Content.assemble((f"{mark} {remark.message}", style)))
            parts.append(Content.styled(f"{remark.reason} ({remark.source})", "$muted"))
            parts.append(Content(""))
    parts.append(Content(found.help))
    parts.append(Content.styled(found.why, "$muted"))
    parts.append(Content(""))
    parts.append(lines.pair("takes", _takes(found), 8))
    parts.append(lines.pair("default", found.show(found.default) or "empty", 8))
    parts.append(lines.pair("source", found.source, 8))
    return lines.join(parts)


def _takes(found: Field) -> str:
    words = found.expects
    if found.reserved:
        words += f" ({', '.join(found.reserved)}: not yet)"
    return words + (f", {found.unit}" if found.unit else "")


# -- the forecast --------------------------------------------------------------------------------


def forecast_panel(plan: Plan, facts: Facts, width: int) -> Content:
    """Steps, tokens, adapter, memory and disk against what is there."""
    about = "" if plan.exact else "≈ "
    tokens = figures.UNKNOWN if plan.tokens is None else about + figures.compact(plan.tokens)
    return lines.join(
        [
            lines.pair("steps", _steps(plan)),
            lines.pair("tokens", tokens),
            lines.pair("warm-up", _count(plan.warmup_steps, "step")),
            lines.pair("evaluations", figures.count(plan.evaluations)),
            lines.pair("adapter", _count(plan.adapter_parameters, "parameter")),
            *_memory(plan, facts, width),
            _disk(plan, facts),
        ]
    )


def _count(value: int | None, noun: str) -> str:
    if value is None:
        return figures.UNKNOWN
    return f"{figures.compact(value)} {noun}{'' if value == 1 else 's'}"


def _steps(plan: Plan) -> Content:
    if plan.steps is None:
        return Content.styled("unknown until the data are named", "$muted")
    each = f"  {plan.steps_per_epoch:,} an epoch" if plan.steps_per_epoch else ""
    return Content.assemble((f"{plan.steps:,}", "bold"), (each, "$muted"))


def _memory(plan: Plan, facts: Facts, width: int) -> list[Content]:
    """The predicted peak as a range, on a bar of what is free now."""
    low, high = plan.peak_bytes_low, plan.peak_bytes_high
    if low is None or high is None:
        return [lines.pair("memory", Content.styled("unknown until the model is named", "$muted"))]
    rows = [lines.pair("memory", f"≈ {figures.size(low)} to {figures.size(high)}")]
    free, where = (facts.gpu_free, "GPU") if facts.gpus else (facts.host_free, "host")
    if not free:
        return rows
    text = f" {figures.size(free)} free on the {where}"
    room = max(4, width - len(text))
    style = "$error" if low > free else "$warning" if high > free else "$success"
    return [*rows, Content.assemble(lines.bar(high / free, room, style), (text, "$muted"))]


def _disk(plan: Plan, facts: Facts) -> Content:
    free = "" if facts.disk_free is None else f"  {figures.size(facts.disk_free)} free"
    short = facts.disk_free is not None and (plan.disk_bytes or 0) > facts.disk_free
    value = Content.assemble(
        (figures.size(plan.disk_bytes), "$error" if short else ""), (free, "$muted")
    )
    return lines.pair("disk", value)


def forecast_line(plan: Plan, advice: Sequence[Advice]) -> Content:
    """The forecast in one line, for a small screen."""
    low, high = plan.peak_bytes_low, plan.peak_bytes_high
    memory = "" if low is None else f"   {figures.size(low)} to {figures.size(high)}"
    steps = figures.UNKNOWN if plan.steps is None else f"{plan.steps:,} steps"
    return Content.assemble((steps, "bold"), (memory, "$muted"), "   ", tally(advice))


def remark_lines(advice: Sequence[Advice]) -> Content:
    """Every remark with the field it is about."""
    rows: list[Content] = []
    for remark in advice:
        mark, style = lines.SEVERITIES[remark.severity]
        rows.append(
            Content.assemble(
                (f"{mark} ", style), (f"{_label(remark.field)}: ", "bold"), remark.message
            )
        )
    return lines.join(rows) if rows else tally(advice)


def _label(id: str) -> str:
    return next((found.label for found in FIELDS if found.id == id), id)


# -- the launch ----------------------------------------------------------------------------------


def launch_page(recipe: Recipe, plan: Plan, advice: Sequence[Advice], output: str) -> str:
    """What a person reads before a run starts: plain lines."""
    rows = [
        ("model", recipe.model.path),
        ("data", _data_words(recipe, plan)),
        ("held out", recipe.data.eval or "nothing: no scores before and after"),
        ("method", _method_words(recipe)),
        ("steps", _launch_steps(recipe, plan)),
        ("memory", _range(plan)),
        ("output", output),
    ]
    told = [f"{label:<9} {clean(value)}" for label, value in rows]
    warnings = [remark for remark in advice if remark.severity == "warning"]
    if warnings:
        told += ["", f"{plural(len(warnings), 'warning')}, recorded with the run:"]
        told += [f"! {_label(remark.field)}: {clean(remark.message)}" for remark in warnings]
    told += ["", "It runs by itself: close this screen or the terminal as you like."]
    return "\n".join(told)


def _data_words(recipe: Recipe, plan: Plan) -> str:
    rows = (
        "" if plan.rows_per_epoch is None else f" · {plural(plan.rows_per_epoch, 'row')} an epoch"
    )
    mixed = (
        f" with {recipe.data.general_share:.0%} general rows" if recipe.data.general_share else ""
    )
    return ", ".join(recipe.data.train) + rows + mixed


def _method_words(recipe: Recipe) -> str:
    method = recipe.method
    targets = ", ".join(method.target_modules)
    return f"{method.kind}, rank {method.rank}, alpha {method.alpha}, on {targets}"


def _launch_steps(recipe: Recipe, plan: Plan) -> str:
    training = recipe.training
    steps = figures.UNKNOWN if plan.steps is None else f"{plan.steps:,}"
    rows = training.batch_size * training.accumulation
    rate = figures.number(training.learning_rate)
    return f"{steps} of {plural(rows, 'row')}, learning rate {rate} ({training.schedule})"


def _range(plan: Plan) -> str:
    if plan.peak_bytes_low is None:
        return "unknown"
    return f"≈ {figures.size(plan.peak_bytes_low)} to {figures.size(plan.peak_bytes_high)}"
