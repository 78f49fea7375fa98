"""What an export leaves: the same answers, the same tokens, and a card that says what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_jobs import run_inside

from finetui import start
from finetui.data import templates
from finetui.data.tokens import ChatTokenizer, load_chat_tokenizer
from finetui.engine import adapters, checkpoints, optimiser, serving
from finetui.engine.cards import base_licence
from finetui.engine.drift import compare
from finetui.engine.machine import Machine
from finetui.engine.model import load_model
from finetui.errors import UserError
from finetui.jobs.folder import Job, create
from finetui.recipe.files import to_spec
from finetui.recipe.schema import Recipe
from finetui.workspace import Workspace, sample_data

Build = Callable[..., Recipe]
HOST = Machine(torch.device("cpu"), "fp32")
IDS = torch.arange(2, 34).reshape(2, 16)
MODEL = sample_data() / "model"


def apart(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).detach().abs().max())


@pytest.fixture
def trained(
    workspace: Workspace, recipe: Build, tokenizer: ChatTokenizer
) -> Callable[..., tuple[Job, torch.Tensor]]:
    """A training job with a result that was really trained, and its logits of IDS."""

    def train(**method: Any) -> tuple[Job, torch.Tensor]:
        made = recipe(method=method)
        model = load_model(made.model, HOST, made.method)
        model = adapters.make_trainable(model, made, HOST)
        updates = optimiser.build(model, made)
        for _ in range(3):
            model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
            updates.step()
            updates.zero_grad()
        spec = {"kind": "train", "workspace": str(workspace.root), "recipe": to_spec(made)}
        state = start.data_state(workspace, list(made.data.train))
        versions = {"versions": dict.fromkeys(state["data"], "v-42")}
        job = create(workspace.jobs, "train", "tiny", spec, {**state, **versions})
        checkpoints.save_result(model, job, "card", tokenizer, HOST)
        metrics = {"eval_loss": 0.1234, "after": {"format": 1.0, "accuracy": 0.9}}
        job.write_json("outcome.json", {"status": "finished", "metrics": metrics})
        model.eval()
        with torch.no_grad():
            return job, model(input_ids=IDS, use_cache=False).logits

    return train


def export(workspace: Workspace, job: Job, **more: Any) -> Job:
    spec = {
        "kind": "export", "workspace": str(workspace.root), "trained": str(job.path),
        "name": "tiny", "threads": 1, **start.tuned_side(job), **more,
    }  # fmt: skip
    made = create(workspace.jobs, "export", "tiny", spec, {})
    assert run_inside(made) == 0, made.outcome()
    return made


# -- merging -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [{}, {"dora": True, "rslora": True, "init": "pissa"}, {"kind": "qlora"}]
)
def test_a_merged_model_answers_in_plain_transformers_as_the_adapter_did(
    method: dict[str, Any], workspace: Workspace, trained: Callable[..., Any]
) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    job, wanted = trained(**method)
    made = export(workspace, job, merge=True, dtype="fp32")
    merged = AutoModelForCausalLM.from_pretrained(made.path / "export" / "merged").eval()
    assert not isinstance(getattr(merged.config, "quantization_config", None), BitsAndBytesConfig)
    assert apart(merged(input_ids=IDS).logits, wanted) < 1e-4
    metrics = (made.outcome() or {})["metrics"]
    assert metrics["drift"]["largest"] < 1e-4 and metrics["drift"]["agreement"] == 1.0
    assert metrics["parity"] is True
    assert not list((made.path / "export").glob(".*")), "no drafts are left"


def test_merged_weights_take_the_format_that_is_asked_for(
    workspace: Workspace, trained: Callable[..., Any]
) -> None:
    from safetensors.torch import load_file

    job, _ = trained()
    folder = export(workspace, job, merge=True, dtype="bf16").path / "export" / "merged"
    formats = {value.dtype for value in load_file(folder / "model.safetensors").values()}
    assert formats == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_drift_is_nothing_between_equals_and_grows_with_the_difference() -> None:
    left = [torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])]
    same = compare(left, left)
    assert (same.largest, same.kl_nats, same.agreement, same.positions) == (0.0, 0.0, 1.0, 2)
    right = [torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 2.0]])]
    drift = compare(left, right)
    first, second = torch.softmax(left[0][1], 0), torch.softmax(right[0][1], 0)
    wanted = float((first * (first / second).log()).sum()) / 2
    assert drift.kl_nats == pytest.approx(wanted, abs=1e-6)
    assert drift.agreement == 0.5 and drift.largest == 2.0
    assert drift.mean == pytest.approx(2 / 6)


def test_an_export_without_merging_leaves_the_adapter_as_it_was(
    workspace: Workspace, trained: Callable[..., Any]
) -> None:
    job, _ = trained()
    folder = export(workspace, job).path / "export"
    name = "adapter_model.safetensors"
    assert (folder / "adapter" / name).read_bytes() == (job.adapter / name).read_bytes()
    assert not (folder / "merged").exists()
    assert "--enable-lora" in (folder / "SERVE.md").read_text()
    assert "ADAPTER ./adapter" in (folder / "Modelfile").read_text()


def test_full_tuning_is_exported_without_touching_the_run(
    workspace: Workspace, trained: Callable[..., Any]
) -> None:
    from transformers import AutoModelForCausalLM

    job, wanted = trained(kind="full")
    before = {path.name: path.read_bytes() for path in job.model.iterdir()}
    folder = export(workspace, job).path / "export" / "model"
    assert apart(AutoModelForCausalLM.from_pretrained(folder)(input_ids=IDS).logits, wanted) == 0
    assert "base_model_relation: finetune" in (folder / "README.md").read_text()
    assert {path.name: path.read_bytes() for path in job.model.iterdir()} == before


# -- the card ------------------------------------------------------------------------------------


def test_the_card_names_data_version_recipe_figures_and_licence_and_no_folder(
    workspace: Workspace, trained: Callable[..., Any], model_dir: Path
) -> None:
    job, _ = trained(rank=4)
    readme = model_dir / "README.md"
    readme.write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# base\n")
    try:
        folder = export(workspace, job).path / "export"
    finally:
        readme.unlink()
    card = (folder / "adapter" / "README.md").read_text()
    digest = next(iter(job.manifest()["data"].values()))
    for part in ("license: apache-2.0", "train.jsonl", digest[:16], "v-42", "0.1234",
                 "method.rank = 4", "base_model_relation: adapter", job.id):  # fmt: skip
        assert part in card
    assert str(workspace.root) not in card and str(model_dir) not in card


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: 'mit'\n---\n", "mit"),
        ("---\r\nlicense: llama3.1\r\n---\r\n", "llama3.1"),
        ("# license: none of this is front matter\n", "unknown"),
        ("---\ntags: [a]\n---\nlicense: late\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_licence_is_read_from_the_front_matter_of_the_base(
    card: str, licence: str, tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(card)
    assert base_licence(str(tmp_path)) == licence


# -- the same tokens in serving ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", *templates.names()])
def test_a_template_without_markers_writes_the_same_text(name: str) -> None:
    made = load_chat_tokenizer(MODEL, name)
    plain = ChatTokenizer(
        tokenizer=made.tokenizer, template=serving.without_markers(made.template),
        special=made.special, end_ids=made.end_ids, pad_id=made.pad_id,
    )  # fmt: skip
    assert not plain.has_markers
    for messages in serving.PROBES:
        for follows in (True, False):
            assert plain.render(messages, follows) == made.render(messages, follows)


def test_another_template_or_end_token_in_the_files_is_a_fault(
    workspace: Workspace, trained: Callable[..., Any], tokenizer: ChatTokenizer
) -> None:
    job, _ = trained()
    folder = export(workspace, job).path / "export" / "adapter"
    assert serving.parity_faults(tokenizer, folder) == []
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_start|>", "<|im_start|> "))
    config = folder / "generation_config.json"
    config.write_text(json.dumps({"eos_token_id": 1}))
    faults = serving.parity_faults(tokenizer, folder)
    assert any("prompt differs at token" in fault for fault in faults)
    assert any("ends an answer in training, not in serving" in fault for fault in faults)


@pytest.mark.parametrize("name", ["", "chatml", "llama3", "phi", "zephyr", "alpaca"])
def test_ollama_gets_the_turns_as_the_template_writes_them(name: str) -> None:
    tokenizer = load_chat_tokenizer(MODEL, name)
    texts = serving.turn_texts(tokenizer)
    assert texts is not None
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    bos = tokenizer.special.get("bos_token", "")
    wanted = tokenizer.render(chat, answer_follows=True).removeprefix(bos)
    assert texts.fill(chat) == wanted
    assert "{{ .Content }}" in serving.modelfile(tokenizer, "./merged")


def test_ollama_gets_no_template_where_go_cannot_say_it(tokenizer: ChatTokenizer) -> None:
    odd = ChatTokenizer(
        tokenizer=tokenizer.tokenizer, special=tokenizer.special, end_ids=tokenizer.end_ids,
        pad_id=0, template="{% for m in messages %}{{ loop.index }}:{{ m.content }}\n{% endfor %}",
    )  # fmt: skip
    assert serving.turn_texts(odd) is None
    assert "TEMPLATE" not in serving.modelfile(odd, "./merged")


@pytest.mark.parametrize(("rank", "room"), [(4, "8"), (16, "16"), (24, "32"), (512, "512")])
def test_vllm_reserves_the_next_rank_that_it_knows(rank: int, room: str) -> None:
    line = serving.vllm_adapter_line("n", "org/base", "./adapter", {"r": rank})
    assert f"--max-lora-rank {room} " in line and line.endswith("n=./adapter")


def test_vllm_has_no_line_for_what_it_cannot_serve() -> None:
    for config in ({"r": 8, "use_dora": True}, {"r": 1024}):
        assert serving.vllm_adapter_line("n", "base", "./adapter", config) == ""


# -- GGUF ----------------------------------------------------------------------------------------

WRITES = """\
import sys
model, _, outfile, _, outtype = sys.argv[1:]
assert (__import__("pathlib").Path(model) / "model.safetensors").is_file()
open(outfile, "wb").write(b"GGUF" + outtype.encode())
"""


def test_gguf_is_written_by_the_persons_own_converter(
    workspace: Workspace, trained: Callable[..., Any], tmp_path: Path
) -> None:
    converter = tmp_path / start.CONVERTER
    converter.write_text(WRITES)
    job, _ = trained(kind="full")
    made = export(workspace, job, gguf="q8_0", converter=str(converter))
    folder = made.path / "export"
    assert (folder / "tiny-q8_0.gguf").read_bytes() == b"GGUFq8_0"
    assert "FROM ./tiny-q8_0.gguf" in (folder / "Modelfile").read_text()


def test_a_converter_that_fails_says_so_and_the_rest_is_kept(
    workspace: Workspace, trained: Callable[..., Any], tmp_path: Path
) -> None:
    converter = tmp_path / start.CONVERTER
    converter.write_text("import sys; open(sys.argv[3], 'w').write('half'); sys.exit(3)")
    job, _ = trained(kind="full")
    spec = {
        "kind": "export", "workspace": str(workspace.root), "trained": str(job.path),
        "name": "tiny", **start.tuned_side(job), "gguf": "f16",
        "converter": str(converter),
    }  # fmt: skip
    made = create(workspace.jobs, "export", "tiny", spec, {})
    assert run_inside(made) == 1
    outcome = made.outcome() or {}
    assert "code 3" in outcome["sentence"] and outcome["reason"] == "user"
    assert (made.path / "export" / "model" / "config.json").is_file()
    assert not list((made.path / "export").glob("*.gguf"))


def test_the_converter_is_found_where_the_person_says(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--llama-cpp"):
        start.find_converter(environ={"PATH": str(tmp_path)})
    script = tmp_path / start.CONVERTER
    script.write_text("")
    assert start.find_converter(str(tmp_path), {}) == script
    assert start.find_converter(environ={"FINETUI_LLAMA_CPP": str(tmp_path)}) == script
    with pytest.raises(UserError, match="is not there"):
        start.find_converter(str(tmp_path / "nowhere"), {})


def test_a_run_that_left_nothing_cannot_be_exported(workspace: Workspace, recipe: Build) -> None:
    spec = {"kind": "train", "recipe": to_spec(recipe())}
    job = create(workspace.jobs, "train", "x", spec, {})
    with pytest.raises(UserError, match="has left no adapter or model"):
        start.start_export(workspace, job)
