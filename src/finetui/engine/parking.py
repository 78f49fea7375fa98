"""Giving a GPU's memory back while a run is paused, and taking it again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch
from torch.optim import Optimizer


class Parked:
    """A model and its optimiser on the host: every tensor that was on the GPU, in its place.

    The tensors keep their identity, so everything that refers to them goes on working.
    """

    def __init__(self, model: Any, optimizer: Optimizer, device: torch.device) -> None:
        """Move everything to the host. ``freed`` has the bytes that others can use now."""
        before = torch.cuda.memory_reserved(device)
        self._device = device
        self._tensors = [one for one in _tensors(model, optimizer) if one.device == device]
        self._move("cpu")
        self.freed = before - torch.cuda.memory_reserved(device)

    def back(self) -> bool:
        """Move everything back; False, with all of it still on the host, when there is no room."""
        try:
            self._move(self._device)
        except torch.OutOfMemoryError:
            self._move("cpu")
            return False
        return True

    def _move(self, place: torch.device | str) -> None:
        for one in self._tensors:
            one.data = one.data.to(place)
        gc.collect()
        torch.cuda.empty_cache()


def _tensors(model: Any, optimizer: Optimizer) -> Iterator[torch.Tensor]:
    """Weights with what decodes them, buffers, and the optimiser's states; paged ones stay."""
    for parameter in model.parameters():
        yield parameter
        yield from _decoding(getattr(parameter, "quant_state", None))
    yield from model.buffers()
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor) and not getattr(value, "is_paged", False):
                yield value


def _decoding(state: Any) -> Iterator[torch.Tensor]:
    """The scales and codes of weights in 4 bits, those of the scales themselves included."""
    if state is None:
        return
    for value in (state.absmax, state.code, state.offset):
        if isinstance(value, torch.Tensor):
            yield value
    yield from _decoding(state.state2)
