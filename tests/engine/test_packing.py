"""Rows packed together cannot see each other, on every architecture we claim; nothing is lost."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest
import torch
from test_losses import examples
from tiny_jobs import tiny_llama, tiny_model, with_adapter, write_rows

from finetui.data.tokens import ChatTokenizer
from finetui.engine.batches import (
    Collator,
    Example,
    pack,
    pack_in_order,
    pieces,
    single,
)
from finetui.engine.dataset import encode_files
from finetui.engine.losses import IGNORE, by_sequence, sft_loss, token_losses
from finetui.engine.machine import Machine
from finetui.engine.objectives import objective_of, require_isolation
from finetui.errors import UserError
from finetui.recipe.schema import Data

CPU = Machine(torch.device("cpu"), "fp32")
FAMILIES = [
    "llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "mixtral", "gemma", "gemma2",
    "gemma3_text", "phi3", "olmo2", "granite", "cohere", "smollm3", "gpt2",
]  # fmt: skip


def numbers(lengths: tuple[int, ...] = (9, 14, 5, 11, 7)) -> list[Example]:
    """Examples of random tokens below 64, their second half trained."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for line, length in enumerate(lengths):
        ids = array("i", torch.randint(3, 64, (length,), generator=draw).tolist())
        labels = array("i", [IGNORE] * (length // 2)) + ids[length // 2 :]
        found.append(Example(ids, labels, 0, line))
    return found


def losses_by_line(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Summed losses in the order of the lines."""
    with torch.no_grad():
        sums = by_sequence(token_losses(model, batch), batch)
    order = [line for _, line in batch["contents"].sources]
    return sums[torch.tensor(order).argsort()]


@pytest.mark.parametrize("family", FAMILIES)
def test_packing_changes_no_row_on_any_architecture_we_claim(family: str) -> None:
    model = tiny_model(family)
    for part in model.parameters():
        part.data.mul_(3 if part.dim() > 1 else 1)  # attention that is far from uniform
    rows = numbers()
    plain = losses_by_line(model, Collator(0)(single(rows)))
    assert len(pack(rows, 24)) < len(rows)
    packed = losses_by_line(model, Collator(0, packed=True)(pack(rows, 24)))
    flat = losses_by_line(model, Collator(0, flat=True)(single(rows)))
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(flat, plain, atol=1e-5, rtol=0)
    require_isolation(model, rows, Collator(0, packed=True), CPU)


@pytest.mark.parametrize("family", ["mamba", "opt"])
def test_a_model_whose_packed_rows_see_each_other_is_refused(family: str) -> None:
    model = tiny_model(family)
    with pytest.raises(UserError, match="see each other") as caught:
        require_isolation(model, numbers(), Collator(0, packed=True), CPU)
    assert caught.value.where == "data.packing"


def test_isolation_is_proven_before_a_packed_run(
    tokenizer: ChatTokenizer, recipe: Any, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "t.jsonl", [{"text": "one two three " * 9}] * 2)
    made = objective_of(recipe(method={"objective": "pretrain"}, data={"packing": True}), tokenizer)
    encoding = made.encode([str(path)])
    made.prepare(tiny_llama(), encoding, CPU)
    with pytest.raises(UserError, match="see each other"):
        made.prepare(tiny_model("mamba", 2048), encoding, CPU)


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


def test_packing_in_the_order_of_the_files_keeps_it(recipe: Any, tokenizer: ChatTokenizer) -> None:
    rows = examples(tokenizer, 8)
    packed = pack_in_order(rows, 128)
    assert [item.line for row in packed for item in row] == list(range(1, 9))
    assert all(sum(map(len, row)) <= 128 for row in packed)
    made = objective_of(recipe(data={"packing": True, "order": "file"}), tokenizer)
    assert made.rows(rows) == packed


def test_a_long_document_is_taken_apart_and_nothing_is_lost(tokenizer: ChatTokenizer) -> None:
    whole = Example(array("i", range(100)), array("i", [IGNORE, *range(1, 100)]), 0, 7)
    parts = pieces(whole, 32)
    assert [len(part) for part in parts] == [32, 32, 32, 4]
    assert [token for part in parts for token in part.ids] == list(range(100))
    assert all(part.labels[0] == IGNORE and part.line == 7 for part in parts)
    assert sum(part.trained_tokens for part in parts) == 96


def test_pretraining_reads_texts_whole_with_an_end_behind_each(
    tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    texts = [{"text": "please help with this invoice " * 40}, {"text": "account"}]
    path = write_rows(tmp_path / "texts.jsonl", texts)
    settings = Data(max_length=64, overlong="drop")
    found = encode_files([str(path)], tokenizer, settings, objective="pretrain")
    assert found.split == 1 and not found.left_out
    long, short = ([e for e in found.examples if e.line == line] for line in (1, 2))
    read = [token for part in long for token in part.ids]
    assert tokenizer.decode(read).strip() == texts[0]["text"].strip()
    assert read[-1] == short[0].ids[-1] == tokenizer.end_ids[0]
    assert all(part.trained_tokens == len(part) - 1 for part in found.examples)
