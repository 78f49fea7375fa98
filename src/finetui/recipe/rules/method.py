"""Rules on the method: rank, alpha, dropout and which layers are adapted."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from finetui.recipe.field import quote, show_number
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.schema import field
from finetui.recipe.sources import GUIDES, HOUSE, LORA, PEFT, QLORA, REGRET

_LOW_RANK, _HIGH_RANK = 8, 64
_MLP = {"gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "c_fc", "w1", "w2", "w3"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "c_attn", "query_key_value"}


@rule("method-not-ready")
def method_not_ready(case: Case) -> Iterator[Advice]:
    kind = case.recipe.method.kind
    if kind in field("method.kind").reserved:
        yield error(
            "method.kind",
            f"{kind} cannot be run by this version yet.",
            "The file may say so already; choose lora to run it now.",
            HOUSE,
        )


@rule("rank-range")
def rank_range(case: Case) -> Iterator[Advice]:
    rank, hidden, rows = case.recipe.method.rank, case.facts.model_hidden, case.facts.rows
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
            "rsLoRA paper (Kalajdzievski, 2023)",
        )


@rule("alpha-ratio")
def alpha_ratio(case: Case) -> Iterator[Advice]:
    method = case.recipe.method
    ratio = method.alpha / method.rank
    if 0.5 <= ratio <= 4:
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
    if dropout <= 0.1:
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
        if name not in known | {"lm_head", "embed_tokens"}:
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
    if names & _ATTENTION and not names & _MLP and "all-linear" not in names:
        yield advice(
            "method.target_modules",
            "Only attention is adapted.",
            "Adapting the MLP as well learns more, also at an equal number of parameters.",
            REGRET,
        )


@rule("targets-output")
def targets_output(case: Case) -> Iterator[Advice]:
    names = {target.rpartition(".")[2] for target in case.recipe.method.target_modules}
    if names & {"lm_head", "embed_tokens"} and case.facts.tied:
        yield warning(
            "method.target_modules",
            "Output and embeddings share one matrix in this model.",
            "An adapter on one of them parts the two, and a merged model may not load as before.",
            PEFT,
        )
