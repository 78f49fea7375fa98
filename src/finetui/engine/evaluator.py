"""What is looked at while a run trains: held-out loss, general probe, sample answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetui.data.tokens import ChatTokenizer
from finetui.engine.batches import on_device, single
from finetui.engine.dataset import Encoding, Prompt
from finetui.engine.generate import Settings, answers
from finetui.engine.machine import Machine
from finetui.engine.objectives import Objective


@dataclass(frozen=True)
class HeldOut:
    """Examples that are never trained on, and the objective that they are measured by."""

    encoding: Encoding
    objective: Objective
    batch_size: int

    def measure(
        self, model: Any, machine: Machine, beat: Callable[[], None]
    ) -> tuple[float, dict[str, float]]:
        """(mean loss, mean figures) over all items, exact whatever the batches are.

        ``beat`` is called after each batch. The model's mode is left as it was.
        """
        was_training = model.training
        model.eval()
        losses = torch.zeros((), dtype=torch.float64)
        sums: dict[str, float] = {}
        items = 0
        with torch.no_grad(), machine.autocast():
            for batch in self._batches():
                batch.pop("contents")
                items += self.objective.items(batch)
                loss, told = self.objective.loss(model, on_device(batch, machine.device), 1.0)
                losses += loss.double().cpu()
                for name, value in told.figures.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
                beat()
        model.train(was_training)
        count = max(items, 1)
        return float(losses) / count, {name: total / count for name, total in sums.items()}

    def _batches(self) -> Iterator[dict[str, Any]]:
        rows = single(sorted(self.encoding.examples, key=len))
        for start in range(0, len(rows), self.batch_size):
            yield self.objective.collate_held_out(rows[start : start + self.batch_size])


@dataclass(frozen=True)
class Samples:
    """Prompts that are answered at each evaluation, to be read beside the loss."""

    prompts: Sequence[Prompt]
    tokenizer: ChatTokenizer
    settings: Settings

    def answer(self, model: Any) -> Iterator[tuple[Prompt, str]]:
        """Each prompt with its greedy answer. Mode and random state are left as they were."""
        encoded = [self.tokenizer.encode_prompt(one.messages, one.tools) for one in self.prompts]
        was_training = model.training
        found: dict[int, str] = {}
        with torch.random.fork_rng():
            for batch in answers(model, self.tokenizer, encoded, self.settings):
                found |= {answer.index: answer.text for answer in batch}
        model.train(was_training)
        for index, prompt in enumerate(self.prompts):
            yield prompt, found[index]
