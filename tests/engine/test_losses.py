"""Our loss is the loss: equal to the models' own and to TRL's, in chunks, and accumulated."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from tiny_jobs import tiny_llama, tiny_model, with_adapter

from finetui.data.tokens import ChatTokenizer
from finetui.engine import head
from finetui.engine.batches import Collator, Example, example, single
from finetui.engine.losses import sft_loss, token_losses

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


def batch_of(tokenizer: ChatTokenizer, count: int = 8) -> tuple[dict[str, Any], Any]:
    batch = Collator(tokenizer.pad_id)(single(examples(tokenizer, count)))
    return batch, batch.pop("contents")


def gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {n: part.grad.clone() for n, part in model.named_parameters() if part.grad is not None}
    model.zero_grad()
    return found


def theirs(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The loss that transformers computes over all logits."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    loss: torch.Tensor = model(**inputs).loss
    return loss


def small_chunks(monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
    """Three positions at a time."""
    monkeypatch.setitem(head._CHUNK, "cpu", 3 * model.config.vocab_size)


TRAINED = ["adapter", "adapter on the head", "all weights"]


def tuned(how: str) -> Any:
    if how == "all weights":
        return tiny_llama()
    return with_adapter(tiny_llama(), ["lm_head", "q_proj"] if "head" in how else "all-linear")


@pytest.mark.parametrize("how", TRAINED)
@pytest.mark.parametrize("chunked", [False, True])
def test_loss_and_gradients_equal_the_full_heads(
    tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, how: str, chunked: bool
) -> None:
    model = tuned(how)
    batch, contents = batch_of(tokenizer)
    if chunked:
        small_chunks(monkeypatch, model)
    ours, _ = sft_loss(model, batch, contents.trained_tokens)
    ours.backward()
    mine = gradients(model)
    expected = theirs(model, batch)
    expected.backward()
    assert ours.item() == pytest.approx(expected.item(), abs=1e-6)
    wanted = gradients(model)
    assert mine.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(mine[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("how", TRAINED)
def test_no_more_logits_exist_at_once_than_a_chunk(
    tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    model = tuned(how)
    batch, _ = batch_of(tokenizer)
    sft_loss(model, batch, 1)
    small_chunks(monkeypatch, model)
    sizes: list[int] = []
    head.bare(model).lm_head.register_forward_hook(
        lambda module, inputs, output: sizes.append(output.shape[:-1].numel())
    )
    loss, _ = sft_loss(model, batch, 1)
    loss.backward()
    assert max(sizes) == 3


def test_the_head_runs_on_trained_positions_only(tokenizer: ChatTokenizer) -> None:
    model = tiny_llama()
    batch, contents = batch_of(tokenizer, 3)
    sft_loss(model, batch, 1)
    seen: list[int] = []
    model.lm_head.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[:-1].numel())
    )
    sft_loss(model, batch, 1)
    assert sum(seen) == contents.trained_tokens


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "cohere", "granite", "gpt2"])
def test_what_a_family_does_behind_its_head_is_done(tokenizer: ChatTokenizer, family: str) -> None:
    model = tiny_model(family, vocab_size=2048)
    for part in model.parameters():
        part.data.mul_(3 if part.dim() > 1 else 1)  # logits large enough for soft caps to bend
    batch, contents = batch_of(tokenizer, 4)
    ours, _ = sft_loss(model, batch, contents.trained_tokens)
    assert head._PLAIN[model]
    assert ours.item() == pytest.approx(theirs(model, batch).item(), abs=1e-5)


def test_a_head_that_does_more_than_we_know_is_left_to_the_model(
    tokenizer: ChatTokenizer,
) -> None:
    model = tiny_llama()
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 1.5)
    forward = model.forward

    def odd(*args: Any, **kwargs: Any) -> Any:
        found = forward(*args, **kwargs)
        found.logits = found.logits.tanh() * 5
        return found

    model.forward = odd
    batch, contents = batch_of(tokenizer)
    ours, _ = sft_loss(model, batch, contents.trained_tokens)
    assert not head._PLAIN[model]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits = model(**inputs).logits[:, :-1].flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1:].flatten())
    assert ours.item() == pytest.approx(wanted.item(), abs=1e-6)


def test_a_model_that_keeps_no_positions_has_the_same_loss(
    tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama()
    batch, _ = batch_of(tokenizer)
    kept, _ = sft_loss(model, batch, 10)
    monkeypatch.setattr(head, "keeps_positions", lambda model: False)
    full, _ = sft_loss(model, batch, 10)
    assert kept.item() == pytest.approx(full.item(), abs=1e-6)


def test_a_batch_without_trained_tokens_has_loss_zero(tokenizer: ChatTokenizer) -> None:
    model = tiny_llama()
    rows = [
        Example(item.ids, item.labels[:0] + item.labels[:1] * len(item), 0, item.line)
        for item in examples(tokenizer, 2)
    ]
    assert rows[0].trained_tokens == 0
    batch = Collator(tokenizer.pad_id)(single(rows))
    loss, told = sft_loss(model, batch, 0)
    loss.backward()
    assert loss.item() == 0.0
    assert told.rows is not None and told.rows.tolist() == [0.0, 0.0]


def test_each_row_tells_its_own_loss(tokenizer: ChatTokenizer) -> None:
    model = tiny_llama().eval()
    rows = examples(tokenizer)
    batch = Collator(tokenizer.pad_id, packed=True)([tuple(rows[:5]), tuple(rows[5:])])
    loss, told = sft_loss(model, batch, 10)
    assert told.rows is not None
    assert batch["contents"].sources == [[0, row + 1] for row in range(8)]
    for row, sum_of_row, items in zip(rows, told.rows, batch["contents"].row_items, strict=True):
        alone = torch.tensor(row.ids).long()[None]
        labels = torch.tensor(row.labels).long()[None]
        mean = model(alone, labels=labels).loss.item()
        assert items == row.trained_tokens
        assert sum_of_row.item() / items == pytest.approx(mean, abs=1e-5)
    assert loss.item() == pytest.approx(told.rows.sum().item() / 10, abs=1e-5)


def test_accumulated_batches_give_the_gradient_of_one_large_one(tokenizer: ChatTokenizer) -> None:
    model = with_adapter(tiny_llama())
    rows = examples(tokenizer)
    collate = Collator(tokenizer.pad_id)
    items = sum(row.trained_tokens for row in rows)
    for at in range(0, 8, 2):
        sft_loss(model, collate(single(rows[at : at + 2])), items)[0].backward()
    parts = gradients(model)
    sft_loss(model, collate(single(rows)), items)[0].backward()
    for name, whole in gradients(model).items():
        torch.testing.assert_close(parts[name], whole, atol=1e-6, rtol=1e-4)


def test_under_autocast_the_head_computes_as_the_model_does(tokenizer: ChatTokenizer) -> None:
    model = with_adapter(tiny_llama())
    batch, contents = batch_of(tokenizer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = theirs(model, batch)
        inside, _ = sft_loss(model, batch, contents.trained_tokens)
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    outside, _ = sft_loss(model, batch, contents.trained_tokens)
    outside.backward()
    assert inside.item() == pytest.approx(expected.item(), abs=2e-3)
    assert outside.item() == pytest.approx(inside.item(), abs=1e-6)


def test_held_out_losses_keep_no_graph(tokenizer: ChatTokenizer) -> None:
    model = with_adapter(tiny_llama())
    batch, _ = batch_of(tokenizer)
    with torch.no_grad():
        losses = token_losses(model, batch)
    assert not losses.requires_grad
    assert losses.dtype == torch.float32


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
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_dict({"messages": messages}),
        processing_class=transformers.AutoTokenizer.from_pretrained(model_dir),
    )
    inputs = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(model, inputs)
    assert ours.item() == pytest.approx(float(expected), abs=1e-5)
