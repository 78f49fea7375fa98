"""Load a model and its tokenizer safely, in the format that its use needs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils.hub import cached_file

from finetui import consent
from finetui.data.tokens import ChatTokenizer, load_chat_tokenizer
from finetui.engine import varlen
from finetui.engine.adapters import first_line
from finetui.engine.libraries import require_bitsandbytes
from finetui.engine.machine import Machine
from finetui.errors import UserError
from finetui.recipe.schema import Method, Model

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


def load_model(
    settings: Model, machine: Machine, method: Method | None = None, *, packed: bool = False
) -> Any:
    """The model on its device, in evaluation mode, with no generation settings of its own.

    ``method`` says how it will be trained: qlora stores the linear layers in 4 bits, full takes
    fp32 weights, which small updates do not vanish in. ``packed`` lets attention "auto" choose a
    kernel that keeps packed rows apart. Takes safetensors only, and the model's own code only
    where the recipe asks for it and the person allowed exactly that code. Raises UserError when
    the model cannot be used so.
    """
    config = _config(settings)
    source = _source(config, settings)
    _refuse_missing_weights(settings)
    _refuse_strange_shards(settings)
    if machine.on_gpu:
        torch.set_float32_matmul_precision("high" if settings.tf32 else "highest")
    full = method is not None and method.kind == "full"
    try:
        model = AutoModelForCausalLM.from_pretrained(
            settings.path,
            dtype=torch.float32 if full else machine.dtype,
            use_safetensors=True,
            attn_implementation=varlen.choose(settings.attention, machine, packed, config),
            device_map={"": machine.device},
            **_few_bits(config, machine, method),
            **source,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(first_line(error), settings.path, "Choose another model.") from error
    # Its own generation_config may ask for sampling, which would make greedy scores random.
    model.generation_config = GenerationConfig()
    return model.eval()


def _few_bits(config: dict[str, Any], machine: Machine, method: Method | None) -> dict[str, Any]:
    """What makes transformers store the weights in 4 bits; nothing when they are stored so."""
    if method is None or method.kind != "qlora" or "quantization_config" in config:
        return {}
    require_bitsandbytes("method.kind", "Choose lora.")
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=method.quantisation,
            bnb_4bit_use_double_quant=method.double_quantisation,
            bnb_4bit_compute_dtype=machine.dtype,
        )
    }


def load_tokenizer(settings: Model, scratch: Path) -> ChatTokenizer:
    """The tokenizer of a model folder or hub id; a converted copy is kept in ``scratch``.

    With the recipe's chat template, where it names one.
    """
    folder = Path(settings.path)
    if (folder / "tokenizer.json").is_file():
        return load_chat_tokenizer(folder, settings.chat_template)
    source = _source(_config(settings), settings)
    try:
        found = AutoTokenizer.from_pretrained(settings.path, **source)
    except (OSError, ValueError) as error:
        raise UserError(first_line(error), settings.path, "Choose another model.") from error
    found.save_pretrained(scratch)
    return load_chat_tokenizer(scratch, settings.chat_template)


def write_tokenizer(tokenizer: ChatTokenizer, folder: Path) -> None:
    """The tokenizer's files beside a result, with the chat template that it was used with."""
    origin = Path(tokenizer.origin)
    for name in _TOKENIZER_FILES:
        if (origin / name).is_file():
            shutil.copyfile(origin / name, folder / name)
    if not tokenizer.has_template:
        return
    (folder / "chat_template.jinja").write_text(tokenizer.template, encoding="utf-8")
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if config.pop("chat_template", None) is not None:  # one template, not two that may differ
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_config(settings: Model) -> Any:
    """The configuration as transformers understands it. Raises UserError."""
    source = _source(_config(settings), settings)
    try:
        return AutoConfig.from_pretrained(settings.path, **source)
    except (OSError, ValueError) as error:
        raise UserError(first_line(error), settings.path, "Choose another model.") from error


def _source(config: dict[str, Any], settings: Model) -> dict[str, Any]:
    """Which revision is taken, and whether its code may run. Raises UserError."""
    source: dict[str, Any] = {"trust_remote_code": _runs_own_code(config, settings)}
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
            f"is no folder here, and the hub did not give it: {first_line(error)}",
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


def _runs_own_code(config: dict[str, Any], settings: Model) -> bool:
    """Whether the model's own Python code runs. Raises UserError where it must and may not.

    A folder may name code for a model type that transformers knows: unless the recipe asks for
    the folder's own, transformers' is used.
    """
    if not settings.trust_remote_code:
        if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
            raise UserError(
                "wants to run Python code of its own (auto_map).",
                settings.path,
                f"{consent.advice(settings.path, settings.revision)}; and set "
                "model.trust_remote_code to true.",
            )
        return False
    folder = _with_configs(settings)
    if not consent.code_in(folder).wanted:
        return False
    consent.require(settings.path, settings.revision, folder)
    return True


def _with_configs(settings: Model) -> Path:
    """The model's folder; of a hub model the snapshot, with every file that may name code."""
    if Path(settings.path).is_dir():
        return Path(settings.path)
    files = [_file_of(settings, name) for name in consent.CONFIGS]
    return next(file for file in files if file is not None).parent


def _file_of(settings: Model, name: str) -> Path | None:
    """A file of a model folder or hub model, None where it has none."""
    if Path(settings.path).is_dir():
        file = Path(settings.path) / name
        return file if file.is_file() else None
    revision = settings.revision or None
    found = cached_file(
        settings.path, name, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return Path(found) if found else None


def _refuse_strange_shards(settings: Model) -> None:
    """Stop at an index of weights that names other files than safetensors beside it.

    transformers would open them, whatever they are.
    """
    file = _file_of(settings, "model.safetensors.index.json")
    if file is None:
        return
    try:
        named = {str(name) for name in json.loads(file.read_bytes())["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("is no index of weights.", str(file), "Choose another model.") from error
    strange = sorted(name for name in named if not _SHARD.fullmatch(name))
    if strange:
        raise UserError(
            f"takes weights from {strange[0]!r}, which is no safetensors file in this folder.",
            str(file),
            "Choose another model.",
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
