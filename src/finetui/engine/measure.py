"""What a model's layers keep in memory while they are trained, measured without weights or GPU.

``python -m finetui.engine.measure ROOT MODEL KEY...`` builds the model from its config.json with
one and two layers on the meta device, where tensors have shapes and no bytes, makes it trainable
as the engine does, runs it forward and backward and counts what is alive. What a second layer adds
is what every further layer adds; a few batch sizes and ranks give the rest. Some 0.1 s a key.

Three things are not as on a real device and are put right here: autocast does not reach meta
tensors (`HalfPrecision`), fused attention falls apart into its T x T matrices there
(`_attention`), and 4-bit layers need their weights (`_Packed`).
"""

from __future__ import annotations

import copy
import json
import resource
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
)
from transformers.integrations.sdpa_attention import repeat_kv

from finetui.engine import adapters
from finetui.engine.__main__ import hide_unused_libraries
from finetui.engine.ledger import Ledger
from finetui.engine.machine import Machine
from finetui.recipe import coefficients
from finetui.recipe.coefficients import Amount, Coefficients, Key, Measured
from finetui.recipe.schema import Recipe, defaults, replace

_META = torch.device("meta")
_SHORT, _LONG = 1024, 2048  # tokens of the sequences measured
_NARROW, _WIDE = 8, 64  # ranks
_DROPOUT = 0.1
_CPU_LIMIT_S = 120
_FULL_KINDS = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class Trace:
    """Bytes of one pass: kept from forward to backward, and what each of both needs on top.

    ``border`` is the input of one layer; ``backward`` is that of the last layer, run first.
    """

    kept: float
    forward: float
    backward: float
    border: float


def measure(folder: Path, key: Key) -> Coefficients:
    """The coefficients of a model for one way of training.

    Reads config.json only. Raises whatever the model raises on the meta device.
    """
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    narrow = prepared(shortened(config, 2), key, _NARROW)
    seen = {
        (*shape, _NARROW): trace(narrow, key, *shape)
        for shape in ((1, _SHORT), (1, _LONG), (2, _SHORT))
    }
    if key.trains != "full":
        wide = prepared(shortened(config, 2), key, _WIDE)
        seen |= {(1, length, _WIDE): trace(wide, key, 1, length) for length in (_SHORT, _LONG)}
    single = trace(prepared(shortened(config, 1), key, _NARROW), key, 1, _SHORT)
    # What is kept outside the layers knows neither rank nor square: it goes with the tokens.
    outer = (2 * single.kept - seen[1, _SHORT, _NARROW].kept) / _SHORT

    def amount(of: Callable[[Trace, int], float]) -> Amount:
        return solved({point: of(one, point[0] * point[1]) for point, one in seen.items()})

    return Coefficients(
        outer=Amount(token=outer),
        layer=amount(lambda one, tokens: (one.kept - outer * tokens) / 2),
        border=amount(lambda one, _: one.border),
        forward=amount(lambda one, _: one.forward),
        backward=amount(lambda one, _: one.backward),
    )


def parameter_count(folder: Path) -> int:
    """All parameters of a model, tied ones once; reads config.json only."""
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    with _META:
        model = AutoModelForCausalLM.from_config(config)
    return sum(part.numel() for part in model.parameters())


Point = tuple[int, int, int]


def solved(bytes: dict[Point, float]) -> Amount:
    """The amount that gives these bytes at (sequences, length, rank): as many points as terms."""
    square = (bytes[1, _LONG, _NARROW] - bytes[2, _SHORT, _NARROW]) / (_LONG**2 - 2 * _SHORT**2)
    flat = {(b * t, r): size - square * b * t * t for (b, t, r), size in bytes.items()}
    slope = (flat[_LONG, _NARROW] - flat[_SHORT, _NARROW]) / (_LONG - _SHORT)
    one = flat[_SHORT, _NARROW] - slope * _SHORT
    if (_SHORT, _WIDE) not in flat:
        return Amount(one=one, token=slope, square=square)
    wide_slope = (flat[_LONG, _WIDE] - flat[_SHORT, _WIDE]) / (_LONG - _SHORT)
    wide_one = flat[_SHORT, _WIDE] - wide_slope * _SHORT
    token_rank = (wide_slope - slope) / (_WIDE - _NARROW)
    rank = (wide_one - one) / (_WIDE - _NARROW)
    return Amount(
        one=one - rank * _NARROW,
        token=slope - token_rank * _NARROW,
        token_rank=token_rank,
        rank=rank,
        square=square,
    )


# -- one pass ------------------------------------------------------------------------------------


def trace(model: Any, key: Key, sequences: int, length: int) -> Trace:
    """Run the layers of a prepared model forward and backward over a batch, counting."""
    core = adapters.base_of(model)
    ledger = Ledger()
    inputs = _inputs(sequences, length)
    ledger.ignore([*model.parameters(), *model.buffers(), *inputs.values()])
    border, backward = [0], [0]

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = args[0] if args else kwargs["hidden_states"]
        border[0] = states.numel() * states.element_size()
        # Its gradient is there when the layer's backward is done: the rest is like it, or smaller.
        if states.requires_grad:
            states.register_hook(lambda _: backward.insert(0, ledger.peak))

    hook = layers_of(core)[-1].register_forward_pre_hook(enter, with_kwargs=True)
    with ledger, nullcontext() if key.wide else HalfPrecision():
        hidden = core.get_decoder()(**inputs, use_cache=False).last_hidden_state
        kept, most = ledger.live, ledger.peak
        ledger.mark()
        hidden.backward(torch.empty_like(hidden))
    hook.remove()
    return Trace(kept, most - kept, backward[0] - kept, border[0])


def _inputs(sequences: int, length: int) -> dict[str, torch.Tensor]:
    """A batch with its mask made, so that nothing has to look at values."""
    shape = (sequences, length)
    return {
        "input_ids": torch.zeros(shape, dtype=torch.long, device=_META),
        "position_ids": torch.zeros(shape, dtype=torch.long, device=_META),
        "attention_mask": torch.ones(
            (sequences, 1, length, length), dtype=torch.bool, device=_META
        ),
    }


# -- the model -----------------------------------------------------------------------------------


def prepared(config: Any, key: Key, rank: int) -> Any:
    """A model of this config on the meta device, trainable as the engine makes it."""
    frozen = torch.float32 if key.wide or key.trains == "full" else torch.bfloat16
    with _META:
        model = AutoModelForCausalLM.from_config(
            config, dtype=frozen, attn_implementation=_back_end(key.attention)
        )
        if key.quantised:
            pack(model)
        machine = Machine(_META, "fp32" if key.wide else "bf16")
        model = adapters.make_trainable(model, _recipe(key, rank), machine).train()
    # Gradients are counted apart: here each goes as soon as it is whole.
    for part in model.parameters():
        if part.requires_grad:
            part.register_post_accumulate_grad_hook(_drop_gradient)
    if key.quantised:
        keep_inputs(model)
    return model


def _drop_gradient(part: torch.Tensor) -> None:
    part.grad = None


def _recipe(key: Key, rank: int) -> Recipe:
    recipe = replace(defaults(), "method.kind", "full" if key.trains == "full" else "lora")
    values = {
        "method.rank": rank,
        "method.dora": key.trains == "dora",
        "method.dropout": _DROPOUT if key.dropout else 0.0,
        "method.target_modules": key.targets or ("all-linear",),
    }
    for id, value in values.items():
        recipe = replace(recipe, id, value)
    return recipe


def shortened(config: Any, layers: int) -> Any:
    """A copy of a config with fewer layers. Raises ValueError where layers are not alike."""
    short = copy.deepcopy(config)
    text = short.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds and not set(kinds) <= set(_FULL_KINDS) and len(set(kinds)) > 1:
        raise ValueError("its layers are of different kinds")
    text.num_hidden_layers = layers
    if kinds:
        text.layer_types = list(kinds)[:layers]
    return short


def layers_of(core: Any) -> nn.ModuleList:
    """The list of a model's layers: its longest module list."""
    lists = [part for part in core.get_decoder().children() if isinstance(part, nn.ModuleList)]
    if not lists:
        raise ValueError("it has no list of layers")
    return max(lists, key=len)


# -- attention -----------------------------------------------------------------------------------


def _back_end(kind: str) -> str:
    """The name of a back end that keeps what this kind of attention keeps."""
    if kind == "eager":
        return "eager"
    # No name with "flash" in it: transformers would look for that package.
    name, function = ("on_meta", _flash) if kind == "flash" else ("masked_on_meta", _masked)
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, lambda *_, **__: None)
    return name


def _flash(
    module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    """A fused kernel: keeps queries, keys, values, output and one sum a query."""
    return _fused(query, key, value, None).transpose(1, 2).contiguous(), None


def _masked(
    module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    """torch's own attention under a mask: heads repeated, and a bias in the states' format."""
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    rows, _, length, _ = query.shape
    bias = torch.empty((rows, 1, length, length), dtype=query.dtype, device=query.device)
    return _fused(query, key, value, bias).transpose(1, 2).contiguous(), None


class _Fused(torch.autograd.Function):
    """What a fused attention kernel takes and keeps; it computes nothing."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, bias: Any) -> torch.Tensor:
        out = torch.empty_like(query)
        sums = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, bias, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


_fused: Any = _Fused.apply


# -- autocast ------------------------------------------------------------------------------------

_LOWER = {
    torch.nn.functional.linear,
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.bmm,
    torch.Tensor.bmm,
    torch.baddbmm,
    torch.addmm,
    torch.nn.functional.conv1d,
}
_RAISE = {torch.nn.functional.layer_norm, torch.nn.functional.group_norm}


class HalfPrecision(TorchFunctionMode):
    """torch.autocast to bf16 for meta tensors: products in 16 bits, norms in 32.

    As in autocast, the copy of a trained fp32 weight is made once and kept while the mode lasts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[int, torch.Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _LOWER:
            args = tuple(self._lower(one) for one in args)
            kwargs = {name: self._lower(one) for name, one in kwargs.items()}
        elif func in _RAISE:
            args = tuple(_raised(one) for one in args)
        return func(*args, **kwargs)

    def _lower(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(torch.bfloat16)
        return self._copies[id(value)]


def _raised(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16
    return value.float() if half else value


# -- 4-bit layers --------------------------------------------------------------------------------


class _Packed(torch.autograd.Function):
    """A product with a 4-bit weight: unpacked for the time of the product, nothing kept."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.weight = weight
        unpacked = torch.empty_like(weight, dtype=states.dtype)
        return states @ unpacked.t()

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> Any:
        return above[0] @ torch.empty_like(ctx.weight, dtype=above[0].dtype), None


_packed: Any = _Packed.apply


def pack(model: Any) -> None:
    """Make the linear layers but the head behave as bitsandbytes' 4-bit ones."""
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            # peft takes a copy of what a 4-bit layer gives, before it adds to it.
            module.forward = partial(_packed_forward, module)  # type: ignore[method-assign]


def _packed_forward(module: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = _packed(states, module.weight)
    return found.clone() if module.bias is None else found + module.bias


def keep_inputs(model: Any) -> None:
    """peft's 4-bit layers leave the format of their input to autocast."""
    from peft.tuners.lora.layer import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module._cast_input_dtype = _as_it_is


def _as_it_is(states: torch.Tensor, _: torch.dtype) -> torch.Tensor:
    return states


# -- the command ---------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Measure each key and keep the results in the workspace's cache; prints what was found."""
    if len(arguments) < 3:
        print("usage: python -m finetui.engine.measure ROOT MODEL KEY...", file=sys.stderr)
        return 2
    # A config may describe anything: neither a huge model nor a broken one runs for ever.
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_LIMIT_S, _CPU_LIMIT_S))
    hide_unused_libraries()
    warnings.filterwarnings("ignore")
    root, folder = Path(arguments[0]), Path(arguments[1])
    found, problems, parameters = {}, {}, 0
    for text in arguments[2:]:
        try:
            found[text] = measure(folder, coefficients.key_of(text))
            parameters = parameters or parameter_count(folder)
        except Exception as error:  # a model may fail in any way; the formula stays then
            problems[text] = f"{type(error).__name__}: {adapters.first_line(error)}"
    versions = {"torch": str(torch.__version__), "transformers": transformers.__version__}
    coefficients.keep(
        root,
        folder,
        Measured(parameters=parameters, found=found, problems=problems, versions=versions),
    )
    print(json.dumps({"measured": list(found), "problems": problems}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
