"""What can be trained while every GPU holds only its share of the model (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator

from finetui.recipe.schema import Recipe


def unsharded(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The fields that sharding has no way for, each with what it asks for."""
    method, training = recipe.method, recipe.training
    if method.kind == "qlora":
        yield "method.kind", "qlora (weights in 4 bits)"
    if method.objective in ("dpo", "kto"):
        yield "method.objective", f"{method.objective}, which measures its start before training,"
    if method.dora:
        yield "method.dora", "DoRA"
    if method.kind != "full" and method.init in ("pissa", "olora"):
        yield "method.init", f"an adapter that begins as {method.init}"
    if recipe.model.adapter:
        yield "model.adapter", "an adapter that goes on from another"
    if training.kl_weight:
        yield "training.kl_weight", "the KL term"
    if training.optimizer != "adamw":
        yield "training.optimizer", training.optimizer
    if training.checkpointing == "offload":
        yield "training.checkpointing", "offloaded activations"
    if training.compile:
        yield "training.compile", "a compiled model"
