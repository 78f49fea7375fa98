"""Measuring on the meta device, against real tensors, torch's own tracker and the engine's loss."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import memory_oracle
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetui.engine import adapters, head, losses, measure
from finetui.engine.ledger import Ledger
from finetui.engine.machine import Machine
from finetui.jobs import measuring
from finetui.recipe import coefficients, memory
from finetui.recipe.coefficients import Key, Measured
from finetui.recipe.facts import Facts, merge, model_facts
from finetui.recipe.schema import Recipe, defaults, with_value

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 384,
    "tie_word_embeddings": False,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
}
LORA = Key("adapter", ("all-linear",), wide=False, attention="sdpa")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shape")
    (made / "config.json").write_text(json.dumps(CONFIG))
    return made


def recipe_with(**values: object) -> Recipe:
    recipe = defaults()
    for id, text in values.items():
        recipe = with_value(recipe, id.replace("__", "."), str(text))
    return recipe


# --- the ledger ----------------------------------------------------------------------------------


def test_the_ledger_counts_what_is_alive_and_the_most_that_was() -> None:
    standing = torch.zeros(1000)
    ledger = Ledger()
    ledger.ignore([standing])
    with ledger:
        first = torch.zeros(256)
        view, second = first[:10], torch.zeros(64)
        assert ledger.live == 4 * (256 + 64)
        standing.add_(1)
        del first
        assert ledger.live == 4 * (256 + 64)  # a view of it is left
        del view
        assert (ledger.live, ledger.peak) == (4 * 64, 4 * 320)
        assert ledger.mark() == 4 * 64 and ledger.peak == 4 * 64
    del second


# --- coefficients --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        Key("adapter", ("all-linear",), wide=False, attention="flash", quantised=True),
        Key("full", (), wide=False, attention="sdpa"),
        Key("adapter", ("q_proj", "v_proj"), wide=True, attention="eager", dropout=True),
    ],
    ids=str,
)
def test_other_batches_and_ranks_follow_from_the_measured_ones(folder: Path, key: Key) -> None:
    found = measure.measure(folder, key)
    config = AutoConfig.from_pretrained(str(folder))
    rank, sequences, length = 24, 3, 768
    three = measure.prepared(measure.shortened(config, 3), key, rank)
    seen = measure.trace(three, key, sequences, length)
    kept = found.outer.bytes(sequences, length, rank)
    kept += 3 * found.layer.bytes(sequences, length, rank)
    assert kept == pytest.approx(seen.kept, rel=0.01)
    assert found.border.bytes(sequences, length, rank) == pytest.approx(seen.border)
    top = kept + found.backward.bytes(sequences, length, rank)
    assert top == pytest.approx(seen.kept + seen.backward, rel=0.03)


def test_meta_tensors_keep_what_real_ones_keep(folder: Path) -> None:
    """Real weights, real autocast and real attention on a CPU, counted the same way."""
    rank, length = 8, 256
    config = measure.shortened(AutoConfig.from_pretrained(str(folder)), 2)
    meta = measure.prepared(config, LORA, rank)
    foreseen = measure.trace(meta, LORA, 2, length).kept
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    machine = Machine(torch.device("cpu"), "bf16")
    model = adapters.make_trainable(model, recipe_with(rank=rank), machine).train()
    ids = torch.zeros((2, length), dtype=torch.long)
    mask = torch.ones((2, length), dtype=torch.long)
    mask[0, -1] = 0
    ledger = Ledger()
    ledger.ignore([*model.parameters(), *model.buffers(), ids, mask])
    with ledger, torch.autocast("cpu", dtype=torch.bfloat16):
        core = adapters.base_of(model).get_decoder()
        hidden = core(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        real = ledger.live
    assert hidden.requires_grad
    assert foreseen == pytest.approx(real, rel=0.05)


def test_layers_of_different_kinds_are_refused(folder: Path) -> None:
    config = AutoConfig.from_pretrained(str(folder))
    config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    assert measure.shortened(config, 2).num_hidden_layers == 2
    config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="different kinds"):
        measure.shortened(config, 2)


# --- the forecast against torch's own tracker ----------------------------------------------------


def forecast(folder: Path, recipe: Recipe) -> float:
    """The forecast bytes of all tensors at the peak, the model measured first."""
    facts = merge(model_facts(folder), Facts(gpus=1, gpu_bf16=True))
    key = memory.key(recipe, facts)
    found = measure.measure(folder, key)
    facts = dataclasses.replace(facts, measured=Measured(found={str(key): found}))
    peak = memory.peak(recipe, facts)
    assert peak is not None and peak.source == "measured"
    return peak.uncorrected


def test_the_peak_is_within_five_percent_of_the_memory_tracker(tmp_path: Path) -> None:
    """One small shape; `benchmarks/forecast.py` has eight of 8 B parameters."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 2}))
    length = 512
    recipe = recipe_with(batch_size=2, max_length=length, loss_on="all", attention="sdpa")
    told = memory_oracle.peak(tmp_path, recipe, 2, 2, length, 2 * length, memory.CHUNK["gpu"])
    assert forecast(tmp_path, recipe) == pytest.approx(told, rel=0.05)


def test_logits_are_made_in_the_chunks_that_the_forecast_knows() -> None:
    assert head._CHUNK["cpu"] == memory.CHUNK["cpu"] and head._CHUNK["cuda"] == memory.CHUNK["gpu"]


@pytest.mark.parametrize("positions", [64, 2048])
def test_logits_take_what_the_forecast_says(positions: int) -> None:
    vocabulary, width = 60_000, 64
    with torch.device("meta"):
        layer = torch.nn.Linear(width, vocabulary, bias=False).requires_grad_(False)
        hidden = torch.zeros(positions, width, requires_grad=True) * 1
        targets = torch.zeros(positions, dtype=torch.long)
    ledger = Ledger()
    ledger.ignore([layer.weight, hidden, targets])
    with ledger:
        head.Scored(hidden, layer, frozen=True, vocabulary=vocabulary).each(
            losses._surprise, targets
        )
    facts = Facts(vocab=vocabulary, model_hidden=width, gpus=1)
    batch = memory.Batch(1, positions, positions, positions)
    [part] = memory._logits(recipe_with(precision="fp32"), facts, batch)
    assert part.high == pytest.approx(ledger.peak, rel=0.05)


# --- the process ---------------------------------------------------------------------------------


def test_the_command_keeps_what_it_found_and_why_the_rest_failed(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    monkeypatch.setattr(measure, "hide_unused_libraries", lambda: None)
    odd = Key("adapter", ("no_such_layer",), wide=False, attention="sdpa")
    assert measure.main([str(tmp_path), str(folder), str(LORA), str(odd)]) == 0
    kept = coefficients.read(tmp_path, folder)
    assert kept is not None and set(kept.found) == {str(LORA)} and set(kept.problems) == {str(odd)}
    assert "no_such_layer" in kept.problems[str(odd)] or kept.problems[str(odd)]
    assert json.loads(capsys.readouterr().out)["measured"] == [str(LORA)]
    assert measure.main([]) == 2


def test_a_folder_with_code_of_its_own_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    monkeypatch.setattr(measure, "hide_unused_libraries", lambda: None)
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    (hostile / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
    )
    (hostile / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert measure.main([str(tmp_path), str(hostile), str(LORA)]) == 0
    kept = coefficients.read(tmp_path, hostile)
    assert kept is not None and kept.found == {} and kept.problems
    assert not (tmp_path / "ran").exists()


def test_the_process_ends_with_the_screen_that_asked(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", "import sys; from finetui.jobs import measuring;"
         "measuring._PROGRAM = sys.argv[1]; measuring.measure('.', 'm', ['k'])",
         "import os, time; from finetui.jobs.measuring import end_with_parent;"
         f"end_with_parent(); open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()));"
         "time.sleep(60)"],
    )  # fmt: skip
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    child = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{child}").exists())


def wait_until(holds: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_cannot_run_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "ended with 1" in measuring.measure(tmp_path, "m", ["k"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    assert "cannot be started" in measuring.measure(tmp_path, "m", ["k"])
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho noise\necho \'{"problems": {"k": "odd layers"}}\'\n')
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    assert measuring.measure(tmp_path, "m", ["k"]) == "odd layers"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(measuring, "LIMIT_S", 0.1)
    assert "took longer" in measuring.measure(tmp_path, "m", ["k"])
