"""Axolotl: one YAML file, flat but for its list of datasets."""

from __future__ import annotations

from finetui.recipe.field import Value
from finetui.recipe.importers import training_arguments
from finetui.recipe.importers.draft import Draft, Key, choice, is_yes, names
from finetui.recipe.importers.training_arguments import kept, limit, optimizer, schedule, steps

SECTIONS: frozenset[str] = frozenset()
MARKS = frozenset({
    "base_model", "sequence_len", "micro_batch_size", "val_set_size", "sample_packing",
    "dataset_prepared_path", "lora_target_linear", "num_epochs", "lr_scheduler", "optimizer",
    "datasets", "adapter", "pad_to_sequence_len", "train_on_inputs", "evals_per_epoch",
    "saves_per_epoch", "rl", "flash_attention", "wandb_project", "special_tokens", "strict",
    "tokenizer_type", "lora_model_dir", "eval_sample_packing", "plugins",
})  # fmt: skip

_TEMPLATES = {
    "chatml": "chatml", "llama3": "llama3", "gemma": "gemma", "alpaca": "alpaca",
    "mistral": "mistral", "mistral_v1": "mistral", "mistral_v2v3": "mistral",
    "phi_3": "phi", "phi_35": "phi", "phi_4": "phi",
}  # fmt: skip
_RL = {"dpo": "dpo", "ipo": "dpo", "orpo": "orpo", "kto": "kto"}
_OVERLONG = {"drop": "drop", "truncate": "truncate"}
_ATTENTION = {
    "flash_attention": "flash", "sdp_attention": "sdpa", "eager_attention": "eager",
}  # fmt: skip
_IMPLEMENTATIONS = {
    "flash_attention_2": "flash", "flash": "flash", "sdpa": "sdpa", "sdp": "sdpa", "eager": "eager",
}  # fmt: skip
_INITS = {
    "true": "default", "gaussian": "gaussian", "pissa": "pissa", "olora": "olora",
    "orthogonal": "orthogonal",
}  # fmt: skip


def _length_order(value: object) -> str:
    return "length" if is_yes(value) else "random"


def _inputs(value: object) -> str:
    return "all" if is_yes(value) else "assistant"


_KEYS: dict[str, Key] = {
    "base_model": Key("model.path"),
    "revision_of_model": Key("model.revision"),
    "lora_model_dir": Key("model.adapter"),
    "sequence_len": Key("data.max_length"),
    "sample_packing": Key("data.packing"),
    "train_on_inputs": Key("data.loss_on", _inputs),
    "excess_length_strategy": Key("data.overlong", choice(_OVERLONG, "way with overlong rows")),
    "group_by_length": Key("data.order", _length_order),
    "lora_r": Key("method.rank"),
    "lora_alpha": Key("method.alpha"),
    "lora_dropout": Key("method.dropout"),
    "peft_use_dora": Key("method.dora"),
    "peft_use_rslora": Key("method.rslora"),
    "peft_init_lora_weights": Key("method.init", choice(_INITS, "adapter start")),
    "loraplus_lr_ratio": Key("method.lora_plus"),
    "learning_rate": Key("training.learning_rate"),
    "num_epochs": Key("training.epochs"),
    "max_steps": Key("training.max_steps", limit),
    "micro_batch_size": Key("training.batch_size"),
    "lr_scheduler": Key("training.schedule", schedule),
    "optimizer": Key("training.optimizer", optimizer),
    "rl_beta": Key("preference.beta"),
    "dpo_beta": Key("preference.beta"),
    "orpo_alpha": Key("preference.beta"),
    "rpo_alpha": Key("preference.sft_weight"),
    "dpo_label_smoothing": Key("preference.label_smoothing"),
    "kto_desirable_weight": Key("preference.desirable_weight"),
    "kto_undesirable_weight": Key("preference.undesirable_weight"),
    "neftune_noise_alpha": Key("training.neftune"),
    "noisy_embedding_alpha": Key("training.neftune"),
    "early_stopping_patience": Key("evaluation.early_stopping"),
    "eval_max_new_tokens": Key("evaluation.max_new_tokens"),
    "save_total_limit": Key("checkpoints.keep", kept),
    "logging_steps": Key("logging.every", steps),
    "wandb_name": Key("name"),
}

_NO_PARALLEL = "the rows of an update are shared out, no layer and no row is."
_TOKENS = "tokens are not added to a model or changed."
_EPOCHS = "finetui counts steps, not parts of an epoch."
_WATCH = "the guard compares with the run's own best loss."
_EXPERTS = "layers are adapted by name."
_SPLIT = "held-out rows are a file: finetui split parts them off."
_LATER = "left for later."

_WITHOUT: dict[str, tuple[str, str]] = {
    "val_set_size": (_SPLIT, "data.eval"),
    "test_datasets": (_SPLIT, "data.eval"),
    "evals_per_epoch": (_EPOCHS, "evaluation.every"),
    "saves_per_epoch": (_EPOCHS, "checkpoints.every"),
    "special_tokens": (_TOKENS, ""),
    "tokens": (_TOKENS, ""),
    "added_tokens_overrides": (_TOKENS, ""),
    "resize_token_embeddings_to_32x": (_TOKENS, ""),
    "lora_modules_to_save": ("only adapters are trained beside a frozen model.", "method.kind"),
    "unfrozen_parameters": ("freezing some layers is not offered.", "method.kind"),
    "lora_target_parameters": (_EXPERTS, "method.target_modules"),
    "peft_layers_to_transform": ("all layers are adapted.", "method.target_modules"),
    "peft_layer_replication": ("layers are not copied.", ""),
    "loftq": ("LoftQ is not offered.", "method.init"),
    "relora": ("ReLoRA is not offered.", "method.kind"),
    "relora_steps": ("ReLoRA is not offered.", "method.kind"),
    "lisa_n_layers": ("LISA is not offered.", "method.kind"),
    "embedding_lr": ("embeddings get no rate of their own.", "training.learning_rate"),
    "embedding_lr_scale": ("embeddings get no rate of their own.", "training.learning_rate"),
    "lr_groups": ("groups of layers get no rate of their own.", "method.lora_plus"),
    "loraplus_lr_embedding": ("embeddings get no rate of their own.", "method.lora_plus"),
    "cosine_min_lr_ratio": ("cosine ends at zero.", "training.schedule"),
    "cosine_constant_lr_ratio": ("cosine ends at zero.", "training.schedule"),
    "lr_quadratic_warmup": ("the warm-up is a straight line.", "training.warmup"),
    "batch_size": ("rows an update are batch size x accumulation.", "training.accumulation"),
    "loss_watchdog_threshold": (_WATCH, "guards.divergence"),
    "loss_watchdog_patience": (_WATCH, "guards.divergence"),
    "default_system_message": ("a system turn belongs into the rows.", "model.chat_template"),
    "dataset_exact_deduplication": ("finetui duplicates keeps one of each.", "data.train"),
    "shuffle_before_merging_datasets": ("files are shuffled together.", "data.order"),
    "curriculum_sampling": ("rows can stay in the order of the files.", "data.order"),
    "overrides_of_model_config": ("the model's config stays as it is.", "model.path"),
    "rope_scaling": ("positions stay those of the model's config.", "data.max_length"),
    "s2_attention": ("shifted attention is not offered.", "model.attention"),
    "xformers_attention": ("xformers is not offered; sdpa is as fast.", "model.attention"),
    "flex_attention": ("flex attention is not offered.", "model.attention"),
    "sage_attention": ("sage attention is not offered.", "model.attention"),
    "reward_model": (f"reward models are {_LATER}", "method.objective"),
    "process_reward_model": (f"reward models are {_LATER}", "method.objective"),
    "trl": (f"GRPO is {_LATER}", "method.objective"),
    "vllm": (f"GRPO is {_LATER}", "method.objective"),
    "fp8": ("fp8 is not offered.", "model.precision"),
    "qat": ("training for quantised weights is not offered.", "method.quantisation"),
    "quantization": ("weights are quantised for qlora only.", "method.quantisation"),
    "gptq": ("GPTQ models are not trained.", "method.quantisation"),
    "sequence_parallel_degree": (_NO_PARALLEL, "training.processes"),
    "tensor_parallel_size": (_NO_PARALLEL, "training.processes"),
    "context_parallel_size": (_NO_PARALLEL, "training.processes"),
    "dp_shard_size": ("set it as the number of processes.", "training.processes"),
    "pretraining_dataset": ("name the text files themselves.", "data.train"),
    "do_causal_lm_eval": ("scores come from held-out answers.", "evaluation.generate"),
    "eval_causal_lm_metrics": ("scores come from held-out answers.", "evaluation.generate"),
    "lora_fan_in_fan_out": ("found from the layers.", ""),
    "peft_layers_pattern": ("all layers are adapted.", "method.target_modules"),
    "peft_trainable_token_indices": ("single tokens are not trained.", "method.target_modules"),
    "bnb_config_kwargs": (
        "nf4 or fp4, with or without double quantisation.",
        "method.quantisation",
    ),
}
_BOOKKEEPING = (
    "strict", "pad_to_sequence_len", "eval_sample_packing", "model_type", "tokenizer_type",
    "processor_type", "tokenizer_config", "base_model_config", "tokenizer_use_fast",
    "tokenizer_legacy", "is_llama_derived_model", "is_falcon_derived_model",
    "is_mistral_derived_model", "wandb_entity", "wandb_watch", "wandb_log_model", "wandb_run_id",
    "wandb_mode", "mlflow_experiment_name", "mlflow_run_name", "hf_mlflow_log_artifacts",
    "eval_table_size", "sample_packing_group_size", "sample_packing_bin_size", "gpu_memory_limit",
    "lora_on_cpu", "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel",
    "embeddings_skip_upcast", "save_first_step", "auto_resume_from_checkpoints",
    "low_cpu_mem_usage",
    "dataset_shard_num", "dataset_shard_idx", "skip_prepare_dataset", "dynamic_checkpoint",
    "flash_attn_cross_entropy", "flash_attn_rms_norm", "flash_attn_fuse_mlp", "flash_attn_fuse_qkv",
    "axolotl_config_path", "ddp", "device_map", "max_memory", "use_ray", "ray_run_name",
    "min_sample_len", "profiler_steps", "comet_project_name", "use_comet", "cut_cross_entropy",
    "merge_lora", "merge_method", "peft_autocast_adapter_dtype", "peft_ensure_weight_tying",
    "qlora_sharded_model_loading", "experimental_skip_move_to_device",
)  # fmt: skip

# Settings of one data set that say what of its rows is trained.
_TRAINED = (
    "roles_to_train", "train_on_eos", "train_on_eot", "train_on_inputs", "message_field_training",
)  # fmt: skip

DEFAULTS: tuple[tuple[str, Value], ...] = (
    ("data.max_length", 512),
    ("training.schedule", "cosine"),
    ("training.warmup", 0.03),
    ("training.epochs", 1.0),
    ("training.batch_size", 1),
    ("evaluation.every", 0),
    *training_arguments.DEFAULTS,
)


def translate(draft: Draft, stem: str) -> None:
    """Deal with every key that Axolotl knows."""
    _method(draft)
    _objective(draft)
    _data(draft)
    _targets(draft)
    _template(draft)
    _attention(draft)
    _plugins(draft)
    _trackers(draft)
    draft.translate(_KEYS)
    draft.without(_WITHOUT)
    draft.bookkeeping(_BOOKKEEPING, "of no effect on what is learned here.")
    training_arguments.translate(draft)
    draft.name_after(stem)
    draft.default(DEFAULTS)


def _method(draft: Draft) -> None:
    """adapter and load_in_4bit together make lora, qlora or full."""
    adapter = str(draft.get("adapter") or "").lower()
    if adapter in ("lora", "qlora"):
        four = adapter == "qlora" or draft.is_on("load_in_4bit") or _four_bits(draft.get("peft"))
        draft.take("adapter", "method.kind", "qlora" if four else "lora")
    elif adapter:
        draft.lose("adapter", f"{adapter} is not offered; lora is taken.", "method.kind")
    else:
        draft.default([("method.kind", "full")])
    if draft.is_on("load_in_8bit"):
        reason = "finetui has 4-bit weights (qlora) or whole ones."
        draft.lose("load_in_8bit", reason, "method.kind")
    draft.skip("load_in_4bit", "load_in_8bit")
    if draft.has("peft"):
        reason = "4-bit weights are those of bitsandbytes, in blocks of 64."
        draft.lose("peft", reason, "method.quantisation")


def _four_bits(peft: object) -> bool:
    """Whether the peft table asks for 4-bit weights, which makes lora qlora there."""
    return isinstance(peft, dict) and peft.get("weight_dtype") in ("nf4", "int4")


def _objective(draft: Draft) -> None:
    word = str(draft.get("rl") or "").lower()
    if word in _RL:
        draft.take("rl", "method.objective", _RL[word])
        if word == "ipo":
            draft.default([("preference.loss", "ipo")])
    elif word:
        draft.lose("rl", f"{word} is {_LATER}", "method.objective")
    elif draft.get("pretraining_dataset") or _all_text(draft.get("datasets")):
        draft.default([("method.objective", "pretrain")])


def _all_text(sets: object) -> bool:
    """Whether every data set is of the type ``completion``: plain text."""
    listed = sets if isinstance(sets, list) else []
    kinds = [item.get("type") for item in listed if isinstance(item, dict)]
    return bool(kinds) and all(kind == "completion" for kind in kinds)


def _data(draft: Draft) -> None:
    """The files of the datasets; how each is read is detected here."""
    if not draft.has("datasets"):
        return
    sets = draft.get("datasets")
    wanted: list[str] = []
    for place, item in enumerate(sets if isinstance(sets, list) else []):
        if isinstance(item, dict):
            wanted += _files(item)
            _reading(draft, f"datasets.{place}", item)
        elif isinstance(item, str):
            wanted.append(item)
    hint = "a set of the hub or a folder; put its file into datasets/ first."
    training_arguments.data_files(draft, "datasets", wanted, "data.train", hint)


def _files(item: dict[str, object]) -> list[str]:
    files = item.get("data_files") or item.get("path") or ""
    return [str(part) for part in (files if isinstance(files, list) else [files]) if part]


def _reading(draft: Draft, place: str, item: dict[str, object]) -> None:
    """The settings of one data set: its shape is detected, what is trained is one field."""
    for name, value in item.items():
        sliced = name == "split" and "[" in str(value)
        if name in ("path", "data_files", "ds_type") or (name == "split" and not sliced):
            continue
        key = f"{place}.{name}"
        draft.values[key] = value
        if sliced:
            draft.lose(key, "all rows are used; finetui mix takes a part of them.", "data.train")
        elif name in _TRAINED:
            draft.lose(key, "rows are trained as data.loss_on says.", "data.loss_on")
        else:
            reason = "the shape of rows is detected; the Data screen overrides it."
            draft.lose(key, reason, "data.train", matters=False)


def _targets(draft: Draft) -> None:
    if draft.is_on("lora_target_linear"):
        draft.take("lora_target_linear", "method.target_modules", ["all-linear"])
        if draft.has("lora_target_modules"):
            reason = "lora_target_linear is on: all linear layers."
            draft.lose("lora_target_modules", reason, "method.target_modules", matters=False)
    elif draft.has("lora_target_modules"):
        draft.translate({"lora_target_modules": Key("method.target_modules", names)})
    draft.skip("lora_target_linear")


def _template(draft: Draft) -> None:
    name = str(draft.get("chat_template") or "").lower()
    if name in _TEMPLATES:
        draft.take("chat_template", "model.chat_template", _TEMPLATES[name])
    elif name.startswith("tokenizer_default"):
        draft.take("chat_template", "model.chat_template", "")
    elif draft.has("chat_template"):
        reason = "the tokenizer's own template is taken; look at a row before the run."
        draft.lose("chat_template", reason, "model.chat_template")
    if draft.has("chat_template_jinja"):
        reason = "put it into a .jinja file and name that."
        draft.lose("chat_template_jinja", reason, "model.chat_template")


def _attention(draft: Draft) -> None:
    """One switch a kind there, one field here; the first that is on wins."""
    convert = choice(_IMPLEMENTATIONS, "attention")
    for key in ("attn_implementation", "attention"):
        draft.translate({key: Key("model.attention", convert)})
    for key, word in _ATTENTION.items():
        if draft.has(key) and draft.is_on(key) and not draft.is_set("model.attention"):
            draft.take(key, "model.attention", word)
        draft.skip(key)


def _plugins(draft: Draft) -> None:
    """Liger is a field; other plugins are not."""
    on = [key for key in draft.values if key.startswith("liger_") and draft.has(key)]
    for key in on:
        if draft.is_on(key) and not draft.is_set("training.liger"):
            draft.take(key, "training.liger", True, "all of its kernels together")
        draft.skip(key)
    if not draft.has("plugins"):
        return
    others = [name for name in names(draft.get("plugins")) if not _is_known_plugin(name)]
    if others:
        draft.lose("plugins", f"finetui has no {others[0].rpartition('.')[2]}.")
    draft.skip("plugins")


def _is_known_plugin(name: str) -> bool:
    """Liger is a field; chunked cross entropy is always on where the logits are the peak."""
    return "liger" in name.lower() or "cut_cross_entropy" in name.lower()


def _trackers(draft: Draft) -> None:
    wanted = []
    for key, name in (
        ("wandb_project", "wandb"),
        ("use_wandb", "wandb"),
        ("mlflow_tracking_uri", "mlflow"),
        ("use_mlflow", "mlflow"),
        ("use_tensorboard", "tensorboard"),
        ("trackio_project_name", "trackio"),
    ):
        off = key.startswith("use_") and not draft.is_on(key)
        if draft.has(key) and not off and name not in wanted:
            wanted.append(name)
            draft.take(key, "logging.report_to", list(wanted))
        draft.skip(key)
