"""Rules on the method: rank, alpha, dropout and which layers are adapted."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from finetui.display import size
from finetui.recipe.field import quote, show_number
from finetui.recipe.forecast import plan
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.schema import field, replace
from finetui.recipe.sources import (
    DORA,
    GUIDES,
    HOUSE,
    LORA,
    LORA_PLUS,
    PEFT,
    QLORA,
    REGRET,
    RSLORA,
)

_LOW_RANK, _HIGH_RANK = 8, 64
_MLP = {"gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "c_fc", "w1", "w2", "w3"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn", "query_key_value"}
_OUTPUT = {"lm_head", "embed_tokens"}
_FROM_WEIGHTS = ("pissa", "olora")  # starts that are computed from the weights


@rule("objective-not-ready")
def objective_not_ready(case: Case) -> Iterator[Advice]:
    if case.objective in field("method.objective").reserved:
        yield error(
            "method.objective",
            f"{case.objective} cannot be run by this version yet.",
            "The file may say so already; choose sft, dpo, orpo or kto to run it now.",
            HOUSE,
        )


@rule("rank-range")
def rank_range(case: Case) -> Iterator[Advice]:
    rank, hidden, rows = case.recipe.method.rank, case.facts.model_hidden, case.facts.rows
    if not case.adapts:
        return
    if hidden and rank >= hidden:
        yield warning(
            "method.rank",
            f"A rank of {rank} is no smaller than the model's width of {hidden}.",
            "The adapter then has more parameters than the layers it adapts.",
            LORA,
        )
    elif rank < _LOW_RANK:
        yield advice(
            "method.rank",
            f"Rank {rank} is below the usual 8 to 64.",
            "Enough for a change of style or format; new knowledge needs more room.",
            GUIDES,
        )
    elif rank > _HIGH_RANK:
        few = rows is not None and rows < 1_000
        yield advice(
            "method.rank",
            f"Rank {rank} is above the usual 8 to 64"
            + (f", with only {rows:,} rows." if few else "."),
            "It costs memory, and a small set is learned by heart. Scaling by alpha / rank also "
            "slows the learning of high ranks.",
            RSLORA,
        )


@rule("alpha-ratio")
def alpha_ratio(case: Case) -> Iterator[Advice]:
    method = case.recipe.method
    ratio = method.alpha / method.rank
    if 0.5 <= ratio <= 4 or method.rslora or not case.adapts:
        return
    make = warning if ratio > 8 or ratio < 0.1 else advice
    yield make(
        "method.alpha",
        f"alpha / rank is {show_number(round(ratio, 2))}; 1 to 2 is usual.",
        "The adapter's output is scaled by it, so it multiplies what the learning rate does.",
        LORA,
    )


@rule("dropout-high")
def dropout_high(case: Case) -> Iterator[Advice]:
    dropout = case.recipe.method.dropout
    if dropout <= 0.1 or not case.adapts:
        return
    make = warning if dropout > 0.3 else advice
    yield make(
        "method.dropout",
        f"A dropout of {show_number(dropout)} is high; 0 to 0.1 is usual.",
        "It slows learning more than it helps against learning by heart.",
        QLORA,
    )


@rule("targets-known")
def targets_known(case: Case) -> Iterator[Advice]:
    targets = case.recipe.method.target_modules
    if not case.adapts:
        return
    if not targets:
        yield error(
            "method.target_modules",
            "No layers are named: there is nothing to train.",
            "all-linear adapts every linear layer but the output.",
            PEFT,
        )
    if "all-linear" in targets and len(targets) > 1:
        yield error(
            "method.target_modules",
            "all-linear stands alone: it already means every linear layer.",
            "In a list with others it would be taken for a layer's name.",
            PEFT,
        )
        return
    known = {linear.name for linear in case.facts.linears}
    if not known or targets == ("all-linear",):
        return
    for target in targets:
        name = target.rpartition(".")[2]
        if name not in known | _OUTPUT:
            near = difflib.get_close_matches(name, sorted(known), 1)
            yield error(
                "method.target_modules",
                f"The model has no layer {quote(target)}."
                + (f" Did you mean {near[0]}?" if near else ""),
                f"It has {', '.join(sorted(known))}.",
                "the model's weights",
            )


@rule("targets-attention-only")
def targets_attention_only(case: Case) -> Iterator[Advice]:
    names = {target.rpartition(".")[2] for target in case.recipe.method.target_modules}
    if case.adapts and names & _ATTENTION and not names & (_MLP | {"all-linear"}):
        yield advice(
            "method.target_modules",
            "Only attention is adapted.",
            "Adapting the MLP as well learns more, also at an equal number of parameters.",
            REGRET,
        )


@rule("targets-output")
def targets_output(case: Case) -> Iterator[Advice]:
    names = {target.rpartition(".")[2] for target in case.recipe.method.target_modules}
    if case.adapts and names & _OUTPUT and case.facts.tied:
        yield warning(
            "method.target_modules",
            "Output and embeddings share one matrix in this model.",
            "An adapter on one of them parts the two, and a merged model may not load as before.",
            PEFT,
        )


@rule("rslora-strength")
def rslora_strength(case: Case) -> Iterator[Advice]:
    method = case.recipe.method
    if not (case.adapts and method.rslora):
        return
    strength = method.alpha / method.rank**0.5
    if strength > 4:
        yield (warning if strength > 16 else advice)(
            "method.alpha",
            f"With rsLoRA the adapter is scaled by {show_number(round(strength, 1))}: "
            "alpha / sqrt(rank).",
            f"The paper has alpha 16; {round(2 * method.rank**0.5)} here is as strong as 2 x rank "
            "without rsLoRA.",
            RSLORA,
        )
    if method.rank < 32:
        yield advice(
            "method.rslora",
            f"At rank {method.rank} rsLoRA changes little but the strength.",
            "It keeps ranks of 64 and more from learning too slowly.",
            RSLORA,
        )


@rule("dora-cost")
def dora_cost(case: Case) -> Iterator[Advice]:
    method = case.recipe.method
    if case.adapts and method.dora and method.rank > 32:
        yield advice(
            "method.dora",
            f"DoRA gains little at rank {method.rank}, and each step takes a third longer.",
            "Its gain over LoRA was found at low ranks, from 4 to 16.",
            DORA,
        )


@rule("lora-plus-ratio")
def lora_plus_ratio(case: Case) -> Iterator[Advice]:
    ratio = case.recipe.method.lora_plus
    if not case.adapts or ratio == 0:
        return
    if ratio < 1:
        yield warning(
            "method.lora_plus",
            f"A ratio of {show_number(ratio)} makes B slower than A.",
            "LoRA+ is the other way round; 4 to 16 is usual, 0 turns it off.",
            LORA_PLUS,
        )
    elif ratio > 16:
        yield (warning if ratio > 32 else advice)(
            "method.lora_plus",
            f"A ratio of {show_number(ratio)} is high; 4 to 16 is usual.",
            "The B matrices then learn at many times the rate, and break first.",
            LORA_PLUS,
        )


@rule("start-and-method")
def start_and_method(case: Case) -> Iterator[Advice]:
    """Ways to begin an adapter that this method or geometry does not allow."""
    method = case.recipe.method
    if not case.adapts or case.recipe.model.adapter:
        return
    if method.kind == "qlora" and method.init in (*_FROM_WEIGHTS, "orthogonal"):
        yield error(
            "method.init",
            f"{method.init} cannot begin from 4-bit weights.",
            "It is computed from the whole weights, or writes to them: choose default or gaussian.",
            PEFT,
        )
    elif method.init == "orthogonal" and method.rank % 2:
        yield error(
            "method.init",
            f"An orthogonal start needs an even rank, not {method.rank}.",
            "Half of its directions go into each matrix.",
            PEFT,
        )
    names = {target.rpartition(".")[2] for target in method.target_modules}
    if method.init in _FROM_WEIGHTS and names & _OUTPUT and case.facts.tied:
        yield error(
            "method.init",
            f"{method.init} would change the embeddings with the output layer.",
            "The two share one matrix in this model; leave the output layer out.",
            PEFT,
        )


@rule("fp4-choice")
def fp4_choice(case: Case) -> Iterator[Advice]:
    if case.recipe.method.kind == "qlora" and case.recipe.method.quantisation == "fp4":
        yield advice(
            "method.quantisation",
            "fp4 loses more than nf4 at the same size.",
            "Mean perplexity in the paper: 27.4 with nf4, 29.5 to 31.1 with 4-bit floats.",
            QLORA,
        )


@rule("qlora-needless")
def qlora_needless(case: Case) -> Iterator[Advice]:
    free = case.facts.gpu_free
    if case.recipe.method.kind != "qlora" or not free:
        return
    whole = plan(replace(case.recipe, "method.kind", "lora"), case.facts).peak_bytes_high
    if whole is not None and whole < 0.7 * free:
        yield advice(
            "method.kind",
            "LoRA fits without 4-bit weights: faster, and nothing is rounded.",
            f"It needs ≈ {size(whole)}, and {size(free)} is free.",
            "finetui's forecast (see docs)",
        )


@rule("qlora-on-cpu")
def qlora_on_cpu(case: Case) -> Iterator[Advice]:
    if case.recipe.method.kind == "qlora" and case.facts.gpus == 0:
        yield warning(
            "method.kind",
            "On a CPU 4-bit weights are unpacked at every step: much slower than lora.",
            "They save memory only; a CPU seldom lacks it.",
            QLORA,
        )


@rule("full-or-lora")
def full_or_lora(case: Case) -> Iterator[Advice]:
    parameters, rows = case.facts.model_parameters, case.facts.rows
    large = parameters is not None and parameters >= 1_000_000_000
    if not case.adapts and large and rows is not None and rows < 10_000:
        yield advice(
            "method.kind",
            f"With {rows:,} rows LoRA learns as much as full tuning.",
            "At a fraction of the memory and the disk, and it forgets less.",
            REGRET,
        )
