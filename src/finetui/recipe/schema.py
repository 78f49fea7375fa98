"""The recipe: every setting of one run, declared once.

This is the single source for the TOML file, the form, the command line, the checks and the docs.
A new setting is one new entry in one table below: its type, its bounds, its words, its default.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from finetui.recipe.field import Field, FieldError, Info, Value, fields_of, quote

__all__ = [
    "FIELDS",
    "GROUPS",
    "Checkpoints",
    "Data",
    "Evaluation",
    "Field",
    "FieldError",
    "Group",
    "Logging",
    "Method",
    "Model",
    "Recipe",
    "Training",
    "Value",
    "changed",
    "defaults",
    "field",
    "get",
    "nearest",
    "replace",
    "with_value",
]

# Where the figures are from. A field or rule cites one of these, or says "measured".
LORA = "LoRA paper (Hu et al., 2021)"
QLORA = "QLoRA paper (Dettmers et al., 2023)"
REGRET = "LoRA Without Regret (Thinking Machines, 2025)"
PEFT = "peft docs, LoraConfig"
TRAINER = "transformers docs, TrainingArguments"
ADAM = "Adam paper (Kingma & Ba, 2015)"
GUIDES = "fine-tuning guides' usual range"
MEASURED = "measured on finetui's demo model"
HOUSE = "finetui"


class Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of the file. Values are immutable; ``with_value`` makes a changed copy."""


class Model(Table, frozen=True):
    path: Annotated[
        str,
        Info(
            "base model",
            help="Folder of the model to tune, or a Hugging Face id such as org/name.",
            why="The adapter fits this model only; an instruct model already knows its chat "
            "template, a base model may not.",
            source=HOUSE,
            kind="path",
        ),
    ] = ""
    revision: Annotated[
        str,
        Meta(max_length=100),
        Info(
            "revision",
            help="Branch, tag or commit of a model from the hub; empty for a local folder.",
            why="Without a commit, the same recipe may train another model next month.",
            source="transformers docs, from_pretrained",
        ),
    ] = ""
    trust_remote_code: Annotated[
        bool,
        Info(
            "run model's code",
            help="Let the model folder's own Python code run (trust_remote_code).",
            why="It runs with your rights: leave it off unless you have read the code.",
            source="transformers docs, from_pretrained",
        ),
    ] = False
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Info(
            "precision",
            help="Number format of the frozen weights and of the arithmetic.",
            why="auto takes bf16 on a GPU that has it, fp16 on an older one, fp32 on a CPU. fp16 "
            "overflows where bf16 does not; fp32 doubles the memory.",
            source=TRAINER,
        ),
    ] = "auto"


class Data(Table, frozen=True):
    train: Annotated[
        tuple[str, ...],
        Info(
            "training data",
            help="Files to learn from, relative to the workspace.",
            why="A few hundred clean, varied rows beat many noisy ones; what is wrong here is "
            "learned.",
            source="LIMA (Zhou et al., 2023)",
            kind="paths",
        ),
    ] = ()
    eval: Annotated[
        str,
        Info(
            "held-out data",
            help="File that is never trained on: eval loss, and scores before and after.",
            why="Without it, memorising looks like learning. Usual: 10 to 15 % of the rows.",
            source=GUIDES,
            kind="path",
        ),
    ] = ""
    general: Annotated[
        str,
        Info(
            "general data",
            help="File of everyday rows mixed into training so that old skills stay.",
            why="Tuned on one task alone, the demo model lost all its other skills; with a 25 % "
            "mix it kept about 95 % of them.",
            source=MEASURED,
            kind="path",
        ),
    ] = ""
    general_share: Annotated[
        float,
        Meta(ge=0.0, le=4.0),
        Info(
            "general share",
            help="General rows mixed in, as a share of the training rows (0.25 or 25%); at most "
            "what the file holds.",
            why="Too low and old skills are forgotten; too high and the new task is diluted.",
            source=MEASURED,
            unit="share of rows",
        ),
    ] = 0.0
    max_length: Annotated[
        int,
        Meta(ge=16, le=1_048_576),
        Info(
            "max length",
            help="Longest row in tokens, template included; longer rows are dropped or cut.",
            why="Too low loses rows or the ends of answers; too high costs memory, as activations "
            "grow with it.",
            source=TRAINER,
            unit="tokens",
        ),
    ] = 1024
    packing: Annotated[
        bool,
        Info(
            "packing",
            help="Fill each sequence with several short rows that cannot see each other.",
            why="Faster where rows are short against max length, but there are fewer, larger "
            "steps, so an epoch has fewer updates.",
            source=HOUSE,
        ),
    ] = False
    loss_on: Annotated[
        Literal["assistant", "last", "all"],
        Info(
            "loss on",
            help="What is learned: every assistant turn, only the last, or all tokens.",
            why="all also teaches the model to write the user's turns; last ignores the earlier "
            "answers of a conversation.",
            source="TRL docs, assistant_only_loss",
        ),
    ] = "assistant"
    overlong: Annotated[
        Literal["drop", "truncate"],
        Info(
            "overlong rows",
            help="What happens to a row longer than max length: left out, or cut at the end.",
            why="A cut answer teaches the model to stop in mid-sentence; both are counted and "
            "shown.",
            source=HOUSE,
        ),
    ] = "drop"


class Method(Table, frozen=True):
    kind: Annotated[
        Literal["lora", "qlora", "full", "dpo"],
        Info(
            "method",
            help="How the model is tuned. This version runs lora.",
            why="LoRA trains a small adapter beside frozen weights: far less memory than full "
            "tuning, and equal results on small and medium data sets.",
            source=REGRET,
            reserved=("qlora", "full", "dpo"),
        ),
    ] = "lora"
    rank: Annotated[
        int,
        Meta(ge=1, le=1024),
        Info(
            "rank",
            help="Width of the adapter matrices (r). Usual: 8 to 64.",
            why="Too low cannot hold what the data teach; too high costs memory and learns small "
            "sets by heart.",
            source=LORA,
        ),
    ] = 16
    alpha: Annotated[
        int,
        Meta(ge=1, le=4096),
        Info(
            "alpha",
            help="Strength of the adapter: its output is scaled by alpha / rank. Usual: 2 x rank.",
            why="Works like a second learning rate: change one of the two, not both.",
            source=LORA,
        ),
    ] = 32
    dropout: Annotated[
        float,
        Meta(ge=0.0, le=0.9),
        Info(
            "dropout",
            help="Share of the adapter's inputs zeroed at each step, against learning by heart.",
            why="0 is fine for most runs and fastest; 0.05 to 0.1 helps with few rows; more slows "
            "learning.",
            source=QLORA,
            unit="share",
        ),
    ] = 0.0
    target_modules: Annotated[
        tuple[str, ...],
        Info(
            "target modules",
            help="Layers that get an adapter: all-linear, or names such as q_proj, v_proj.",
            why="Attention alone learns less than attention and MLP together, also at an equal "
            "number of parameters.",
            source=REGRET,
        ),
    ] = ("all-linear",)


class Training(Table, frozen=True):
    learning_rate: Annotated[
        float,
        Meta(ge=1e-7, le=1.0),
        Info(
            "learning rate",
            help="Size of each update at its peak. Usual for LoRA: 1e-4 to 3e-4; models under "
            "50 M parameters take up to 5e-3.",
            why="Too high: spikes, broken answers, forgotten skills. Too low: the loss hardly "
            "moves. LoRA needs about ten times the rate of full tuning.",
            source=REGRET,
        ),
    ] = 2e-4
    schedule: Annotated[
        Literal["cosine", "linear", "constant"],
        Info(
            "schedule",
            help="How the learning rate goes down after the warm-up.",
            why="cosine and linear end at zero, so the last steps settle; constant is easier to "
            "continue later but ends noisier.",
            source=TRAINER,
        ),
    ] = "cosine"
    warmup: Annotated[
        float,
        Meta(ge=0.0, le=100_000.0),
        Info(
            "warm-up",
            help="Rise to the full rate: below 1 a share of all steps (0.06 or 6%), from 1 on a "
            "number of steps.",
            why="Too short may spike at the start, while Adam's averages are still poor; too long "
            "wastes the run.",
            source=TRAINER,
            unit="share or steps",
        ),
    ] = 0.06
    epochs: Annotated[
        float,
        Meta(ge=0.01, le=1000.0),
        Info(
            "epochs",
            help="Passes over the data. Usual: 1 to 5, fewer for larger sets.",
            why="Too few underfits; too many learns the rows by heart: eval loss rises while "
            "training loss falls.",
            source=GUIDES,
            unit="epochs",
        ),
    ] = 3.0
    max_steps: Annotated[
        int,
        Meta(ge=0, le=10_000_000),
        Info(
            "max steps",
            help="Number of updates; 0 goes by epochs, anything else wins over epochs.",
            why="Handy for a trial run of a few steps.",
            source=TRAINER,
            unit="steps",
        ),
    ] = 0
    batch_size: Annotated[
        int,
        Meta(ge=1, le=4096),
        Info(
            "batch size",
            help="Rows put through the model at once.",
            why="Too high runs out of memory; too low leaves the GPU idle. Rows an update = batch "
            "size x accumulation.",
            source=TRAINER,
            unit="rows",
        ),
    ] = 8
    accumulation: Annotated[
        int,
        Meta(ge=1, le=4096),
        Info(
            "accumulation",
            help="Batches added up before one update: a larger batch without more memory.",
            why="Costs time, not memory. LoRA tolerates very large batches less well than full "
            "tuning.",
            source=REGRET,
            unit="batches",
        ),
    ] = 1
    weight_decay: Annotated[
        float,
        Meta(ge=0.0, le=10.0),
        Info(
            "weight decay",
            help="Pull of the trained weights towards zero at each update (AdamW).",
            why="0 to 0.1 is usual; more works against what is being learned.",
            source="AdamW paper (Loshchilov & Hutter, 2019)",
        ),
    ] = 0.0
    clip: Annotated[
        float,
        Meta(ge=0.0, le=1000.0),
        Info(
            "gradient clip",
            help="Largest gradient norm of one update; 0 turns clipping off.",
            why="Without it one bad batch can wreck the run; far below the usual norm it slows "
            "every step.",
            source=TRAINER,
        ),
    ] = 1.0
    beta2: Annotated[
        float,
        Meta(ge=0.5, le=0.99999),
        Info(
            "Adam beta2",
            help="Memory of Adam's squared gradients; 0.99 looks back about 100 steps.",
            why="0.999 (Adam's default) needs about 1,000 steps to settle: long against a short "
            "run.",
            source=ADAM,
        ),
    ] = 0.99
    seed: Annotated[
        int,
        Meta(ge=0, le=4_294_967_295),
        Info(
            "seed",
            help="Number that fixes the order of the rows and the start of the adapter.",
            why="A difference between two runs smaller than between two seeds is no difference.",
            source=TRAINER,
        ),
    ] = 0
    threads: Annotated[
        int,
        Meta(ge=0, le=1024),
        Info(
            "CPU threads",
            help="Threads for arithmetic on the CPU; 0 leaves one core to the screen.",
            why="More threads than cores make the run slower and the screen stick.",
            source=MEASURED,
            unit="threads",
        ),
    ] = 0


class Evaluation(Table, frozen=True):
    every: Annotated[
        int,
        Meta(ge=0, le=10_000_000),
        Info(
            "evaluate every",
            help="Steps between two looks at the held-out loss; 0 looks only at the end.",
            why="Too rare misses the point where overfitting starts; too often spends the run on "
            "evaluation.",
            source=TRAINER,
            unit="steps",
        ),
    ] = 50
    generate: Annotated[
        int,
        Meta(ge=0, le=100_000),
        Info(
            "rows generated",
            help="Held-out rows answered and scored before and after training; 0 for none.",
            why="Loss does not show format and correctness. 150 rows tell 90 % from 97 %, 20 do "
            "not.",
            source="binomial interval",
            unit="rows",
        ),
    ] = 150
    max_new_tokens: Annotated[
        int,
        Meta(ge=1, le=131_072),
        Info(
            "answer length",
            help="Longest answer that is generated for scoring.",
            why="Too low cuts right answers and scores them wrong; too high costs time when the "
            "model does not stop.",
            source="transformers docs, GenerationConfig",
            unit="tokens",
        ),
    ] = 64
    early_stopping: Annotated[
        int,
        Meta(ge=0, le=1000),
        Info(
            "early stopping",
            help="Stop after this many evaluations without a better eval loss; 0 for never.",
            why="1 stops at the first bump; 3 waits. Needs held-out data and evaluation.",
            source="transformers docs, EarlyStoppingCallback",
            unit="evaluations",
        ),
    ] = 0
    keep_best: Annotated[
        bool,
        Info(
            "keep the best",
            help="Keep the adapter of the lowest eval loss, not that of the last step.",
            why="Off, an overfitted end is what you get.",
            source=TRAINER,
        ),
    ] = True
    suite: Annotated[
        str,
        Info(
            "general check",
            help="File of general rows scored before and after, to see what was forgotten.",
            why="The held-out rows of the task cannot show that other skills were lost.",
            source=MEASURED,
            kind="path",
        ),
    ] = ""


class Checkpoints(Table, frozen=True):
    every: Annotated[
        int,
        Meta(ge=0, le=10_000_000),
        Info(
            "save every",
            help="Steps between two checkpoints that a run can resume from; 0 saves only the end.",
            why="What was learned since the last one is lost when the machine goes down.",
            source=TRAINER,
            unit="steps",
        ),
    ] = 0
    keep: Annotated[
        int,
        Meta(ge=2, le=1000),
        Info(
            "checkpoints kept",
            help="Newest checkpoints that stay on disk; the best adapter is kept besides.",
            why="Each holds the adapter and the optimiser's state, three times the adapter. Two "
            "at least, so that a broken newest one is no loss.",
            source=TRAINER,
        ),
    ] = 2


class Logging(Table, frozen=True):
    every: Annotated[
        int,
        Meta(ge=1, le=100_000),
        Info(
            "log every",
            help="Steps between two points of the loss curve.",
            why="1 shows every spike; large values hide them.",
            source=TRAINER,
            unit="steps",
        ),
    ] = 5


class Recipe(Table, frozen=True):
    """One run's settings; every table and value has a default, so an empty file is a recipe."""

    name: Annotated[
        str,
        Meta(max_length=80),
        Info(
            "name",
            help="Short name of the run, shown in lists and in the job's folder name.",
            why="Say what differs from the last run.",
            source=HOUSE,
        ),
    ] = ""
    notes: Annotated[
        str,
        Meta(max_length=10_000),
        Info(
            "notes",
            help="Anything to remember: the question of this run, what you expect.",
            why="In a month the file is all there is.",
            source=HOUSE,
        ),
    ] = ""
    model: Model = Model()
    data: Data = Data()
    method: Method = Method()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    checkpoints: Checkpoints = Checkpoints()
    logging: Logging = Logging()


@dataclass(frozen=True, slots=True)
class Group:
    """A part of the form; ``table`` is its TOML table, empty for the top of the file."""

    id: str
    title: str
    table: str
    help: str


GROUPS: tuple[Group, ...] = (
    Group("recipe", "Recipe", "", "What this run is called and why it exists."),
    Group("model", "Model", "model", "The model that is tuned."),
    Group("data", "Data", "data", "What it learns from, and what it is tested on."),
    Group("method", "Method", "method", "How it is tuned: LoRA and its size."),
    Group("training", "Training", "training", "The optimiser: rate, length, batch."),
    Group("evaluation", "Evaluation", "evaluation", "What is measured while and after training."),
    Group("checkpoints", "Checkpoints", "checkpoints", "What is saved on the way."),
    Group("logging", "Logging", "logging", "What is recorded on the way."),
)

_TABLES: dict[str, type[Table]] = {
    "": Recipe,
    "model": Model,
    "data": Data,
    "method": Method,
    "training": Training,
    "evaluation": Evaluation,
    "checkpoints": Checkpoints,
    "logging": Logging,
}

FIELDS: tuple[Field, ...] = tuple(
    found
    for group in GROUPS
    for found in fields_of(_TABLES[group.table], group.id, f"{group.table}." if group.table else "")
)

_BY_ID = {found.id: found for found in FIELDS}


def defaults() -> Recipe:
    """The recipe of an empty file."""
    return Recipe()


def field(name: str) -> Field:
    """The field of an id, or of a key that only one table has (``learning_rate``).

    Raises FieldError that names the nearest field.
    """
    if name in _BY_ID:
        return _BY_ID[name]
    named = [found for found in FIELDS if found.key == name]
    if len(named) == 1:
        return named[0]
    near = [found.id for found in named] or nearest(name)
    raise FieldError(
        f"the recipe has no field {quote(name)}.",
        fix=f"Did you mean {' or '.join(near)}?" if near else "",
    )


def nearest(name: str) -> list[str]:
    """The id of the field whose id or key looks most like ``name``, if any does."""
    table, _, key = name.rpartition(".")
    near = difflib.get_close_matches(name, _BY_ID, 1, 0.75)
    if near:
        return near
    keys = difflib.get_close_matches(key, [found.key for found in FIELDS], 1, 0.6)
    ids = [found.id for found in FIELDS if found.key in keys]
    return [id for id in ids if id.startswith(table + ".")] or ids


def get(recipe: Recipe, id: str) -> Value:
    """The value of a field; raises FieldError for an unknown id."""
    found = field(id)
    table, _, key = found.id.rpartition(".")
    value: Value = getattr(getattr(recipe, table) if table else recipe, key)
    return value


def replace(recipe: Recipe, id: str, value: object) -> Recipe:
    """A copy with one value changed; raises FieldError when the field cannot take it."""
    found = field(id)
    taken = found.accept(value)
    table, _, key = found.id.rpartition(".")
    if not table:
        return structs.replace(recipe, **{key: taken})
    changed_table = structs.replace(getattr(recipe, table), **{key: taken})
    return structs.replace(recipe, **{table: changed_table})


def with_value(recipe: Recipe, id: str, text: str) -> Recipe:
    """A copy with one value set to what a person typed; raises FieldError with one sentence.

    ``2e-4`` and ``0.0002`` for numbers, ``25%`` for shares, yes/no/on/off, names by commas.
    """
    return replace(recipe, id, field(id).parse(text))


def changed(recipe: Recipe, other: Recipe | None = None) -> tuple[str, ...]:
    """The ids of the fields that differ from ``other``, by default from the defaults."""
    base = defaults() if other is None else other
    return tuple(found.id for found in FIELDS if get(recipe, found.id) != get(base, found.id))
