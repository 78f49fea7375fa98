"""The optimiser: rate, length, batch."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from finetui.recipe.field import Info
from finetui.recipe.sources import (
    ADAM,
    EIGHT_BIT,
    GUIDES,
    LIGER,
    MEASURED,
    NEFTUNE,
    REGRET,
    TORCH,
    TRAINER,
)
from finetui.recipe.table import Table


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
    optimizer: Annotated[
        Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"],
        Info(
            "optimiser",
            help="AdamW, with its states in 8 bits (a quarter of the memory), or paged to the host "
            "when the GPU is full.",
            why="The states of full tuning are twice the weights: 8 bits make them fit. For LoRA "
            "they are small and plain is best.",
            source=EIGHT_BIT,
        ),
    ] = "adamw"
    checkpointing: Annotated[
        Literal["off", "on", "offload"],
        Info(
            "activations",
            help="Keep them (off), compute them again (on: gradient checkpointing), or keep each "
            "layer's input on the host (offload).",
            why="on saves most of the activation memory for about a third more time; offload "
            "saves more and needs host memory.",
            source=TRAINER,
        ),
    ] = "off"
    compile: Annotated[
        bool,
        Info(
            "compile",
            help="Compile the model with torch.compile.",
            why="Faster steps after minutes of compiling; shapes that change compile again.",
            source=TORCH,
        ),
    ] = False
    liger: Annotated[
        bool,
        Info(
            "Liger kernels",
            help="Use the fused kernels of liger-kernel when they are installed and there is a "
            "CUDA GPU.",
            why="Less memory and time for norms and activations; the package brings its own "
            "Triton.",
            source=LIGER,
        ),
    ] = False
    neftune: Annotated[
        float,
        Meta(ge=0.0, le=100.0),
        Info(
            "NEFTune noise",
            help="Strength of noise on the embeddings while training; 0 for none. Usual: 5 to 15.",
            why="Helps small chat sets to answer more freely; hurts exact formats.",
            source=NEFTUNE,
        ),
    ] = 0.0
    kl_weight: Annotated[
        float,
        Meta(ge=0.0, le=100.0),
        Info(
            "KL to the base",
            help="Weight of the distance from the base model on general rows; 0 for none. Usual: "
            "0.1 to 1.",
            why="Holds old skills without many general rows; costs a second pass over them. Needs "
            "general data.",
            source=MEASURED,
        ),
    ] = 0.0
    processes: Annotated[
        int,
        Meta(ge=1, le=4096),
        Info(
            "processes",
            help="Processes that train together, one on each GPU; each takes its own rows of every "
            "update.",
            why="More finish sooner. Rows an update = batch size x accumulation x processes, so "
            "lower accumulation by as much to keep the updates the same.",
            source=TORCH,
            unit="GPUs",
        ),
    ] = 1
    sharding: Annotated[
        Literal["ddp", "fsdp"],
        Info(
            "sharding",
            help="What every GPU holds: the whole model (ddp), or its share of the weights, "
            "gradients and optimiser states (fsdp: FSDP2).",
            why="ddp is faster while the model fits one GPU; fsdp fits larger models and moves "
            "more between GPUs.",
            source=TORCH,
        ),
    ] = "ddp"
