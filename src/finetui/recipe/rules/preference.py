"""Rules on dpo, orpo and kto."""

from __future__ import annotations

from collections.abc import Iterator

from finetui.recipe.field import show_number
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.rules.training import batch_rows
from finetui.recipe.sources import DPO, GUIDES, IPO, KTO, ORPO

_PAIRED = ("dpo", "orpo", "kto")


@rule("beta")
def beta(case: Case) -> Iterator[Advice]:
    value = case.recipe.preference.beta
    if case.objective not in _PAIRED:
        return
    if value == 0:
        yield warning(
            "preference.beta",
            "A beta of 0 leaves nothing to learn from the preference.",
            "0.1 is usual.",
            DPO,
        )
    elif not 0.01 <= value <= (1.0 if case.objective == "orpo" else 0.5):
        yield (warning if value > 5 else advice)(
            "preference.beta",
            f"A beta of {show_number(value)} is {'low' if value < 0.01 else 'high'}; 0.1 is usual.",
            "Too low drifts into short or broken answers; too high learns nothing.",
            ORPO if case.objective == "orpo" else DPO,
        )


@rule("label-doubt-and-loss")
def label_doubt_and_loss(case: Case) -> Iterator[Advice]:
    preference = case.recipe.preference
    if case.objective == "dpo" and preference.label_smoothing and preference.loss != "sigmoid":
        yield warning(
            "preference.label_smoothing",
            f"Label doubt is made for the sigmoid loss, not for {preference.loss}.",
            "ipo already stops at a fixed margin, which is its own guard against wrong labels.",
            IPO,
        )


@rule("sft-term-high")
def sft_term_high(case: Case) -> Iterator[Advice]:
    weight = case.recipe.preference.sft_weight
    if case.objective == "dpo" and weight > 1:
        yield advice(
            "preference.sft_weight",
            f"An sft term of {show_number(weight)} outweighs the preference.",
            "0.1 to 1 keeps the chosen answers likely; beyond that it is sft with pairs.",
            DPO,
        )


@rule("kto-weights")
def kto_weights(case: Case) -> Iterator[Advice]:
    preference = case.recipe.preference
    if case.objective == "kto" and not (
        preference.desirable_weight and preference.undesirable_weight
    ):
        yield error(
            "preference.desirable_weight",
            "A weight of 0 leaves one side out: there is nothing to compare.",
            "Both count; 1 and 1 where there are as many good as bad rows.",
            KTO,
        )


@rule("kto-batch")
def kto_batch(case: Case) -> Iterator[Advice]:
    if case.objective == "kto" and case.recipe.training.batch_size < 4:
        yield warning(
            "training.batch_size",
            f"KTO measures its distance over the batch, and {case.recipe.training.batch_size} "
            "rows tell little.",
            "4 at once at least, 8 and more are usual; accumulation does not help here.",
            KTO,
        )


@rule("preference-epochs")
def preference_epochs(case: Case) -> Iterator[Advice]:
    epochs = case.plan.epochs
    if case.objective in ("dpo", "kto") and epochs is not None and epochs > 3:
        yield advice(
            "training.epochs",
            f"{show_number(round(epochs, 1))} passes over preferences; 1 to 2 are usual.",
            "The margin grows on while the answers get worse.",
            DPO,
        )


@rule("preference-start")
def preference_start(case: Case) -> Iterator[Advice]:
    adapter, parameters = case.recipe.model.adapter, case.facts.model_parameters
    untuned = case.facts.model_lacks == ("chat template",) or (
        case.facts.generation_markers is None and bool(parameters)
    )
    if case.objective in ("dpo", "kto") and not adapter and untuned:
        yield advice(
            "model.adapter",
            "Preferences are best learned after examples, and this model looks untuned.",
            "Train with sft first and go on from its adapter; orpo does both at once.",
            DPO,
        )
    if case.objective == "orpo" and adapter:
        yield advice(
            "method.objective",
            "orpo is made for a model that has not been tuned yet.",
            "It learns the chosen answers as well; after sft, dpo or kto go further.",
            ORPO,
        )


@rule("preference-batch")
def preference_batch(case: Case) -> Iterator[Advice]:
    rows = batch_rows(case.recipe)
    if case.objective in ("dpo", "orpo") and rows < 8:
        yield advice(
            "training.accumulation",
            f"{rows} pair{'s' * (rows != 1)} an update; 16 to 64 are usual.",
            "One pair says little about a preference: small updates follow single raters.",
            GUIDES,
        )
