"""Configs of other trainers: what comes over, what does not, and hostile files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from finetui.data import templates
from finetui.errors import UserError
from finetui.recipe.files import RecipeError, dumps, loads
from finetui.recipe.importers import (
    SOURCES,
    Imported,
    axolotl,
    import_file,
    import_text,
    llama_factory,
    training_arguments,
    trl,
    unsloth,
)
from finetui.recipe.importers.draft import Key
from finetui.recipe.rules.model import TEMPLATES
from finetui.recipe.schema import FIELDS, field, get

# As the trainers' own examples have them.
LLAMA_FACTORY = """\
### model
model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct
trust_remote_code: true
### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
pissa_init: true
pissa_iter: 16
### dataset
dataset: identity,alpaca_en_demo
template: llama3
cutoff_len: 2048
max_samples: 1000
preprocessing_num_workers: 16
### output
output_dir: saves/llama3-8b/lora/sft
logging_steps: 10
save_steps: 500
plot_loss: true
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]
### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
"""
AXOLOTL = """\
base_model: meta-llama/Llama-3.2-1B
load_in_8bit: false
load_in_4bit: true
rl: kto
rl_beta: 0.5
kto_desirable_weight: 0.2
datasets:
  - path: data/votes.jsonl
    type: llama3.ultra
    ds_type: json
    split: train
val_set_size: 0.05
output_dir: ./outputs/qlora-out
adapter: qlora
lora_model_dir:
sequence_len: 2048
sample_packing: false
lora_r: 32
lora_alpha: 64
lora_dropout: 0.05
lora_target_linear: true
wandb_project:
gradient_accumulation_steps: 1
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_8bit
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
fp16:
tf32: true
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
logging_steps: 1
flash_attention: true
warmup_steps: 20
evals_per_epoch: 4
weight_decay: 0.0
special_tokens:
  pad_token: "<|end_of_text|>"
"""
UNSLOTH = """\
model: unsloth/Qwen2.5-0.5B
data:
  local_dataset: [rows.jsonl]
  format_type: auto
training:
  training_type: lora
  max_seq_length: 4096
  load_in_4bit: true
  num_epochs: 0
  learning_rate: 0.0002
  batch_size: 2
  warmup_steps: 5
  max_steps: 30
  train_on_completions: true
  gradient_checkpointing: "unsloth"
  optim: "adamw_8bit"
  lr_scheduler_type: "linear"
lora:
  lora_r: 16
  lora_alpha: 16
  target_modules:
    - "q_proj"
    - "v_proj"
  use_loftq: true
  finetune_vision_layers: true
logging:
  enable_wandb: true
  wandb_token: abcd1234
  log_frequency: 10
"""
TRL = """\
model_name_or_path: Qwen/Qwen2-0.5B-Instruct
model_revision: main
dataset_name: trl-lib/ultrafeedback_binarized
torch_dtype: bfloat16
use_peft: true
lora_r: 32
lora_alpha: 16
lora_target_modules: [q_proj, v_proj]
beta: 0.1
loss_type: [sigmoid, sft]
loss_weights: [1.0, 0.2]
truncation_mode: keep_end
learning_rate: 5.0e-6
eval_strategy: steps
eval_steps: 50
report_to: [trackio, comet_ml]
attn_implementation: flash_attention_2
max_length: 2048
"""
EXAMPLES = {"llama-factory": LLAMA_FACTORY, "axolotl": AXOLOTL, "unsloth": UNSLOTH, "trl": TRL}


def values(found: Imported) -> dict[str, object]:
    return {item.id: get(found.recipe, item.id) for item in FIELDS}


def lost(found: Imported) -> dict[str, str]:
    return {item.key: item.reason for item in found.lost if item.matters}


@pytest.mark.parametrize("source", SOURCES)
def test_a_trainer_is_told_by_its_keys_and_the_recipe_can_be_saved(source: str) -> None:
    found = import_text(EXAMPLES[source])
    assert found.source == source == import_text(EXAMPLES[source], source=source).source
    assert loads(dumps(found.recipe)) == found.recipe
    assert all(item.line > 0 and item.shown is not None for item in found.taken if item.key)
    assert all(item.line > 0 and item.reason.endswith(".") for item in found.lost)
    assert all(not item.nearest or field(item.nearest) for item in found.lost)


@pytest.mark.parametrize("source", SOURCES)
def test_no_key_disappears(source: str) -> None:
    text = EXAMPLES[source]
    found = import_text(text)
    spoken = {item.line for item in (*found.taken, *found.lost)}
    joined = {"fp16:", "load_in_8bit: false", "load_in_4bit: true", "lora_model_dir:",
              "wandb_project:", "report_to: none", "training_type: lora", "num_epochs: 0",
              "eval_strategy: steps"}  # fmt: skip
    for number, line in enumerate(text.splitlines(), 1):
        key = line.strip().partition(":")[0]
        if (line.startswith(("#", " ")) and source != "unsloth") or line.startswith(" " * 4):
            continue
        head = key in ("data", "training", "lora", "logging")
        merged = any(line.strip().startswith(start) for start in joined)
        assert number in spoken or head or merged, line


def test_llama_factory() -> None:
    found = import_text(LLAMA_FACTORY)
    got = values(found)
    assert got["model.path"] == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert (got["method.kind"], got["method.objective"], got["method.init"]) == (
        "lora", "sft", "pissa",
    )  # fmt: skip
    assert (got["method.rank"], got["method.alpha"]) == (8, 16)  # alpha is twice the rank there
    assert got["method.target_modules"] == ("all-linear",)
    assert got["training.batch_size"] == 1 and got["training.accumulation"] == 8
    assert got["training.learning_rate"] == 1e-4 and got["training.warmup"] == 0.1
    assert got["model.precision"] == "bf16" and got["model.chat_template"] == "llama3"
    assert got["training.checkpointing"] == "on" and got["training.beta2"] == 0.999
    assert got["data.overlong"] == "truncate" and got["name"] == "lora/sft"
    assert set(lost(found)) == {"dataset", "max_samples"}
    assert "dataset_info.json" in lost(found)["dataset"] and got["data.train"] == ()
    assert "name the training data" in found.notes[0]


def test_axolotl() -> None:
    found = import_text(AXOLOTL)
    got = values(found)
    assert (got["method.kind"], got["method.objective"]) == ("qlora", "kto")
    assert got["preference.beta"] == 0.5 and got["preference.desirable_weight"] == 0.2
    assert got["data.train"] == ("data/votes.jsonl",)
    assert got["training.learning_rate"] == 2e-4  # text in YAML 1.1
    assert got["training.optimizer"] == "adamw_8bit" and got["model.attention"] == "flash"
    assert got["training.warmup"] == 20 and got["model.precision"] == "auto"
    assert set(lost(found)) == {"val_set_size", "evals_per_epoch", "special_tokens"}


def test_unsloth() -> None:
    found = import_text(UNSLOTH)
    got = values(found)
    assert got["method.kind"] == "qlora" and got["data.train"] == ("rows.jsonl",)
    assert got["training.max_steps"] == 30 and got["training.checkpointing"] == "offload"
    assert got["data.loss_on"] == "assistant" and got["logging.report_to"] == ("wandb",)
    assert got["method.target_modules"] == ("q_proj", "v_proj")
    assert got["training.seed"] == 3407 and got["training.accumulation"] == 4
    assert set(lost(found)) == {"lora.use_loftq"}
    assert "abcd1234" not in str(found)


def test_trl() -> None:
    found = import_text(TRL)
    got = values(found)
    assert (got["method.kind"], got["method.objective"]) == ("lora", "dpo")
    assert got["preference.loss"] == "sigmoid" and got["preference.sft_weight"] == 0.2
    assert got["data.truncation_side"] == "start" and got["evaluation.every"] == 50
    assert got["model.attention"] == "flash" and got["model.revision"] == ""
    assert got["logging.report_to"] == ("trackio",)
    assert set(lost(found)) == {"dataset_name"}
    assert any("taken for dpo" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "source", "id", "value"),
    [
        ("stage: pt\nfinetuning_type: full\ncutoff_len: 99", "", "method.objective", "pretrain"),
        ("stage: pt\nfinetuning_type: full\ncutoff_len: 99", "", "data.packing", True),
        ("stage: dpo\npref_loss: orpo\nlora_rank: 4", "", "method.objective", "orpo"),
        ("stage: dpo\npref_loss: ipo\nlora_rank: 4", "", "preference.loss", "ipo"),
        ("stage: sft\nquantization_bit: 4", "", "method.kind", "qlora"),
        ("stage: sft\nmask_history: true", "", "data.loss_on", "last"),
        ("stage: sft\ntrain_on_prompt: true", "", "data.loss_on", "all"),
        ("stage: sft\ntemplate: qwen", "", "model.chat_template", "chatml"),
        ("stage: sft\ndisable_gradient_checkpointing: true", "", "training.checkpointing", "off"),
        ("stage: sft\nneat_packing: true\npacking: false", "", "data.packing", True),
        ("stage: sft\nlora_rank: 4\neval_strategy: 'no'", "", "evaluation.every", 0),
        ("stage: sft\nlora_rank: 4\nmax_steps: -1", "", "training.max_steps", 0),
        ("base_model: m\nsequence_len: 64", "", "method.kind", "full"),
        ("base_model: m\nadapter: lora\nload_in_4bit: true", "", "method.kind", "qlora"),
        ("base_model: m\nrl: ipo", "", "preference.loss", "ipo"),
        ("base_model: m\ndatasets: [{path: a.jsonl, type: completion}]", "", "method.objective",
         "pretrain"),
        ("base_model: m\nplugins: [axolotl.integrations.liger.LigerPlugin]\nliger_rope: true", "",
         "training.liger", True),
        ("base_model: m\nuse_tensorboard: true\nwandb_project: x", "", "logging.report_to",
         ("wandb", "tensorboard")),
        ("base_model: m\ngradient_checkpointing: offload", "", "training.checkpointing", "offload"),
        ("base_model: m\nsave_total_limit: 1", "", "checkpoints.keep", 2),
        ("use_peft: true\ndesirable_weight: 2.0", "", "method.objective", "kto"),
        ("use_peft: false\nmax_length: 9000", "", "method.kind", "full"),
        ("load_in_4bit: true\nuse_peft: true", "trl", "method.kind", "qlora"),
        ("use_peft: true\npadding_free: true", "", "data.packing", True),
        ("use_peft: true\nactivation_offloading: true", "", "training.checkpointing", "offload"),
        ("use_peft: true\ndatasets: [{path: json, data_files: a.jsonl}]", "trl", "data.train",
         ("a.jsonl",)),
        ("model: m\ndata: {format_type: raw}\ntraining: {training_type: full}", "",
         "method.objective", "pretrain"),
        ("model: m\nlora: {lora_r: 8}\ntraining: {load_in_4bit: false}", "", "method.kind", "lora"),
        ('{\n\t"base_model": "m",\n\t"micro_batch_size": 4\n}', "", "training.batch_size", 4),
    ],
)  # fmt: skip
def test_keys_that_are_told_by_several_or_by_other_words(
    text: str, source: str, id: str, value: object
) -> None:
    assert get(import_text(text, source=source).recipe, id) == value


def test_what_the_config_does_not_say_is_the_trainer_s_default() -> None:
    for source in SOURCES:
        found = import_text("learning_rate: 1e-3", source=source)
        assert found.recipe.training.beta2 == 0.999 and not found.recipe.evaluation.keep_best
        notes = {item.note for item in found.taken if not item.key}
        assert notes <= {
            "the default there",
            "the file's name",
            "told by the keys or the file's name",
        }
    assert import_text("lora_r: 8", "x", "trl").recipe.training.learning_rate == 2e-5
    assert import_text("lora_r: 8", "my_dpo.yaml", "trl").recipe.training.learning_rate == 1e-6


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("stage: ppo\nlora_rank: 8", "stage", "left for later"),
        ("stage: sft\nquantization_bit: 8", "quantization_bit", "4-bit weights"),
        ("stage: sft\nfinetuning_type: freeze", "finetuning_type", "lora is taken"),
        ("stage: sft\noptim: lion", "optim", "no optimiser 'lion'"),
        ("stage: sft\nlr_scheduler_type: cosine_with_restarts", "lr_scheduler_type", "schedules"),
        ("stage: sft\neval_strategy: epoch", "eval_strategy", "by steps"),
        ("stage: sft\neval_steps: 0.1", "eval_steps", "share of the run"),
        ("stage: sft\ndeepspeed: ds_z3.json", "deepspeed", "own fields"),
        ("stage: sft\nadam_beta1: 0.8", "adam_beta1", "fixed at 0.9"),
        ("stage: sft\ncutoff_len: 9000000", "cutoff_len", "must be a whole number between"),
        ("base_model: m\nrl: grpo", "rl", "left for later"),
        ("base_model: m\nadapter: llama-adapter", "adapter", "lora is taken"),
        ("base_model: m\nload_in_8bit: true", "load_in_8bit", "4-bit weights"),
        ("base_model: m\nplugins: [my.SpectrumPlugin]", "plugins", "SpectrumPlugin"),
        ("base_model: m\nsequencelen: 3", "sequencelen", "not a key of Axolotl"),
        ("use_peft: true\nloss_type: bco_pair", "loss_type", "not offered"),
        ("use_peft: true\nnum_generations: 8", "num_generations", "GRPO"),
    ],
)
def test_what_has_no_equivalent_says_why(text: str, key: str, says: str) -> None:
    found = import_text(text)
    [item] = [item for item in found.lost if item.key == key]
    assert says in item.reason and item.matters and item.line == text.count("\n") + (key != "stage")


def test_axolotl_s_own_settings_of_a_data_set_are_told_one_by_one() -> None:
    text = (
        "base_model: m\ndatasets:\n  - path: a.jsonl\n    split: train[:20%]\n"
        "    roles_to_train: [assistant]\n    type: chat_template\n"
        "  - path: org/b\n    split: train"
    )
    found = import_text(text)
    assert found.recipe.data.train == ("a.jsonl",)
    assert lost(found).keys() == {"datasets", "datasets.0.split", "datasets.0.roles_to_train"}
    assert {item.key: item.line for item in found.lost}["datasets.0.split"] == 4


def test_what_is_switched_off_is_no_loss() -> None:
    text = "base_model: m\ndeepspeed:\nfp8: false\nloss_watchdog_patience: 0\nrl: ''"
    assert lost(import_text(text)) == {}


# --- broken and hostile files --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "c.yaml: is empty."),
        ("# only words\n", "c.yaml: is empty."),
        ("just text", "c.yaml:1: is no list of keys"),
        ("- a\n- b", "c.yaml:1: is no list of keys"),
        ("a: 1\nb: [1, 2\nc: 3", "c.yaml:3: "),
        ("a: 1\n\tb: 2", "c.yaml:2: "),
        ("base_model: a\nbase_model: b", "c.yaml:2: 'base_model' is there twice."),
        ("base_model: a\n? [x]\n: 1", "c.yaml:2: a key must be a word."),
        ("base_model: a\nx: !!python/object/apply:os.system ['touch /tmp/owned']",
         "c.yaml:2: the tag "),
        ("base_model: !local thing", "c.yaml:1: the tag '!local'"),
        ("base_model: a\n---\nbase_model: b", "c.yaml:2: "),
        ("base_model: a\x00b", "c.yaml:1: has a character that no YAML holds"),
        ("base_model: m\nmicro_batch_size: many", "c.yaml:2: micro_batch_size: must be a number"),
        ("base_model: m\nlearning_rate: .nan", "c.yaml:2: learning_rate: must be a number"),
        ("base_model: m\nlearning_rate: [1]", "c.yaml:2: learning_rate: must be a number"),
        ("base_model: m\nsample_packing: maybe", "c.yaml:2: sample_packing: must be true or false"),
        ("base_model: {a: 1}\nmicro_batch_size: 1", "c.yaml:1: base_model: must be text"),
        ("base_model: m\nlora_target_modules: {a: 1}", "c.yaml:2: lora_target_modules: must be"),
        ("model: &a [*a]", "c.yaml:"),
    ],
)  # fmt: skip
def test_a_broken_config_names_the_file_and_the_line(text: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        import_text(text, "c.yaml", "axolotl")
    assert str(caught.value).startswith(says), str(caught.value)


def test_all_wrong_values_are_told_at_once() -> None:
    text = "base_model: m\nmicro_batch_size: many\nlora_r: 8\nnum_epochs: few"
    with pytest.raises(RecipeError) as caught:
        import_text(text, "c.yaml")
    assert [problem.line for problem in caught.value.problems] == [2, 4]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        "{a: " * 15_000,
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n"
            for n in range(9)
        ),
        "base_model: '" + "x" * 60_000 + "'",
        "a" * 60_000 + ": 1",
        "base_model: m\n" + "".join(f"k{n}: 1\n" for n in range(3_000)),
        "base_model: m\n" + "- " * 30_000,
        "base_model: m\nx:\n" + "".join(" " * n + "a:\n" for n in range(1, 300)),
    ],
    ids=[
        "deep lists",
        "deep maps",
        "billion laughs",
        "long value",
        "long key",
        "many keys",
        "deep dashes",
        "deep blocks",
    ],
)
def test_a_hostile_config_ends_soon_and_without_a_traceback(text: str) -> None:
    start = time.process_time()
    try:
        found = import_text(text, "c.yaml", "axolotl")
    except UserError as error:
        assert "c.yaml" in str(error)
    else:
        assert all(len(item.value) <= 60 for item in found.lost)
    assert time.process_time() - start < 5


def test_nothing_in_a_config_is_run(tmp_path: Path) -> None:
    trap = tmp_path / "owned"
    for tag in ("python/object/apply:os.system", "python/object/new:os.system", "python/name:os"):
        with pytest.raises(RecipeError, match="may run code"):
            import_text(f"base_model: m\nx: !!{tag} ['touch {trap}']", "c.yaml")
    assert not trap.exists()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        import_file(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        import_file(tmp_path)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a: 1\n" * 100_000)
    with pytest.raises(UserError, match="too large"):
        import_file(large)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: 1\nb: \xff\xfe")
    with pytest.raises(RecipeError, match=r"binary\.yaml:2: is not UTF-8"):
        import_file(binary)


def test_a_config_of_nobody_says_so() -> None:
    with pytest.raises(UserError, match="is no config of LLaMA-Factory, Axolotl, Unsloth, TRL"):
        import_text("services: {web: {image: x}}", "compose.yaml")
    with pytest.raises(UserError, match="Say which: --from"):
        import_text("learning_rate: 1e-4\nstage: sft\nuse_peft: true", "c.yaml")
    with pytest.raises(UserError, match="no importer for 'torchtune'"):
        import_text("a: 1", source="torchtune")


def test_a_mark_at_the_beginning_of_the_file_does_no_harm() -> None:
    assert import_text("\ufeffbase_model: m\nmicro_batch_size: 2").source == "axolotl"


# --- the tables ----------------------------------------------------------------------------------


def test_every_key_of_the_tables_goes_to_a_field_that_is_there() -> None:
    ids = {item.id for item in FIELDS}
    for module in (axolotl, llama_factory, trl, unsloth, training_arguments):
        tables = [value for value in vars(module).values() if isinstance(value, dict)]
        keys = [rule for table in tables for rule in table.values() if isinstance(rule, Key)]
        assert {rule.field for rule in keys} <= ids
        for value in getattr(module, "_WITHOUT", {}).values():
            reason, nearest = value
            assert reason.endswith(".") and (not nearest or nearest in ids)
        for id, value in module.DEFAULTS:
            assert field(id).accept(value) == value


def test_the_templates_we_ship_are_the_ones_that_the_rules_and_importers_know() -> None:
    assert list(TEMPLATES) == templates.names()
    assert set(llama_factory._TEMPLATES.values()) <= set(TEMPLATES)
    assert set(axolotl._TEMPLATES.values()) <= set(TEMPLATES)
