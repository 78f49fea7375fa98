"""Attention back ends, and one of our own: torch's variable-length kernel over packed rows.

transformers asks two functions for a back end: one makes the mask once a forward pass, one
computes attention in each layer. Ours makes no mask but ``Spans``: where each example begins and
ends, found once a pass and not once a layer. Nothing is computed between neighbours, and no
padding within a document. What the kernel does not cover, answering with a cache, goes to sdpa.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetui.engine.libraries import has_flash_attention
from finetui.engine.machine import Machine
from finetui.errors import UserError

NAME = "finetui_varlen"
# Widest head of the flash kernels.
_WIDEST_HEAD = 256


@dataclass(frozen=True)
class Spans:
    """Where the examples of a batch lie in its tokens, row behind row.

    ``edges`` (examples + 1,) int32 on the device begins with 0 and ends with rows x tokens.
    """

    edges: torch.Tensor
    longest: int


def choose(asked: str, machine: Machine, packed: bool, config: dict[str, Any]) -> str | None:
    """transformers' name of a back end; None leaves the choice to it. Raises UserError."""
    if asked == "auto":
        if not (packed and machine.on_gpu):
            return None
        if not varlen_fault(machine, config):
            return register()
        return "flash_attention_2" if _flash_fault(machine) == "" else None
    if asked == "varlen":
        _require(varlen_fault(machine, config))
        return register()
    if asked == "flash":
        _require(_flash_fault(machine))
        return "flash_attention_2"
    return asked


def flattens(model: Any) -> bool:
    """Whether packed batches go as one row of all examples: flash tells them apart only so."""
    return "flash" in (model.config._attn_implementation or "") or keeps_apart(model)


def keeps_apart(model: Any) -> bool:
    """Whether the model's attention is our variable-length one."""
    return bool(model.config._attn_implementation == NAME)


def varlen_fault(machine: Machine, config: dict[str, Any]) -> str:
    """Why the variable-length kernel cannot run here; empty when it can."""
    if not machine.on_gpu:
        return "varlen attention needs a CUDA GPU"
    if machine.precision == "fp32":
        return "varlen attention computes in bf16 or fp16, not fp32"
    if _kernel() is None:
        return f"torch {torch.__version__} has no varlen attention"
    text = config.get("text_config") or config
    heads, width = text.get("num_attention_heads"), text.get("hidden_size")
    head = text.get("head_dim") or (width // heads if heads and width else 0)
    if head > _WIDEST_HEAD:
        return f"varlen attention takes heads up to {_WIDEST_HEAD} wide, this model's are {head}"
    if text.get("attn_logit_softcapping"):
        return "varlen attention cannot cap its scores, which this model does"
    return ""


def _flash_fault(machine: Machine) -> str:
    if not machine.on_gpu:
        return "flash attention needs a CUDA GPU"
    if machine.precision == "fp32":
        return "flash attention computes in bf16 or fp16, not fp32"
    return "" if has_flash_attention() else "the flash-attn package is not installed"


def _require(fault: str) -> None:
    if fault:
        raise UserError(f"{fault}.", "model.attention", "Choose auto or sdpa.")


def _kernel() -> Any:
    """torch's varlen_attn, from 2.11 on with grouped heads; None in an older torch."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def register() -> str:
    """Make the back end known to transformers; returns its name."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
    return NAME


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: torch.Tensor | None = None,
    **rest: Any,
) -> Spans | torch.Tensor | None:
    """The spans of a batch without a cache; the mask of sdpa for one with a cache.

    A span begins where a token must not see the one before it: the mask function says so for
    packed rows, the padding mask (B, T) where padding begins or ends.
    """
    if q_length != kv_length or isinstance(q_offset, torch.Tensor) or q_offset:
        masked: torch.Tensor | None = sdpa_mask(
            batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset,
            kv_offset=kv_offset, mask_function=mask_function, attention_mask=attention_mask, **rest,
        )  # fmt: skip
        return masked
    device = rest.get("device", "cpu") if attention_mask is None else attention_mask.device
    return _spans(batch_size, q_length, mask_function, attention_mask, device)


def _spans(
    rows: int, tokens: int, sees: Any, real: torch.Tensor | None, device: torch.device | str
) -> Spans:
    """``sees(row, head, query, key)`` is a mask function, ``real`` (B, T) the padding mask."""
    row = torch.arange(rows, device=device)[:, None]
    token = torch.arange(tokens, device=device)[None, :].expand(rows, -1)
    before = (token - 1).clamp(min=0)
    begins = ~(sees(row, torch.zeros_like(row), token, before).expand(rows, tokens))
    if real is not None:
        begins = begins | (real.bool() != real.bool().gather(1, before))
    begins[:, 0] = True
    starts = begins.flatten().nonzero()[:, 0]
    edges = torch.nn.functional.pad(starts, (0, 1), value=rows * tokens).to(torch.int32)
    return Spans(edges, int(edges.diff().max()))


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Spans | torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attention (B, T, heads, width) of queries (B, heads, T, width) over their own examples.

    ``sliding_window`` is the number of tokens seen, this one included. Dropout of attention is
    left out, as the kernel has none.
    """
    if not isinstance(attention_mask, Spans):
        found: torch.Tensor
        found, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
        return found, None
    kernel = _kernel()
    format = _half(value)
    rows, heads, tokens, _ = query.shape
    left = -1 if sliding_window is None else sliding_window - 1
    found = kernel(
        _flat(query, format),
        _flat(key, format),
        _flat(value, format),
        attention_mask.edges,
        attention_mask.edges,
        attention_mask.longest,
        attention_mask.longest,
        scale=scaling,
        window_size=(left, 0),
        enable_gqa=key.shape[1] != heads,
    )
    return found.view(rows, tokens, heads, -1).to(value.dtype), None


def _flat(states: torch.Tensor, format: torch.dtype) -> torch.Tensor:
    """(B, heads, T, width) to (B x T, heads, width)."""
    return states.transpose(1, 2).flatten(0, 1).to(format)


def _half(value: torch.Tensor) -> torch.dtype:
    """The format that the GPU's kernel takes: that of the values, else half of it."""
    if value.dtype in (torch.float16, torch.bfloat16) or not value.is_cuda:
        return value.dtype
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
