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
from finetui.engine.ranks import ALONE, Ranks


@dataclass(frozen=True)
class HeldOut:
    """Examples that are never trained on, and the objective that they are measured by."""

    encoding: Encoding
    objective: Objective
    batch_size: int

    def measure(
        self, model: Any, machine: Machine, beat: Callable[[], None], ranks: Ranks = ALONE
    ) -> tuple[float, dict[str, float]]:
        """(mean loss, mean figures) over all items, exact whatever the batches are.

        The ranks share the batches. ``beat`` is called after each one. The model's mode is left
        as it was.
        """
        was_training = model.training
        model.eval()
        losses = torch.zeros((), dtype=torch.float64)
        sums: dict[str, float] = {}
        items = 0
        with torch.no_grad(), machine.autocast():
            for batch, idle in self._batches(ranks):
                batch.pop("contents")
                loss, told = self.objective.loss(model, on_device(batch, machine.device), 1.0)
                beat()
                if idle:
                    continue
                items += self.objective.items(batch)
                losses += loss.double().cpu()
                for name, value in told.figures.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        model.train(was_training)
        loss_sum, count, sums = _over(ranks, float(losses), items, sums)
        return loss_sum / count, {name: total / count for name, total in sums.items()}

    def _batches(self, ranks: Ranks) -> Iterator[tuple[dict[str, Any], bool]]:
        """This rank's batches, each with whether it only keeps step with the others."""
        rows = single(sorted(self.encoding.examples, key=len))
        starts = range(0, len(rows), self.batch_size)
        for at in range(0, len(starts), ranks.world):
            idle = at + ranks.rank >= len(starts)
            start = starts[at if idle else at + ranks.rank]
            yield self.objective.collate_held_out(rows[start : start + self.batch_size]), idle


def _over(
    ranks: Ranks, losses: float, items: int, sums: dict[str, float]
) -> tuple[float, int, dict[str, float]]:
    """Summed losses, items (1 at least) and figures of all ranks."""
    if ranks.several:
        mine: dict[str, Any] = {"losses": losses, "items": items, "sums": sums}
        parts = ranks.gather(mine)
        losses, items = sum(part["losses"] for part in parts), sum(part["items"] for part in parts)
        names = dict.fromkeys(name for part in parts for name in part["sums"])
        sums = {name: sum(part["sums"].get(name, 0.0) for part in parts) for name in names}
    return losses, max(items, 1), sums


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
