"""Rules on the recipe as a whole: settings that have no effect under the others."""

from __future__ import annotations

from collections.abc import Iterator

from finetui.recipe.applies import idle
from finetui.recipe.rule import Advice, Case, advice, rule
from finetui.recipe.schema import changed, field, get
from finetui.recipe.sources import HOUSE

# A number that waits for its switch is no surprise; these are spoken of by rules of their own.
_ELSEWHERE = {
    "training.epochs", "training.kl_weight", "data.general_share", "evaluation.early_stopping",
    "data.order", "training.liger", "model.tf32",
}  # fmt: skip


@rule("no-effect")
def no_effect(case: Case) -> Iterator[Advice]:
    reasons = idle(case.recipe, case.facts)
    for id in changed(case.recipe):
        if id not in reasons or id in _ELSEWHERE or not get(case.recipe, id):
            continue  # what is off has no effect to miss
        found = field(id)
        yield advice(
            id,
            f"{found.label} is set to {found.show(get(case.recipe, id))[:30]} and has no effect.",
            f"{reasons[id][:1].upper()}{reasons[id][1:]}.",
            HOUSE,
        )
