"""The peak of a training step by torch's own memory tracker, over tensors without bytes.

Everything is the engine's: the model made trainable, its loss, its optimiser. Only the tensors are
fake (`FakeTensorMode`), and `MemTracker` counts them; the forecast and its ledger have no part.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.hooks import RemovableHandle
from transformers import AutoConfig, AutoModelForCausalLM

from finetui.engine import adapters, head, losses, optimiser
from finetui.engine.machine import Machine
from finetui.recipe.schema import Recipe

CPU = torch.device("cpu")


def peak(
    folder: Path,
    recipe: Recipe,
    layers: int,
    sequences: int,
    length: int,
    trained: int,
    chunk: int,
    wide: bool = False,
) -> int:
    """Bytes at the peak of the second step of a model with so many layers.

    ``trained`` positions of the batch need logits, ``chunk`` logits are made at once.
    """
    config = AutoConfig.from_pretrained(str(folder))
    config.num_hidden_layers = layers
    full = recipe.method.kind == "full"
    with torch.device("meta"):
        frozen = torch.float32 if wide or full else torch.bfloat16
        model = AutoModelForCausalLM.from_config(config, dtype=frozen, attn_implementation="sdpa")
        if recipe.method.kind == "qlora":
            _few_bits(model)
        model = adapters.make_trainable(model, recipe, Machine(CPU, "fp32" if wide else "bf16"))
    model.train()
    model.get_output_embeddings().__class__ = _Head
    core = adapters.base_of(model)
    head._PLAIN[core] = True  # its probe compares values, and there are none
    with FakeTensorMode() as fake, _as_on_a_gpu(chunk):
        _make_fake(model, fake)
        if not wide:
            as_accelerate(model, "cpu")
        return _tracked(model, recipe, batch(sequences, length, trained, CPU), trained)


def as_accelerate(model: Any, kind: str) -> None:
    """Run the forward pass under autocast, as accelerate prepares a model."""
    forward = torch.autocast(kind, dtype=torch.bfloat16)(model.forward)
    model.forward = convert_outputs_to_fp32(forward)


def _tracked(model: Any, recipe: Recipe, inputs: dict[str, Any], trained: int) -> int:
    update = optimiser.build(model, recipe)
    tracker = MemTracker()
    for part in model.parameters():
        if not part.requires_grad:  # it would hook frozen parameters too, and cannot
            tracker._param_to_grad_hook_handles[part] = (_no_hook(), _no_hook())
    tracker.track_external(model, update, *inputs.values(), *_scales(model))
    with tracker:
        for _ in range(2):
            tracker.reset_mod_stats()
            loss, _ = losses.sft_loss(model, inputs, float(trained))
            loss.backward()
            update.step()
            update.zero_grad(set_to_none=True)
            del loss
    return int(tracker.get_tracker_snapshot("peak")[CPU]["Total"])


class _Head(nn.Linear):
    """The tracker takes one call of a module a step: further ones, chunk by chunk, pass it by."""

    def __call__(self, *args: Any) -> Any:
        return super().__call__(*args) if self._forward_pre_hooks else self.forward(*args)


def _no_hook() -> RemovableHandle:
    return RemovableHandle(OrderedDict())


def batch(sequences: int, length: int, trained: int, device: torch.device) -> dict[str, Any]:
    """A batch as the collator makes it, with its mask spelt out: nobody may look at values."""

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.long, device=device)

    allowed = torch.ones((length, length), dtype=torch.bool, device=device).tril()

    return {
        "input_ids": zeros(sequences, length),
        "position_ids": zeros(sequences, length),
        "attention_mask": allowed.expand(sequences, 1, length, length).contiguous(),
        "columns": zeros(trained // sequences),
        "places": zeros(trained),
        "targets": zeros(trained),
        "owners": zeros(trained),
        "trained": zeros(sequences),
    }


def _make_fake(model: nn.Module, fake: FakeTensorMode) -> None:
    seen: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, part in list(module._parameters.items()):
            if part is None:
                continue
            if id(part) not in seen:
                seen[id(part)] = _empty(part)
            module._parameters[name] = seen[id(part)]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CPU)


@contextmanager
def _as_on_a_gpu(chunk: int) -> Any:
    """Logits in chunks of a GPU's size, and peft's question after autocast answered."""
    before, ask = head._CHUNK["cpu"], torch.is_autocast_enabled
    head._CHUNK["cpu"] = chunk
    torch.is_autocast_enabled = lambda kind="cpu": ask(kind)
    try:
        yield
    finally:
        head._CHUNK["cpu"], torch.is_autocast_enabled = before, ask


def _empty(part: nn.Parameter) -> nn.Parameter:
    """A parameter of the same shape without bytes; a 4-bit one packed, with its scales."""
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Params4bit

    if not isinstance(part, Params4bit):
        empty = torch.empty(part.shape, dtype=part.dtype, device=CPU)
        return nn.Parameter(empty, requires_grad=part.requires_grad)
    blocks = -(-part.numel() // 64)
    outer = QuantState(
        absmax=torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256,
        dtype=torch.float32,
    )  # fmt: skip
    packed = nn.Parameter(
        torch.empty((part.numel() // 2, 1), dtype=torch.uint8, device=CPU), requires_grad=False
    )
    packed.quant_state = QuantState(
        absmax=torch.empty(blocks, dtype=torch.uint8), shape=part.shape, code=torch.empty(16),
        blocksize=64, quant_type="nf4", dtype=torch.bfloat16, offset=torch.empty(()), state2=outer,
    )  # fmt: skip
    return packed


def _scales(model: nn.Module) -> list[torch.Tensor]:
    """Tensors that belong to packed weights and are no parameters."""
    states = [state for part in model.parameters() if (state := getattr(part, "quant_state", None))]
    return [tensor for one in states for tensor in (one.absmax, one.code, one.state2.absmax)]


def _few_bits(model: Any) -> None:
    """bitsandbytes' own layers for the linear ones, as transformers puts them in."""
    import bitsandbytes

    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.Linear and module is not head:
                packed = bitsandbytes.nn.Linear4bit(
                    module.in_features, module.out_features, bias=module.bias is not None,
                    compute_dtype=torch.bfloat16, quant_type="nf4",
                )  # fmt: skip
                setattr(parent, name, packed)
    model.is_loaded_in_4bit = model.is_quantized = True
    model.requires_grad_(False)
