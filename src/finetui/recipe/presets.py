"""Presets: good first values by model size, method, hardware and goal.

Those for a machine are not stored: the widest batch is looked for that the forecast fits into its
memory, then recomputed activations, then 8-bit optimiser states.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from finetui.display import size
from finetui.errors import UserError
from finetui.recipe import schema
from finetui.recipe.facts import Facts, Linear, merge
from finetui.recipe.forecast import plan
from finetui.recipe.rates import usual_rates
from finetui.recipe.schema import Recipe, Value, defaults
from finetui.recipe.sources import DPO, EIGHT_BIT, GUIDES, HOUSE, KTO, MEASURED, ORPO, REGRET

GIB = 2**30

Values = tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True)
class Preset:
    """Values for some fields. ``id`` is a word for the command line (``lora-8b-24g``, ``dpo``).

    ``fits`` is False where the forecast says that the machine is too small for it;
    ``recommended`` is True for the one that suits the model and the machine best.
    """

    id: str
    title: str
    help: str
    source: str
    values: Values
    fits: bool = True
    recommended: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """A class of models: up to so many parameters, with the shape of a typical one."""

    id: str
    title: str
    parameters: float
    typical: Facts


@dataclass(frozen=True, slots=True)
class Hardware:
    """What it runs on; ``memory`` in bytes of one GPU, 0 for the CPU alone."""

    id: str
    title: str
    memory: int


def _shape(
    hidden: int, layers: int, heads: int, kv: int, inner: int, vocab: int, tied: bool
) -> Facts:
    """A Llama-shaped model with grouped-query attention; ``kv`` counts key-value heads."""
    narrow = hidden // heads * kv
    linears = (
        *(Linear(name, hidden, hidden, layers) for name in ("q_proj", "o_proj")),
        *(Linear(name, hidden, narrow, layers) for name in ("k_proj", "v_proj")),
        *(Linear(name, hidden, inner, layers) for name in ("gate_proj", "up_proj")),
        Linear("down_proj", inner, hidden, layers),
    )
    weights = sum(linear.inputs * linear.outputs * linear.count for linear in linears)
    return Facts(
        model_parameters=weights + vocab * hidden * (1 if tied else 2),
        model_hidden=hidden,
        model_layers=layers,
        model_heads=heads,
        model_inner=inner,
        model_context=8192,
        vocab=vocab,
        tied=tied,
        linears=linears,
    )


# Shapes from the config.json of SmolLM2 135M, Llama 3.2 1B and 3B, Llama 3.1 8B and 70B, and
# Qwen 2.5 14B and 32B; the smallest is the demo model's.
SIZES: tuple[Size, ...] = (
    Size("tiny", "up to 50 M parameters", 5e7, _shape(256, 4, 4, 2, 704, 1952, True)),
    Size("small", "50 M to 500 M", 5e8, _shape(576, 30, 9, 3, 1536, 49_152, True)),
    Size("1b", "about 1 B", 2e9, _shape(2048, 16, 32, 8, 8192, 128_256, True)),
    Size("3b", "about 3 B", 5e9, _shape(3072, 28, 24, 8, 8192, 128_256, True)),
    Size("8b", "7 B to 9 B", 1e10, _shape(4096, 32, 32, 8, 14_336, 128_256, False)),
    Size("14b", "about 14 B", 2e10, _shape(5120, 48, 40, 8, 13_824, 152_064, False)),
    Size("32b", "about 32 B", 5e10, _shape(5120, 64, 40, 8, 27_648, 152_064, False)),
    Size("70b", "about 70 B", 1e12, _shape(8192, 80, 64, 8, 28_672, 128_256, False)),
)

HARDWARE: tuple[Hardware, ...] = (
    Hardware("cpu", "no GPU", 0),
    Hardware("8g", "a GPU with 8 GB", 8 * GIB),
    Hardware("12g", "a GPU with 12 GB", 12 * GIB),
    Hardware("16g", "a GPU with 16 GB", 16 * GIB),
    Hardware("24g", "a GPU with 24 GB", 24 * GIB),
    Hardware("48g", "a GPU with 48 GB", 48 * GIB),
    Hardware("80g", "a GPU with 80 GB", 80 * GIB),
    Hardware("141g", "a GPU with 141 GB", 140 * GIB),
)

METHODS = ("lora", "qlora", "full")

_ROWS_AN_UPDATE = 16
_CAREFUL = 0.92  # of the memory: other processes and fragments take some
_SLOW_ON_CPU = 500_000_000  # parameters, as in the rule cpu-only
# From fast to thrifty: (batch size, activations).
_LADDER = (
    (16, "off"), (8, "off"), (4, "off"), (8, "on"), (4, "on"), (2, "on"), (1, "on"), (1, "offload"),
)  # fmt: skip
_OPTIMISERS = {"full": ("adamw", "adamw_8bit", "paged_adamw_8bit")}


def offered(recipe: Recipe, facts: Facts) -> list[Preset]:
    """The presets for this recipe's model and this machine, the recommended one first.

    Then the methods that fit less well, the goals, and the same model on other machines.
    """
    model, here = _size_of(facts), _hardware_of(facts)
    own = [_for_machine(kind, model, here, recipe, facts) for kind in METHODS]
    best = next((found for found in own if found.fits), None)
    own = [replace(found, recommended=found is best) for found in own]
    own.sort(key=lambda found: (not found.recommended, not found.fits))
    goals = [make(recipe, facts) for make in _GOALS.values()]
    return [*own, *goals, *_elsewhere(recipe, facts, model, here)]


def preset(id: str) -> Preset:
    """The preset of an id, for a typical model of its size; raises UserError with the nearest."""
    word = id.strip().lower()
    if word in _GOALS:
        return _GOALS[word](defaults(), Facts())
    for kind, model, machine in _combinations():
        if word == _id(kind, model, machine):
            return _for_machine(kind, model, machine, defaults(), Facts())
    known = list(known_ids())
    near = difflib.get_close_matches(word, known, 1, 0.5)
    raise UserError(
        f"no preset is called {id!r}.",
        fix=f"Did you mean {near[0]}?" if near else "See: finetui recipe presets",
    )


def known_ids() -> Iterator[str]:
    """Every id that ``preset`` knows: the goals, then method-size-hardware."""
    yield from _GOALS
    yield from (_id(*combination) for combination in _combinations())


def applied(recipe: Recipe, chosen: Preset) -> Recipe:
    """The recipe with the preset's values; name, notes, model and files stay as they are."""
    for id, value in chosen.values:
        recipe = schema.replace(recipe, id, value)
    return recipe


# --- by model, method and machine ----------------------------------------------------------------


def _combinations() -> Iterator[tuple[str, Size, Hardware]]:
    return ((kind, model, machine) for kind in METHODS for model in SIZES for machine in HARDWARE)


def _id(kind: str, model: Size, machine: Hardware) -> str:
    return f"{kind}-{model.id}-{machine.id}"


def _size_of(facts: Facts) -> Size:
    """The class of a model; an unknown one is taken for 8 B, the most usual."""
    parameters = facts.model_parameters or 8e9
    return next(found for found in SIZES if parameters <= found.parameters)


def _hardware_of(facts: Facts) -> Hardware:
    """The machine's class by its largest GPU, rounded to the nearest; unknown is 24 GB."""
    if facts.gpus == 0:
        return HARDWARE[0]
    total = facts.gpu_total or 24 * GIB
    return min(HARDWARE[1:], key=lambda found: abs(found.memory - total))


def _elsewhere(recipe: Recipe, facts: Facts, model: Size, here: Hardware) -> Iterator[Preset]:
    """The model on other machines, where it fits: for a run that is prepared elsewhere."""
    for machine in HARDWARE:
        for kind in METHODS:
            if machine is not here:
                known = replace(facts, gpus=None, gpu_total=None, gpu_free=None, host_free=None)
                found = _for_machine(kind, model, machine, recipe, known)
                if found.fits:
                    yield found


def _for_machine(kind: str, model: Size, machine: Hardware, recipe: Recipe, facts: Facts) -> Preset:
    """A method on a machine, fitted to its memory by the forecast."""
    about = _known(model, machine, facts)
    memory = (about.host_free if machine.memory == 0 else about.gpu_total) or 0
    base = _with(recipe, _base(kind, recipe, about))
    values, peak = _fitted(base, about, int(memory * _CAREFUL))
    fits = memory == 0 or (peak is not None and peak <= memory * _CAREFUL)
    fits = fits and not (machine.memory == 0 and _too_slow(kind, about))
    return Preset(
        _id(kind, model, machine),
        f"{_METHOD_TITLES[kind]}, {model.title}, {machine.title}",
        _help(kind, dict(values), peak, fits, machine),
        f"{REGRET}; {EIGHT_BIT}" if kind == "full" else f"{REGRET}; {GUIDES}",
        values,
        fits,
    )


_METHOD_TITLES = {"lora": "LoRA", "qlora": "QLoRA", "full": "full tuning"}


def _too_slow(kind: str, facts: Facts) -> bool:
    """On a CPU: models that take days, and 4 bits, which save memory and cost time there."""
    return kind == "qlora" or (facts.model_parameters or 0) >= _SLOW_ON_CPU


def _known(model: Size, machine: Hardware, facts: Facts) -> Facts:
    """What is known, with a typical model and the machine's memory where nothing is."""
    on_cpu = machine.memory == 0
    nominal = Facts(
        gpus=0 if on_cpu else 1,
        gpu_total=None if on_cpu else machine.memory,
        gpu_bf16=None if on_cpu else True,
    )
    known = facts if facts.model_parameters and facts.linears else merge(model.typical, facts)
    return merge(nominal, known)


def _base(kind: str, recipe: Recipe, facts: Facts) -> Values:
    """What does not depend on the machine."""
    objective = recipe.method.objective
    rates = usual_rates(kind, objective, facts.model_parameters)
    common: Values = (
        ("method.kind", kind),
        ("training.learning_rate", rates.start),
        ("training.schedule", "cosine"),
        ("training.clip", 1.0),
        ("model.precision", "auto"),
    )
    if kind == "full":
        return (*common, ("training.warmup", 0.03), ("training.weight_decay", 0.01))
    adapter: Values = (
        ("method.rank", 16),
        ("method.alpha", 32),
        ("method.dropout", 0.0),
        ("method.target_modules", ("all-linear",)),
        ("training.warmup", 0.06),
        ("training.weight_decay", 0.0),
    )
    return (*common, *adapter)


def _with(recipe: Recipe, values: Values) -> tuple[Recipe, Values]:
    for id, value in values:
        recipe = schema.replace(recipe, id, value)
    return recipe, values


def _fitted(base: tuple[Recipe, Values], facts: Facts, memory: int) -> tuple[Values, int | None]:
    """The fastest rung of the ladder that fits, with its forecast peak; else the thriftiest."""
    recipe, values = base
    tried: tuple[Values, int | None] = (values, None)
    for rung in _rungs(recipe.method.kind, facts.gpus == 0):
        changed, more = _with(recipe, rung)
        peak = plan(changed, facts).peak_bytes_high
        tried = ((*values, *more), peak)
        if peak is None or memory == 0 or peak <= memory:
            break
    return tried


def _rungs(kind: str, on_cpu: bool) -> Iterator[Values]:
    for optimizer in ("adamw",) if on_cpu else _OPTIMISERS.get(kind, ("adamw",)):
        for batch, kept in _LADDER:
            if not (on_cpu and (kept == "offload" or batch > 8)):
                yield (
                    ("training.optimizer", optimizer),
                    ("training.batch_size", batch),
                    ("training.accumulation", _ROWS_AN_UPDATE // batch),
                    ("training.checkpointing", kept),
                )


def _help(
    kind: str, values: dict[str, Value], peak: int | None, fits: bool, machine: Hardware
) -> str:
    batch, sums = values["training.batch_size"], values["training.accumulation"]
    how = f"{batch} row{'s' * (batch != 1)} at once"
    if sums != 1:
        how += f", {sums} times an update"
    if values["training.checkpointing"] != "off":
        how += ", activations computed again"
    if values["training.optimizer"] != "adamw":
        how += ", 8-bit optimiser"
    need = f"; ≈ {size(peak)} at its peak" if peak else ""
    if fits:
        return f"{how}{need}."
    if machine.memory == 0:
        slow = "4 bits cost time on a CPU" if kind == "qlora" else "takes days or memory it lacks"
        return f"Not for this machine: {slow}."
    return f"Does not fit: needs ≈ {size(peak)}." if peak else "Does not fit."


# --- by goal -------------------------------------------------------------------------------------


def _trial(recipe: Recipe, facts: Facts) -> Preset:
    return Preset(
        "trial",
        "a trial of 30 steps",
        "Minutes: shows that data, template, memory and scores work before the long run.",
        HOUSE,
        (
            ("training.max_steps", 30),
            ("training.warmup", 3.0),
            ("evaluation.every", 10),
            ("evaluation.generate", 20),
            ("logging.every", 1),
            ("checkpoints.every", 0),
        ),
    )


def _keep_skills(recipe: Recipe, facts: Facts) -> Preset:
    rates = usual_rates(recipe.method.kind, recipe.method.objective, facts.model_parameters)
    general: Values = (("data.general_share", 0.25),) if recipe.data.general else ()
    return Preset(
        "keep-skills",
        "against forgetting",
        "Half the usual rate, two passes, a quarter of general rows where a general file is named.",
        MEASURED,
        (
            ("training.learning_rate", rates.start / 2),
            ("training.epochs", 2.0),
            ("evaluation.probe", 64),
            ("guards.overfitting", "stop"),
            *general,
        ),
    )


def _few_rows(recipe: Recipe, facts: Facts) -> Preset:
    return Preset(
        "few-rows",
        "a few hundred rows",
        "More passes in smaller steps, some dropout, and a stop when the held-out loss turns.",
        GUIDES,
        (
            ("training.epochs", 5.0),
            ("training.batch_size", 4),
            ("training.accumulation", 1),
            ("method.dropout", 0.05),
            ("evaluation.every", 20),
            *((("evaluation.early_stopping", 3),) if recipe.data.eval else ()),
            ("guards.overfitting", "stop"),
        ),
    )


def _pretrain(recipe: Recipe, facts: Facts) -> Preset:
    rates = usual_rates(recipe.method.kind, "pretrain", facts.model_parameters)
    wide: Values = ()
    if recipe.method.kind != "full":
        wide = (("method.rank", 64), ("method.alpha", 64))
    return Preset(
        "pretrain",
        "continued pretraining",
        "Plain text, packed, every token trained; a wide adapter, as new knowledge needs room.",
        REGRET,
        (
            ("method.objective", "pretrain"),
            *wide,
            ("data.packing", True),
            ("data.loss_on", "all"),
            ("training.learning_rate", rates.start),
            ("training.epochs", 1.0),
            ("training.weight_decay", 0.01),
            ("evaluation.generate", 0),
        ),
    )


def _preference(id: str, title: str, help: str, source: str, more: Values) -> _Goal:
    def make(recipe: Recipe, facts: Facts) -> Preset:
        rates = usual_rates(recipe.method.kind, id, facts.model_parameters)
        values: Values = (
            ("method.objective", id),
            ("preference.beta", 0.1),
            ("training.learning_rate", rates.start),
            ("training.warmup", 0.1),
            ("training.epochs", 1.0),
            ("data.packing", False),
            *more,
        )
        return Preset(id, title, help, source, values)

    return make


_Goal = Callable[[Recipe, Facts], Preset]

_GOALS: dict[str, _Goal] = {
    "trial": _trial,
    "keep-skills": _keep_skills,
    "few-rows": _few_rows,
    "pretrain": _pretrain,
    "dpo": _preference(
        "dpo",
        "preference pairs (DPO)",
        "One pass at a tenth of the usual rate; starts best from an adapter trained on examples.",
        DPO,
        (("preference.loss", "sigmoid"),),
    ),
    "orpo": _preference(
        "orpo",
        "preference pairs (ORPO)",
        "Learns the chosen answers and the preference at once: from a model not tuned before.",
        ORPO,
        (),
    ),
    "kto": _preference(
        "kto",
        "good and bad answers (KTO)",
        "Single answers with a verdict, no pairs; at least 8 rows a batch, mixed.",
        KTO,
        (("training.batch_size", 8), ("training.accumulation", 2)),
    ),
}
