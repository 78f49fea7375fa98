"""A model's head on chosen positions only, in chunks whose logits stay small.

Logits are the peak of many runs: 2,048 tokens over a vocabulary of 128,256 are 1 GiB a copy in
float32, and a plain loss keeps three. Here the head never sees a position that predicts nothing,
and at most ``_CHUNK`` logits exist at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch.utils.checkpoint import checkpoint

# Logits at once: on a CPU what its caches hold, on a GPU enough rows to fill it.
_CHUNK = {"cpu": 2**20, "cuda": 2**26}
_INPUTS = ("input_ids", "attention_mask", "position_ids")
_PROBE_TOKENS, _PROBE_LOGIT = 8, 40.0

Rowwise: TypeAlias = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Scored:
    """Hidden states (N, H) where trained tokens are predicted, and what makes them logits (n, V).

    ``frozen`` says that the head itself is not trained; ``vocabulary`` is V.
    """

    hidden: torch.Tensor
    logits: Callable[[torch.Tensor], torch.Tensor]
    frozen: bool
    vocabulary: int

    def each(self, of: Rowwise, *others: torch.Tensor) -> torch.Tensor:
        """``of(logits (n, V), *others (n, ...)) -> (n,)`` for all N positions, chunk by chunk.

        ``of`` must treat every position by itself.
        """
        if not len(self.hidden):
            return self.hidden.sum(dim=-1)

        def part(hidden: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            return of(self.logits(hidden), *rest)

        budget = _CHUNK.get(self.hidden.device.type, _CHUNK["cuda"])
        rows = max(1, budget // self.vocabulary)
        if torch.is_grad_enabled() and self.frozen and self.hidden.requires_grad:
            apply: Rowwise = _SlopesAtOnce.apply
            return apply(part, rows, self.hidden, *others)
        chunks = [
            (self.hidden[at : at + rows], *(other[at : at + rows] for other in others))
            for at in range(0, len(self.hidden), rows)
        ]
        if len(chunks) == 1 or not torch.is_grad_enabled():
            return torch.cat([part(*chunk) for chunk in chunks])
        return torch.cat([checkpoint(part, *chunk, use_reentrant=False) for chunk in chunks])


class _SlopesAtOnce(torch.autograd.Function):
    """Values of rows with their slopes taken in the same pass, so that no logits wait for backward.

    A row's value depends on its own hidden state only, so the gradient is the slope times what
    comes from above, whatever that will be. Same arithmetic as usual, (N, H) kept for (N, V).
    """

    @staticmethod
    def forward(
        ctx: Any, of: Rowwise, rows: int, hidden: torch.Tensor, *others: torch.Tensor
    ) -> torch.Tensor:
        values, slopes = [], []
        for at in range(0, len(hidden), rows):
            with torch.enable_grad():
                part = hidden[at : at + rows].detach().requires_grad_()
                value = of(part, *(other[at : at + rows] for other in others))
                slopes.append(torch.autograd.grad(value.sum(), part)[0])
            values.append(value.detach())
        ctx.save_for_backward(torch.cat(slopes))
        ctx.others = len(others)
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> Any:
        (slopes,) = ctx.saved_tensors
        return None, None, (above[0][:, None] * slopes).to(slopes.dtype), *[None] * ctx.others


def scored(model: Any, batch: Mapping[str, torch.Tensor]) -> Scored:
    """Run ``model`` up to its head over a batch from the collator."""
    core = bare(model)
    head = core.get_output_embeddings()
    if head is None or not _is_plain(model, core, head, batch):
        return _whole(model, core, batch)
    with _Catch(head) as caught:
        _forward(model, core, batch, batch["columns"])
    hidden = caught.hidden if keeps_positions(core) else caught.hidden[:, batch["columns"]]
    around, finish = caught.around, _finish(core)

    def logits(part: torch.Tensor) -> torch.Tensor:
        with around():
            return finish(head(part))

    vocabulary = core.config.get_text_config().vocab_size
    places = hidden.flatten(0, 1)[batch["places"]]
    return Scored(places, logits, not trains_head(model), vocabulary)


def trains_head(model: Any) -> bool:
    """Whether the head itself is trained: its weights, or an adapter on it that is switched on."""
    head = bare(model).get_output_embeddings()
    return head is not None and any(part.requires_grad for part in head.parameters())


@contextmanager
def untracked() -> Iterator[None]:
    """No gradients inside, and none lost outside.

    Autocast keeps casts of trained weights for its whole block; those made without a gradient
    would be taken again by the passes behind this one.
    """
    try:
        with torch.no_grad():
            yield
    finally:
        torch.clear_autocast_cache()


def keeps_positions(model: Any) -> bool:
    """Whether the model's forward can run its head on chosen positions only."""
    return "logits_to_keep" in inspect.signature(bare(model).forward).parameters


def alone(model: Any) -> Any:
    """The model, with its adapter, inside a data-parallel wrapper."""
    while hasattr(model, "module"):
        model = model.module
    return model


def bare(model: Any) -> Any:
    """The transformers model inside an adapter's or a data-parallel wrapper."""
    model = alone(model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _forward(model: Any, core: Any, batch: Mapping[str, Any], columns: torch.Tensor) -> Any:
    inputs = {name: batch[name] for name in _INPUTS if name in batch}
    keep = {"logits_to_keep": columns} if keeps_positions(core) else {}
    return model(**inputs, use_cache=False, **keep)


def _whole(model: Any, core: Any, batch: Mapping[str, torch.Tensor]) -> Scored:
    """For a model whose head does more than we know: its own logits, all at once."""
    logits = _forward(model, core, batch, batch["columns"]).logits
    if not keeps_positions(core):
        logits = logits[:, batch["columns"]]
    return as_logits(logits.flatten(0, 1)[batch["places"]])


def as_logits(logits: torch.Tensor) -> Scored:
    """Logits (N, V) that are there already."""
    return Scored(logits, lambda part: part, frozen=False, vocabulary=logits.shape[-1])


class _Catch:
    """Takes what goes into the head, times ``factor``, and lets nothing through unless told to."""

    def __init__(self, head: Any, factor: float = 1.0, through: bool = False) -> None:
        self._head, self._factor, self._through = head, factor, through
        self.hidden = torch.empty(0)
        self.around: Callable[[], AbstractContextManager[Any]] = torch.enable_grad

    def __enter__(self) -> _Catch:
        self._hook = self._head.register_forward_pre_hook(self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _catch(self, _: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = arguments[0] if self._factor == 1 else arguments[0] * self._factor
        kind = hidden.device.type
        on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        self.hidden = hidden
        self.around = lambda: torch.autocast(kind, dtype=dtype, enabled=on)
        return (hidden if self._through else hidden[:, :0], *arguments[1:])


def _finish(core: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What some families do to the logits behind the head, by the names in their configs."""
    config = core.config.get_text_config()
    factor = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere
    factor *= float(getattr(config, "lm_head_multiplier", None) or 1.0)  # Falcon-H1
    factor /= float(getattr(config, "logits_scaling", None) or 1.0)  # Granite
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma 2 and 3

    def finish(logits: torch.Tensor) -> torch.Tensor:
        logits = logits if factor == 1 else logits * factor
        return torch.tanh(logits / cap) * cap if cap else logits

    return finish


_PLAIN: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _is_plain(model: Any, core: Any, head: Any, batch: Mapping[str, torch.Tensor]) -> bool:
    """Whether the logits are what we make of the head's input; tried once a model, not assumed."""
    if core not in _PLAIN:
        _PLAIN[core] = _agrees(model, core, head, batch)
    return _PLAIN[core]


@untracked()
def _agrees(model: Any, core: Any, head: Any, batch: Mapping[str, torch.Tensor]) -> bool:
    """Compare on a few tokens, and again with large logits, where soft caps and the like show."""
    was_training = core.training
    core.eval()
    try:
        ids = {"input_ids": batch["input_ids"][:1, :_PROBE_TOKENS]}
        columns = torch.arange(ids["input_ids"].shape[1], device=ids["input_ids"].device)
        factor = 1.0
        for _ in range(2):
            with _Catch(head, factor, through=True) as caught:
                theirs = _forward(model, core, ids, columns).logits.float()
            if not len(caught.hidden):
                return False
            with caught.around():
                ours = _finish(core)(head(caught.hidden)).float()
            if ours.shape != theirs.shape or not torch.allclose(ours, theirs, 1e-2, 1e-2):
                return False
            factor = _PROBE_LOGIT / max(float(theirs.abs().max()), 1e-6)
        return True
    finally:
        core.train(was_training)
