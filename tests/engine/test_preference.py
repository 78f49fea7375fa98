"""Preference losses equal TRL's and loops by hand, packed or not, on any way of training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from test_losses import WORDS, gradients
from tiny_jobs import tiny_llama, with_adapter, write_rows
from torch.nn.functional import logsigmoid

from finetui.data.tokens import ChatTokenizer
from finetui.engine.batches import Collator, Labelled, Pair, pack, single
from finetui.engine.dataset import encode_files
from finetui.engine.machine import Machine
from finetui.engine.objectives import Objective, objective_of
from finetui.engine.preference import (
    dpo_loss,
    kto_loss,
    labelled_batches,
    log_probabilities,
    measured,
    orpo_loss,
    pair_batches,
)
from finetui.errors import UserError
from finetui.recipe.schema import Data, Preference

CPU = Machine(torch.device("cpu"), "fp32")


def said(random: Random, words: int) -> str:
    return " ".join(random.choices(WORDS, k=words))


def pair_rows(count: int = 5) -> list[dict[str, Any]]:
    random = Random(3)
    return [
        {
            "prompt": [{"role": "user", "content": said(random, 2 + row)}],
            "chosen": [{"role": "assistant", "content": said(random, 3 + row)}],
            "rejected": [{"role": "assistant", "content": said(random, 9 - row)}],
        }
        for row in range(count)
    ]


def labelled_rows(count: int = 6) -> list[dict[str, Any]]:
    random = Random(4)
    return [
        {
            "messages": [
                {"role": "user", "content": said(random, 2 + row)},
                {"role": "assistant", "content": said(random, 8 - row)},
            ],
            "label": row % 3 > 0,
        }
        for row in range(count)
    ]


def encoded(
    tokenizer: ChatTokenizer, path: Path, rows: list[dict[str, Any]], objective: str, **data: Any
) -> Any:
    settings = Data(max_length=128, **data)
    return encode_files([str(write_rows(path, rows))], tokenizer, settings, objective=objective)


@pytest.fixture
def pairs(tokenizer: ChatTokenizer, tmp_path: Path) -> list[Pair]:
    found: list[Pair] = encoded(tokenizer, tmp_path / "pairs.jsonl", pair_rows(), "dpo").examples
    return found


@pytest.fixture
def labelled(tokenizer: ChatTokenizer, tmp_path: Path) -> list[Labelled]:
    path = tmp_path / "labelled.jsonl"
    found: list[Labelled] = encoded(tokenizer, path, labelled_rows(), "kto").examples
    return found


def with_reference(tuned: Any, items: list[Any], tokenizer: ChatTokenizer) -> list[Any]:
    """The examples with what the base says of them."""
    kind = pair_batches if isinstance(items[0], Pair) else labelled_batches
    with tuned.disable_adapter():
        return measured(
            tuned, items, kind(Collator(tokenizer.pad_id)), 2, CPU, lambda done, total: None
        )


def pair_batch(tokenizer: ChatTokenizer, pairs: list[Pair]) -> dict[str, Any]:
    batch = pair_batches(Collator(tokenizer.pad_id))(single(pairs))
    batch.pop("contents")
    return batch


def answer_logp(model: Any, ids: list[int], labels: list[int]) -> torch.Tensor:
    """Log-probability of an answer, token by token, from all logits."""
    logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    places = [at for at in range(1, len(ids)) if labels[at] >= 0]
    return sum(logits[at - 1, ids[at]] for at in places)  # type: ignore[return-value]


def by_hand(model: Any, pairs: list[Pair]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        tuple(answer_logp(model, list(side.ids), list(side.labels)) for side in pair.sequences)
        for pair in pairs
    ]  # type: ignore[misc]


# -- what an example is --------------------------------------------------------------------------


def test_only_the_answers_of_a_pair_are_trained(
    tokenizer: ChatTokenizer, pairs: list[Pair]
) -> None:
    for row, pair in zip(pair_rows(), pairs, strict=True):
        for side, name in zip(pair.sequences, ("chosen", "rejected"), strict=True):
            trained = [token for token in side.labels if token >= 0]
            assert tokenizer.decode(trained) == row[name][0]["content"]
            assert trained[-1] == tokenizer.end_ids[0]
        assert pair.line == pair_rows().index(row) + 1


def test_a_longer_history_is_not_trained_again(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    row = {
        "prompt": [
            {"role": "user", "content": "please help"},
            {"role": "assistant", "content": "with invoice"},
            {"role": "user", "content": "twice this month"},
        ],
        "chosen": [{"role": "assistant", "content": "account"}],
        "rejected": [{"role": "assistant", "content": "charged twice"}],
    }
    (pair,) = encoded(tokenizer, tmp_path / "p.jsonl", [row], "dpo").examples
    assert tokenizer.decode([token for token in pair.chosen.labels if token >= 0]) == "account"


def test_a_mismatched_answer_belongs_to_another_question(
    tokenizer: ChatTokenizer, labelled: list[Labelled]
) -> None:
    answers = [row["messages"][1]["content"] for row in labelled_rows()]
    questions = [row["messages"][0]["content"] for row in labelled_rows()]
    for place, item in enumerate(labelled):
        other = tokenizer.decode([token for token in item.mismatched.labels if token >= 0])
        assert other == answers[place - 1]
        assert questions[place] in tokenizer.decode(item.mismatched.ids)
    assert [item.good for item in labelled] == [row["label"] for row in labelled_rows()]


def test_kto_takes_a_pair_as_a_good_and_a_bad_answer(
    tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    found = encoded(tokenizer, tmp_path / "pairs.jsonl", pair_rows(2), "kto").examples
    assert [(item.line, item.good) for item in found] == [(1, 1), (1, 0), (2, 1), (2, 0)]
    others = [tokenizer.decode([t for t in item.mismatched.labels if t >= 0]) for item in found]
    first, second = pair_rows(2)
    for place, row in enumerate((second, second, first, first)):
        assert others[place] == row["rejected"][0]["content"]


@pytest.mark.parametrize("objective", ["dpo", "orpo", "kto"])
def test_rows_of_another_shape_are_named(
    tokenizer: ChatTokenizer, tmp_path: Path, objective: str
) -> None:
    rows = [{"messages": row["messages"]} for row in labelled_rows(2)]
    with pytest.raises(UserError, match=f"{objective} learns from .* this file has chat rows"):
        encoded(tokenizer, tmp_path / "rows.jsonl", rows, objective)


def test_pairs_that_teach_nothing_and_long_ones_are_counted(
    tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    rows = pair_rows(4)
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[2]["rejected"] = [{"role": "assistant", "content": "account " * 300}]
    dropped = encoded(tokenizer, tmp_path / "pairs.jsonl", rows, "dpo")
    assert dict(dropped.left_out) == {
        "both answers are the same": 1,
        "longer than max_length": 1,
    }
    cut = encoded(tokenizer, tmp_path / "pairs.jsonl", rows, "dpo", overlong="truncate")
    assert (cut.truncated, len(cut.examples)) == (1, 3)
    assert len(cut.examples[1].rejected) == 128


# -- against TRL ---------------------------------------------------------------------------------


def trl_trainer(kind: str, model: Any, model_dir: Path, tmp_path: Path, **settings: Any) -> Any:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    transformers = pytest.importorskip("transformers")
    rows = pair_rows(2)
    if kind == "KTO":
        rows = [
            {
                "prompt": row["messages"][:1],
                "completion": row["messages"][1:],
                "label": row["label"],
            }
            for row in labelled_rows()
        ]
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(tmp_path),
        per_device_train_batch_size=6,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        **settings,
    )
    return getattr(trl, f"{kind}Trainer")(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(model_dir),
    )


def for_trl(batch: dict[str, Any], order: list[int]) -> dict[str, torch.Tensor]:
    """Our sequences in ``order``, in TRL's words."""
    return {
        "input_ids": batch["input_ids"][order],
        "attention_mask": batch["attention_mask"][order],
        "completion_mask": (batch["labels"][order] >= 0).long(),
    }


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_dpo_equals_trls(
    tokenizer: ChatTokenizer, pairs: list[Pair], model_dir: Path, tmp_path: Path, loss: Any
) -> None:
    model = with_adapter(tiny_llama())
    batch = pair_batch(tokenizer, with_reference(model, pairs, tokenizer))
    ours, _ = dpo_loss(Preference(loss=loss, beta=0.3))(model, batch, len(pairs))
    trainer = trl_trainer("DPO", model, model_dir, tmp_path, loss_type=[loss], beta=0.3)
    inputs = for_trl(batch, [*range(0, 10, 2), *range(1, 10, 2)])
    # TRL copies a given adapter as its reference; ours is the base.
    inputs["ref_chosen_logps"] = batch["reference"][0::2]
    inputs["ref_rejected_logps"] = batch["reference"][1::2]
    trainer.precompute_ref_logps = True
    expected = trainer.compute_loss(model, inputs).detach()
    assert ours.item() == pytest.approx(float(expected), abs=1e-5)


def test_kto_equals_trls(
    tokenizer: ChatTokenizer, labelled: list[Labelled], model_dir: Path, tmp_path: Path
) -> None:
    model = with_adapter(tiny_llama())
    items = with_reference(model, labelled, tokenizer)
    batch = labelled_batches(Collator(tokenizer.pad_id))(single(items))
    settings = Preference(beta=0.3, desirable_weight=1.2, undesirable_weight=0.7)
    ours, told = kto_loss(settings)(model, batch, len(items))
    trainer = trl_trainer(
        "KTO",
        model,
        model_dir,
        tmp_path,
        beta=0.3,
        desirable_weight=1.2,
        undesirable_weight=0.7,
        train_sampling_strategy="sequential",
    )
    inputs = for_trl(batch, list(range(6)))
    for name, part in for_trl(batch["mismatched"], list(range(6))).items():
        inputs[f"KL_{name}"] = part
    inputs |= {
        "label": batch["good"],
        "ref_logps": batch["reference"],
        "ref_KL_logps": batch["mismatched"]["reference"],
    }
    trainer.precompute_ref_logps = True
    expected = trainer.compute_loss(model, inputs).detach()
    assert ours.item() == pytest.approx(float(expected), abs=1e-5)
    assert told.figures["kl"].item() >= 0


def test_orpo_equals_trls_odds_and_the_papers_sum(
    tokenizer: ChatTokenizer, pairs: list[Pair]
) -> None:
    orpo = pytest.importorskip("trl.experimental.orpo").ORPOTrainer
    model = with_adapter(tiny_llama())
    batch = pair_batch(tokenizer, pairs)
    ours, told = orpo_loss(Preference(beta=0.4))(model, batch, len(pairs))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    means = orpo.get_batch_logps(logits, batch["labels"], average_log_prob=True)

    class Settings:
        beta = 0.4
        accelerator = type("Accelerator", (), {"device": "cpu"})

    odds = orpo.odds_ratio_loss(Settings, means[0::2], means[1::2])[0]
    # TRL's plain part reads the prompt too; the paper's, and ours, the chosen answer alone.
    expected = (-means[0::2] - odds).mean()
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)
    assert told.rows is not None
    assert told.rows.sum().item() == pytest.approx(ours.item() * len(pairs), abs=1e-4)


# -- against loops by hand -----------------------------------------------------------------------


def test_dpo_with_doubt_and_sft_term_equals_a_loop_by_hand(
    tokenizer: ChatTokenizer, pairs: list[Pair]
) -> None:
    model = with_adapter(tiny_llama()).eval()
    batch = pair_batch(tokenizer, with_reference(model, pairs, tokenizer))
    settings = Preference(beta=0.2, label_smoothing=0.1, sft_weight=0.5)
    ours, told = dpo_loss(settings)(model, batch, len(pairs))
    ours.backward()
    mine = gradients(model)
    now = by_hand(model, pairs)
    with model.disable_adapter(), torch.no_grad():
        then = by_hand(model, pairs)
    rows = []
    for pair, (chosen, rejected), (was_chosen, was_rejected) in zip(pairs, now, then, strict=True):
        h = 0.2 * ((chosen - was_chosen) - (rejected - was_rejected))
        plain = -chosen / pair.chosen.trained_tokens
        rows.append(-0.9 * logsigmoid(h) - 0.1 * logsigmoid(-h) + 0.5 * plain)
    expected = torch.stack(rows).mean()
    expected.backward()
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(mine[name], gradient, atol=1e-5, rtol=1e-3)
    assert told.rows is not None
    torch.testing.assert_close(told.rows, torch.stack(rows).detach(), atol=1e-5, rtol=1e-5)


def test_figures_tell_the_margin_and_who_is_ahead(
    tokenizer: ChatTokenizer, pairs: list[Pair]
) -> None:
    model = with_adapter(tiny_llama()).eval()
    batch = pair_batch(tokenizer, with_reference(model, pairs, tokenizer))
    _, told = dpo_loss(Preference(beta=0.2))(model, batch, 1)
    gains = 0.2 * (log_probabilities(model, batch) - batch["reference"])
    margins = gains[0::2] - gains[1::2]
    assert told.figures["reward_margin"].item() == pytest.approx(margins.sum().item(), abs=1e-5)
    assert told.figures["reward_accuracy"].item() == int((margins > 0).sum())


@pytest.mark.parametrize("kind", ["dpo", "orpo", "kto"])
def test_packed_and_accumulated_preferences_cost_the_same(
    tokenizer: ChatTokenizer, pairs: list[Pair], labelled: list[Labelled], kind: str
) -> None:
    model = with_adapter(tiny_llama())
    items: list[Any] = with_reference(model, labelled if kind == "kto" else pairs, tokenizer)
    if kind == "kto":  # its zero point is the mean of a batch: one that is clamped is the same
        items = [replace(item, reference=(item.reference[0], 1e4)) for item in items]
    loss = {"dpo": dpo_loss, "orpo": orpo_loss, "kto": kto_loss}[kind](Preference())
    batches = labelled_batches if kind == "kto" else pair_batches
    plain, packed = (batches(Collator(tokenizer.pad_id, packed=on)) for on in (False, True))
    one, _ = loss(model, plain(single(items)), len(items))
    together, _ = loss(model, packed(pack(items, 128)), len(items))
    apart = sum(loss(model, plain([(item,)]), len(items))[0] for item in items)
    assert len(pack(items, 128)) < len(items)
    assert together.item() == pytest.approx(one.item(), abs=1e-5)
    assert float(apart) == pytest.approx(one.item(), abs=1e-5)


def test_the_reference_is_the_model_before_training(
    tokenizer: ChatTokenizer, pairs: list[Pair]
) -> None:
    base = tiny_llama().eval()
    expected = torch.tensor(by_hand(base, pairs))
    model = with_adapter(base)
    told: list[tuple[int, int]] = []
    with model.disable_adapter():
        found = measured(
            model,
            pairs,
            pair_batches(Collator(tokenizer.pad_id)),
            2,
            CPU,
            lambda done, total: told.append((done, total)),
        )
    torch.testing.assert_close(
        torch.tensor([pair.reference for pair in found]), expected, atol=1e-4, rtol=1e-5
    )
    assert [pair.line for pair in found] == [pair.line for pair in pairs]
    assert told[-1] == (5, 5)


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_an_untrained_model_prefers_nothing(
    tokenizer: ChatTokenizer, recipe: Any, tmp_path: Path, kind: str
) -> None:
    """The first loss of dpo is log 2 and of kto 1/2, for an adapter and for all weights."""
    path = write_rows(tmp_path / "pairs.jsonl", pair_rows())
    made: Objective = objective_of(recipe(method={"objective": kind}), tokenizer)
    encoding = made.encode([str(path)])
    model = tiny_llama()
    made.prepare(model, encoding, CPU)
    batch = made.collate(made.rows(encoding.examples))
    loss, _ = made.loss(model, batch, made.items(batch))
    assert loss.item() == pytest.approx({"dpo": 0.693147, "kto": 0.5}[kind], abs=1e-5)


def test_a_pass_without_gradient_takes_none_from_the_next(
    tokenizer: ChatTokenizer, labelled: list[Labelled]
) -> None:
    """Autocast keeps the casts of weights: those of the mismatched pass must not be used again."""
    model = with_adapter(tiny_llama())
    items = with_reference(model, labelled, tokenizer)
    batch = labelled_batches(Collator(tokenizer.pad_id))(single(items))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = kto_loss(Preference())(model, batch, len(items))
    loss.backward()
    trained = {name for name, part in model.named_parameters() if part.requires_grad}
    assert gradients(model).keys() == trained


def test_training_on_pairs_moves_the_margin(
    tokenizer: ChatTokenizer, recipe: Any, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", pair_rows())
    settings = recipe(method={"objective": "dpo"}, data={"packing": True}, preference={"beta": 1.0})
    made = objective_of(settings, tokenizer)
    encoding = made.encode([str(path)])
    model = with_adapter(tiny_llama())
    made.prepare(model, encoding, CPU)
    batch = made.collate(made.rows(encoding.examples))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    seen = []
    for _ in range(12):
        loss, told = made.loss(model, batch, made.items(batch))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seen.append((loss.item(), float(told.figures["reward_accuracy"])))
    assert seen[-1][0] < 0.5 * seen[0][0]
    assert seen[-1][1] == len(encoding.examples)


def test_sft_on_pairs_trains_the_chosen_answers(tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    found = encoded(tokenizer, tmp_path / "pairs.jsonl", pair_rows(), "sft").examples
    for row, item in zip(pair_rows(), found, strict=True):
        trained = tokenizer.decode([token for token in item.labels if token >= 0])
        assert trained == row["chosen"][0]["content"]
        assert json.dumps(row["rejected"][0]["content"]) not in tokenizer.decode(item.ids)
