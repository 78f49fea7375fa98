"""Every rank holds its share of each weight, gradient and optimiser state (FSDP2).

torch's `fully_shard` on the layers and on the whole, loaded only where it is asked for:
accelerate's own preparation would take the embedding and the head apart again before our loss
uses them. What is saved is put together first, so a checkpoint is the same whether it was
sharded, and over how many ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetui.engine.head import bare
from finetui.engine.machine import Machine
from finetui.engine.ranks import Ranks
from finetui.errors import UserError
from finetui.recipe.schema import Recipe
from finetui.recipe.sharding import unsharded

# What peft puts into the names of an adapter's weights, and leaves out of its files.
_ADAPTER = ".default"


def require_shardable(recipe: Recipe, machine: Machine, ranks: Ranks) -> None:
    """Raises UserError where sharding is asked for and cannot be had."""
    if not ranks.sharded:
        return
    for id, what in unsharded(recipe):
        raise UserError(
            f"{what} cannot be trained with sharding fsdp.", id, "Set training.sharding to ddp."
        )
    if not machine.on_gpu:
        raise UserError(
            "sharding fsdp needs GPUs, and there is none here.",
            "training.sharding",
            "Set it to ddp, which also runs on a CPU.",
        )
    if machine.precision == "fp16":
        raise UserError(
            "sharding fsdp trains in bf16 or fp32, not in fp16.",
            "model.precision",
            "Choose bf16 or fp32.",
        )


def shard(model: Any, machine: Machine, ranks: Ranks) -> None:
    """Share the model out, layer by layer; what is on the host comes to each rank's device.

    Embedding, last norm and head are the root's own: they stay whole from the forward pass to the
    end of the backward pass, as the loss uses the head on its own.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(machine.device.type, (ranks.world,))
    for layer in layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if not machine.on_gpu:
        for module in _sharded(model):
            module.set_force_sum_reduction_for_comms(True)  # gloo sums, it does not average


def layers(model: Any) -> list[nn.Module]:
    """The blocks that transformers never splits: its decoder layers."""
    core = bare(model)
    names = set(core._no_split_modules or ())
    return [module for module in core.modules() if type(module).__name__ in names]


class Together(nn.Module):
    """The sharded model as the Trainer calls it: prepared already, gradients reduced each pass."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.module = model

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.module(*arguments, **named)

    def no_sync(self) -> AbstractContextManager[None]:
        """Nothing: gradients that wait for the last batch would be whole ones on every rank."""
        return nullcontext()


def rest(model: Any) -> None:
    """Let go of what a pass without gradients left together."""
    for module in _sharded(model):
        module.reshard()


def _sharded(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if hasattr(module, "set_reshard_after_forward"))


def _is_share(value: object) -> bool:
    return hasattr(value, "full_tensor")


def plain(value: Any) -> Any:
    """A figure over all shares as a plain tensor; every rank takes part."""
    return value.full_tensor() if _is_share(value) else value


# -- putting together ------------------------------------------------------------------------------


@contextmanager
def whole(model: Any, keep: bool) -> Iterator[None]:
    """Inside, the trained weights are plain tensors on the host, for a rank that wants to ``keep``
    them. All ranks enter and leave."""
    shares = put_together(model, keep)
    try:
        yield
    finally:
        for name, share in shares.items():
            _put(model, name, share)


def put_together(model: Any, keep: bool) -> dict[str, Any]:
    """Replace the shares of trained weights by the wholes, where they are to be kept.

    Returns the shares by name. Every rank takes part.
    """
    rest(model)
    shares: dict[str, Any] = {}
    wholes: dict[int, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if not (parameter.requires_grad and _is_share(parameter)):
            continue
        if id(parameter) not in wholes:
            value = parameter.detach().full_tensor()
            wholes[id(parameter)] = nn.Parameter(value.cpu() if keep else value[:0])
        if keep:
            shares[name] = parameter
    for name, share in shares.items():
        _put(model, name, wholes[id(share)])
    return shares


def _put(model: Any, name: str, value: torch.Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    model.get_submodule(owner)._parameters[attribute] = value


def fill(model: Any, folder: Path) -> None:
    """Put saved weights into the trained ones, shares or wholes; every rank that has shares.

    Not by load_state_dict: its hooks take every weight for a share.
    """
    from safetensors.torch import load_file

    saved: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        saved |= load_file(file)
    rest(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            value = saved[name] if name in saved else saved[name.replace(_ADAPTER, "")]
            if _is_share(parameter):
                parameter.to_local().copy_(_shared_out(value, parameter).to_local())
            else:
                parameter.copy_(value)


def _shared_out(value: torch.Tensor, like: Any) -> Any:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device, like.dtype), like.device_mesh, like.placements)


@contextmanager
def whole_states(optimizer: Any, keep: bool) -> Iterator[None]:
    """Inside, the optimiser's states are plain tensors on the host, where they are to be kept."""
    shares = []
    for states in optimizer.state.values():
        for name, value in list(states.items()):
            if _is_share(value):
                full = value.full_tensor()
                if keep:
                    shares.append((states, name, value))
                    states[name] = full.cpu()
    try:
        yield
    finally:
        for states, name, value in shares:
            states[name] = value


def share_states(optimizer: Any) -> None:
    """Share out states that were loaded as plain tensors."""
    for parameter, states in optimizer.state.items():
        if not _is_share(parameter):
            continue
        for name, value in states.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                states[name] = _shared_out(value, parameter)
