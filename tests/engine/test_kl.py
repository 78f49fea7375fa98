"""The distance to the start is what it says, is nothing at first, and is drawn the same again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_losses import examples, gradients
from tiny_jobs import chat, tiny_llama, with_adapter, write_rows

from finetui.data.tokens import ChatTokenizer
from finetui.engine import head
from finetui.engine.batches import Collator, single
from finetui.engine.kl import WithGeneral, distance_to_start, with_kl
from finetui.engine.losses import sft_loss
from finetui.engine.objectives import objective_of, sft_objective
from finetui.errors import UserError


def general_batch(tokenizer: ChatTokenizer) -> dict[str, Any]:
    return Collator(tokenizer.pad_id).tensors(single(examples(tokenizer, 4, seed=9)))


@pytest.mark.parametrize("layers", ["all-linear", ["lm_head", "q_proj"]])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_distance_equals_one_by_hand(
    tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, layers: Any, chunked: bool
) -> None:
    model = with_adapter(tiny_llama(), layers)
    batch = general_batch(tokenizer)
    if chunked:
        monkeypatch.setitem(head._CHUNK, "cpu", 3 * 2048)
    distances = distance_to_start(model, batch)
    distances.mean().backward()
    mine = gradients(model)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    wanted = batch["labels"][:, 1:] >= 0
    now = model(**inputs).logits[:, :-1][wanted].log_softmax(-1)
    with model.disable_adapter(), torch.no_grad():
        then = model(**inputs).logits[:, :-1][wanted].log_softmax(-1)
    expected = (now.exp() * (now - then)).sum(-1)
    expected.mean().backward()
    assert distances.mean().item() == pytest.approx(expected.mean().item(), abs=1e-6)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(mine[name], gradient, atol=1e-6, rtol=1e-3)


def test_a_new_adapter_is_at_its_start(tokenizer: ChatTokenizer) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        tiny_llama(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    assert distance_to_start(model, general_batch(tokenizer)).abs().max().item() < 1e-6


def test_the_term_adds_its_weight_times_the_mean(tokenizer: ChatTokenizer) -> None:
    model = with_adapter(tiny_llama())
    collator = Collator(tokenizer.pad_id)
    general = single(examples(tokenizer, 4, seed=9))
    collate = WithGeneral(collator, collator, general, seed=0)
    batch = collate(single(examples(tokenizer)))
    items = batch.pop("contents").trained_tokens
    plain, _ = sft_loss(model, batch, items)
    loss = with_kl(sft_loss, lambda batch: int(batch["trained"].sum()), 0.5)
    both, told = loss(model, batch, items)
    away = distance_to_start(model, batch["general"]).mean()
    assert both.item() == pytest.approx((plain + 0.5 * away).item(), abs=1e-5)
    assert told.figures["base_kl"].item() / items == pytest.approx(away.item(), abs=1e-5)
    assert told.rows is not None and len(told.rows) == 8


def test_the_general_rows_follow_from_the_batch(tokenizer: ChatTokenizer) -> None:
    collator = Collator(tokenizer.pad_id)
    rows, general = single(examples(tokenizer)), single(examples(tokenizer, 8, seed=9))
    first, again = (WithGeneral(collator, collator, general, seed=5) for _ in range(2))
    other = again(rows[4:])["general"]["input_ids"]
    assert first(rows)["general"]["input_ids"].equal(again(rows)["general"]["input_ids"])
    assert not other.equal(first(rows[:4])["general"]["input_ids"])
    assert first(rows)["general"]["input_ids"].shape[0] == 2


def test_training_with_the_term_stays_nearer_to_the_start(
    tokenizer: ChatTokenizer, recipe: Any, tmp_path: Path
) -> None:
    task = write_rows(tmp_path / "task.jsonl", [chat(f"what is {n}", "invoice") for n in range(8)])
    everyday = [chat(f"please help with {n}", "account this month") for n in range(8)]
    general = write_rows(tmp_path / "general.jsonl", everyday)
    away = {}
    for weight in (0.0, 20.0):
        made = recipe(training={"kl_weight": weight, "batch_size": 8}, data={"packing": True})
        rows = sft_objective(made, tokenizer).encode([str(general)]).examples
        objective = objective_of(made, tokenizer, general=rows)
        torch.manual_seed(0)
        model = with_adapter(tiny_llama())
        encoding = objective.encode([str(task)])
        batch = objective.collate(objective.rows(encoding.examples))
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
        for _ in range(6):
            objective.loss(model, batch, objective.items(batch))[0].backward()
            optimiser.step()
            optimiser.zero_grad()
        probe = Collator(tokenizer.pad_id).tensors(single(rows))
        away[weight] = distance_to_start(model, probe).mean().item()
    assert away[20.0] < 0.5 * away[0.0]


def test_the_term_without_general_rows_is_an_error(tokenizer: ChatTokenizer, recipe: Any) -> None:
    with pytest.raises(UserError, match="needs general rows") as caught:
        objective_of(recipe(training={"kl_weight": 0.5}), tokenizer)
    assert "data.general" in str(caught.value)


def test_full_tuning_has_no_start_to_compare_with(tokenizer: ChatTokenizer, recipe: Any) -> None:
    full = recipe(training={"kl_weight": 0.5}, method={"kind": "full"})
    with pytest.raises(UserError, match="full tuning") as caught:
        objective_of(full, tokenizer, general=examples(tokenizer, 2))
    assert caught.value.where == "training.kl_weight"
