"""Load a model and its tokenizer safely, and put an adapter on it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from finetui.data.tokens import ChatTokenizer, load_chat_tokenizer
from finetui.engine.machine import Machine
from finetui.errors import UserError
from finetui.recipe.schema import Method, Model

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def load_model(settings: Model, machine: Machine) -> Any:
    """The model on its device, in evaluation mode, with no generation settings of its own.

    Takes safetensors only, and code from the model's folder only where the recipe allows it.
    Raises UserError when the folder or hub id cannot be used.
    """
    config = _config(settings)
    _refuse_foreign_code(config, settings)
    _refuse_missing_weights(settings)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            settings.path,
            dtype=machine.dtype,
            use_safetensors=True,
            **_source(settings),
        )
    except (OSError, ValueError) as error:
        raise UserError(_first_line(error), settings.path, "Choose another model.") from error
    # Its own generation_config may ask for sampling, which would make greedy scores random.
    model.generation_config = GenerationConfig()
    return model.to(machine.device).eval()


def load_tokenizer(settings: Model, scratch: Path) -> ChatTokenizer:
    """The tokenizer of a model folder or hub id; a converted copy is kept in ``scratch``."""
    folder = Path(settings.path)
    if (folder / "tokenizer.json").is_file():
        return load_chat_tokenizer(folder)
    _refuse_foreign_code(_config(settings), settings)
    try:
        found = AutoTokenizer.from_pretrained(settings.path, **_source(settings))
    except (OSError, ValueError) as error:
        raise UserError(_first_line(error), settings.path, "Choose another model.") from error
    found.save_pretrained(scratch)
    return load_chat_tokenizer(scratch)


def add_adapter(model: Any, method: Method) -> Any:
    """The model with a new LoRA adapter, the only part that is trained."""
    from peft import LoraConfig, TaskType, get_peft_model

    if method.kind != "lora":
        raise UserError(
            f"this version cannot train with {method.kind!r}.", "method.kind", "Choose lora."
        )
    named = list(method.target_modules)
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules="all-linear" if named == ["all-linear"] else named,
        task_type=TaskType.CAUSAL_LM,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            _first_line(error),
            "method.target_modules",
            f"This model's layers: {', '.join(linear_names(model))}.",
        ) from error


def load_adapter(model: Any, folder: Path) -> Any:
    """The model with a trained adapter on it, in evaluation mode. Raises UserError."""
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            "holds no adapter_model.safetensors.", str(folder), "Choose a finished job's adapter."
        )
    try:
        return PeftModel.from_pretrained(model, str(folder)).eval()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"does not fit this model: {_first_line(error)}", str(folder)) from error


def linear_names(model: Any) -> list[str]:
    """Last names of the model's linear layers, which an adapter can stand on."""
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
    )


def parameter_counts(model: Any) -> tuple[int, int]:
    """(all parameters, trained parameters)."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _source(settings: Model) -> dict[str, Any]:
    source: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.revision:
        source["revision"] = settings.revision
    return source


def _config(settings: Model) -> dict[str, Any]:
    """config.json as plain values, from a folder or the hub; no code of the model runs."""
    if not settings.path:
        raise UserError("no model is named.", "model.path", "Name a model folder or hub id.")
    folder = Path(settings.path)
    if folder.is_dir():
        return _local_config(folder)
    if folder.is_absolute() or not _HUB_ID.fullmatch(settings.path):
        raise UserError("there is no such model folder.", settings.path, "Check model.path.")
    revision = {"revision": settings.revision} if settings.revision else {}
    config: dict[str, Any]
    try:
        config, _ = PreTrainedConfig.get_config_dict(settings.path, **revision)
    except (OSError, ValueError) as error:
        raise UserError(
            f"is no folder here, and the hub did not give it: {_first_line(error)}",
            settings.path,
            "Check model.path and the connection.",
        ) from error
    return config


def _local_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(
            "has no config.json.", str(folder), "Choose a model folder in the Hugging Face layout."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"is not valid JSON: {error}.", str(file)) from error
    return config if isinstance(config, dict) else {}


def _refuse_foreign_code(config: dict[str, Any], settings: Model) -> None:
    """Stop at a model that only runs with its own Python code, unless the recipe allows it.

    A folder may name code for a model type that transformers knows: its own code is used then,
    and none of the folder's.
    """
    needs_code = "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING
    if needs_code and not settings.trust_remote_code:
        raise UserError(
            "wants to run Python code of its own (auto_map).",
            settings.path,
            "Read that code first; then set model.trust_remote_code to true.",
        )


def _refuse_missing_weights(settings: Model) -> None:
    folder = Path(settings.path)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = next(
        (p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern)), ""
    )
    if pickled:
        raise UserError(
            f"has only pickled weights ({pickled}), which can run code when loaded.",
            str(folder),
            "Convert them to safetensors.",
        )
    raise UserError("has no weights (*.safetensors).", str(folder), "Choose another model.")


def _first_line(error: Exception) -> str:
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line if line.endswith(".") else f"{line}."
