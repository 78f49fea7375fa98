"""Answers to many prompts, in batches of like length; the same seed gives the same answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from finetui.data.tokens import ChatTokenizer


@dataclass(frozen=True)
class Settings:
    """How to answer. Temperature 0 is greedy; ``top_p`` counts only above 0."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    batch_size: int = 32


@dataclass(frozen=True)
class Answer:
    """The text for one prompt, by its place in the list; not ``ended`` when it was cut off."""

    index: int
    text: str
    ended: bool


def answers(
    model: Any,
    tokenizer: ChatTokenizer,
    prompts: Sequence[Sequence[int]],
    settings: Settings,
    wanted: Callable[[int], bool] = lambda index: True,
) -> Iterator[list[Answer]]:
    """Answer tokenised prompts, one batch at a time, shortest prompts first.

    The batches depend on all the prompts and never on ``wanted``, so a job that goes on after an
    interruption draws the same samples for the rest. A prompt that fills the model's context
    gets an empty, unended answer.
    """
    context = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    model.eval()
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        if not any(wanted(index) for index in batch):
            continue
        fitting = [index for index in batch if len(prompts[index]) < context]
        found = [Answer(index, "", False) for index in batch if index not in fitting]
        if fitting:
            torch.manual_seed(settings.seed + start)
            found += _batch(model, tokenizer, prompts, fitting, settings, context)
        yield [answer for answer in found if wanted(answer.index)]


@torch.no_grad()
def _batch(
    model: Any,
    tokenizer: ChatTokenizer,
    prompts: Sequence[Sequence[int]],
    batch: Sequence[int],
    settings: Settings,
    context: int,
) -> list[Answer]:
    width = max(len(prompts[index]) for index in batch)
    ids = torch.full((len(batch), width), tokenizer.pad_id, dtype=torch.long)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    for row, index in enumerate(batch):
        length = len(prompts[index])
        ids[row, width - length :] = torch.tensor(list(prompts[index]))
        mask[row, width - length :] = 1
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=_configuration(tokenizer, settings, context - width),
    )
    return [
        _answer(tokenizer, index, row[width:].tolist())
        for index, row in zip(batch, output, strict=True)
    ]


def _configuration(tokenizer: ChatTokenizer, settings: Settings, room: int) -> GenerationConfig:
    sampling: dict[str, Any] = {"do_sample": False}
    if settings.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "top_k": 0,
        }
    return GenerationConfig(
        max_new_tokens=max(1, min(settings.max_new_tokens, room)),
        eos_token_id=list(tokenizer.stop_ids) or None,
        pad_token_id=tokenizer.pad_id,
        **sampling,
    )


def _answer(tokenizer: ChatTokenizer, index: int, ids: list[int]) -> Answer:
    """Text up to the first stop token."""
    stops = set(tokenizer.stop_ids)
    end = next((place for place, token in enumerate(ids) if token in stops), None)
    return Answer(index, tokenizer.decode(ids[:end]), end is not None)
