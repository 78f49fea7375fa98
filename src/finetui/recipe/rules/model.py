"""Rules on the model: is it there, is it whole, may it run code, does the format suit."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import PurePath

from finetui.recipe.field import quote, show_number
from finetui.recipe.files import is_template_file
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.sources import HOUSE, PEFT, TRAINER

_FROM_PRETRAINED = "transformers docs, from_pretrained"
_BILLION = 1_000_000_000

# The chat templates that finetui ships.
TEMPLATES = ("alpaca", "chatml", "gemma", "llama3", "mistral", "phi", "zephyr")


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
    if lacks and case.recipe.model.path and not gone and not case.details.model_is_adapter:
        yield error(
            "model.path",
            f"The model folder lacks {' and '.join(lacks)}.",
            "Training loads config.json, the weights and the tokenizer from this folder.",
            _FROM_PRETRAINED,
        )


@rule("no-chat-template")
def no_chat_template(case: Case) -> Iterator[Advice]:
    named = case.recipe.model.chat_template or case.objective == "pretrain"
    if case.facts.model_lacks == ("chat template",) and not named:
        yield error(
            "model.path",
            "The model has no chat template.",
            "Rows become text through the template; without it nobody knows where a turn ends. "
            "Choose one under model.chat_template, or start from an instruct model.",
            "transformers docs, chat templates",
        )


@rule("no-generation-markers")
def no_generation_markers(case: Case) -> Iterator[Advice]:
    own = not case.recipe.model.chat_template and case.objective != "pretrain"
    if own and case.facts.generation_markers is False and case.recipe.data.loss_on != "all":
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
    revision = case.recipe.model.revision
    if case.facts.from_hub and not re.fullmatch(r"[0-9a-f]{7,40}", revision):
        found = f"{quote(revision)} is a branch or a tag" if revision else "no revision is set"
        yield advice(
            "model.revision",
            f"{quote(case.recipe.model.path)} is taken for a Hugging Face id; {found}.",
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


@rule("model-is-adapter")
def model_is_adapter(case: Case) -> Iterator[Advice]:
    if case.details.model_is_adapter:
        yield error(
            "model.path",
            "This folder holds an adapter, not a model.",
            "Name it under model.adapter, and its base model here.",
            PEFT,
        )


@rule("quantised-base")
def quantised_base(case: Case) -> Iterator[Advice]:
    how = case.details.quantised
    if not how:
        return
    if not case.adapts:
        yield error(
            "method.kind",
            f"Weights stored in few bits ({quote(how)}) cannot all be trained.",
            "Choose lora or qlora, or the unquantised model.",
            PEFT,
        )
    elif case.recipe.method.kind == "qlora" and "bitsandbytes" not in how:
        yield warning(
            "model.path",
            f"The model is stored by {quote(how)} already: qlora's own 4 bits are not used.",
            "Take the unquantised model for qlora, or lora for this one.",
            PEFT,
        )


@rule("template-unknown")
def template_unknown(case: Case) -> Iterator[Advice]:
    name = case.recipe.model.chat_template
    if not name or case.details.template_found:
        return
    if is_template_file(name):
        if case.details.template_found is False:
            yield error(
                "model.chat_template",
                f"There is no template file {quote(name)}.",
                "Paths are taken from the workspace folder.",
                HOUSE,
            )
    elif name not in TEMPLATES:
        near = difflib.get_close_matches(name.lower(), TEMPLATES, 1)
        yield error(
            "model.chat_template",
            f"No template is called {quote(name)}." + (f" Did you mean {near[0]}?" if near else ""),
            f"Ours are {', '.join(TEMPLATES)}; else name a .jinja file.",
            HOUSE,
        )


@rule("template-replaced")
def template_replaced(case: Case) -> Iterator[Advice]:
    own = case.facts.generation_markers is not None  # None where the model has no template
    if case.recipe.model.chat_template and own and case.objective != "pretrain":
        yield warning(
            "model.chat_template",
            "The model has a chat template of its own, and another one is named.",
            "What was trained in one template answers worse in the other; the result carries the "
            "named one.",
            "transformers docs, chat templates",
        )


# --- the adapter that training goes on from ------------------------------------------------------


@rule("start-adapter-missing")
def start_adapter_missing(case: Case) -> Iterator[Advice]:
    if case.details.adapter_found is False:
        yield error(
            "model.adapter",
            f"There is no adapter at {quote(case.recipe.model.adapter)}.",
            "Name a folder with an adapter_config.json, or a finished job's folder.",
            PEFT,
        )


@rule("start-adapter-shape")
def start_adapter_shape(case: Case) -> Iterator[Advice]:
    """The recipe must say what the adapter is: its matrices cannot change their shape."""
    start, method = case.details.adapter, case.recipe.method
    if start is None or not case.adapts:
        return
    if start.kind and start.kind != "LORA":
        yield error("model.adapter", f"It is no LoRA adapter but {quote(start.kind)}.",
                    "Only LoRA adapters can be gone on with.", PEFT)  # fmt: skip
        return
    facts: tuple[tuple[str, object, object], ...] = (
        ("method.rank", start.rank, method.rank),
        ("method.alpha", start.alpha, float(method.alpha)),
        ("method.dora", start.dora, method.dora),
        ("method.rslora", start.rslora, method.rslora),
    )
    for id, there, here in facts:
        if there is not None and there != here:
            yield error(
                id,
                f"The start adapter has {_said(there)}, the recipe says {_said(here)}.",
                f"Set it to {_said(there)}, or leave model.adapter empty.",
                PEFT,
            )


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "it on" if value else "it off"
    return show_number(value) if isinstance(value, (int, float)) else str(value)


@rule("start-adapter-targets")
def start_adapter_targets(case: Case) -> Iterator[Advice]:
    start, known = case.details.adapter, {linear.name for linear in case.facts.linears}
    if start is None or not start.targets or not case.adapts:
        return
    wanted = case.recipe.method.target_modules
    names = known if wanted == ("all-linear",) else {name.rpartition(".")[2] for name in wanted}
    if names and "all-linear" not in start.targets and names != set(start.targets):
        yield error(
            "method.target_modules",
            f"The start adapter is on {', '.join(start.targets)}.",
            "Name the same layers, or leave model.adapter empty.",
            PEFT,
        )


@rule("start-adapter-base")
def start_adapter_base(case: Case) -> Iterator[Advice]:
    start, path = case.details.adapter, case.recipe.model.path
    if start is None or not start.base or not path:
        return
    if PurePath(start.base).name.lower() != PurePath(path).name.lower():
        yield warning(
            "model.adapter",
            f"The start adapter was trained on {quote(start.base)}.",
            "On another model it fits by its shapes only, and its skills are lost.",
            PEFT,
        )
