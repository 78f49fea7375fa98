"""What it learns from, and what it is tested on."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from finetui.recipe.field import Info
from finetui.recipe.sources import GUIDES, HOUSE, MEASURED, TRAINER
from finetui.recipe.table import Table


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
    truncation_side: Annotated[
        Literal["end", "start"],
        Info(
            "cut side",
            help="Where a row that is too long is cut: its end, or its start.",
            why="Cutting the end loses the answer, cutting the start loses the system turn.",
            source=HOUSE,
        ),
    ] = "end"
    order: Annotated[
        Literal["random", "length", "file"],
        Info(
            "order",
            help="random, rows of like length together, or as the files have them (a curriculum).",
            why="length wastes less padding and makes batches less mixed; file learns the last "
            "rows best.",
            source=TRAINER,
        ),
    ] = "random"
