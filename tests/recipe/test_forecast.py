"""The forecast: steps, rates, adapter size, memory and disk, against figures known from runs."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path

import pytest

from finetui.recipe.facts import Facts, Past, data_facts, gather, merge, model_facts
from finetui.recipe.forecast import plan
from finetui.recipe.memory import adapter_parameters, largest_batch, peak, precision
from finetui.recipe.schema import Recipe, defaults, with_value

from .conftest import CONFIG, LLAMA_8B, write_config, write_header

GIB = 2**30


def recipe_with(**values: object) -> Recipe:
    recipe = defaults()
    for id, text in values.items():
        recipe = with_value(recipe, id.replace("__", "."), str(text))
    return recipe


def chat(words: int) -> dict[str, object]:
    return {
        "messages": [
            {"role": "user", "content": "abcd" * words},
            {"role": "assistant", "content": "abcd" * 10},
        ]
    }


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "values", "per_epoch", "steps"),
    [
        # 600 rows and a quarter more of general ones: the run that was measured had 282 steps.
        ({"rows": 600}, {"data__general": "g", "general_share": "25%"}, 94, 282),
        ({"rows": 600, "general_rows": 50}, {"data__general": "g", "general_share": 1}, 82, 246),
        ({"rows": 600}, {"general_share": "25%"}, 75, 225),  # a share without a file adds nothing
        ({"rows": 100}, {"batch_size": 8, "accumulation": 4, "epochs": 1}, 4, 4),
        ({"rows": 100}, {"batch_size": 8, "accumulation": 2, "processes": 2, "epochs": 1}, 4, 4),
        ({"rows": 100}, {"batch_size": 8, "epochs": 0.5}, 13, 7),
        ({"rows": 3}, {"batch_size": 8, "epochs": 2}, 1, 2),
        ({"rows": 100}, {"max_steps": 7}, 13, 7),
        ({}, {"max_steps": 7}, None, 7),
        ({}, {}, None, None),
        (
            {"rows": 1000, "tokens": 100_000, "longest": 100},
            {"packing": "on", "max_length": 1000, "batch_size": 2, "epochs": 1},
            53,  # 100,000 tokens in sequences of 950
            53,
        ),
    ],
)
def test_counts_steps_as_the_trainer_does(
    facts: dict[str, int], values: dict[str, object], per_epoch: int | None, steps: int | None
) -> None:
    found = plan(recipe_with(**values), Facts(**facts))
    assert (found.steps_per_epoch, found.steps) == (per_epoch, steps)


def test_rows_that_are_too_long_are_not_counted_when_dropped() -> None:
    facts = Facts(rows=100, longest=2000, lengths=(100, 100, 100, 2000))
    assert plan(recipe_with(overlong="drop"), facts).rows_per_epoch == 75
    assert plan(recipe_with(overlong="truncate"), facts).rows_per_epoch == 100


# --- the learning rate ---------------------------------------------------------------------------


def test_cosine_rises_from_zero_over_the_warmup_and_falls_to_nothing() -> None:
    found = plan(recipe_with(learning_rate="4e-3", max_steps=100, warmup="10%"))
    rates = found.learning_rates
    assert found.warmup_steps == 10 and len(rates) == 100
    assert rates[0] == 0.0 and rates[5] == pytest.approx(2e-3)
    assert max(rates) == rates[10] == pytest.approx(4e-3)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(2e-3)
    assert 0 < rates[-1] < 4e-6


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 1e-4), ("constant", 2e-4)])
def test_other_schedules(schedule: str, middle: float) -> None:
    rates = plan(recipe_with(schedule=schedule, max_steps=101, warmup=1)).learning_rates
    assert rates[0] == 0.0 and rates[1] == pytest.approx(2e-4)
    assert rates[51] == pytest.approx(middle)


def test_a_long_run_has_200_points_with_both_ends() -> None:
    rates = plan(recipe_with(max_steps=1_000_000, warmup=0)).learning_rates
    assert len(rates) == 200 and rates[0] == pytest.approx(2e-4) and rates[-1] < 1e-12
    assert plan(recipe_with(max_steps=1)).learning_rates == (0.0,)


@pytest.mark.torch
def test_the_curve_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    for schedule in ("cosine", "linear", "constant_with_warmup"):
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        theirs = transformers.get_scheduler(schedule, optimiser, 12, 150)
        ours = plan(
            recipe_with(
                learning_rate=1e-3, max_steps=150, warmup=12, schedule=schedule.split("_")[0]
            )
        ).learning_rates
        for step in range(150):
            assert ours[step] == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), (schedule, step)
            optimiser.step()
            theirs.step()


# --- the model -----------------------------------------------------------------------------------


def test_the_demo_model_has_299_008_adapter_parameters(model_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_with(rank=16)
    from_weights = model_facts(model_dir)
    from_config = model_facts(write_config(tmp_path / "bare", CONFIG))
    for facts in (from_weights, from_config):
        assert facts.model_parameters == 3_451_136
        assert adapter_parameters(recipe, facts) == 299_008
        assert (facts.model_hidden, facts.model_layers, facts.vocab) == (256, 4, 1952)
    assert from_weights.model_lacks == () and from_weights.generation_markers is True
    assert from_config.model_lacks == ("weights", "tokenizer", "chat template")


def test_adapter_parameters_follow_rank_and_targets(model_dir: Path) -> None:
    facts = model_facts(model_dir)
    assert adapter_parameters(recipe_with(rank=8), facts) == 149_504
    q_and_v = recipe_with(rank=16, target_modules="q_proj, self_attn.v_proj")
    assert adapter_parameters(q_and_v, facts) == 16 * 4 * (512 + 384)
    assert adapter_parameters(recipe_with(), Facts()) is None


def test_llama_8b_has_its_known_sizes(tmp_path: Path) -> None:
    facts = model_facts(write_config(tmp_path / "m", LLAMA_8B))
    assert facts.model_parameters == 8_030_261_248
    assert adapter_parameters(recipe_with(rank=16), facts) == 41_943_040


def test_any_architecture_is_counted_from_its_tensors(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m", {"model_type": "odd", "vocab_size": 10, "n_embd": 4})
    shapes = {
        "transformer.wte.weight": [10, 4],
        "transformer.h.0.ln_1.weight": [4],
        "transformer.h.0.attn.c_attn.weight": [4, 12],
        "transformer.h.0.attn.c_attn.bias": [12],
        "lm_head.weight": [10, 4],
    }
    half = dict(list(shapes.items())[:3])
    write_header(folder / "model-00001-of-00002.safetensors", half)
    write_header(
        folder / "model-00002-of-00002.safetensors",
        {name: shape for name, shape in shapes.items() if name not in half},
    )
    facts = model_facts(folder)
    assert facts.model_parameters == 40 + 4 + 48 + 12 + 40
    assert adapter_parameters(recipe_with(rank=2), facts) == 2 * 16


@pytest.mark.parametrize(
    "config", ["", "[]", "{", '{"hidden_size": "big"}', '{"hidden_size": -1}', "[" * 100_000]
)
def test_a_broken_model_folder_is_no_crash(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    facts = model_facts(tmp_path)
    assert facts.model_parameters is None and facts.linears == ()
    assert plan(defaults(), facts).peak_bytes_low is None


# --- memory and disk -----------------------------------------------------------------------------


def tensors(recipe: Recipe, facts: Facts) -> dict[str, float]:
    """The middle of each part of the peak, in GiB."""
    found = peak(recipe, facts)
    assert found is not None
    return {part.name: (part.low + part.high) / 2 / GIB for part in found.parts}


def test_llama_8b_by_formula_is_near_what_a_memory_tracker_found(tmp_path: Path) -> None:
    """Tracker: 15.11 weights and adapter, .31 optimiser, 13.27 activations with flash (GiB)."""
    facts = merge(model_facts(write_config(tmp_path / "m", LLAMA_8B)), Facts(gpus=1))
    recipe = recipe_with(rank=16, max_length=2048, batch_size=1, loss_on="all", attention="flash")
    parts = tensors(recipe, facts)
    assert parts["optimiser"] == pytest.approx(0.31, abs=0.01)
    assert parts["weights"] + parts["adapter"] == pytest.approx(15.11, abs=0.02)
    assert parts["activations"] == pytest.approx(13.27, rel=0.05)
    assert parts["logits"] < 1.0  # of the 2.94 that all logits at once would take
    found = plan(recipe, facts)
    assert found.memory_source == "formula" and found.peak_moment == "loss"
    assert "activations by formula, not measured yet" in found.notes


def test_the_parts_add_up_to_the_peak(tmp_path: Path) -> None:
    facts = merge(model_facts(write_config(tmp_path / "m", LLAMA_8B)), Facts(gpus=1))
    for kind in ("lora", "qlora", "full"):
        found = plan(recipe_with(method__kind=kind), facts)
        assert found.peak_bytes_low == round(sum(part.low for part in found.memory))
        assert found.peak_bytes_high == round(sum(part.high for part in found.memory))


def test_the_demo_needs_what_its_process_took(model_dir: Path) -> None:
    """Measured: 750 MB resident, libraries included."""
    facts = merge(model_facts(model_dir), Facts(gpus=0, longest=100, rows=600, tokens=36_000))
    found = plan(recipe_with(precision="fp32", max_length=512), facts)
    assert found.peak_bytes_low and found.peak_bytes_high
    assert found.peak_bytes_low < 750e6 < found.peak_bytes_high


def test_checkpointing_optimiser_and_packing_show_in_the_peak(tmp_path: Path) -> None:
    facts = merge(model_facts(write_config(tmp_path / "m", LLAMA_8B)), Facts(gpus=1))
    full = {"method__kind": "full"}
    kept, again = (tensors(recipe_with(training__checkpointing=x), facts) for x in ("off", "on"))
    assert again["activations"] < 0.1 * kept["activations"]
    eight = tensors(recipe_with(optimizer="adamw_8bit", **full), facts)
    assert eight["optimiser"] == pytest.approx(tensors(recipe_with(**full), facts)["optimiser"] / 4,
                                               rel=0.03)  # fmt: skip
    flash = tensors(recipe_with(packing="on"), facts)
    padded = tensors(recipe_with(), facts)
    assert flash["activations"] < padded["activations"]


def test_pairs_are_two_sequences(tmp_path: Path) -> None:
    assert largest_batch(recipe_with(objective="dpo", batch_size=3), Facts()).sequences == 6
    assert largest_batch(recipe_with(batch_size=3), Facts()).sequences == 3


def test_accumulation_keeps_gradients_all_the_time(tmp_path: Path) -> None:
    facts = merge(model_facts(write_config(tmp_path / "m", LLAMA_8B)), Facts(gpus=1))
    once, twice = (tensors(recipe_with(accumulation=n), facts) for n in (1, 2))
    assert "gradients" not in once
    assert twice["gradients"] * GIB == pytest.approx(4 * 41_943_040)


def test_shares_of_a_model_need_less_and_two_processes_less_time(tmp_path: Path) -> None:
    write_config(tmp_path / "m", LLAMA_8B)
    run = Past("H", "full", 8_030_261_248, 16.0 * GIB, 17.0 * GIB, 1e15, 100.0)
    facts = merge(
        model_facts(tmp_path / "m"),
        Facts(gpus=4, gpu_name="H", rows=100, tokens=10_000, past=(run,)),
    )

    def full(**values: object) -> Recipe:
        return recipe_with(method__kind="full", **values)

    one, two = (plan(full(processes=count), facts) for count in (1, 2))
    assert two.peak_bytes_low and one.peak_bytes_low
    # Beside the whole model each process has the buckets in which gradients travel.
    assert two.peak_bytes_low > one.peak_bytes_low
    four = plan(full(processes=4, sharding="fsdp"), facts)
    sizes = {part.name: part.low for part in four.memory}
    weights = {part.name: part.low for part in one.memory}["weights"]
    assert sizes["weights"] == pytest.approx(weights / 4)
    assert "whole layers" in sizes and four.peak_bytes_low
    assert four.peak_bytes_low < 0.7 * one.peak_bytes_low
    assert one.seconds_low and two.seconds_low == pytest.approx(one.seconds_low / 2)


def test_earlier_runs_correct_the_peak_and_give_the_time(tmp_path: Path) -> None:
    base = merge(
        model_facts(write_config(tmp_path / "m", LLAMA_8B)),
        Facts(gpus=1, gpu_name="Card", rows=100, tokens=100_000, exact=True),
    )
    recipe = recipe_with(epochs=1)
    before = plan(recipe, base)
    assert before.seconds_low is None and before.calibrated == 0

    def past(device: str, ratio: float) -> Past:
        predicted, seconds = 40.0 * GIB, 100.0
        return Past(device, "lora", 8_030_261_248, predicted, ratio * predicted, 4e15, seconds)

    after = plan(recipe, merge(base, Facts(past=(past("Card", 1.1), past("Other", 9.0)))))
    assert after.calibrated == 1
    weights = {part.name: part for part in after.memory}["weights"]
    old = {part.name: part for part in before.memory}["weights"]
    assert weights.high == pytest.approx(1.1 * old.high)
    assert after.flops and after.seconds_low and after.seconds_high
    assert after.seconds_low < after.flops / 4e13 < after.seconds_high


def test_on_a_cpu_earlier_runs_tell_what_the_process_takes(model_dir: Path) -> None:
    facts = merge(model_facts(model_dir), Facts(gpus=0, longest=100))
    run = Past("CPU", "lora", 3_451_136, 1e9, 1.5e9, 0.0, 0.0)
    found = {
        part.name: part for part in plan(recipe_with(), merge(facts, Facts(past=(run,)))).memory
    }
    assert found["process"].low == pytest.approx(0.95 * 5e8)
    assert found["process"].source == "earlier runs"


def test_a_key_is_forecast_in_a_moment(tmp_path: Path) -> None:
    facts = merge(model_facts(write_config(tmp_path / "m", LLAMA_8B)), Facts(gpus=1, rows=1000))
    recipe = recipe_with(max_steps=100_000)
    began = time.process_time()
    for _ in range(50):
        plan(recipe, facts)
    assert (time.process_time() - began) / 50 < 0.005


def test_memory_grows_with_what_costs_memory(tmp_path: Path) -> None:
    facts = merge(model_facts(write_config(tmp_path / "m", LLAMA_8B)), Facts(gpus=1))

    def high(**values: object) -> int:
        found = plan(recipe_with(**({"precision": "bf16"} | values)), facts).peak_bytes_high
        assert found
        return found

    base = high()
    assert high(batch_size=16) > base > high(batch_size=4)
    assert high(max_length=2048) > base and high(precision="fp32") > base
    assert high(rank=64) > base > high(method__kind="qlora")
    assert high(training__checkpointing="on") < base < high(attention="eager")
    assert high(method__kind="full") > base + 80 * GIB


def test_short_rows_need_less_than_max_length() -> None:
    model = Facts(model_parameters=10**9, model_hidden=2048, model_layers=16, vocab=32_000)
    some = plan(recipe_with(method__kind="full"), model)
    short = plan(recipe_with(method__kind="full"), merge(model, Facts(longest=64)))
    assert some.batch_tokens == 8 * 1024 and short.batch_tokens == 8 * 64
    assert some.peak_bytes_high and short.peak_bytes_high
    assert short.peak_bytes_high < some.peak_bytes_high


def test_disk_counts_result_best_and_kept_checkpoints(model_dir: Path) -> None:
    facts = merge(model_facts(model_dir), Facts(rows=800))
    # The last step is always saved, with the optimiser's states.
    once = plan(recipe_with(generate=0), facts).disk_bytes
    kept = plan(recipe_with(generate=0, checkpoints__every=10, keep=3), facts).disk_bytes
    best = plan(recipe_with(generate=0, data__eval="e"), facts).disk_bytes
    assert once and kept and best
    # Three are kept, and a fourth is written before the oldest goes.
    assert kept - once == 3 * 12 * 299_008
    assert best - once == 4 * 299_008


def test_auto_precision_follows_the_machine() -> None:
    assert precision(defaults(), Facts(gpus=0)) == "fp32"
    assert precision(defaults(), Facts(gpus=1, gpu_bf16=False)) == "fp16"
    assert precision(defaults(), Facts(gpus=1, gpu_bf16=True)) == "bf16"
    assert precision(recipe_with(precision="fp16"), Facts(gpus=0)) == "fp16"


# --- the data ------------------------------------------------------------------------------------


def test_rows_and_tokens_of_jsonl(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [chat(40), chat(60), chat(200)])
    facts = data_facts([path])
    # 4 bytes a token, 4 tokens a turn.
    assert (facts.rows, facts.tokens, facts.trained_tokens) == (3, 300 + 30 + 24, 30)
    assert facts.longest == 218 and facts.lengths == (58, 78, 218) and not facts.exact
    both = data_facts([path, path])
    assert both.rows == 6 and both.tokens == 2 * (facts.tokens or 0)


@pytest.mark.parametrize(
    ("row", "trained"),
    [
        ({"instruction": "ab" * 8, "input": "", "output": "abcd"}, 1),
        ({"prompt": "ab" * 8, "completion": "abcd", "id": "x" * 400}, 1),
        ({"prompt": "ab" * 8, "chosen": "abcd", "rejected": "x" * 400}, 1),
        (
            {
                "conversations": [
                    {"from": "human", "value": "ab" * 8},
                    {"from": "gpt", "value": "abcd"},
                ]
            },
            1,
        ),
        ({"text": "ab" * 10}, 0),
    ],
)
def test_every_shape_is_measured(tmp_path: Path, row: dict[str, object], trained: int) -> None:
    (tmp_path / "a.json").write_text(json.dumps([row, row]))
    for path in (write_rows(tmp_path / "a.jsonl", [row, row]), tmp_path / "a.json"):
        facts = data_facts([path])
        assert facts.rows == 2 and facts.trained_tokens == 2 * trained
        # Roles are words too short to matter: a token or two.
        assert 26 <= (facts.tokens or 0) <= 34


def test_broken_lines_blank_lines_and_missing_files_are_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "abcd"}\n\n{broken\n\xff\xfe\n' + b"[" * 5000 + b"\n")
    assert data_facts([path]).rows == 4
    assert data_facts([path, tmp_path / "gone.jsonl"]) == Facts()
    (tmp_path / "empty.jsonl").write_bytes(b"")
    assert data_facts([tmp_path / "empty.jsonl"]).rows == 0
    assert data_facts([]) == Facts()


def test_a_large_file_is_estimated_quickly(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    line = json.dumps(chat(20)).encode() + b"\n"
    rows = 80 * 2**20 // len(line)
    with path.open("wb") as file:
        for _ in range(rows // 1000):
            file.write(line * 1000)
    rows = rows // 1000 * 1000
    start = time.perf_counter()
    facts = data_facts([path])
    first = time.perf_counter() - start
    assert facts.rows == pytest.approx(rows, rel=0.01)
    assert first < 1.5  # some 50 ms on a quiet machine
    start = time.perf_counter()
    for _ in range(100):
        data_facts([path])
    assert time.perf_counter() - start < max(0.2, first)  # read once


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [chat(1)])
    assert data_facts([path]).rows == 1
    write_rows(path, [chat(1), chat(2)])
    assert data_facts([path]).rows == 2


def test_gather_brings_model_data_and_what_is_missing(model_dir: Path) -> None:
    root = model_dir.parent
    write_rows(root / "a.jsonl", [chat(5)] * 12)
    recipe = recipe_with(model__path="model", train="a.jsonl", data__eval="gone.jsonl")
    facts = gather(recipe, root, Facts(gpus=0))
    assert (facts.rows, facts.model_parameters, facts.gpus) == (12, 3_451_136, 0)
    assert facts.missing == (("data.eval", str(root / "gone.jsonl")),)
    assert facts.disk_free and facts.cpu_count and facts.eval_rows is None
    assert not facts.from_hub


def test_a_hub_model_is_read_from_the_local_cache(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = model_dir.parent / "hub"
    folder = cache / "models--some-org--some-model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123")
    (folder / "snapshots").mkdir()
    model_dir.rename(folder / "snapshots" / "abc123")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    recipe = recipe_with(model__path="some-org/some-model")
    facts = gather(recipe, model_dir.parent)
    assert facts.from_hub and facts.model_parameters == 3_451_136 and facts.missing == ()
    other = gather(with_value(recipe, "model.revision", "def456"), model_dir.parent)
    assert other.from_hub and other.model_parameters is None


def test_merge_keeps_what_is_known_and_the_later_wins() -> None:
    found = merge(Facts(rows=1, vocab=5), Facts(rows=2), Facts(gpus=0))
    assert (found.rows, found.vocab, found.gpus) == (2, 5, 0)


def test_nothing_known_is_no_crash() -> None:
    found = plan(defaults())
    assert found.steps is None and found.peak_bytes_low is None and found.learning_rates == ()
    assert found.batch_tokens is not None and not math.isnan(found.batch_tokens)
