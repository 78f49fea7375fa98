"""TRL: the YAML of ``trl sft|dpo|kto --config``, one flat file of three dataclasses."""

from __future__ import annotations

from collections.abc import Mapping

from finetui.recipe.field import Value
from finetui.recipe.importers import training_arguments
from finetui.recipe.importers.draft import Draft, Key, choice, names, number

SECTIONS: frozenset[str] = frozenset()
MARKS = frozenset({
    "use_peft", "dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split",
    "assistant_only_loss", "completion_only_loss", "packing_strategy", "padding_free",
    "dataset_text_field", "attn_implementation", "chat_template_path", "max_length",
    "max_seq_length", "max_prompt_length", "max_completion_length", "lora_target_modules",
    "use_bnb_nested_quant", "bnb_4bit_quant_type", "loss_type", "precompute_ref_log_probs",
    "desirable_weight", "undesirable_weight", "model_name_or_path", "torch_dtype", "dtype",
    "beta", "num_generations", "reward_model_name_or_path", "lora_r",
})  # fmt: skip

_ATTENTION = {
    "sdpa": "sdpa", "eager": "eager", "flash_attention_2": "flash", "flash_attention_3": "flash",
    "kernels-community/flash-attn2": "flash", "kernels-community/flash-attn": "flash",
    "kernels-community/vllm-flash-attn3": "flash", "kernels-community/flash-attn3": "flash",
}  # fmt: skip
_PRECISION = {
    "auto": "auto", "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16",
    "float32": "fp32", "fp32": "fp32",
}  # fmt: skip


def _targets(value: object) -> list[str]:
    found = names(value)
    return ["all-linear"] if found in (["all-linear"], ["all"]) else found


_KEYS: dict[str, Key] = {
    "model_name_or_path": Key("model.path"),
    "model_revision": Key("model.revision", lambda v: "" if v == "main" else str(v)),
    "attn_implementation": Key("model.attention", choice(_ATTENTION, "attention")),
    "max_length": Key("data.max_length"),
    "max_seq_length": Key("data.max_length"),
    "packing": Key("data.packing"),
    "lora_r": Key("method.rank"),
    "lora_alpha": Key("method.alpha"),
    "lora_dropout": Key("method.dropout"),
    "lora_target_modules": Key("method.target_modules", _targets),
    "use_rslora": Key("method.rslora"),
    "use_dora": Key("method.dora"),
    "bnb_4bit_quant_type": Key("method.quantisation"),
    "use_bnb_nested_quant": Key("method.double_quantisation"),
    "chat_template_path": Key("model.chat_template"),
    "beta": Key("preference.beta"),
    "label_smoothing": Key("preference.label_smoothing"),
    "rpo_alpha": Key("preference.sft_weight"),
    "desirable_weight": Key("preference.desirable_weight"),
    "undesirable_weight": Key("preference.undesirable_weight"),
    "use_liger_loss": Key("training.liger"),
    "use_liger": Key("training.liger"),
}
_TRUNCATION = {"keep_start": "end", "keep_end": "start"}
_HELD_OUT = "held-out rows are a file: finetui split parts them off."
_HUB = "a set of the hub; put its file into datasets/ first."
_REFERENCE = "the reference is the model at its start."
_ONE_LOSS = "one loss at a time is trained."

_WITHOUT: dict[str, tuple[str, str]] = {
    "dataset_config": (_HUB, "data.train"),
    "dataset_test_split": (_HELD_OUT, "data.eval"),
    "dataset_streaming": ("rows are read from files, by number.", "data.train"),
    "dataset_text_field": ("the shape of rows is detected.", "data.train"),
    "dataset_kwargs": ("the shape of rows is detected.", "data.train"),
    "lora_modules_to_save": ("only adapters are trained beside a frozen model.", "method.kind"),
    "lora_target_parameters": ("layers are adapted by name.", "method.target_modules"),
    "eos_token": ("the tokenizer's own end token is trained.", "model.chat_template"),
    "pad_token": ("padding is not trained on.", ""),
    "model_init_kwargs": ("the model is loaded by the fields of this table.", "model.path"),
    "max_prompt_length": ("only the whole row has a limit.", "data.max_length"),
    "max_completion_length": ("only the whole row has a limit.", "data.max_length"),
    "reference_free": (_REFERENCE, "preference.beta"),
    "sync_ref_model": (_REFERENCE, "preference.beta"),
    "ref_model_mixup_alpha": (_REFERENCE, "preference.beta"),
    "ref_model_sync_steps": (_REFERENCE, "preference.beta"),
    "f_divergence_type": ("the divergence is reverse KL.", "preference.loss"),
    "use_weighting": ("WPO is not offered.", "preference.loss"),
    "ld_alpha": ("LD-DPO is not offered.", "preference.loss"),
    "loss_weights": (_ONE_LOSS, "preference.sft_weight"),
    "num_generations": ("GRPO is left for later.", "method.objective"),
    "reward_funcs": ("GRPO is left for later.", "method.objective"),
    "reward_model_name_or_path": ("GRPO is left for later.", "method.objective"),
    "use_vllm": ("GRPO is left for later.", "method.objective"),
    "router_aux_loss_coef": ("no balance loss of experts is added.", ""),
}
_BOOKKEEPING = (
    "lora_task_type", "bnb_4bit_quant_storage", "dataset_train_split", "eval_packing",
    "pad_to_multiple_of", "precompute_ref_log_probs", "precompute_ref_batch_size",
    "disable_dropout", "generate_during_eval", "ignore_bias_buffers", "padding_value",
    "env", "shuffle_dataset", "packing_strategy", "is_encoder_decoder",
)  # fmt: skip

_RATES = {"sft": 2e-5, "pretrain": 2e-5}
_PREFERENCE_RATE = 1e-6
DEFAULTS: tuple[tuple[str, Value], ...] = (
    ("method.kind", "full"),
    ("method.rank", 16),
    ("method.alpha", 32),
    ("method.dropout", 0.05),
    ("method.double_quantisation", False),
    ("data.max_length", 1024),
    ("data.overlong", "truncate"),
    ("training.batch_size", 8),
    ("training.checkpointing", "on"),
    ("logging.every", 10),
    ("evaluation.every", 0),
    *training_arguments.DEFAULTS,
)


def translate(draft: Draft, stem: str) -> None:
    """Deal with every key that TRL's commands know."""
    objective = _objective(draft, stem)
    _method(draft)
    _data(draft, objective)
    _loss(draft, objective)
    _cut(draft)
    _dtype(draft)
    draft.translate(_KEYS)
    draft.without(_WITHOUT)
    draft.bookkeeping(_BOOKKEEPING, "of no effect on what is learned here.")
    training_arguments.translate(draft)
    draft.name_after(stem)
    rate = ("training.learning_rate", _RATES.get(objective, _PREFERENCE_RATE))
    draft.default([rate, *(item for item in DEFAULTS if item[0] != rate[0])])
    _peft_targets(draft)


def _objective(draft: Draft, stem: str) -> str:
    """TRL names the objective on the command line: the keys or the file's name have to tell."""
    found = _by_keys(draft.values) or _by_name(stem) or "sft"
    draft.default([("method.objective", found)], "told by the keys or the file's name")
    if found != "sft":
        draft.notes.append(f"The objective is taken for {found}: see method.objective.")
    return found


def _by_keys(values: Mapping[str, object]) -> str:
    if values.get("desirable_weight") or values.get("undesirable_weight"):
        return "kto"
    if values.get("loss_type") in ("kto", "apo_zero_unpaired"):
        return "kto"
    pairs = ("precompute_ref_log_probs", "rpo_alpha", "f_divergence_type", "sync_ref_model")
    losses = values.get("loss_type")
    first = losses[0] if isinstance(losses, list) and losses else losses
    if any(key in values for key in pairs) or first in ("sigmoid", "ipo", "hinge", "robust"):
        return "dpo"
    return ""


def _by_name(stem: str) -> str:
    words = stem.lower()
    return next((word for word in ("orpo", "kto", "dpo", "sft") if word in words), "")


def _method(draft: Draft) -> None:
    """use_peft and load_in_4bit together make lora, qlora or full."""
    if draft.is_on("load_in_8bit"):
        draft.lose(
            "load_in_8bit", "finetui has 4-bit weights (qlora) or whole ones.", "method.kind"
        )
    if draft.is_on("load_in_4bit"):
        draft.take("load_in_4bit", "method.kind", "qlora")
    elif draft.is_on("use_peft"):
        draft.take("use_peft", "method.kind", "lora")
    elif draft.has("use_peft"):
        draft.take("use_peft", "method.kind", "full")
    draft.skip("load_in_8bit", "load_in_4bit", "use_peft")


def _data(draft: Draft, objective: str) -> None:
    if draft.has("dataset_name"):
        wanted = [str(draft.get("dataset_name"))]
        training_arguments.data_files(draft, "dataset_name", wanted, "data.train", _HUB)
    if draft.has("datasets"):
        training_arguments.data_files(
            draft, "datasets", _paths(draft.get("datasets")), "data.train", _HUB
        )
    if draft.has("padding_free") and draft.is_on("padding_free"):
        draft.take("padding_free", "data.packing", True)
    draft.skip("padding_free")


def _paths(value: object) -> list[str]:
    """The paths of a mixture: each entry names its files, or the set itself."""
    found: list[str] = []
    for item in value if isinstance(value, list) else []:
        if isinstance(item, dict):
            files = item.get("data_files") or item.get("path") or ""
            found += [str(part) for part in (files if isinstance(files, list) else [files])]
    return found


def _loss(draft: Draft, objective: str) -> None:
    """What is trained on, and the loss of dpo."""
    if draft.has("assistant_only_loss"):
        on = draft.is_on("assistant_only_loss")
        draft.take("assistant_only_loss", "data.loss_on", "assistant" if on else "all")
    elif draft.has("completion_only_loss"):
        on = draft.is_on("completion_only_loss")
        draft.take("completion_only_loss", "data.loss_on", "last" if on else "all")
    elif objective == "sft":
        draft.notes.append(
            "TRL trains on every token of conversations and on the answers of prompt-completion "
            "rows; finetui is left on assistant."
        )
    draft.skip("completion_only_loss")
    _losses(draft)


def _losses(draft: Draft) -> None:
    """loss_type: one loss, or a loss of dpo with the plain loss on the chosen answer (sft)."""
    if not draft.has("loss_type"):
        return
    wanted = draft.get("loss_type")
    losses = [str(word) for word in wanted] if isinstance(wanted, list) else [str(wanted)]
    ours = [word for word in losses if word in ("sigmoid", "ipo", "hinge")]
    if len(losses) == 2 and len(ours) == 1 and "sft" in losses:
        draft.take("loss_type", "preference.loss", ours[0])
        _weights(draft, losses.index(ours[0]))
    elif len(losses) > 1:
        draft.lose("loss_type", _ONE_LOSS, "preference.sft_weight")
    elif ours:
        draft.take("loss_type", "preference.loss", ours[0])
    elif losses[0] in ("nll", "chunked_nll", "kto"):
        draft.skip("loss_type")
    else:
        draft.lose("loss_type", f"the loss {losses[0]} is not offered.", "preference.loss")


def _weights(draft: Draft, place: int) -> None:
    """loss_weights of two losses as the weight of the sft term beside the other."""
    weights = draft.get("loss_weights")
    pair = [number(part) for part in weights] if isinstance(weights, list) else [1.0, 1.0]
    if len(pair) != 2 or pair[place] <= 0:
        draft.lose("loss_weights", _ONE_LOSS, "preference.sft_weight")
        return
    key = "loss_weights" if draft.has("loss_weights") else "loss_type"
    draft.take(key, "preference.sft_weight", pair[1 - place] / pair[place])


def _cut(draft: Draft) -> None:
    if draft.has("truncation_mode"):
        convert = choice(_TRUNCATION, "cut side")
        draft.translate({"truncation_mode": Key("data.truncation_side", convert)})


def _dtype(draft: Draft) -> None:
    for key in ("dtype", "torch_dtype"):
        if draft.has(key):
            draft.translate({key: Key("model.precision", choice(_PRECISION, "precision"))})


def _peft_targets(draft: Draft) -> None:
    if draft.recipe.method.kind != "full" and not draft.is_set("method.target_modules"):
        draft.notes.append(
            "Without lora_target_modules peft adapts some attention layers only; finetui's "
            "all-linear is left in place."
        )
