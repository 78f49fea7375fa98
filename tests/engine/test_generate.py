"""Answers are the same whatever the batch, and safe loading refuses what it must."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_jobs import chat, events, run_inside, tiny_llama, write_rows

from finetui.data.tokens import ChatTokenizer
from finetui.engine.generate import Settings, answers
from finetui.engine.machine import choose_machine
from finetui.engine.model import load_model, load_tokenizer
from finetui.errors import UserError
from finetui.jobs.folder import create
from finetui.recipe.schema import Model, Recipe
from finetui.workspace import Workspace

QUESTIONS = ["Hi", "What is this?", "Tell me about the account and the invoice, please.", "Why"]


@pytest.fixture(scope="module")
def prompts(tokenizer: ChatTokenizer) -> list[list[int]]:
    return [tokenizer.encode_prompt([{"role": "user", "content": text}]) for text in QUESTIONS]


def texts(
    tokenizer: ChatTokenizer, prompts: list[list[int]], settings: Settings, **kwargs: Any
) -> dict[int, str]:
    model = tiny_llama(vocabulary=1935)
    return {
        answer.index: answer.text
        for batch in answers(model, tokenizer, prompts, settings, **kwargs)
        for answer in batch
    }


def test_greedy_answers_do_not_depend_on_the_batch(
    tokenizer: ChatTokenizer, prompts: list[list[int]]
) -> None:
    together = texts(tokenizer, prompts, Settings(max_new_tokens=6))
    alone = texts(tokenizer, prompts, Settings(max_new_tokens=6, batch_size=1))
    assert together == alone
    assert sorted(together) == [0, 1, 2, 3]


def test_samples_repeat_with_their_seed_also_after_a_break(
    tokenizer: ChatTokenizer, prompts: list[list[int]]
) -> None:
    settings = Settings(max_new_tokens=6, temperature=1.0, seed=3, batch_size=2)
    once = texts(tokenizer, prompts, settings)
    assert texts(tokenizer, prompts, settings) == once
    rest = texts(tokenizer, prompts, settings, wanted=lambda index: index in (1, 2))
    assert rest == {index: once[index] for index in (1, 2)}
    other = Settings(max_new_tokens=6, temperature=1.0, seed=4, batch_size=2)
    assert texts(tokenizer, prompts, other) != once


def test_an_answer_ends_at_the_end_of_turn(
    tokenizer: ChatTokenizer, prompts: list[list[int]]
) -> None:
    import torch

    model = tiny_llama()
    stop = tokenizer.stop_ids[0]
    with torch.no_grad():  # every position points at the end token
        model.model.norm.weight.zero_()
        model.lm_head = torch.nn.Linear(32, 2048)
        model.lm_head.bias.zero_()
        model.lm_head.bias[stop] = 9.0
    (batch,) = answers(model, tokenizer, prompts, Settings(max_new_tokens=6))
    assert all(answer.ended and answer.text == "" for answer in batch)


def test_a_prompt_that_fills_the_context_gets_no_answer(tokenizer: ChatTokenizer) -> None:
    prompt = tokenizer.encode_prompt([{"role": "user", "content": "word " * 400}])
    (batch,) = answers(tiny_llama(), tokenizer, [prompt], Settings(max_new_tokens=4))
    assert batch[0].text == "" and not batch[0].ended


def broken_copy(model_dir: Path, folder: Path, **config: Any) -> Path:
    shutil.copytree(model_dir, folder)
    written = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(written))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "pickled",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: shutil.rmtree(folder), "no such model folder"),
    ],
)
def test_a_model_that_cannot_be_used_is_named(
    model_dir: Path, tmp_path: Path, change: Callable[[Path], Any], words: str
) -> None:
    folder = broken_copy(model_dir, tmp_path / "model")
    change(folder)
    with pytest.raises(UserError, match=words) as caught:
        load_model(Model(path=str(folder)), choose_machine("auto", 1))
    assert str(folder) in str(caught.value)


def test_code_of_a_model_never_runs_unasked(model_dir: Path, tmp_path: Path) -> None:
    folder = broken_copy(
        model_dir,
        tmp_path / "model",
        model_type="strange",
        auto_map={"AutoModelForCausalLM": "modeling_strange.Strange"},
    )
    marker = tmp_path / "ran"
    (folder / "modeling_strange.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(UserError, match="auto_map"):
        load_model(Model(path=str(folder)), choose_machine("auto", 1))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="auto_map"):
        load_tokenizer(Model(path=str(folder)), tmp_path / "scratch")
    assert not marker.exists()


def test_a_hub_id_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from finetui.engine import model as room

    asked: list[str] = []

    def refuse(name: str, **_: Any) -> Any:
        asked.append(name)
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(room.PreTrainedConfig, "get_config_dict", refuse)
    with pytest.raises(UserError, match="the hub did not give it"):
        load_model(Model(path="org/name"), choose_machine("auto", 1))
    assert asked == ["org/name"]


def test_a_models_own_sampling_is_switched_off(model_dir: Path, tmp_path: Path) -> None:
    folder = broken_copy(model_dir, tmp_path / "model")
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 2.0}')
    model = load_model(Model(path=str(folder)), choose_machine("auto", 1))
    assert not model.generation_config.do_sample


def spec(workspace: Workspace, model_dir: Path, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "workspace": str(workspace.root),
        "model": str(model_dir),
        "data": str(workspace.datasets / "held.jsonl"),
        "max_new_tokens": 6,
        "threads": 1,
        **more,
    }


def test_generate_answers_every_row(workspace: Workspace, model_dir: Path) -> None:
    job = create(workspace.jobs, "generate", "x", spec(workspace, model_dir, "generate"), {})
    assert run_inside(job) == 0
    lines = (job.path / "outputs-after.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] != []
    assert events(job, "progress")[-1]["done"] == 4


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ("alpaca", [{"instruction": "Add", "input": "1 2", "output": "3"}]),
        ("pair", [{"prompt": "1+2", "completion": "3"}]),
        ("text", [{"text": "Once upon a time there was a lamp."}]),
        ("preference", [{"prompt": "1+2", "chosen": "3", "rejected": "4"}]),
        ("sharegpt", [{"conversations": [
            {"from": "human", "value": "1+2"}, {"from": "gpt", "value": "3"}]}]),
        ("chat", [chat("1+2", "3")]),
    ],
)  # fmt: skip
def test_every_shape_can_be_trained_on(
    workspace: Workspace,
    recipe: Callable[..., Recipe],
    tokenizer: ChatTokenizer,
    shape: str,
    rows: list[dict[str, Any]],
) -> None:
    from finetui.engine.dataset import encode_files

    path = write_rows(workspace.datasets / f"{shape}.jsonl", rows * 3)
    found = encode_files([str(path)], tokenizer, recipe().data)
    assert len(found.examples) == 3
    trained = [label for label in found.examples[0].labels if label >= 0]
    expected = "3" if shape != "text" else "nce upon a time there was a lamp."
    assert tokenizer.decode(trained).endswith(expected)
