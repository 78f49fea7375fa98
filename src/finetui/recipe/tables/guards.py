"""What is watched for while a run goes on, and what happens then."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from finetui.recipe.field import Info
from finetui.recipe.sources import HOUSE
from finetui.recipe.table import Table


class Guards(Table, frozen=True):
    nonfinite: Annotated[
        Literal["stop", "skip"],
        Info(
            "not a number",
            help="A loss or gradient that is no number: stop the run, or skip the update (20 in a "
            "row stop it).",
            why="The update is never made: one would destroy the weights.",
            source=HOUSE,
        ),
    ] = "stop"
    zero: Annotated[
        Literal["stop", "warn"],
        Info(
            "zero loss",
            help="A loss of exactly 0, or a batch in which nothing is trained.",
            why="It looks like a perfect run and learns nothing.",
            source=HOUSE,
        ),
    ] = "stop"
    spike: Annotated[
        Literal["off", "warn", "skip", "lower", "stop"],
        Info(
            "spike",
            help="A step whose loss is far above the last ones: say so, skip its update, halve the "
            "rate, or stop and keep the best.",
            why="Often a handful of bad rows: the warning leads to them.",
            source=HOUSE,
        ),
    ] = "warn"
    spike_size: Annotated[
        float,
        Meta(ge=2.0, le=100.0),
        Info(
            "spike size",
            help="How far above its recent middle the loss must be, in robust standard deviations.",
            why="Under 5 every noisy run warns; over 15 real spikes pass.",
            source=HOUSE,
        ),
    ] = 8.0
    divergence: Annotated[
        Literal["off", "warn", "lower", "stop"],
        Info(
            "divergence",
            help="Smoothed loss well above its best for many steps.",
            why="It rarely comes back by itself: the rate is too high.",
            source=HOUSE,
        ),
    ] = "warn"
    overfitting: Annotated[
        Literal["off", "warn", "stop"],
        Info(
            "overfitting",
            help="Eval loss up three times running while training loss goes down.",
            why="From there on rows are learned by heart.",
            source=HOUSE,
        ),
    ] = "warn"
    plateau: Annotated[
        Literal["off", "warn", "stop"],
        Info(
            "plateau",
            help="No lower smoothed loss for a third of the run.",
            why="The rest of the run buys nothing.",
            source=HOUSE,
        ),
    ] = "warn"
    stall: Annotated[
        int,
        Meta(ge=0, le=10_000),
        Info(
            "stall",
            help="Minutes without a step after which the screen says that the run stands still; 0 "
            "for never.",
            why="A hang keeps the GPU busy all night.",
            source=HOUSE,
            unit="minutes",
        ),
    ] = 10
