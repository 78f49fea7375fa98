"""Settings of dpo, orpo and kto."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from finetui.recipe.field import Info
from finetui.recipe.sources import DPO, IPO, KTO
from finetui.recipe.table import Table


class Preference(Table, frozen=True):
    beta: Annotated[
        float,
        Meta(ge=0.0, le=100.0),
        Info(
            "beta",
            help="How closely the model is held to its start (dpo, kto), or how much the "
            "preference counts (orpo). Usual: 0.1.",
            why="Too low drifts into short or broken answers; too high learns nothing.",
            source=DPO,
        ),
    ] = 0.1
    loss: Annotated[
        Literal["sigmoid", "ipo", "hinge"],
        Info(
            "dpo loss",
            help="sigmoid is DPO as published, ipo aims at a fixed margin, hinge stops at one.",
            why="With clear-cut pairs sigmoid keeps widening the margin; ipo does not.",
            source=IPO,
        ),
    ] = "sigmoid"
    sft_weight: Annotated[
        float,
        Meta(ge=0.0, le=100.0),
        Info(
            "sft term",
            help="Weight of the plain loss on the chosen answer beside dpo; 0 for none.",
            why="Keeps the chosen answers likely: dpo alone may lower both sides.",
            source=DPO,
        ),
    ] = 0.0
    label_smoothing: Annotated[
        float,
        Meta(ge=0.0, le=0.49),
        Info(
            "label doubt",
            help="Share of pairs that are taken to be the wrong way round (conservative DPO).",
            why="With noisy raters 0.1 is steadier; 0.5 learns nothing.",
            source=DPO,
            unit="share",
        ),
    ] = 0.0
    desirable_weight: Annotated[
        float,
        Meta(ge=0.0, le=100.0),
        Info(
            "weight of good",
            help="Weight of good answers in kto.",
            why="Bring good and bad to like totals: weight x rows within 1 : 1 to 4 : 3.",
            source=KTO,
        ),
    ] = 1.0
    undesirable_weight: Annotated[
        float,
        Meta(ge=0.0, le=100.0),
        Info(
            "weight of bad",
            help="Weight of bad answers in kto.",
            why="See weight of good.",
            source=KTO,
        ),
    ] = 1.0
