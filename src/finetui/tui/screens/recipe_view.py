"""What the Recipe screen says: lines of the form, help, forecast, and the page before a launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as slot

from textual.content import Content

from finetui.display import clean, plural
from finetui.recipe.advice import Advice
from finetui.recipe.field import Field
from finetui.recipe.forecast import Plan
from finetui.recipe.resumption import update_rows
from finetui.recipe.schema import FIELDS, GROUPS, Recipe, changed, field, get
from finetui.settings import Cluster
from finetui.tui import figures
from finetui.tui.screens import lines
from finetui.tui.widgets.form import FormField, Kind, Severity

UNDO_LIMIT = 500
_TITLES = {group.id: group.title for group in GROUPS}


@dataclass
class Edits:
    """One recipe under edit, with undo and redo; recipes are plain values, so a step is a value.

    ``saved`` is what the file holds, ``blank`` what a new recipe began with: nobody misses it.
    """

    value: Recipe
    saved: Recipe | None = None
    blank: Recipe | None = None
    _past: list[Recipe] = slot(default_factory=list)
    _future: list[Recipe] = slot(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether the file on disk differs from what is shown."""
        return self.value != self.saved

    @property
    def missed(self) -> bool:
        """Whether something would be lost that a person chose."""
        return self.changed and self.value != self.blank

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

ESSENTIALS = "Essentials"
FIRST = (
    "model.path", "data.train", "data.eval", "method.objective", "method.kind", "method.rank",
    "training.learning_rate", "training.epochs", "training.batch_size", "data.max_length",
)  # fmt: skip
"""The fields that a newcomer sees; the groups below hold the rest, folded."""


def form_fields(
    recipe: Recipe, advice: Sequence[Advice], idle: Mapping[str, str]
) -> list[FormField]:
    """Every field of the schema as a line, the essential ones first.

    ``idle`` names the fields without effect under this recipe, each with the reason.
    """
    worst = worst_remarks(advice)
    touched = set(changed(recipe))
    first = [field(id) for id in FIRST]
    rest = [found for found in FIELDS if found.id not in FIRST]
    return [
        form_field(found, recipe, found.id in touched, worst.get(found.id), idle.get(found.id, ""))
        for found in [*first, *rest]
    ]


def form_field(
    found: Field, recipe: Recipe, touched: bool, remark: Advice | None, idle: str
) -> FormField:
    """One line of the form; without a remark the note is the default or the unit."""
    value = get(recipe, found.id)
    open_choices = tuple(
        choice for choice in found.choices if choice not in found.reserved or choice == value
    )
    severity: Severity = remark.severity if remark else ""
    return FormField(
        id=found.id,
        group=_group_of(found),
        label=found.label,
        value=str(value).lower() if isinstance(value, bool) else found.show(value),
        kind=_kind(found),
        choices=open_choices,
        changed=touched,
        severity=severity,
        note=remark.message if remark else _note(found, touched),
        idle=idle,
        words=f"{found.help} {found.why} {' '.join(found.choices)}",
    )


def _group_of(found: Field) -> str:
    return ESSENTIALS if found.id in FIRST else _TITLES[found.group]


def _kind(found: Field) -> Kind:
    if found.key == "notes":
        return "lines"
    kinds: dict[str, Kind] = {"bool": "flag", "choice": "choice"}
    return kinds.get(found.kind, "text")


def _note(found: Field, touched: bool) -> str:
    default = found.show(found.default)
    return f"default {default}" if touched and default else found.unit


def fitted(text: Content, width: int, least: int, most: int, more: str) -> Content:
    """A text wrapped to ``least`` to ``most`` lines; where that cuts it, the end says ``more``.

    With as many lines as before, a panel repaints only those that differ, without a layout.
    """
    rows = text.wrap(max(1, width)) if text.plain else []
    if len(rows) > most > 0:
        rows = [*rows[: most - 1], Content.styled(more, "$muted")]
    return padded(lines.join(rows), least)


def padded(text: Content, least: int) -> Content:
    """A text with blank lines at its end, so that it has at least so many lines."""
    missing = least - (text.plain.count("\n") + 1)
    return lines.join([text, *[Content(" ")] * missing])  # Content.split drops an empty last line


def swept_field(current: FormField | None) -> str:
    """The field that a sweep begins with: the one at the cursor where it makes sense."""
    takes = ("int", "float", "choice", "bool")
    at_cursor = current is not None and field(current.id).kind in takes
    return current.id if current is not None and at_cursor else "training.learning_rate"


def folded_groups() -> set[str]:
    """What is folded when a recipe opens: all but the essentials."""
    return {group.title for group in GROUPS}


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


def help_panel(
    found: Field, advice: Sequence[Advice], idle: str = "", dense: bool = False
) -> Content:
    """Everything about the field under the cursor; remarks first, because they are the news.

    ``dense`` is for a panel of few lines: what the field takes and its source share one line.
    """
    gap = [] if dense else [Content("")]
    parts: list[Content] = []
    for remark in advice:
        if remark.field == found.id:
            mark, style = lines.SEVERITIES[remark.severity]
            parts.append(Content.assemble((f"{mark} {remark.message}", style)))
            parts.append(Content.styled(f"{remark.reason} ({remark.source})", "$muted"))
            parts += gap
    if idle:
        parts += [Content.styled(f"· no effect now: {idle}", "$muted"), *gap]
    parts += [Content(found.help), Content.styled(found.why, "$muted"), *gap]
    facts = [
        ("takes", _takes(found)),
        ("default", found.show(found.default) or "empty"),
        ("source", found.source),
    ]
    if dense:
        parts.append(Content.styled("  ·  ".join(f"{a} {b}" for a, b in facts), "$muted"))
    else:
        parts += [lines.pair(label, words, 8) for label, words in facts]
    return lines.join(parts)


def group_panel(title: str, recipe: Recipe) -> Content:
    """What a group is about, and which of its fields differ from the default."""
    about = next((group.help for group in GROUPS if group.title == title), "")
    parts = [Content(about or "What decides most about a run; the groups below hold the rest.")]
    for found in map(field, changed(recipe)):
        if _group_of(found) == title:
            now, default = found.show(get(recipe, found.id)), found.show(found.default) or "empty"
            parts.append(
                Content.assemble(("• ", "$accent"), f"{found.label} {clean(now)}",
                                 (f"   default {default}", "$muted"))
            )  # fmt: skip
    return lines.join(parts)


def _takes(found: Field) -> str:
    words = found.expects
    if found.reserved:
        words += f" ({', '.join(found.reserved)}: not yet)"
    return words + (f", {found.unit}" if found.unit else "")


# -- remarks -------------------------------------------------------------------------------------


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


REHEARSAL = """\
The longest batch goes through the model, one update, one evaluation batch,
and a checkpoint is saved and loaded again. Nothing of it is kept but the figures:
peak memory, seconds a step, bytes a checkpoint.

It takes as long as loading the model and some steps."""


def launch_page(recipe: Recipe, plan: Plan, advice: Sequence[Advice], where: str = "") -> str:
    """What a person reads before a run starts: plain lines. ``where`` is a cluster, "" for here."""
    rows = [
        ("model", recipe.model.path),
        ("data", _data_words(recipe, plan)),
        *([("general", _general_words(recipe))] if recipe.data.general_share else []),
        ("held out", recipe.data.eval or "nothing: no scores before and after"),
        ("method", _method_words(recipe)),
        ("steps", _launch_steps(recipe, plan)),
        ("memory", _range(plan)),
        ("time", _time_words(plan)),
        ("output", f"jobs/…-train-{recipe.name or 'run'}/{_result(recipe)}"),
        *([("where", where)] if where else []),
    ]
    told = [f"{label:<9} {clean(value)}" for label, value in rows]
    warnings = [remark for remark in advice if remark.severity == "warning"]
    if warnings:
        told += ["", f"{plural(len(warnings), 'warning')}, recorded with the run:"]
        told += [f"! {_label(remark.field)}: {clean(remark.message)}" for remark in warnings]
    told += ["", "It runs by itself: close screen and terminal as you like."]
    return "\n".join(told)


def place_words(name: str, cluster: Cluster | None) -> str:
    """A place to run, ``slurm`` or ``slurm:NAME``, and what is asked of it."""
    if cluster is None:
        return f"{name}: with Slurm's own defaults"
    limit = f"{cluster.time} min" if cluster.time.isdecimal() else cluster.time
    asked = [
        f"partition {cluster.partition}" if cluster.partition else "",
        f"account {cluster.account}" if cluster.account else "",
        f"up to {plural(cluster.gpus, 'GPU')}" if cluster.gpus else "CPUs",
        f"on up to {cluster.nodes} machines" if cluster.nodes > 1 else "",
        f"at most {limit}" if limit else "",
    ]
    return clean(f"{name}: {', '.join(one for one in asked if one)}")


def _data_words(recipe: Recipe, plan: Plan) -> str:
    rows = (
        "" if plan.rows_per_epoch is None else f" · {plural(plan.rows_per_epoch, 'row')} an epoch"
    )
    return ", ".join(recipe.data.train) + rows


def _general_words(recipe: Recipe) -> str:
    return f"{figures.percent(recipe.data.general_share)} more rows from {recipe.data.general}"


def _method_words(recipe: Recipe) -> str:
    method = recipe.method
    goal = "" if method.objective == "sft" else f"{method.objective} by "
    if method.kind == "full":
        return f"{goal}full: all weights"
    targets = ", ".join(method.target_modules)
    return f"{goal}{method.kind}, rank {method.rank}, alpha {method.alpha}, on {targets}"


def _result(recipe: Recipe) -> str:
    return "model" if recipe.method.kind == "full" else "adapter"


def _time_words(plan: Plan) -> str:
    if plan.seconds_high is None:
        return "unknown: no earlier run on this machine"
    return f"≈ {figures.duration(plan.seconds_low)} to {figures.duration(plan.seconds_high)}"


def _launch_steps(recipe: Recipe, plan: Plan) -> str:
    training = recipe.training
    steps = figures.UNKNOWN if plan.steps is None else f"{plan.steps:,}"
    rows = update_rows(recipe)
    rate = figures.number(training.learning_rate)
    return f"{steps} of {plural(rows, 'row')}, learning rate {rate} ({training.schedule})"


def _range(plan: Plan) -> str:
    if plan.peak_bytes_low is None:
        return "unknown"
    return f"≈ {figures.size(plan.peak_bytes_low)} to {figures.size(plan.peak_bytes_high)}"
