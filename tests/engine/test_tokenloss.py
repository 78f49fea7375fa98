"""The loss of each token, base against tuned, equals a plain forward pass."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_jobs import events, run_inside, tiny_llama, with_adapter

from finetui.data.dataset import open_dataset
from finetui.data.token_view import Rules, token_rows
from finetui.engine.machine import choose_machine
from finetui.engine.tokenloss import losses_of
from finetui.jobs import tokenlosses
from finetui.jobs.folder import create


def plain_losses(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [-float(logits[at - 1, token]) for at, token in enumerate(ids) if at]


def test_the_losses_are_those_of_a_plain_forward_pass():
    model, ids = tiny_llama().eval(), [5, 9, 800, 7, 7, 1500, 3]
    first, *found = losses_of(model, ids, choose_machine("fp32"), 0)
    assert first is None and found == pytest.approx(plain_losses(model, ids), abs=1e-5)
    assert losses_of(model, [5], choose_machine("fp32"), 0) == [None]
    assert losses_of(model, [], choose_machine("fp32"), 0) == []


@pytest.fixture
def adapter(model_dir: Path, tmp_path: Path) -> Path:
    from transformers import AutoModelForCausalLM

    tuned = with_adapter(AutoModelForCausalLM.from_pretrained(model_dir))
    tuned.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_job_asks_base_and_tuned_model_for_the_tokens_of_the_recipe(
    workspace, model_dir, adapter, tokenizer
):
    file = workspace.datasets / "train.jsonl"
    spec = {
        "kind": "tokenloss", "workspace": str(workspace.root), "model": str(model_dir),
        "precision": "fp32", "threads": 1, "adapter": str(adapter),
        "rows": [[str(file), 3], [str(file), 1]],
        "rules": {"max_length": 12, "overlong": "cut"},
    }  # fmt: skip
    job = create(workspace.jobs, "tokenloss", "rows", spec, {})
    assert run_inside(job) == 0
    found = tokenlosses.read(job)
    assert [(one.file, one.line) for one in found] == [(str(file), 3), (str(file), 1)]
    with open_dataset(file) as data:
        [row] = token_rows(data.record(2), tokenizer, Rules(max_length=12))
    ids = [row.ids[at] for at in row.seen]
    assert found[0].ids == ids and len(ids) == 12
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    assert found[0].base[1:] == pytest.approx(plain_losses(base, ids), abs=1e-4)
    assert found[0].tuned[1:] != pytest.approx(found[0].base[1:], abs=1e-3)
    assert all(math.isfinite(loss) for loss in found[0].tuned[1:])
    assert tokenlosses.fitting(
        tokenlosses.known(workspace.jobs, str(file), 3), "", ids
    ) == (job, found[0])  # fmt: skip
    assert job.outcome()["status"] == "finished" and events(job, "progress")


def test_a_row_that_is_not_there_is_said(workspace, model_dir):
    file = workspace.datasets / "train.jsonl"
    spec = {"kind": "tokenloss", "workspace": str(workspace.root), "model": str(model_dir),
            "precision": "fp32", "rows": [[str(file), 999]], "rules": {}}  # fmt: skip
    job = create(workspace.jobs, "tokenloss", "rows", spec, {})
    assert run_inside(job) == 1
    assert "no such row" in job.outcome()["sentence"]
