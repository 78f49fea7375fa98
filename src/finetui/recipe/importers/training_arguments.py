"""The keys that LLaMA-Factory, TRL and Axolotl share: transformers' TrainingArguments."""

from __future__ import annotations

from pathlib import PurePath

from finetui.recipe.field import Value
from finetui.recipe.importers.draft import (
    Broken,
    Draft,
    Key,
    NoEquivalent,
    choice,
    is_data_file,
    is_yes,
    names,
    number,
)

OPTIMIZERS = {
    "adamw": "adamw",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw",
    "paged_adamw_32bit": "paged_adamw",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
_TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")


def schedule(value: object) -> str:
    word = str(value).strip().lower()
    if word not in SCHEDULES:
        raise NoEquivalent("finetui has the schedules cosine, linear and constant.")
    return SCHEDULES[word]


optimizer = choice(OPTIMIZERS, "optimiser")


def steps(value: object) -> float:
    """A number of steps; a share of the run is only known when it has been planned."""
    found = number(value)
    if 0 < found < 1:
        raise NoEquivalent("a share of the run; finetui counts steps.")
    return max(0.0, found)


def limit(value: object) -> float:
    """A number of steps of which -1 means none."""
    return max(0.0, number(value))


def kept(value: object) -> float:
    """Checkpoints kept; finetui keeps two at least."""
    return max(2.0, number(value))


def _at_length(value: object) -> str:
    return "length" if is_yes(value) else "random"


def _sampling(value: object) -> str:
    words = {"random": "random", "sequential": "file", "group_by_length": "length"}
    return str(choice(words, "order")(value))


TRAINING: dict[str, Key] = {
    "learning_rate": Key("training.learning_rate"),
    "num_train_epochs": Key("training.epochs"),
    "max_steps": Key("training.max_steps", limit),
    "per_device_train_batch_size": Key("training.batch_size"),
    "gradient_accumulation_steps": Key("training.accumulation"),
    "weight_decay": Key("training.weight_decay"),
    "max_grad_norm": Key("training.clip"),
    "adam_beta2": Key("training.beta2"),
    "lr_scheduler_type": Key("training.schedule", schedule),
    "optim": Key("training.optimizer", optimizer),
    "seed": Key("training.seed"),
    "tf32": Key("model.tf32"),
    "torch_compile": Key("training.compile"),
    "neftune_noise_alpha": Key("training.neftune"),
    "use_liger_kernel": Key("training.liger"),
    "group_by_length": Key("data.order", _at_length),
    "train_sampling_strategy": Key("data.order", _sampling),
    "logging_steps": Key("logging.every", steps),
    "save_total_limit": Key("checkpoints.keep", kept),
    "load_best_model_at_end": Key("evaluation.keep_best"),
    "trust_remote_code": Key("model.trust_remote_code"),
    "run_name": Key("name"),
}

_OWN_SHARDING = "set how many processes train, and what each holds, with finetui's own fields."
_NO_PARALLEL = "the rows of an update are shared out, no layer and no row is."
WITHOUT: dict[str, tuple[str, str]] = {
    "deepspeed": (_OWN_SHARDING, "training.sharding"),
    "fsdp": (_OWN_SHARDING, "training.sharding"),
    "fsdp_config": (_OWN_SHARDING, "training.sharding"),
    "accelerator_config": (_OWN_SHARDING, "training.processes"),
    "parallelism_config": (_NO_PARALLEL, "training.processes"),
    "lr_scheduler_kwargs": (
        "the schedules here have no settings of their own.",
        "training.schedule",
    ),
    "label_smoothing_factor": ("plain cross entropy is what is trained.", ""),
    "optim_args": ("the optimiser has no further settings here.", "training.optimizer"),
    "optim_target_modules": ("GaLore and its like are not offered.", "training.optimizer"),
    "auto_find_batch_size": (
        "the forecast and a rehearsal find it instead.",
        "training.batch_size",
    ),
    "resume_from_checkpoint": ("a run is resumed by its job: finetui jobs.", "model.adapter"),
    "eval_delay": ("evaluation begins with the first interval.", "evaluation.every"),
    "streaming": ("rows are read from files, by number.", ""),
}

# What changes nothing of what is learned, by reason.
BOOKKEEPING: dict[str, tuple[str, ...]] = {
    "finetui keeps a run in its job folder.": (
        "output_dir", "overwrite_output_dir", "logging_dir", "save_only_model", "save_safetensors",
        "save_on_each_node", "overwrite_cache", "tokenized_path", "dataset_prepared_path",
    ),
    "nothing is uploaded by a run.": (
        "push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo",
        "hub_revision", "hub_always_push", "hf_token", "hf_hub_token", "hf_use_auth_token",
        "hub_model_revision",
    ),
    "finetui loads and shows data its own way.": (
        "dataloader_num_workers", "dataloader_pin_memory", "dataloader_prefetch_factor",
        "dataloader_drop_last", "dataloader_persistent_workers", "preprocessing_num_workers",
        "preprocessing_batch_size", "dataset_num_proc", "dataset_processes",
        "remove_unused_columns", "length_column_name", "data_seed",
    ),
    "finetui reports what happens itself.": (
        "log_level", "disable_tqdm", "logging_first_step", "logging_strategy", "plot_loss",
        "include_num_input_tokens_seen", "include_tokens_per_second", "logging_nan_inf_filter",
        "log_on_each_node", "project", "debug", "trackio_space_id", "log_completions",
        "batch_eval_metrics", "prediction_loss_only", "eval_on_start",
    ),
    "of no effect on one GPU.": (
        "ddp_timeout", "ddp_find_unused_parameters", "ddp_backend", "ddp_bucket_cap_mb",
        "local_rank", "average_tokens_across_devices", "full_determinism",
    ),
    "evaluation takes the training batch's memory.": (
        "per_device_eval_batch_size", "eval_accumulation_steps", "eval_batch_size",
        "bf16_full_eval", "fp16_full_eval",
    ),
    "training and testing are always both done.": ("do_train", "do_eval", "do_predict"),
    "chosen by finetui.": (
        "gradient_checkpointing_kwargs", "use_cache", "torch_empty_cache_steps",
        "liger_kernel_config", "torch_compile_backend", "torch_compile_mode", "greater_is_better",
    ),
}  # fmt: skip

DEFAULTS: tuple[tuple[str, Value], ...] = (
    ("training.learning_rate", 5e-5),
    ("training.schedule", "linear"),
    ("training.warmup", 0.0),
    ("training.beta2", 0.999),
    ("training.seed", 42),
    ("evaluation.keep_best", False),
    ("checkpoints.every", 500),
)
_ADAM = {"adam_beta1": 0.9, "adam_epsilon": 1e-8}


def translate(draft: Draft) -> None:
    """Deal with every key of TrainingArguments."""
    precision(draft)
    warmup(draft)
    evaluation(draft)
    saving(draft)
    reporting(draft)
    activations(draft, "gradient_checkpointing")
    adam(draft)
    if draft.has("metric_for_best_model"):
        best_metric(draft)
    name_of_output(draft, "output_dir")
    draft.translate(TRAINING)
    draft.without(WITHOUT)
    for reason, keys in BOOKKEEPING.items():
        draft.bookkeeping(keys, reason)


def precision(draft: Draft) -> None:
    """bf16, fp16 and their pure forms; the first that is on wins."""
    for key, word in (("bf16", "bf16"), ("pure_bf16", "bf16"), ("fp16", "fp16")):
        if not draft.has(key):
            continue
        if str(draft.get(key)).lower() in ("auto", "full"):
            draft.take(key, "model.precision", "auto" if draft.get(key) == "auto" else "bf16")
        elif _says_yes(draft, key) and not draft.is_set("model.precision"):
            draft.take(key, "model.precision", word)
        draft.skip(key)


def _says_yes(draft: Draft, key: str) -> bool:
    """Whether a switch is on; one that is no switch becomes a problem of the file."""
    try:
        return draft.is_on(key)
    except Broken:
        draft.take(key, "model.tf32", draft.get(key))
        return False


def warmup(draft: Draft) -> None:
    """Steps win over a ratio, as in TrainingArguments; below 1 both are a share."""
    try:
        given = number(draft.get("warmup_steps") or 0)
    except Broken:
        given = 1.0
    first, second = "warmup_steps", "warmup_ratio"
    if draft.has(first) and (given > 0 or not draft.has(second)):
        draft.take(first, "training.warmup", draft.get(first))
        if draft.has(second):
            draft.lose(second, "warmup_steps wins over it.", "training.warmup", matters=False)
    elif draft.has(second):
        draft.take(second, "training.warmup", draft.get(second))
    draft.skip(first)


def evaluation(draft: Draft) -> None:
    """When the held-out loss is measured."""
    key = "eval_strategy" if draft.has("eval_strategy") else "evaluation_strategy"
    strategy = str(draft.get(key) or "").lower()
    if strategy in ("no", "false"):
        draft.take(key, "evaluation.every", 0)
        draft.skip("eval_steps")
    elif strategy == "epoch":
        draft.lose(key, "finetui evaluates by steps, not by epochs.", "evaluation.every")
    elif draft.has("eval_steps"):
        draft.translate({"eval_steps": Key("evaluation.every", steps)})
        draft.skip(key)
    elif strategy == "steps" and draft.has("logging_steps"):
        draft.take(key, "evaluation.every", draft.get("logging_steps"), "as often as it logs")


def saving(draft: Draft) -> None:
    """When a checkpoint is saved."""
    strategy = str(draft.get("save_strategy") or "steps").lower()
    if strategy in ("no", "false"):
        draft.take("save_strategy", "checkpoints.every", 0)
        draft.skip("save_steps")
    elif strategy in ("epoch", "best"):
        draft.lose("save_strategy", "finetui saves by steps.", "checkpoints.every")
        draft.take("save_strategy", "checkpoints.every", 0, "the end and the best are always kept")
        draft.skip("save_steps")
    else:
        draft.skip("save_strategy")
        draft.translate({"save_steps": Key("checkpoints.every", steps)})


def reporting(draft: Draft, key: str = "report_to") -> None:
    """The trackers finetui can hand figures to; others are named as lost."""
    if not draft.has(key):
        return
    try:
        wanted = [word.lower() for word in names(draft.get(key))]
    except Broken as error:
        draft.take(key, "logging.report_to", draft.get(key), str(error))
        return
    known = [word for word in wanted if word in _TRACKERS]
    others = [word for word in wanted if word not in (*_TRACKERS, "none", "all")]
    if known:
        draft.take(key, "logging.report_to", known)
    if others:
        draft.lose(key, f"finetui cannot report to {others[0]!r}.", "logging.report_to", False)
    draft.skip(key)


def activations(draft: Draft, key: str, offload: str = "activation_offloading") -> None:
    """Gradient checkpointing, with the activations on the host where that is asked for."""
    value = draft.get(key)
    words = {"unsloth": "offload", "offload": "offload", "offload_disk": "offload", "none": "off"}
    if draft.has(offload) and _says_yes(draft, offload):
        draft.take(offload, "training.checkpointing", "offload")
        draft.skip(key)
    elif draft.has(key) and str(value).lower() in words:
        draft.take(key, "training.checkpointing", words[str(value).lower()])
    elif draft.has(key):
        draft.translate(
            {key: Key("training.checkpointing", lambda v: "on" if is_yes(v) else "off")}
        )
    draft.skip(offload)


def adam(draft: Draft) -> None:
    """Adam's other settings are fixed at their usual values."""
    for key, usual in _ADAM.items():
        if draft.has(key):
            try:
                same = number(draft.get(key)) == usual
            except Broken:
                same = False
            if not same:
                draft.lose(key, f"fixed at {usual:g} here.", "training.beta2")
            draft.skip(key)


def best_metric(draft: Draft) -> None:
    """The best is always the one of the lowest held-out loss."""
    if str(draft.get("metric_for_best_model")) not in ("eval_loss", "loss"):
        reason = "the best is the one with the lowest held-out loss."
        draft.lose("metric_for_best_model", reason, "evaluation.keep_best")
    draft.skip("metric_for_best_model")


def name_of_output(draft: Draft, key: str) -> None:
    """The last part of the output folder names the run where nothing else does."""
    folder = draft.get(key)
    if isinstance(folder, str) and draft.get("run_name") is None:
        parts = [part for part in PurePath(folder).parts if part not in ("/", ".", "..")]
        if parts:
            name = "/".join(parts[-2:])[-80:]
            draft.take(key, "name", name, "finetui chooses the folder itself")


def data_files(draft: Draft, key: str, wanted: list[str], field_id: str, hint: str) -> None:
    """Take the names that are files; a name of a hub or a registry is lost with a hint."""
    files = [name for name in wanted if is_data_file(name)]
    many = field_id == "data.train"
    if files:
        draft.take(key, field_id, files if many else files[0], "taken from the workspace folder")
    if len(files) < len(wanted):
        draft.lose(key, hint, field_id)
    draft.skip(key)
