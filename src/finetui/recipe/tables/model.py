"""The model that is tuned."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from finetui.recipe.field import Info
from finetui.recipe.sources import DPO, HOUSE, TORCH, TRAINER
from finetui.recipe.table import Table


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
            why="It runs with your rights: read the code, then allow exactly that: finetui trust.",
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
    adapter: Annotated[
        str,
        Info(
            "start from",
            help="An adapter that training goes on from; empty starts a new one.",
            why="Preference tuning starts best from the adapter that was trained on examples; its "
            "frozen copy is then the reference.",
            source=DPO,
            kind="path",
        ),
    ] = ""
    chat_template: Annotated[
        str,
        Meta(max_length=400),
        Info(
            "chat template",
            help="Empty for the tokenizer's own, a name (chatml, llama3, mistral, gemma, phi, "
            "zephyr, alpaca) or a .jinja file.",
            why="Training in one template and serving in another costs more accuracy than most "
            "settings here.",
            source=HOUSE,
        ),
    ] = ""
    attention: Annotated[
        Literal["auto", "sdpa", "eager", "flash", "varlen"],
        Info(
            "attention",
            help="How attention is computed. flash needs the flash-attn package, varlen a CUDA "
            "build of torch 2.11 or newer.",
            why="eager keeps a tokens x tokens matrix in memory; varlen packs without padding. "
            "auto takes varlen or flash for packed data on a GPU that has it, sdpa else.",
            source=TORCH,
        ),
    ] = "auto"
    tf32: Annotated[
        bool,
        Info(
            "tf32",
            help="Let a GPU round fp32 products to TF32: much faster, slightly less exact.",
            why="Off costs a lot of speed in fp32 and changes nothing in bf16; a CPU ignores it.",
            source=TORCH,
        ),
    ] = True
