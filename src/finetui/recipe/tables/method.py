"""How it is tuned."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from finetui.recipe.field import Info
from finetui.recipe.sources import DORA, DPO, LORA, LORA_PLUS, PEFT, QLORA, REGRET, RSLORA
from finetui.recipe.table import Table


class Method(Table, frozen=True):
    kind: Annotated[
        Literal["lora", "qlora", "full"],
        Info(
            "method",
            help="lora trains a small adapter, qlora the same over 4-bit weights, full all "
            "weights.",
            why="LoRA matches full tuning on small and medium sets at a fraction of its memory; "
            "QLoRA saves most of the weights' memory for some speed.",
            source=REGRET,
        ),
    ] = "lora"
    objective: Annotated[
        Literal["sft", "pretrain", "dpo", "orpo", "kto", "reward", "grpo"],
        Info(
            "objective",
            help="What is learned: answers (sft), plain text (pretrain), pairs (dpo, orpo), good "
            "and bad answers (kto).",
            why="Each needs rows of its own shape: pairs for dpo and orpo, labelled answers for "
            "kto.",
            source=DPO,
            reserved=("reward", "grpo"),
        ),
    ] = "sft"
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
    dora: Annotated[
        bool,
        Info(
            "DoRA",
            help="Train the length and the direction of each weight apart (weight-decomposed "
            "LoRA).",
            why="Learns a little more at low ranks, and is slower by a third or more.",
            source=DORA,
        ),
    ] = False
    rslora: Annotated[
        bool,
        Info(
            "rsLoRA",
            help="Scale the adapter by alpha / sqrt(rank) instead of alpha / rank.",
            why="Keeps high ranks (64 and more) from learning too slowly; with the usual alpha it "
            "is a much higher strength.",
            source=RSLORA,
        ),
    ] = False
    init: Annotated[
        Literal["default", "gaussian", "pissa", "olora", "orthogonal"],
        Info(
            "adapter start",
            help="How the adapter begins: at zero effect (default, gaussian, orthogonal) or from "
            "the weights themselves (pissa, olora).",
            why="pissa and olora learn faster and change the base weights under the adapter: "
            "finetui converts the result back to a plain adapter.",
            source=PEFT,
        ),
    ] = "default"
    lora_plus: Annotated[
        float,
        Meta(ge=0.0, le=64.0),
        Info(
            "LoRA+ ratio",
            help="How much faster the adapter's B matrices learn than its A; 0 for the same rate. "
            "Usual: 4 to 16.",
            why="Learns faster at the same rate; too high breaks early.",
            source=LORA_PLUS,
        ),
    ] = 0.0
    quantisation: Annotated[
        Literal["nf4", "fp4"],
        Info(
            "4-bit format",
            help="How qlora stores the frozen weights.",
            why="nf4 fits the spread of trained weights and loses less than fp4.",
            source=QLORA,
        ),
    ] = "nf4"
    double_quantisation: Annotated[
        bool,
        Info(
            "double quantise",
            help="Quantise the scales of the 4-bit blocks once more.",
            why="Saves about 0.4 bits a weight (3 GB at 65 B) for almost no loss.",
            source=QLORA,
        ),
    ] = True
