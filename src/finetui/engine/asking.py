"""One subject asked one set: what the cache knows is not asked again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from finetui.data.tokens import ChatTokenizer
from finetui.engine.answer_cache import Cache, Generated, Likelihood, key_of
from finetui.engine.generate import Settings, answers, context_of
from finetui.engine.items import Read
from finetui.engine.likelihood import Distances, Measure
from finetui.engine.machine import Machine
from finetui.evaluation.record import Answer

_TOKENS_A_BATCH = 16_384  # of a batch whose loss is taken: no cache is kept, so more rows fit


class Caches:
    """The two caches of one subject's model: what it wrote, and how likely it found texts."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.generated = Cache(folder / f"{fingerprint}-answers.jsonl", Generated)
        self.measured = Cache(folder / f"{fingerprint}-likelihoods.jsonl", Likelihood)


@dataclass(frozen=True)
class Against:
    """What a subject is compared with token by token: its fingerprint, and how when it is asked."""

    fingerprint: str
    distances: Callable[[], Distances]


@dataclass
class Asking:
    """A subject at work. ``model`` loads it, and is called only when the cache does not know.

    ``tell`` hears how many rows are done; ``beat`` is called at least once a token.
    """

    model: Callable[[], Any]
    machine: Machine
    tokenizer: ChatTokenizer
    caches: Caches
    settings: Settings
    tell: Callable[[int, str], None]
    beat: Callable[[], None]

    def answered(
        self, rows: Sequence[Read], done: set[str], against: Against | None = None
    ) -> Iterator[list[Answer]]:
        """The answers of the rows that are not ``done``, as they come."""
        left = [row for row in rows if row.item.id not in done]
        yield [Answer(row.item.id, "", finish="error") for row in left if row.fault]
        likelihoods = self._likelihoods(left, against)
        read_only = [row for row in left if row.prompt is None and not row.fault]
        yield [_answer(row, likelihoods.get(row.item.id)) for row in read_only]
        for batch in self._generated([row for row in rows if row.prompt is not None], done):
            yield [_answer(row, likelihoods.get(row.item.id), found) for row, found in batch]

    # -- how likely the references are ------------------------------------------------------

    def _likelihoods(self, rows: Sequence[Read], against: Against | None) -> dict[str, Likelihood]:
        known: dict[str, Likelihood] = {}
        open_rows: list[tuple[Read, str]] = []
        for row in rows:
            if row.whole is None:
                continue
            key = key_of(
                "likelihood", row.whole.ids, row.whole.trained,
                against.fingerprint if against is not None else "",
            )  # fmt: skip
            found = self.caches.measured.get(key)
            if found is None:
                open_rows.append((row, key))
            else:
                known[row.item.id] = found
        if open_rows:
            known |= self._measured(open_rows, against)
        return known

    def _measured(
        self, rows: Sequence[tuple[Read, str]], against: Against | None
    ) -> dict[str, Likelihood]:
        model = self.model()
        context = context_of(model)
        fitting = [(row, key) for row, key in rows if row.whole and len(row.whole.ids) <= context]
        longest = max((len(row.whole.ids) for row, _ in fitting if row.whole), default=1)
        measure = Measure(
            model,
            self.machine,
            self.tokenizer.pad_id,
            max(1, min(self.settings.batch_size, _TOKENS_A_BATCH // longest)),
            None if against is None else against.distances(),
        )
        found: dict[str, Likelihood] = {}
        for batch in measure.of([row.whole for row, _ in fitting if row.whole]):
            self.caches.measured.put({fitting[at][1]: value for at, value in batch.items()})
            found |= {fitting[at][0].item.id: value for at, value in batch.items()}
            self.tell(len(found), "reading")
        return found

    # -- what it writes ---------------------------------------------------------------------

    def _generated(
        self, rows: Sequence[Read], done: set[str]
    ) -> Iterator[list[tuple[Read, Generated]]]:
        keys = [self._key(row) for row in rows]
        looked_up = ((at, self.caches.generated.get(key)) for at, key in enumerate(keys))
        known = {at: found for at, found in looked_up if found is not None}
        count = sum(row.item.id in done for row in rows)
        fresh = [at for at in known if rows[at].item.id not in done]
        yield [(rows[at], known[at]) for at in fresh]
        count += len(fresh)
        self.tell(count, "answering")
        wanted = {at for at, row in enumerate(rows) if at not in known and row.item.id not in done}
        if not wanted:
            return
        start = time.perf_counter()
        prompts = [row.prompt or [] for row in rows]
        for batch in answers(
            self.model(), self.tokenizer, prompts, self.settings, wanted.__contains__, self.beat
        ):
            seconds = (time.perf_counter() - start) / max(len(batch), 1)
            found = {
                each.index: Generated(each.text, each.ended, each.tokens, round(seconds, 4))
                for each in batch
            }
            self.caches.generated.put({keys[at]: value for at, value in found.items()})
            yield [(rows[at], value) for at, value in found.items()]
            count += len(batch)
            self.tell(count, "answering")
            start = time.perf_counter()

    def _key(self, row: Read) -> str:
        """Greedy answers depend on neither seed nor top_p."""
        how = self.settings
        drawn = (how.temperature, how.top_p, how.seed) if how.temperature > 0 else ()
        return key_of("answer", row.prompt, self.tokenizer.stop_ids, how.max_new_tokens, drawn)


def _answer(row: Read, likelihood: Likelihood | None, found: Generated | None = None) -> Answer:
    made = Answer(row.item.id, "")
    if found is not None:
        made = Answer(
            row.item.id,
            found.text,
            finish="stop" if found.ended else "length",
            tokens=found.tokens,
            prompt_tokens=len(row.prompt or ()),
            seconds=found.seconds,
        )
    return made if likelihood is None else structs.replace(made, **structs.asdict(likelihood))
