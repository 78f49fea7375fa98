"""Our loss is the loss: equal to the models' own, to TRL's, and under accumulation and packing."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from tiny_jobs import tiny_llama

from finetui.data.tokens import ChatTokenizer
from finetui.engine.batches import Collator, Example, example, pack, single
from finetui.engine.losses import IGNORE, keeps_positions, sft_loss

WORDS = ["account", "charged", "twice", "this", "month", "please", "help", "with", "invoice"]


def examples(tokenizer: ChatTokenizer, count: int = 8, seed: int = 0) -> list[Example]:
    """Chats of unlike lengths."""
    random = Random(seed)
    return [
        example(
            tokenizer.encode(
                [
                    {"role": "user", "content": " ".join(random.choices(WORDS, k=3 + 4 * row))},
                    {"role": "assistant", "content": " ".join(random.choices(WORDS, k=2 + row))},
                ]
            ),
            file=0,
            line=row + 1,
        )
        for row in range(count)
    ]


def with_adapter(model: Any) -> Any:
    """The model with a LoRA adapter that already does something."""
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    torch.manual_seed(1)
    for name, part in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(part, std=0.05)
    return tuned


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None
    }


def test_loss_and_gradients_equal_the_full_heads(tokenizer: ChatTokenizer) -> None:
    model = with_adapter(tiny_llama())
    batch = Collator(tokenizer.pad_id)(single(examples(tokenizer)))
    items = batch.pop("contents").trained_tokens
    ours, _ = sft_loss(model, batch, items)
    ours.backward()
    mine = gradients(model)
    model.zero_grad()
    theirs = model(**batch).loss
    theirs.backward()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(mine[name], gradient, atol=1e-6, rtol=1e-4)


def test_the_head_runs_on_trained_positions_only(tokenizer: ChatTokenizer) -> None:
    model = tiny_llama()
    widths: list[int] = []
    model.lm_head.register_forward_hook(
        lambda module, inputs, output: widths.append(output.shape[1])
    )
    rows = examples(tokenizer, 1)
    batch = Collator(tokenizer.pad_id)(single(rows))
    sft_loss(model, batch, 1)
    assert keeps_positions(model)
    assert widths == [rows[0].trained_tokens]


def test_a_model_without_logits_to_keep_has_the_same_loss(
    tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finetui.engine import losses

    model = tiny_llama()
    batch = Collator(tokenizer.pad_id)(single(examples(tokenizer)))
    kept, _ = sft_loss(model, batch, 10)
    monkeypatch.setattr(losses, "keeps_positions", lambda model: False)
    full, _ = sft_loss(model, batch, 10)
    assert kept.item() == pytest.approx(full.item(), abs=1e-6)


def test_a_batch_without_trained_tokens_has_loss_zero(tokenizer: ChatTokenizer) -> None:
    model = tiny_llama()
    batch = Collator(tokenizer.pad_id)(single(examples(tokenizer, 2)))
    batch["labels"].fill_(IGNORE)
    loss, _ = sft_loss(model, batch, 0)
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_give_the_logits_of_single_ones(
    tokenizer: ChatTokenizer, attention: str
) -> None:
    model = tiny_llama().eval()
    model.set_attn_implementation(attention)
    rows = pack(examples(tokenizer), 128)
    assert len(rows) < 8
    batch = Collator(tokenizer.pad_id, packed=True)(rows)
    assert "attention_mask" not in batch
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    with torch.no_grad():
        packed = model(**inputs, use_cache=False).logits
        masked = model(
            **inputs, use_cache=False, attention_mask=torch.ones_like(batch["input_ids"])
        ).logits
    worst, leak = 0.0, 0.0
    for index, row in enumerate(rows):
        start = 0
        for item in row:
            with torch.no_grad():
                alone = model(torch.tensor(item.ids).long()[None], use_cache=False).logits[0]
            place = slice(start, start + len(item))
            worst = max(worst, float((packed[index, place] - alone).abs().max()))
            leak = max(leak, float((masked[index, place] - alone).abs().max()))
            start += len(item)
    assert worst < 1e-5
    assert leak > 1e-3, "with a mask neighbours leak into each other: never send one"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packing_does_not_change_the_loss(tokenizer: ChatTokenizer, attention: str) -> None:
    model = with_adapter(tiny_llama())
    model.set_attn_implementation(attention)
    rows = examples(tokenizer)
    plain = Collator(tokenizer.pad_id)(single(rows))
    packed = Collator(tokenizer.pad_id, packed=True)(pack(rows, 128))
    items = plain["contents"].trained_tokens
    assert packed["contents"].trained_tokens == items
    assert packed["contents"].tokens == plain["contents"].tokens
    one, _ = sft_loss(model, plain, items)
    other, _ = sft_loss(model, packed, items)
    assert one.item() == pytest.approx(other.item(), abs=1e-6)


def test_the_padding_of_a_packed_row_is_an_example_of_its_own(tokenizer: ChatTokenizer) -> None:
    rows = examples(tokenizer, 3)
    batch = Collator(tokenizer.pad_id, packed=True)([tuple(rows[:2]), (rows[2],)])
    length = batch["input_ids"].shape[1]
    assert length % 8 == 0
    expected = [*range(len(rows[0])), *range(len(rows[1]))]
    expected += range(length - len(expected))
    assert batch["position_ids"][0].tolist() == expected
    start = len(rows[0])
    assert batch["labels"][0, 0] == batch["labels"][0, start] == IGNORE
    assert batch["contents"].sources == [[0, 1], [0, 2], [0, 3]]


def test_packing_loses_nothing_and_never_overfills(tokenizer: ChatTokenizer) -> None:
    rows = examples(tokenizer, 8) * 20
    packed = pack(rows, 100)
    assert sorted(item.line for row in packed for item in row) == sorted(r.line for r in rows)
    for row in packed:
        assert sum(map(len, row)) <= 100 or len(row) == 1
    filled = sum(map(len, rows)) / (100 * len(packed))
    assert filled > 0.85


def test_loss_equals_that_of_trl(tokenizer: ChatTokenizer, model_dir: Any, tmp_path: Any) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    messages = [
        [
            {"role": "user", "content": "Hello there"},
            {"role": "assistant", "content": "Good day to you " * (1 + row)},
        ]
        for row in range(4)
    ]
    model = tiny_llama()
    batch = Collator(tokenizer.pad_id)(
        single([example(tokenizer.encode(chat), 0, 1) for chat in messages])
    )
    ours, _ = sft_loss(model, batch, batch["contents"].trained_tokens)
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            assistant_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            max_steps=1,
            logging_steps=1,
            learning_rate=0.0,
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_dict({"messages": messages}),
        processing_class=transformers.AutoTokenizer.from_pretrained(model_dir),
    )
    trainer.train()
    theirs = next(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    assert ours.item() == pytest.approx(theirs, abs=2e-4)
