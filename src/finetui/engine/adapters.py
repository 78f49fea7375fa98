"""What is trained: an adapter on frozen weights, or all weights; and the start it came from."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from finetui.engine.libraries import has_liger
from finetui.engine.machine import Machine
from finetui.errors import UserError
from finetui.recipe.schema import Method, Recipe

# These starts take a part of the base weights into the adapter and leave the rest in the base.
MOVING_STARTS = ("pissa", "olora")
ADAPTER_FILE = "adapter_model.safetensors"
_START = "start_weights"
_NAME = "default"


def make_trainable(model: Any, recipe: Recipe, machine: Machine) -> Any:
    """The model as the recipe trains it: what is trained, activations, noise, kernels, compiled.

    Trained weights are fp32, also over frozen weights in fewer bits. Raises UserError for what
    this model or machine cannot do.
    """
    if recipe.training.liger:
        _use_liger(model, machine)
    model = _all_weights(model, recipe) if recipe.method.kind == "full" else _tuned(model, recipe)
    _keep_activations(model, recipe.training.checkpointing, machine)
    if recipe.training.neftune:
        _add_noise(model, recipe.training.neftune)
    if recipe.training.compile:
        _compile(model, recipe.training.checkpointing != "off")
    return model


def is_adapter(model: Any) -> bool:
    """Whether an adapter is on the model, rather than all of its weights being trained."""
    return hasattr(model, "peft_config")


def base_of(model: Any) -> Any:
    """The transformers model under the adapter, or the model itself."""
    return model.get_base_model() if is_adapter(model) else model


@contextmanager
def reference(model: Any) -> Iterator[None]:
    """Inside, the model is its own start: no second model in memory. No gradient, no dropout.

    The start is the base, or the adapter that training began from. Not to be left between a
    forward pass of the trained model and its backward pass open. Raises UserError for full
    tuning, which keeps no start.
    """
    if not is_adapter(model):
        raise UserError(
            "full tuning keeps no copy of the start to compare with.",
            "method.kind",
            "Choose lora or qlora.",
        )
    start = getattr(model, _START, None)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), model.disable_adapter() if start is None else _holding(model, start):
            yield
    finally:
        model.train(was_training)


@contextmanager
def _holding(model: Any, weights: dict[str, torch.Tensor]) -> Iterator[None]:
    """Put other values into the trained parameters for a while."""
    kept = {}
    for name, parameter in model.named_parameters():
        if name in weights:
            kept[name], parameter.data = parameter.data, weights[name].to(parameter.device)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.data = kept[name]


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """The trained parameters by name; tied ones once."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


# -- putting an adapter on -----------------------------------------------------------------------


def _tuned(model: Any, recipe: Recipe) -> Any:
    if recipe.model.adapter:
        model = continued(model, recipe)
        _remember_start(model)
    else:
        model = add_adapter(model, recipe.method)
        if recipe.method.init in MOVING_STARTS:
            _remember_start(model)
    return model


def _remember_start(model: Any) -> None:
    setattr(model, _START, {name: part.clone() for name, part in trained_weights(model).items()})


def add_adapter(model: Any, method: Method) -> Any:
    """The model with a new adapter, the only part that is trained. Raises UserError."""
    from peft import LoraConfig, TaskType, get_peft_model

    _refuse_start(model, method)
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=_targets(method),
        use_dora=method.dora,
        use_rslora=method.rslora,
        init_lora_weights=True if method.init == "default" else method.init,
        task_type=TaskType.CAUSAL_LM,
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            first_line(error),
            "method.target_modules",
            f"This model's layers: {', '.join(linear_names(model))}.",
        ) from error


def _targets(method: Method) -> str | list[str]:
    named = list(method.target_modules)
    return "all-linear" if named == ["all-linear"] else named


def _refuse_start(model: Any, method: Method) -> None:
    """Raises UserError for a start that this model or rank cannot have."""
    reason = ""
    if getattr(model, "is_quantized", False) and method.init not in ("default", "gaussian"):
        reason = "works on the weights themselves, and these are stored in few bits"
    elif method.init == "orthogonal" and method.rank % 2:
        reason = f"needs an even rank, and the rank is {method.rank}"
    elif method.init in MOVING_STARTS and _adapts_tied_head(model, method):
        reason = "would change the input embedding, which shares its weights with the output layer"
    if reason:
        raise UserError(f"{method.init} {reason}.", "method.init", "Choose default or gaussian.")


def _adapts_tied_head(model: Any, method: Method) -> bool:
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return False
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module is head}
    return bool(names & set(method.target_modules))


# -- going on from an adapter --------------------------------------------------------------------


def continued(model: Any, recipe: Recipe) -> Any:
    """The model with the recipe's start adapter, trained further.

    Raises UserError when there is none, or it is not the one that the recipe describes.
    """
    from peft import PeftModel

    folder = adapter_folder(recipe.model.adapter)
    config = _lora_config(folder)
    _require_geometry(model, config, recipe.method, folder)
    config.lora_dropout = recipe.method.dropout
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True, config=config)
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"does not fit this model: {first_line(error)}", str(folder)) from error


def adapter_folder(named: str | Path) -> Path:
    """The folder that holds the adapter: this one, or that of a job. Raises UserError."""
    for folder in (Path(named), Path(named) / "adapter"):
        if (folder / ADAPTER_FILE).is_file() and (folder / "adapter_config.json").is_file():
            return folder
    raise UserError(f"holds no {ADAPTER_FILE}.", str(named), "Choose a finished job's adapter.")


def _lora_config(folder: Path) -> Any:
    """What an adapter folder says of its adapter. Raises UserError unless it is plain LoRA.

    Other kinds name further models and files to be loaded, and Megatron's a module to be imported.
    """
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"cannot be read: {first_line(error)}", str(folder)) from error
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA" or getattr(config, "megatron_config", None):
        raise UserError(f"is a {kind} adapter, not plain LoRA.", str(folder))
    return config


def _require_geometry(model: Any, config: Any, method: Method, folder: Path) -> None:
    wanted = set(method.target_modules)
    if wanted == {"all-linear"}:
        wanted = set(linear_names(model))
    facts = {
        "method.rank": (method.rank, config.r),
        "method.alpha": (method.alpha, config.lora_alpha),
        "method.dora": (method.dora, config.use_dora),
        "method.rslora": (method.rslora, config.use_rslora),
        "method.target_modules": (sorted(wanted), sorted(_last_names(config, wanted))),
    }
    for field, (asked, found) in facts.items():
        if asked != found:
            raise UserError(
                f"the start adapter has {_said(found)}, the recipe says {_said(asked)}.",
                field,
                f"Set {field} to {_said(found)}, or leave model.adapter empty.",
            )


def _last_names(config: Any, wanted: set[str]) -> set[str]:
    found = config.target_modules
    if isinstance(found, str):  # "all-linear", or a pattern over full names: taken at its word
        return wanted
    return {name.rsplit(".", 1)[-1] for name in found}


def _said(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value).lower()


def linear_names(model: Any) -> list[str]:
    """Last names of the linear layers that an adapter can stand on; the output layer is none."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and module is not head
        }
    )


# -- an adapter back as files --------------------------------------------------------------------


def save_adapter_files(model: Any, folder: Path, plain: bool = False) -> None:
    """Write adapter weights and configuration; ``plain`` so that they fit the untouched base.

    A start that moved weights into the adapter (pissa, olora) is taken out again: W - B0 A0 + B A
    is W + [B B0] [A; -A0], a plain adapter of twice the rank.
    """
    start = getattr(model, _START, None)
    moved = is_adapter(model) and model.peft_config[_NAME].init_lora_weights in MOVING_STARTS
    if not (plain and moved and start is not None):
        # With "auto", peft asks the hub whether the vocabulary has grown; ours never does.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        return
    from safetensors.torch import save_file

    config = copy.deepcopy(model.peft_config[_NAME])
    weights = _plain_weights(model, start)
    config.r = config.lora_alpha = 2 * config.r
    config.use_rslora, config.init_lora_weights, config.inference_mode = False, True, True
    save_file(weights, str(folder / ADAPTER_FILE), metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def _plain_weights(model: Any, start: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Trained and start matrices one behind the other, the scale folded into B."""
    found: dict[str, torch.Tensor] = {}
    for name, value in trained_weights(model).items():
        plain = name.replace(f".{_NAME}", "")
        if "lora_A" in name:
            value = torch.cat([value, -start[name]], dim=0)
        elif "lora_B" in name:
            scale = model.get_submodule(name.split(".lora_B")[0]).scaling[_NAME]
            value = torch.cat([value, start[name]], dim=1) * scale
        found[plain] = value.contiguous().cpu()
    return found


# -- everything else a recipe asks of the model --------------------------------------------------


def _all_weights(model: Any, recipe: Recipe) -> Any:
    """Every weight trained; a start adapter is merged into them first."""
    if getattr(model, "is_quantized", False):
        raise UserError(
            "weights stored in few bits cannot be trained.",
            "method.kind",
            "Choose lora or qlora, or the unquantised model.",
        )
    if recipe.model.adapter:
        model = load_adapter(model, Path(recipe.model.adapter)).merge_and_unload()
    return model.requires_grad_(True)


def load_adapter(model: Any, folder: Path) -> Any:
    """The model with a trained adapter on it, in evaluation mode. Raises UserError."""
    from peft import PeftModel

    found = adapter_folder(folder)
    config = _lora_config(found)
    try:
        return PeftModel.from_pretrained(model, str(found), config=config).eval()
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"does not fit this model: {first_line(error)}", str(found)) from error


def _keep_activations(model: Any, how: str, machine: Machine) -> None:
    """Keep or recompute activations; on a CPU, where they are on the host, offload is on."""
    if how == "off":
        return
    base = base_of(model)
    try:
        base.activation_checkpointing_enable(offload=how == "offload" and machine.on_gpu)
    except ValueError as error:
        raise UserError(first_line(error), "training.checkpointing", "Choose off.") from error
    # Checkpoints of this kind need no gradient at their input: one into frozen embeddings is waste.
    if is_adapter(model):
        base.disable_input_require_grads()


def _add_noise(model: Any, size: float) -> None:
    """NEFTune: uniform noise of +-size / sqrt(length x width) on the embeddings in training.

    Jain et al., 2023 (arXiv 2310.05914).
    """

    def shaken(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training:
            return output
        bound = size / (output.shape[1] * output.shape[2]) ** 0.5
        return output + torch.empty_like(output).uniform_(-bound, bound)

    base_of(model).get_input_embeddings().register_forward_hook(shaken)


def _compile(model: Any, checkpointed: bool) -> None:
    """Compile each layer by itself: they are alike, so one compilation serves all of them.

    A layer that is computed again in the backward pass cannot be compiled as a whole; its parts
    can.
    """
    lists = [part for part in base_of(model).modules() if isinstance(part, nn.ModuleList)]
    layers = max(lists, key=len, default=None)
    if layers is None:
        raise UserError("this model has no list of layers to compile.", "training.compile")
    for layer in layers:
        for part in layer.children() if checkpointed else [layer]:
            part.compile()


def _use_liger(model: Any, machine: Machine) -> None:
    """Liger's norms, rotations and activations; the loss stays ours, which reads fewer logits."""
    if not machine.on_gpu:
        raise UserError("Liger's kernels need a CUDA GPU.", "training.liger", "Set it to false.")
    if not has_liger():
        raise UserError(
            "liger-kernel is not installed.", "training.liger", "pip install liger-kernel"
        )
    from liger_kernel.transformers import (  # type: ignore[import-not-found]
        _apply_liger_kernel_to_instance,
    )

    _apply_liger_kernel_to_instance(
        model=model, cross_entropy=False, fused_linear_cross_entropy=False
    )


def parameter_counts(model: Any) -> tuple[int, int]:
    """(all parameters, trained parameters); weights in 4 bits count as what they stand for."""
    sizes = [(_count(p), p.requires_grad) for p in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _count(parameter: torch.Tensor) -> int:
    state = getattr(parameter, "quant_state", None)
    return int(torch.Size(state.shape).numel()) if state is not None else parameter.numel()


def first_line(error: Exception) -> str:
    """The first line of a library's message, as a sentence."""
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line if line.endswith(".") else f"{line}."
