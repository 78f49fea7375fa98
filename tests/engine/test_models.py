"""Every way to tune: what starts equal, what is trained, and what is left to be loaded again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_jobs import run_inside, tiny_llama
from torch.nn.functional import scaled_dot_product_attention

from finetui import evaluations
from finetui.data.tokens import ChatTokenizer
from finetui.engine import adapters, checkpoints, optimiser, varlen
from finetui.engine.machine import Machine, choose_machine
from finetui.engine.model import load_model
from finetui.errors import UserError
from finetui.evaluation.record import SetSpec, of_job
from finetui.jobs.checkpoints import best_result
from finetui.jobs.folder import Job, create
from finetui.recipe.schema import Recipe, replace
from finetui.start import tuned_side
from finetui.workspace import Workspace

Build = Callable[..., Recipe]
HOST = Machine(torch.device("cpu"), "fp32")
IDS = torch.arange(2, 34).reshape(2, 16)

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"dora": True},
    "rslora": {"rslora": True, "init": "gaussian"},
    "orthogonal": {"init": "orthogonal"},
    "pissa": {"init": "pissa"},
    "olora": {"init": "olora"},
    "pissa-dora": {"init": "pissa", "dora": True},
    "olora-rslora": {"init": "olora", "rslora": True},
    "qlora": {"kind": "qlora"},
    "qlora-fp4": {"kind": "qlora", "quantisation": "fp4", "double_quantisation": False},
}


def trainable(recipe: Recipe) -> Any:
    torch.manual_seed(0)
    model = load_model(recipe.model, HOST, recipe.method)
    return adapters.make_trainable(model, recipe, HOST)


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def update(model: Any, recipe: Recipe, steps: int = 3) -> Any:
    """A few real updates, after which the model answers otherwise."""
    made = optimiser.build(model, recipe)
    model.train()
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        made.step()
        made.zero_grad()
    return made


def apart(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).detach().abs().max())


# -- adapters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_of_every_kind_answers_as_it_did_in_training(
    kind: str, recipe: Build, tmp_path: Path
) -> None:
    made = recipe(method={"rank": 4, "alpha": 8, **KINDS[kind]})
    model = trainable(made)
    start = logits(load_model(made.model, HOST, made.method))
    assert apart(logits(model), start) < 1e-4, "training begins at the base"
    update(model, made)
    after = logits(model)
    assert apart(after, start) > 1e-2
    with adapters.reference(model):
        assert apart(model(input_ids=IDS).logits, start) < 1e-4, "the reference is the start"
    assert apart(logits(model), after) == 0
    adapters.save_adapter_files(model, tmp_path, plain=True)
    again = adapters.load_adapter(load_model(made.model, HOST, made.method), tmp_path)
    assert apart(logits(again), after) < 1e-4


def test_adapter_weights_are_fp32_over_a_base_in_fewer_bits(recipe: Build) -> None:
    made = recipe(method={"kind": "qlora"})
    model = trainable(made)
    assert {value.dtype for value in adapters.trained_weights(model).values()} == {torch.float32}
    frozen = {str(p.dtype) for n, p in model.named_parameters() if "base_layer.weight" in n}
    assert frozen == {"torch.uint8"}
    plain = trainable(recipe())
    assert adapters.parameter_counts(model) == adapters.parameter_counts(plain)
    half = Machine(torch.device("cpu"), "bf16")
    model = adapters.make_trainable(load_model(made.model, half), recipe(), half)
    assert {value.dtype for value in adapters.trained_weights(model).values()} == {torch.float32}


def test_the_reference_has_no_dropout_no_noise_no_gradient_and_training_goes_on(
    recipe: Build,
) -> None:
    made = recipe(method={"dropout": 0.5}, training={"neftune": 50.0})
    model = trainable(made)
    start = logits(load_model(made.model, HOST))
    model.train()
    assert apart(model(input_ids=IDS).logits, start) > 1e-3, "noise in training"
    with adapters.reference(model):
        found = model(input_ids=IDS).logits
        assert apart(found, start) == 0 and not found.requires_grad
    assert model.training
    assert all(value.requires_grad for n, value in model.named_parameters() if "lora_" in n)


def test_training_goes_on_from_an_adapter_which_is_then_the_reference(
    recipe: Build, tmp_path: Path
) -> None:
    first = recipe()
    model = trainable(first)
    update(model, first)
    adapters.save_adapter_files(model, tmp_path / "adapter", plain=True)
    begin = logits(model)
    second = replace(first, "model.adapter", str(tmp_path))
    model = trainable(second)
    assert apart(logits(model), begin) == 0
    update(model, second)
    assert apart(logits(model), begin) > 1e-2
    with adapters.reference(model):
        assert apart(model(input_ids=IDS).logits, begin) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method.rank", 8),
        ("method.alpha", 4),
        ("method.dora", True),
        ("method.rslora", True),
        ("method.target_modules", ["q_proj"]),
    ],
)
def test_a_start_adapter_of_another_shape_is_refused_by_the_field(
    field: str, value: Any, recipe: Build, tmp_path: Path
) -> None:
    made = recipe()
    adapters.save_adapter_files(trainable(made), tmp_path)
    other = replace(replace(made, "model.adapter", str(tmp_path)), field, value)
    with pytest.raises(UserError) as refused:
        trainable(other)
    assert refused.value.where == field


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"method": {"kind": "qlora", "init": "pissa"}}, "method.init"),
    ({"method": {"kind": "qlora", "init": "orthogonal"}}, "method.init"),
    ({"method": {"rank": 3, "init": "orthogonal"}}, "method.init"),
    ({"method": {"init": "olora", "target_modules": ["lm_head"]}}, "method.init"),
    ({"method": {"target_modules": ["nowhere"]}}, "method.target_modules"),
    ({"model": {"attention": "varlen"}}, "model.attention"),
    ({"model": {"attention": "flash"}}, "model.attention"),
    ({"training": {"liger": True}}, "training.liger"),
]


@pytest.mark.parametrize(("sections", "field"), REFUSED)
def test_what_cannot_be_trained_here_is_refused_by_its_field(
    sections: dict[str, Any], field: str, recipe: Build
) -> None:
    with pytest.raises(UserError) as refused:
        trainable(recipe(**sections))
    assert refused.value.where == field and refused.value.fix


def test_full_tuning_refuses_weights_in_few_bits_and_has_no_reference(recipe: Build) -> None:
    made = recipe(method={"kind": "full"})
    few = load_model(made.model, HOST, replace(made, "method.kind", "qlora").method)
    with pytest.raises(UserError, match="few bits"):
        adapters.make_trainable(few, made, HOST)
    with pytest.raises(UserError, match="no copy"), adapters.reference(trainable(made)):
        pass


# -- the optimiser -------------------------------------------------------------------------------


def test_matrices_decay_and_embeddings_norms_and_lengths_do_not(recipe: Build) -> None:
    made = recipe(method={"kind": "full"}, training={"weight_decay": 0.1})
    model = trainable(made)
    groups = optimiser.build(model, made).param_groups
    kept = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in kept) == ("norm" in name or "embed" in name), name


def test_lora_plus_gives_the_b_matrices_a_rate_of_their_own(recipe: Build) -> None:
    made = recipe(method={"lora_plus": 16.0}, training={"learning_rate": 1e-3})
    model = trainable(made)
    rates = {
        id(parameter): group["lr"]
        for group in optimiser.build(model, made).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(1.6e-2 if "lora_B" in name else 1e-3)


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_every_optimiser_moves_weights_as_adamw_does(name: str, recipe: Build) -> None:
    made = recipe(
        method={"rank": 64, "alpha": 64},
        training={"optimizer": name, "learning_rate": 1e-3, "weight_decay": 0.1},
    )
    model, oracle = trainable(made), trainable(made)
    update(model, made, 2)
    oracle.train()
    parameters = [p for p in oracle.parameters() if p.requires_grad]
    theirs = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(2):
        oracle(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        theirs.step()
        theirs.zero_grad()
    begin = adapters.trained_weights(trainable(made))
    expected = adapters.trained_weights(oracle)
    for key, value in adapters.trained_weights(model).items():
        moved, wanted = (value - begin[key]).flatten(), (expected[key] - begin[key]).flatten()
        assert torch.cosine_similarity(moved, wanted, dim=0) > (0.97 if "8bit" in name else 0.99999)


def test_eight_bit_states_take_a_byte_and_those_of_embeddings_four(recipe: Build) -> None:
    made = recipe(method={"kind": "full"}, training={"optimizer": "adamw_8bit"})
    model = trainable(made)
    head = torch.nn.Linear(128, 128, bias=False)
    model.model.layers[0].extra = head  # the tiny layers are under the 4,096 values that count
    made_optimiser = optimiser.build(model, made)
    for parameter in (head.weight, model.get_input_embeddings().weight):
        parameter.grad = torch.ones_like(parameter)
    made_optimiser.step()
    states = {id(p): state["state1"].dtype for p, state in made_optimiser.state.items()}
    assert states[id(head.weight)] == torch.uint8
    assert states[id(model.get_input_embeddings().weight)] == torch.float32


# -- activations, noise, compiling ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["on", "offload"])
def test_recomputed_activations_give_the_same_gradients(how: str, recipe: Build) -> None:
    grads = {}
    for setting in ("off", how):
        model = trainable(recipe(training={"checkpointing": setting}))
        model.train()
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        grads[setting] = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(apart(grad, grads["off"][name]) < 1e-6 for name, grad in grads[how].items())


def test_noise_is_bounded_by_size_over_the_root_of_length_times_width(recipe: Build) -> None:
    model = trainable(recipe(training={"neftune": 5.0}))
    table = adapters.base_of(model).get_input_embeddings()
    table.train()
    noise = table(IDS) - table.weight[IDS]
    bound = 5.0 / (16 * 32) ** 0.5
    assert 0.9 * bound < float(noise.detach().abs().max()) <= bound
    table.eval()
    assert apart(table(IDS), table.weight[IDS]) == 0


@pytest.mark.parametrize("how", ["off", "on"])
def test_compiling_marks_the_layers_and_leaves_the_names_as_they_were(
    how: str, recipe: Build
) -> None:
    """That compiled layers give the same loss takes minutes: measured by hand."""
    settings = {"checkpointing": how}
    model = trainable(recipe(training={**settings, "compile": True}))
    plain = trainable(recipe(training=settings))
    assert set(model.state_dict()) == set(plain.state_dict())
    layer = adapters.base_of(model).model.layers[0]
    compiled = [part for part in layer.modules() if part._compiled_call_impl is not None]
    assert compiled == ([layer] if how == "off" else list(layer.children()))


# -- full tuning: what is left -------------------------------------------------------------------


def test_the_best_weights_come_back_after_worse_ones(recipe: Build, tmp_path: Path) -> None:
    for method in ({"kind": "full"}, {}):
        made = recipe(method=method)
        model = trainable(made)
        update(model, made)
        best = logits(model)
        folder = tmp_path / str(len(method))
        checkpoints.keep_best(model, folder, 3, 0.5)
        update(model, made)
        assert apart(logits(model), best) > 1e-3
        found = best_result(folder)
        assert found is not None and found[1]["eval_loss"] == 0.5
        checkpoints.load_best(model, found[0])
        assert apart(logits(model), best) == 0


@pytest.mark.parametrize(("precision", "far"), [("fp32", 1e-6), ("bf16", 0.05)])
def test_a_fully_tuned_model_is_left_as_transformers_reads_it(
    precision: str, far: float, recipe: Build, tokenizer: ChatTokenizer, tmp_path: Path
) -> None:
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = recipe(method={"kind": "full"}, training={"learning_rate": 1e-3})
    model = trainable(made)
    update(model, made)
    job = Job(tmp_path)
    machine = Machine(torch.device("cpu"), precision)
    assert checkpoints.save_result(model, job, "card", tokenizer, machine) == job.model
    assert job.result == job.model and not job.adapter.exists()
    assert next(model.parameters()).dtype == torch.float32, "training may go on"
    again = AutoModelForCausalLM.from_pretrained(job.model)
    assert again.dtype == machine.dtype
    assert apart(logits(again).float(), logits(model)) <= far
    with safe_open(job.model / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys(), "tied weights are written once"  # noqa: SIM118
    assert AutoTokenizer.from_pretrained(job.model).chat_template == tokenizer.template


def test_a_full_run_leaves_a_model_that_later_jobs_take(
    recipe: Build, make_job: Callable[[Recipe], Job], workspace: Workspace
) -> None:
    made = recipe(
        method={"kind": "full"},
        evaluation={"generate": 0, "samples": 0, "probe": 0},
        checkpoints={"every": 4},
    )
    trained = make_job(made)
    assert run_inside(trained) == 0, trained.outcome()
    assert trained.result == trained.model
    held = str(workspace.datasets / "held.jsonl")
    shared = {"workspace": str(workspace.root), "threads": 1}
    spec = {"kind": "generate", **shared, **tuned_side(trained), "data": held, "max_new_tokens": 4}
    job = create(workspace.jobs, "generate", "x", spec, {})
    assert run_inside(job) == 0, job.outcome()
    asked = evaluations.plan(
        workspace, trained, checkpoints=True, sets=[SetSpec("held", path=held)], max_new_tokens=4
    )
    assert [(one.name, one.kind) for one in asked.subjects] == [
        ("base", "base"), ("tuned", "model"), ("step-4", "checkpoint"), ("step-8", "checkpoint")
    ]  # fmt: skip
    job = create(workspace.jobs, "evaluate", "x", {"kind": "evaluate", **shared}, {})
    of_job(job.path).write_manifest(asked)
    assert run_inside(job) == 0, job.outcome()
    losses = [
        sum(answer.nll or 0 for answer in of_job(job.path).answers(one.name, "held"))
        for one in asked.subjects
    ]
    assert losses[0] > losses[2] and losses[1] == pytest.approx(min(losses[2:]), rel=1e-3)


# -- our attention back end ----------------------------------------------------------------------


def spans_kernel(query: Any, key: Any, value: Any, edges: Any, *_: Any, **told: Any) -> Any:
    """What torch's kernel computes on a GPU, span by span."""
    out = torch.empty_like(query)
    left, _right = told["window_size"]
    for start, end in pairwise(edges.tolist()):
        back = torch.arange(end - start)[:, None] - torch.arange(end - start)[None, :]
        seen = (back >= 0) if left < 0 else (back >= 0) & (back <= left)
        parts = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
        found = scaled_dot_product_attention(
            *parts, attn_mask=seen, scale=told["scale"], enable_gqa=told["enable_gqa"]
        )
        out[start:end] = found[0].transpose(0, 1)
    return out


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(varlen, "_kernel", lambda: spans_kernel)
    yield


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.usefixtures("kernel")
def test_varlen_attention_sees_what_sdpa_sees(window: int | None) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, sliding_window=window,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    starts = [torch.cat([torch.arange(9), torch.arange(7)]), torch.arange(16)]
    right = torch.ones_like(IDS)
    right[0, 11:] = 0
    left = right.flip(1)
    inputs: list[dict[str, Any]] = [
        {"position_ids": torch.stack(starts)},
        {"attention_mask": right},
        {"attention_mask": left, "position_ids": (left.cumsum(-1) - 1).clamp(min=0)},
        {},
    ]

    def answers() -> list[torch.Tensor]:
        with torch.no_grad():
            found = [model(IDS, **more, use_cache=False).logits for more in inputs]
        said = model.generate(IDS, attention_mask=left, max_new_tokens=4, do_sample=False,
                              pad_token_id=0)  # fmt: skip
        return [*found, said.float()]

    sdpa = answers()
    model.set_attn_implementation(varlen.register())
    ours = answers()
    assert varlen.flattens(model)
    real = [torch.ones_like(IDS), right, left, torch.ones_like(IDS)]
    for mine, theirs, mask in zip(ours, sdpa, real, strict=False):
        assert apart(mine * mask[..., None], theirs * mask[..., None]) < 1e-5
    assert torch.equal(ours[-1], sdpa[-1])


def test_auto_attention_on_a_cpu_leaves_the_choice_to_transformers() -> None:
    machine = choose_machine("fp32", 1)
    assert varlen.choose("auto", machine, True, {}) is None
    assert varlen.choose("eager", machine, True, {}) == "eager"
    assert not varlen.flattens(tiny_llama())
