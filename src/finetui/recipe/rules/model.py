"""Rules on the model: is it there, is it whole, may it run code, does the format suit."""

from __future__ import annotations

from collections.abc import Iterator

from finetui.recipe.field import quote
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.sources import HOUSE, TRAINER

_FROM_PRETRAINED = "transformers docs, from_pretrained"
_BILLION = 1_000_000_000


@rule("model-missing")
def model_missing(case: Case) -> Iterator[Advice]:
    if not case.recipe.model.path:
        yield error(
            "model.path",
            "No model is chosen.",
            "A run needs a model folder (config, weights, tokenizer) to start from.",
            HOUSE,
        )


@rule("model-not-found")
def model_not_found(case: Case) -> Iterator[Advice]:
    if any(id == "model.path" for id, _ in case.facts.missing):
        yield error(
            "model.path",
            f"There is no model at {quote(case.recipe.model.path)}.",
            "Paths are taken from the workspace folder.",
            HOUSE,
        )


@rule("model-incomplete")
def model_incomplete(case: Case) -> Iterator[Advice]:
    gone = any(id == "model.path" for id, _ in case.facts.missing)
    lacks = [part for part in case.facts.model_lacks if part != "chat template"]
    if lacks and case.recipe.model.path and not gone:
        yield error(
            "model.path",
            f"The model folder lacks {' and '.join(lacks)}.",
            "Training loads config.json, the weights and the tokenizer from this folder.",
            _FROM_PRETRAINED,
        )


@rule("no-chat-template")
def no_chat_template(case: Case) -> Iterator[Advice]:
    if case.facts.model_lacks == ("chat template",):
        yield error(
            "model.path",
            "The model has no chat template.",
            "Rows become text through the template; without it nobody knows where a turn ends. "
            "Put a chat_template.jinja into the folder, or start from an instruct model.",
            "transformers docs, chat templates",
        )


@rule("no-generation-markers")
def no_generation_markers(case: Case) -> Iterator[Advice]:
    if case.facts.generation_markers is False and case.recipe.data.loss_on != "all":
        yield advice(
            "data.loss_on",
            "The chat template does not mark the answers; they are found by rendering prefixes.",
            "Templates with {% generation %} say exactly which tokens are the assistant's. Look "
            "at a row in the Data screen before a long run.",
            "transformers docs, chat templates",
        )


@rule("remote-code")
def remote_code(case: Case) -> Iterator[Advice]:
    if case.recipe.model.trust_remote_code:
        yield warning(
            "model.trust_remote_code",
            "The model's own Python code will run with your rights.",
            "It can read your files and keys. Leave it off unless you have read the code"
            + (" and pinned a revision." if not case.recipe.model.revision else "."),
            _FROM_PRETRAINED,
        )


@rule("unpinned-hub-model")
def unpinned_hub_model(case: Case) -> Iterator[Advice]:
    if case.facts.from_hub and not case.recipe.model.revision:
        yield advice(
            "model.revision",
            f"{quote(case.recipe.model.path)} is taken for a Hugging Face id; no revision is set.",
            "It can change under you: name a commit, and the same recipe trains the same model "
            "next month.",
            _FROM_PRETRAINED,
        )


@rule("precision-unsupported")
def precision_unsupported(case: Case) -> Iterator[Advice]:
    chosen, facts = case.recipe.model.precision, case.facts
    if chosen == "fp16" and facts.gpus == 0:
        yield error(
            "model.precision",
            "fp16 needs a GPU, and none is seen here.",
            "Mixed fp16 training scales losses on the GPU only; take auto or fp32.",
            TRAINER,
        )
    if chosen == "bf16" and facts.gpus and facts.gpu_bf16 is False:
        yield error(
            "model.precision",
            "This GPU has no bf16.",
            "bf16 came with NVIDIA's Ampere cards; take auto, fp16 or fp32.",
            TRAINER,
        )


@rule("precision-choice")
def precision_choice(case: Case) -> Iterator[Advice]:
    chosen, facts = case.recipe.model.precision, case.facts
    if chosen == "bf16" and facts.gpus == 0:
        yield advice(
            "model.precision",
            "bf16 on a CPU is fast only where it has AMX; fp32 is the safe choice.",
            "With AMX it was 1.6 times fp32; with ever-new row lengths it stood still.",
            "measured",
        )
    if chosen == "fp16" and facts.gpus and facts.gpu_bf16:
        yield advice(
            "model.precision",
            "This GPU has bf16: take it instead of fp16.",
            "fp16 overflows above 65,504, which ends in NaN or skipped steps; bf16 has the range "
            "of fp32.",
            TRAINER,
        )
    if chosen == "fp32" and facts.gpus and (facts.model_parameters or 0) >= _BILLION:
        yield advice(
            "model.precision",
            "fp32 doubles the memory of a frozen model.",
            "The frozen weights lose nothing in bf16; the adapter is kept in fp32 anyway.",
            TRAINER,
        )


@rule("beyond-context")
def beyond_context(case: Case) -> Iterator[Advice]:
    context, length = case.facts.model_context, case.recipe.data.max_length
    if context and length > context:
        yield warning(
            "data.max_length",
            f"The model was made for {context:,} tokens.",
            "Positions beyond that were never trained: answers there are noise.",
            "the model's config.json",
        )
    answer = case.recipe.evaluation.max_new_tokens
    if context and answer >= context:
        yield warning(
            "evaluation.max_new_tokens",
            f"Prompt and answer together must fit in {context:,} tokens.",
            "An answer as long as the whole context leaves no room for the prompt.",
            "the model's config.json",
        )
