"""What is measured, saved and recorded on the way."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from finetui.recipe.field import Info
from finetui.recipe.sources import HOUSE, MEASURED, TRAINER
from finetui.recipe.table import Table


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
    samples: Annotated[
        int,
        Meta(ge=0, le=64),
        Info(
            "samples",
            help="Held-out prompts answered at each evaluation, to read while it trains; 0 for "
            "none.",
            why="Loss does not show an answer that never ends. Each costs a generation.",
            source=HOUSE,
            unit="prompts",
        ),
    ] = 2
    probe: Annotated[
        int,
        Meta(ge=0, le=10_000),
        Info(
            "general probe",
            help="Rows of the general check (else of the general data) whose loss is drawn beside "
            "the eval loss; 0 for none.",
            why="A rising probe while the eval loss falls is forgetting, seen while it can still "
            "be stopped.",
            source=HOUSE,
            unit="rows",
        ),
    ] = 32


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
    ] = 500
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
    row_losses: Annotated[
        bool,
        Info(
            "row losses",
            help="Keep the loss of each row at each step, so that a spike can be traced to its "
            "rows.",
            why="Some bytes a row and step; off, a spike only names its batch.",
            source=HOUSE,
        ),
    ] = True
    report_to: Annotated[
        tuple[str, ...],
        Info(
            "report to",
            help="Also log to tensorboard, wandb, trackio or mlflow, by names; empty for none.",
            why="finetui needs none of them; wandb, trackio and mlflow may send your figures "
            "elsewhere.",
            source=TRAINER,
        ),
    ] = ()
