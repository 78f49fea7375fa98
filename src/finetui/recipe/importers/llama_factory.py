"""LLaMA-Factory: one flat YAML file of model, data, finetuning and training arguments."""

from __future__ import annotations

from finetui.recipe.field import Value
from finetui.recipe.importers import training_arguments
from finetui.recipe.importers.draft import Broken, Draft, Key, choice, is_yes, names, number

SECTIONS: frozenset[str] = frozenset()
MARKS = frozenset({
    "stage", "finetuning_type", "cutoff_len", "lora_rank", "lora_target", "dataset_dir",
    "overwrite_cache", "pref_beta", "pref_loss", "pref_ftx", "quantization_bit", "template",
    "train_on_prompt", "mask_history", "neat_packing", "plot_loss", "val_size", "flash_attn",
    "enable_liger_kernel", "adapter_name_or_path", "additional_target", "loraplus_lr_ratio",
    "preprocessing_num_workers", "max_samples",
})  # fmt: skip

_OBJECTIVES = {"sft": "sft", "pt": "pretrain", "dpo": "dpo", "kto": "kto"}
# Templates there by the name of ours; the others are the tokenizer's own under another name.
_TEMPLATES = {
    "alpaca": "alpaca", "chatml": "chatml", "gemma": "gemma", "gemma2": "gemma",
    "llama3": "llama3", "mistral": "mistral", "phi": "phi", "zephyr": "zephyr", "qwen": "chatml",
}  # fmt: skip
_ATTENTION = {
    "auto": "auto", "disabled": "eager", "sdpa": "sdpa", "fa2": "flash", "fa3": "flash",
}  # fmt: skip


def _targets(value: object) -> list[str]:
    found = names(value)
    return ["all-linear"] if found == ["all"] else found


def _prompts(value: object) -> str:
    return "all" if is_yes(value) else "assistant"


_KEYS: dict[str, Key] = {
    "model_name_or_path": Key("model.path"),
    "model_revision": Key("model.revision"),
    "flash_attn": Key("model.attention", choice(_ATTENTION, "attention")),
    "cutoff_len": Key("data.max_length"),
    "lora_rank": Key("method.rank"),
    "lora_alpha": Key("method.alpha"),
    "lora_dropout": Key("method.dropout"),
    "lora_target": Key("method.target_modules", _targets),
    "loraplus_lr_ratio": Key("method.lora_plus"),
    "use_rslora": Key("method.rslora"),
    "use_dora": Key("method.dora"),
    "quantization_type": Key("method.quantisation"),
    "double_quantization": Key("method.double_quantisation"),
    "pref_beta": Key("preference.beta"),
    "pref_ftx": Key("preference.sft_weight"),
    "dpo_label_smoothing": Key("preference.label_smoothing"),
    "kto_chosen_weight": Key("preference.desirable_weight"),
    "kto_rejected_weight": Key("preference.undesirable_weight"),
    "enable_liger_kernel": Key("training.liger"),
    "early_stopping_steps": Key("evaluation.early_stopping"),
    "max_new_tokens": Key("evaluation.max_new_tokens"),
    "train_on_prompt": Key("data.loss_on", _prompts),
}

_WITHOUT: dict[str, tuple[str, str]] = {
    "val_size": ("held-out rows are a file: finetui split parts them off.", "data.eval"),
    "max_samples": ("all rows are used; finetui mix takes a part of them.", "training.max_steps"),
    "additional_target": ("only adapters are trained beside a frozen model.", "method.kind"),
    "ref_model": ("the reference is the model at its start.", "model.adapter"),
    "ref_model_adapters": ("the reference is the model at its start.", "model.adapter"),
    "reward_model": ("reward models are left for later.", "method.objective"),
    "ld_alpha": ("LD-DPO is not offered.", "preference.beta"),
    "simpo_gamma": ("SimPO is not offered.", "preference.loss"),
    "pref_bco_weight": ("BCO is not offered.", "preference.loss"),
    "freeze_trainable_layers": ("freezing some layers is not offered.", "method.kind"),
    "freeze_trainable_modules": ("freezing some layers is not offered.", "method.kind"),
    "use_galore": ("GaLore is not offered.", "training.optimizer"),
    "use_apollo": ("APOLLO is not offered.", "training.optimizer"),
    "use_badam": ("BAdam is not offered.", "training.optimizer"),
    "use_adam_mini": ("Adam-mini is not offered.", "training.optimizer"),
    "use_muon": ("Muon is not offered.", "training.optimizer"),
    "use_llama_pro": ("LLaMA-Pro is not offered.", "method.kind"),
    "mixture_of_depths": ("mixture of depths is not offered.", ""),
    "use_dft_loss": ("plain cross entropy is what is trained.", ""),
    "rope_scaling": ("positions stay those of the model's config.", "data.max_length"),
    "shift_attn": ("shifted attention is not offered.", "model.attention"),
    "resize_vocab": ("tokens are not added to a model.", ""),
    "add_tokens": ("tokens are not added to a model.", ""),
    "add_special_tokens": ("tokens are not added to a model.", ""),
    "new_special_tokens_config": ("tokens are not added to a model.", ""),
    "train_from_scratch": ("training begins from the model's weights.", "model.path"),
    "moe_aux_loss_coef": ("no balance loss of experts is added.", ""),
    "eval_on_each_dataset": ("one held-out file is measured.", "data.eval"),
    "mix_strategy": ("files are read one after another and shuffled.", "data.order"),
    "interleave_probs": ("shares are set for general data only.", "data.general_share"),
    "eval_num_beams": ("answers are generated greedily.", "evaluation.generate"),
    "predict_with_generate": ("answers are generated before and after.", "evaluation.generate"),
    "enable_thinking": ("the chat template decides it.", "model.chat_template"),
    "tool_format": ("the chat template decides it.", "model.chat_template"),
    "default_system": ("a system turn belongs into the rows.", "model.chat_template"),
    "use_unsloth": ("the engine is transformers.Trainer.", "training.liger"),
    "fp8": ("fp8 is not offered.", "model.precision"),
    "create_new_adapter": ("training goes on in the same adapter.", "model.adapter"),
}
_BOOKKEEPING = (
    "dataset_dir", "media_dir", "cache_dir", "pissa_iter", "pissa_convert", "print_param_status",
    "upcast_layernorm", "upcast_lmhead_output", "disable_gradient_checkpointing", "ray_run_name",
    "ray_num_workers", "ray_storage_path", "resources_per_worker", "placement_strategy",
    "use_fast_tokenizer", "low_cpu_mem_usage", "ignore_pad_token_for_loss", "split_special_tokens",
    "quantization_method", "quantization_device_map", "use_swanlab", "swanlab_project",
    "swanlab_run_name", "swanlab_api_key", "swanlab_mode", "compute_accuracy",
    "data_shared_file_system", "use_reentrant_gc", "init_special_tokens", "infer_backend",
    "infer_dtype", "use_kv_cache", "offload_folder", "fp8_backend", "buffer_size", "adapter_folder",
    "image_max_pixels", "image_min_pixels", "video_max_pixels", "video_min_pixels", "video_fps",
    "video_maxlen", "audio_sampling_rate", "export_dir", "export_size", "export_device",
    "export_legacy_format", "ms_hub_token", "om_hub_token",
)  # fmt: skip

# What hparams/*.py has, where it differs from transformers and from finetui.
DEFAULTS: tuple[tuple[str, Value], ...] = (
    ("method.rank", 8),
    ("data.max_length", 2048),
    ("data.overlong", "truncate"),
    ("training.checkpointing", "on"),
    ("evaluation.every", 0),
    *training_arguments.DEFAULTS,
)


def translate(draft: Draft, stem: str) -> None:
    """Deal with every key that LLaMA-Factory knows."""
    _method(draft)
    _objective(draft)
    _data(draft)
    _template(draft)
    _start(draft)
    if draft.is_on("disable_gradient_checkpointing"):
        draft.take("disable_gradient_checkpointing", "training.checkpointing", "off")
    elif draft.is_on("use_unsloth_gc"):
        draft.take("use_unsloth_gc", "training.checkpointing", "offload")
    draft.skip("use_unsloth_gc")
    draft.translate(_KEYS)
    draft.without(_WITHOUT)
    draft.bookkeeping(_BOOKKEEPING, "of no effect on what is learned here.")
    training_arguments.translate(draft)
    if not draft.is_set("method.alpha") and draft.recipe.method.kind != "full":
        rank = draft.recipe.method.rank if draft.is_set("method.rank") else 8
        draft.default([("method.alpha", 2 * rank)])
    draft.name_after(stem)
    draft.default(DEFAULTS)


def _method(draft: Draft) -> None:
    """finetuning_type and quantization_bit together make lora, qlora or full."""
    kind = str(draft.get("finetuning_type") or "lora").lower()
    bits = draft.get("quantization_bit")
    if kind not in ("lora", "full"):
        draft.lose("finetuning_type", f"{kind} is not offered; lora is taken.", "method.kind")
        kind = "lora"
    if bits is not None and str(bits) != "4":
        reason = "finetui has 4-bit weights (qlora) or whole ones."
        draft.lose("quantization_bit", reason, "method.kind")
        bits = None
    if kind == "lora" and bits is not None:
        draft.take("quantization_bit", "method.kind", "qlora")
    elif draft.has("finetuning_type"):
        draft.take("finetuning_type", "method.kind", kind)
    draft.skip("finetuning_type", "quantization_bit")


def _objective(draft: Draft) -> None:
    """stage and pref_loss together make the objective and its loss."""
    stage = str(draft.get("stage") or "sft").lower()
    loss = str(draft.get("pref_loss") or "sigmoid").lower()
    if stage not in _OBJECTIVES:
        draft.lose("stage", f"{stage} is left for later.", "method.objective")
    elif stage == "dpo" and loss == "orpo":
        draft.take("pref_loss", "method.objective", "orpo")
    else:
        draft.take("stage", "method.objective", _OBJECTIVES[stage])
    draft.skip("stage")
    if draft.has("pref_loss"):
        losses = {"sigmoid": "sigmoid", "hinge": "hinge", "ipo": "ipo"}
        draft.translate({"pref_loss": Key("preference.loss", choice(losses, "dpo loss"))})
    if stage == "pt" and not draft.has("packing"):
        draft.default([("data.packing", True)])


def _data(draft: Draft) -> None:
    """Names of dataset_info.json are no files; packing and history have two keys each."""
    hint = "a name in dataset_info.json; choose the file itself, or finetui convert it."
    for key, field_id in (("dataset", "data.train"), ("eval_dataset", "data.eval")):
        if draft.has(key):
            try:
                wanted = names(draft.get(key))
            except Broken:
                wanted = []
            training_arguments.data_files(draft, key, wanted, field_id, hint)
    if draft.has("neat_packing") and draft.is_on("neat_packing"):
        draft.take("neat_packing", "data.packing", True)
        draft.skip("packing")
    elif draft.has("packing"):
        note = "rows do not see each other here" if draft.is_on("packing") else ""
        draft.take("packing", "data.packing", draft.get("packing"), note)
    draft.skip("neat_packing")
    if draft.has("mask_history"):
        if draft.is_on("mask_history"):
            draft.take("mask_history", "data.loss_on", "last")
        draft.skip("mask_history")


def _template(draft: Draft) -> None:
    name = str(draft.get("template") or "").lower()
    if name in _TEMPLATES:
        note = "" if name == _TEMPLATES[name] else f"{name} is {_TEMPLATES[name]} with another name"
        draft.take("template", "model.chat_template", _TEMPLATES[name], note)
    elif draft.has("template"):
        reason = "the tokenizer's own template is taken; look at a row before the run."
        draft.lose("template", reason, "model.chat_template", matters=name != "default")


def _start(draft: Draft) -> None:
    """The adapter to go on from, and how a new one begins."""
    if draft.has("adapter_name_or_path"):
        wanted = names(draft.get("adapter_name_or_path"))
        draft.take("adapter_name_or_path", "model.adapter", wanted[0])
        if len(wanted) > 1:
            reason = "one adapter is gone on from; merge the others first."
            draft.lose("adapter_name_or_path", reason, "model.adapter")
    if draft.has("pissa_init"):
        if draft.is_on("pissa_init"):
            draft.take("pissa_init", "method.init", "pissa")
        draft.skip("pissa_init")
    if draft.has("loraplus_lr_embedding"):
        usual = number(draft.get("loraplus_lr_embedding")) == 1e-6
        reason = "embeddings get no rate of their own."
        draft.lose("loraplus_lr_embedding", reason, "method.lora_plus", matters=not usual)
