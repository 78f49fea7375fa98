"""Unsloth: the sectioned YAML of Unsloth Studio and of ``unsloth train --config``."""

from __future__ import annotations

from finetui.recipe.field import Value
from finetui.recipe.importers import training_arguments
from finetui.recipe.importers.draft import Broken, Draft, Key, is_yes, names
from finetui.recipe.importers.training_arguments import kept, limit, optimizer, schedule, steps

SECTIONS = frozenset({"data", "training", "lora", "logging", "inference"})
MARKS = frozenset({
    "model", "data.dataset", "data.local_dataset", "data.format_type", "training.training_type",
    "training.max_seq_length", "training.load_in_4bit", "training.num_epochs",
    "training.batch_size", "training.random_seed", "training.train_on_completions", "lora.lora_r",
    "lora.lora_alpha", "lora.target_modules", "lora.use_loftq", "lora.finetune_language_layers",
    "logging.enable_wandb", "logging.enable_tensorboard", "logging.log_frequency",
})  # fmt: skip


def _completions(value: object) -> str:
    return "assistant" if is_yes(value) else "all"


_KEYS: dict[str, Key] = {
    "model": Key("model.path"),
    "training.max_seq_length": Key("data.max_length"),
    "training.learning_rate": Key("training.learning_rate"),
    "training.batch_size": Key("training.batch_size"),
    "training.gradient_accumulation_steps": Key("training.accumulation"),
    "training.max_steps": Key("training.max_steps", limit),
    "training.save_steps": Key("checkpoints.every", steps),
    "training.save_total_limit": Key("checkpoints.keep", kept),
    "training.eval_steps": Key("evaluation.every", steps),
    "training.weight_decay": Key("training.weight_decay"),
    "training.random_seed": Key("training.seed"),
    "training.packing": Key("data.packing"),
    "training.train_on_completions": Key("data.loss_on", _completions),
    "training.optim": Key("training.optimizer", optimizer),
    "training.lr_scheduler_type": Key("training.schedule", schedule),
    "training.max_grad_norm": Key("training.clip"),
    "training.trust_remote_code": Key("model.trust_remote_code"),
    "lora.lora_r": Key("method.rank"),
    "lora.lora_alpha": Key("method.alpha"),
    "lora.lora_dropout": Key("method.dropout"),
    "lora.use_rslora": Key("method.rslora"),
    "lora.use_dora": Key("method.dora"),
    "logging.log_frequency": Key("logging.every", steps),
}
_WITHOUT: dict[str, tuple[str, str]] = {
    "lora.use_loftq": ("LoftQ is not offered; pissa begins near the weights too.", "method.init"),
    "lora.vision_all_linear": ("only text is trained.", "method.target_modules"),
    "lora.modules_to_save": ("only adapters are trained beside a frozen model.", "method.kind"),
    "data.subset": ("rows are read from files.", "data.train"),
    "data.train_split": ("held-out rows are a file: finetui split parts them off.", "data.eval"),
    "data.eval_split": ("held-out rows are a file: finetui split parts them off.", "data.eval"),
}
_PARTS = {
    "lora.finetune_vision_layers": "only text is trained.",
    "lora.finetune_language_layers": "name the layers instead.",
    "lora.finetune_attention_modules": "name the layers instead.",
    "lora.finetune_mlp_modules": "name the layers instead.",
}
_BOOKKEEPING = (
    "training.output_dir", "logging.wandb_project", "logging.wandb_token", "logging.hf_token",
    "logging.tensorboard_dir", "training.eval_batch_size", "data.dataset_num_proc",
)  # fmt: skip

# unsloth_cli/config.py; the optimiser and the schedule are the trainer's own.
DEFAULTS: tuple[tuple[str, Value], ...] = (
    ("method.kind", "qlora"),
    ("method.rank", 64),
    ("method.alpha", 16),
    ("data.max_length", 2048),
    ("data.overlong", "truncate"),
    ("data.loss_on", "all"),
    ("training.epochs", 3.0),
    ("training.learning_rate", 2e-4),
    ("training.batch_size", 2),
    ("training.accumulation", 4),
    ("training.warmup", 5.0),
    ("training.weight_decay", 0.01),
    ("training.seed", 3407),
    ("training.optimizer", "adamw_8bit"),
    ("training.schedule", "linear"),
    ("training.beta2", 0.999),
    ("training.checkpointing", "offload"),
    ("evaluation.every", 0),
    ("evaluation.keep_best", False),
)


def translate(draft: Draft, stem: str) -> None:
    """Deal with every key that Unsloth's files have."""
    _method(draft)
    _data(draft)
    _targets(draft)
    _length(draft)
    _reports(draft)
    training_arguments.activations(draft, "training.gradient_checkpointing")
    draft.translate(_KEYS)
    draft.without(_WITHOUT)
    for key, reason in _PARTS.items():
        if draft.has(key):
            whole = draft.is_on(key) or key == "lora.finetune_vision_layers"
            draft.lose(key, reason, "method.target_modules", matters=not whole)
    draft.bookkeeping(_BOOKKEEPING, "finetui keeps runs in job folders, and no keys.")
    inference = [key for key in draft.values if key.startswith("inference")]
    draft.bookkeeping(inference, "answers are generated greedily here.")
    draft.name_after(stem)
    draft.default(DEFAULTS)


def _method(draft: Draft) -> None:
    """training_type and load_in_4bit together make lora, qlora or full."""
    kind = str(draft.get("training.training_type") or "lora").lower()
    four = draft.get("training.load_in_4bit")
    if kind not in ("lora", "qlora", "full"):
        draft.lose("training.training_type", f"{kind} is not offered.", "method.kind")
        kind = "lora"
    if kind == "lora" and (four is None or draft.is_on("training.load_in_4bit")):
        kind = "qlora"
    key = "training.load_in_4bit" if four is not None else "training.training_type"
    draft.take(key, "method.kind", kind)
    draft.skip("training.training_type", "training.load_in_4bit")
    if draft.is_on("training.load_in_8bit"):
        reason = "finetui has 4-bit weights (qlora) or whole ones."
        draft.lose("training.load_in_8bit", reason, "method.kind")
    draft.skip("training.load_in_8bit")


def _data(draft: Draft) -> None:
    """Local files come over; a set of the hub must be written to a file first."""
    if draft.has("data.local_dataset"):
        try:
            wanted = names(draft.get("data.local_dataset"))
        except Broken:
            wanted = []
        hint = "no data file that finetui opens."
        training_arguments.data_files(draft, "data.local_dataset", wanted, "data.train", hint)
    if draft.has("data.dataset"):
        reason = "a set of the hub; put its file into datasets/ first."
        draft.lose("data.dataset", reason, "data.train")
    shape = str(draft.get("data.format_type") or "auto").lower()
    if shape == "raw":
        draft.take("data.format_type", "method.objective", "pretrain")
    elif draft.has("data.format_type"):
        reason = "the shape of rows is detected; the Data screen overrides it."
        draft.lose("data.format_type", reason, "data.train", matters=False)


def _targets(draft: Draft) -> None:
    if not draft.has("lora.target_modules"):
        return
    wanted = draft.get("lora.target_modules")
    if wanted == "all-linear" or wanted == ["all-linear"]:
        draft.take("lora.target_modules", "method.target_modules", ["all-linear"])
    else:
        draft.translate({"lora.target_modules": Key("method.target_modules", names)})


def _length(draft: Draft) -> None:
    """Epochs of 0 mean that max_steps counts; a warm-up of steps wins over a ratio."""
    if draft.get("training.num_epochs") == 0:
        draft.skip("training.num_epochs")
    draft.translate({"training.num_epochs": Key("training.epochs")})
    for key in ("training.warmup_steps", "training.warmup_ratio"):
        if draft.has(key) and not draft.is_set("training.warmup"):
            draft.take(key, "training.warmup", draft.get(key))
        draft.skip(key)


def _reports(draft: Draft) -> None:
    wanted = []
    for key, name in (
        ("logging.enable_wandb", "wandb"),
        ("logging.enable_tensorboard", "tensorboard"),
    ):
        if draft.has(key) and draft.is_on(key):
            wanted.append(name)
            draft.take(key, "logging.report_to", list(wanted))
        draft.skip(key)
