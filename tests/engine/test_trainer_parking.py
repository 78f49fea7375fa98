"""Giving memory back while paused: everything moves, nothing changes its identity."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from tiny_jobs import tiny_llama

from finetui.engine import parking
from finetui.engine.parking import Parked


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A CPU in the place of a GPU: what it reserves is told by the test."""
    reserved = [9_000, 1_000]
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved.pop(0))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return reserved


def trained(model: Any) -> torch.optim.Optimizer:
    """An optimiser with states, after one update."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def test_weights_buffers_and_states_move_in_place_and_come_back(gpu: list[int]) -> None:
    model = tiny_llama()
    optimizer = trained(model)
    before = model(torch.arange(8)[None]).logits
    tensors = {id(one) for one in parking._tensors(model, optimizer)}
    held = {id(one) for one in (*model.parameters(), *model.buffers())}
    states = {id(v) for s in optimizer.state.values() for v in s.values()}
    assert held | states <= tensors
    parked = Parked(model, optimizer, torch.device("cpu"))
    assert parked.freed == 8_000
    assert parked.back()
    assert {id(one) for one in parking._tensors(model, optimizer)} == tensors
    assert torch.equal(model(torch.arange(8)[None]).logits, before)
    optimizer.step()


def test_a_full_gpu_leaves_everything_on_the_host(
    gpu: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama()
    parked = Parked(model, trained(model), torch.device("cpu"))
    places: list[Any] = []

    def move(self: Parked, place: Any) -> None:
        places.append(place)
        if len(places) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Parked, "_move", move)
    assert not parked.back() and places == [torch.device("cpu"), "cpu"]
    assert parked.back()


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
def test_what_decodes_weights_in_4_bits_moves_with_them(gpu: list[int]) -> None:
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(64, 64, compress_statistics=True, quant_type="nf4")
    layer.load_state_dict({"weight": torch.randn(64, 64), "bias": torch.zeros(64)})
    layer.to("cpu")
    layer.weight.requires_grad_(False)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    before = layer(torch.ones(1, 64))
    state = layer.weight.quant_state
    moved = {id(one) for one in parking._tensors(layer, optimizer)}
    assert {id(state.absmax), id(state.code), id(state.offset), id(state.state2.absmax)} <= moved
    for one in parking._tensors(layer, optimizer):
        one.data = one.data.clone().to("cpu")
    assert layer.weight.quant_state is state
    assert torch.equal(layer(torch.ones(1, 64)), before)
