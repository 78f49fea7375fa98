"""What a run learns: for each objective its rows, its batches, its items and its loss.

The one place where ``method.objective`` becomes functions; the trainer knows none of the kinds.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from finetui.data.tokens import ChatTokenizer
from finetui.engine import preference
from finetui.engine.batches import (
    AnyExample,
    Collate,
    Collator,
    Example,
    Row,
    on_device,
    pack,
    pack_in_order,
    single,
)
from finetui.engine.dataset import Encoding, Tell, encode_files
from finetui.engine.head import untracked
from finetui.engine.kl import WithGeneral, with_kl
from finetui.engine.losses import Batch, Loss, sft_loss
from finetui.engine.machine import Machine
from finetui.errors import UserError
from finetui.recipe.schema import Preference, Recipe
from finetui.workspace import Workspace

_PROBE_TOKENS = 16
# Experts see their tokens in other groups, which rounds differently; a leak moves logits far more.
_ROUNDING = 1e-3

Items: TypeAlias = Callable[[Batch], int]


@dataclass(frozen=True)
class Objective:
    """What a run learns.

    ``collate`` makes training batches, ``collate_held_out`` batches of one example a row with
    nothing but the loss itself: the mean over held-out rows is the sum of ``loss(model, batch, 1)``
    over the sum of ``items(batch)``. Items are trained tokens, or pairs, or labelled answers.
    ``collator`` is what puts rows into tensors in training.
    """

    name: str
    loss: Loss
    items: Items
    collate: Collate
    collate_held_out: Collate
    collator: Collator
    recipe: Recipe
    tokenizer: ChatTokenizer

    def encode(
        self,
        paths: Sequence[str],
        workspace: Workspace | None = None,
        tell: Tell = lambda done, total: None,
    ) -> Encoding:
        """The rows of some files as this objective's examples. Raises UserError."""
        data = self.recipe.data
        return encode_files(paths, self.tokenizer, data, workspace, tell, self.name)

    def rows(self, examples: Sequence[AnyExample]) -> list[Row]:
        """What the batches are made of: single examples, or several packed together."""
        return _rows(examples, self.recipe)

    @property
    def needs_reference(self) -> bool:
        return self.name in ("dpo", "kto")

    def prepare(
        self,
        model: Any,
        encoding: Encoding,
        machine: Machine,
        tell: Tell = lambda done, total: None,
    ) -> None:
        """Once for each encoding, with the model that training begins with, before its rows.

        Measures what the loss compares with, and proves on the model itself that packed rows
        cannot see each other. Raises UserError when they can.
        """
        if self.recipe.data.packing:
            require_isolation(model, encoding.examples, self.collator, machine)
        if self.needs_reference:
            encoding.examples = preference.measured(
                model,
                encoding.examples,
                self.collate_held_out,
                self.recipe.training.batch_size,
                machine,
                tell,
            )


def objective_of(
    recipe: Recipe,
    tokenizer: ChatTokenizer,
    general: Sequence[Example] = (),
    flat: bool = False,
) -> Objective:
    """The recipe's objective. ``general`` are the rows on which the model is held to its start.

    ``flat`` puts a batch on one line, for attention that needs no padding. Raises UserError for
    an objective that cannot be trained, or a KL term without general rows.
    """
    name = recipe.method.objective
    if name not in _KINDS:
        raise UserError(
            f"this version cannot train {name!r}.",
            "method.objective",
            f"Choose {', '.join(_KINDS)}.",
        )
    packed = Collator(tokenizer.pad_id, packed=recipe.data.packing, flat=flat)
    objective = _made(name, recipe, tokenizer, packed)
    return _held_to_start(objective, general) if recipe.training.kl_weight else objective


def sft_objective(recipe: Recipe, tokenizer: ChatTokenizer) -> Objective:
    """Answers, one a row: for general rows, whatever the recipe's own objective is."""
    return _made("sft", recipe, tokenizer, Collator(tokenizer.pad_id))


@dataclass(frozen=True)
class _Kind:
    """What makes one objective another: its loss, its items, and what its batches hold."""

    loss: Callable[[Preference], Loss]
    items: Items
    batches: Callable[[Collator], Collate]


def _made(name: str, recipe: Recipe, tokenizer: ChatTokenizer, collator: Collator) -> Objective:
    kind = _KINDS[name]
    return Objective(
        name=name,
        loss=kind.loss(recipe.preference),
        items=kind.items,
        collate=kind.batches(collator),
        collate_held_out=kind.batches(replace(collator, packed=False)),
        collator=collator,
        recipe=recipe,
        tokenizer=tokenizer,
    )


def _tokens(batch: Batch) -> int:
    return int(batch["trained"].sum())


def _pairs(batch: Batch) -> int:
    return len(batch["trained"]) // 2


def _answers(batch: Batch) -> int:
    return len(batch["trained"])


def _plain(collator: Collator) -> Collate:
    return collator


_SFT = _Kind(lambda _: sft_loss, _tokens, _plain)
_KINDS = {
    "sft": _SFT,
    "pretrain": _SFT,
    "dpo": _Kind(preference.dpo_loss, _pairs, preference.pair_batches),
    "orpo": _Kind(preference.orpo_loss, _pairs, _plain),
    "kto": _Kind(preference.kto_loss, _answers, preference.labelled_batches),
}


def _held_to_start(objective: Objective, general: Sequence[Example]) -> Objective:
    recipe = objective.recipe
    if not general:
        raise UserError(
            "the KL term needs general rows to be measured on.",
            "data.general",
            "Name a file of everyday rows, or set training.kl_weight to 0.",
        )
    if recipe.method.kind == "full":
        raise UserError(
            "full tuning keeps no copy of the start, from which the KL term is measured.",
            "training.kl_weight",
            "Set it to 0, or tune an adapter (lora, qlora).",
        )
    rows = _rows(general, recipe)
    return replace(
        objective,
        loss=with_kl(objective.loss, objective.items, recipe.training.kl_weight),
        collate=WithGeneral(objective.collate, objective.collator, rows, recipe.training.seed),
    )


def _rows(examples: Sequence[AnyExample], recipe: Recipe) -> list[Row]:
    if not recipe.data.packing:
        return single(examples)
    fill = pack_in_order if recipe.data.order == "file" else pack
    return fill(examples, recipe.data.max_length)


# -- packing, proven on the model ----------------------------------------------------------------


@untracked()
def require_isolation(
    model: Any, examples: Sequence[AnyExample], collator: Collator, machine: Machine
) -> None:
    """Pack two beginnings, blank the first, and look whether the second's logits move.

    Raises UserError when they do: not every architecture restarts where the positions do.
    """
    first, second = (_beginning(examples[at % len(examples)]) for at in range(2))
    blank = replace(first, ids=array("i", [collator.pad_id]) * len(first))
    was_training = model.training
    model.eval()
    seen = [
        _logits(model, collator.tensors([(before, second)]), machine)[
            len(first) : len(first) + len(second)
        ]
        for before in (first, blank)
    ]
    model.train(was_training)
    moved = float((seen[0] - seen[1]).abs().max())
    if moved > _ROUNDING * float(seen[0].abs().max()):
        raise UserError(
            "this model lets packed rows see each other (its logits move with the row before).",
            "data.packing",
            "Set data.packing to false.",
        )


def _beginning(item: AnyExample) -> Example:
    whole = item.sequences[0]
    return replace(whole, ids=whole.ids[:_PROBE_TOKENS], labels=whole.labels[:_PROBE_TOKENS])


def _logits(model: Any, batch: Batch, machine: Machine) -> torch.Tensor:
    """Logits (T, V) of a batch of one line."""
    moved = on_device(batch, machine.device)
    inputs = {name: moved[name] for name in ("input_ids", "position_ids")}
    with machine.autocast():
        logits: torch.Tensor = model(**inputs, use_cache=False).logits[0].float()
    return logits
