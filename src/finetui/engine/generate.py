"""Answers to many prompts, in batches of like length; the same seed gives the same answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from finetui.data.tokens import ChatTokenizer


@dataclass(frozen=True)
class Settings:
    """How to answer. Temperature 0 is greedy; ``top_p`` and ``seed`` count only above 0."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 32


@dataclass(frozen=True)
class Answer:
    """The text for one prompt, by its place in the list; not ``ended`` when it was cut off.

    ``tokens`` counts what was generated, the end token included.
    """

    index: int
    text: str
    ended: bool
    tokens: int = 0


Prompts = Sequence[Sequence[int]]


def answers(
    model: Any,
    tokenizer: ChatTokenizer,
    prompts: Prompts,
    settings: Settings,
    wanted: Callable[[int], bool] = lambda index: True,
    beat: Callable[[], None] = lambda: None,
) -> Iterator[list[Answer]]:
    """Answer tokenised prompts, one batch at a time, shortest prompts first.

    The batches depend on all the prompts and never on ``wanted``, so a job that goes on after an
    interruption rounds the rest alike; what is drawn for a row depends on the seed and its prompt
    alone. A batch too large for the GPU is halved. A prompt that fills the model's context gets an
    empty, unended answer. ``beat`` is called after each token.
    """
    context = context_of(model)
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    model.eval()
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        if not any(wanted(index) for index in batch):
            continue
        fitting = [index for index in batch if len(prompts[index]) < context]
        found = [Answer(index, "", False) for index in batch if index not in fitting]
        if fitting:
            found += _halving(model, tokenizer, prompts, fitting, settings, beat)
        yield [answer for answer in found if wanted(answer.index)]


def context_of(model: Any) -> int:
    """How many tokens the model can read; very many where it does not say."""
    return getattr(model.config, "max_position_embeddings", None) or 1 << 30


def _halving(
    model: Any,
    tokenizer: ChatTokenizer,
    prompts: Prompts,
    batch: Sequence[int],
    settings: Settings,
    beat: Callable[[], None],
) -> list[Answer]:
    """A batch's answers, in halves where the GPU's memory is too small for the whole."""
    try:
        return _batch(model, tokenizer, prompts, batch, settings, beat)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(batch) // 2
    return [
        answer
        for part in (batch[:half], batch[half:])
        for answer in _halving(model, tokenizer, prompts, part, settings, beat)
    ]


@torch.no_grad()
def _batch(
    model: Any,
    tokenizer: ChatTokenizer,
    prompts: Prompts,
    batch: Sequence[int],
    settings: Settings,
    beat: Callable[[], None],
) -> list[Answer]:
    width = max(len(prompts[index]) for index in batch)
    ids = torch.full((len(batch), width), tokenizer.pad_id, dtype=torch.long)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    for row, index in enumerate(batch):
        length = len(prompts[index])
        ids[row, width - length :] = torch.tensor(list(prompts[index]))
        mask[row, width - length :] = 1
    draws = []
    if settings.temperature > 0:
        seeds = [row_seed(settings.seed, prompts[index]) for index in batch]
        draws = [Draws(seeds, settings.temperature, settings.top_p, model.device)]
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=_configuration(tokenizer, settings, context_of(model) - width),
        logits_processor=LogitsProcessorList(draws),
        stopping_criteria=StoppingCriteriaList([_Beat(beat)]),
    )
    return [
        _answer(tokenizer, index, row[width:].tolist())
        for index, row in zip(batch, output, strict=True)
    ]


class Draws:
    """Logits (B, V) whose largest is a draw from them, by a generator of its own for each row.

    Gumbel's trick: the likeliest of log p + g is distributed as p. Greedy decoding of these logits
    samples, and no row depends on its neighbours.
    """

    def __init__(
        self, seeds: Sequence[int], temperature: float, top_p: float, device: torch.device
    ) -> None:
        self._warpers: list[Any] = [TemperatureLogitsWarper(temperature)]
        if top_p < 1:
            self._warpers.append(TopPLogitsWarper(top_p))
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.float()
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)
        return scores - noise.log()


def row_seed(seed: int, prompt: Sequence[int]) -> int:
    """A seed of 63 bits for one prompt."""
    said = json.dumps([seed, list(prompt)]).encode()
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big") >> 1


class _Beat(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing: it is what generate calls after each token."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self._beat()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _configuration(tokenizer: ChatTokenizer, settings: Settings, room: int) -> GenerationConfig:
    return GenerationConfig(
        max_new_tokens=max(1, min(settings.max_new_tokens, room)),
        eos_token_id=list(tokenizer.stop_ids) or None,
        pad_token_id=tokenizer.pad_id,
        do_sample=False,
    )


def _answer(tokenizer: ChatTokenizer, index: int, ids: list[int]) -> Answer:
    """Text up to the first stop token."""
    stops = set(tokenizer.stop_ids)
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    tokens = len(ids) if end is None else end + 1
    return Answer(index, tokenizer.decode(ids[:end]), end is not None, tokens)
