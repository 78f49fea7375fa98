"""Which fields have no effect under the rest of a recipe, and why: dim in the form.

One entry in ``_IDLE`` a reason; the first that holds for a field is the one that is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetui.recipe.facts import Facts
from finetui.recipe.schema import FIELDS, Recipe

_ADAPTER = (
    "method.rank", "method.alpha", "method.dropout", "method.target_modules", "method.dora",
    "method.rslora", "method.init", "method.lora_plus", "model.adapter",
)  # fmt: skip
_PAIRED = ("dpo", "orpo", "kto")
_PREFERENCE = tuple(found.id for found in FIELDS if found.group == "preference")
_HELD_OUT = (
    "evaluation.every", "evaluation.generate", "evaluation.early_stopping",
    "evaluation.keep_best", "evaluation.samples", "guards.overfitting",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Idle:
    """Fields that do nothing where ``when`` holds."""

    fields: tuple[str, ...]
    why: str
    when: Callable[[Recipe, Facts], bool]


_IDLE = (
    _Idle(_ADAPTER, "full tuning has no adapter", lambda r, _: r.method.kind == "full"),
    _Idle(
        ("method.quantisation", "method.double_quantisation"),
        "only qlora",
        lambda r, _: r.method.kind != "qlora",
    ),
    _Idle(("method.init",), "training goes on from an adapter", lambda r, _: bool(r.model.adapter)),
    _Idle(_PREFERENCE, "only dpo, orpo and kto", lambda r, _: r.method.objective not in _PAIRED),
    _Idle(
        ("preference.loss", "preference.sft_weight", "preference.label_smoothing"),
        "only dpo",
        lambda r, _: r.method.objective != "dpo",
    ),
    _Idle(
        ("preference.desirable_weight", "preference.undesirable_weight"),
        "only kto",
        lambda r, _: r.method.objective != "kto",
    ),
    _Idle(
        ("data.loss_on",), "plain text: every token", lambda r, _: r.method.objective == "pretrain"
    ),
    _Idle(("data.loss_on",), "pairs: the answers", lambda r, _: r.method.objective in _PAIRED),
    _Idle(("data.packing",), "pairs are not packed", lambda r, _: r.method.objective in _PAIRED),
    _Idle(
        ("model.chat_template",),
        "plain text has no turns",
        lambda r, _: r.method.objective == "pretrain",
    ),
    _Idle(
        ("data.truncation_side",),
        "overlong rows are dropped",
        lambda r, _: r.data.overlong == "drop",
    ),
    _Idle(
        ("data.general_share", "training.kl_weight"),
        "needs general data",
        lambda r, _: not r.data.general,
    ),
    _Idle(_HELD_OUT, "needs held-out data", lambda r, _: not r.data.eval),
    _Idle(
        ("evaluation.early_stopping",),
        "evaluate every is 0",
        lambda r, _: r.evaluation.every == 0,
    ),
    _Idle(
        ("evaluation.max_new_tokens",),
        "nothing is generated",
        lambda r, _: not r.data.eval or (not r.evaluation.generate and not r.evaluation.samples),
    ),
    _Idle(
        ("evaluation.probe",),
        "needs a general check or general data",
        lambda r, _: not r.evaluation.suite and not r.data.general,
    ),
    _Idle(("training.epochs",), "max steps wins", lambda r, _: r.training.max_steps > 0),
    _Idle(("training.sharding",), "one process has it all", lambda r, _: r.training.processes == 1),
    _Idle(("checkpoints.keep",), "only the end is saved", lambda r, _: r.checkpoints.every == 0),
    _Idle(("guards.spike_size",), "spike is off", lambda r, _: r.guards.spike == "off"),
    _Idle(
        ("model.revision",),
        "a local folder has none",
        lambda r, f: bool(r.model.path) and f.model_layers is not None and not f.from_hub,
    ),
    _Idle(("model.tf32", "training.liger"), "there is no GPU here", lambda _, f: f.gpus == 0),
)


def idle(recipe: Recipe, facts: Facts | None = None) -> dict[str, str]:
    """The fields that have no effect under this recipe, each with the reason in a few words."""
    known = facts or Facts()
    found: dict[str, str] = {}
    for entry in _IDLE:
        if entry.when(recipe, known):
            for id in entry.fields:
                found.setdefault(id, entry.why)
    return found
