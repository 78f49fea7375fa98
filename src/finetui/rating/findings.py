"""What is known about a session's answers before it is sealed, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import msgspec

from finetui.display import plural
from finetui.rating.guessing import Guessability, audit
from finetui.rating.identity import Mention, scan, telling
from finetui.rating.normalise import normalise
from finetui.rating.registration import Registration
from finetui.rating.session import Item

AUDITED = 300  # items; more say no more about style


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """The identity scan and the guessability audit, and the items that were taken out.

    ``guessability`` has one entry a pair of systems, the main one first (none where there are too
    few items); ``cut`` are the systems
    whose answer hit the token limit, by item; ``excluded`` is item -> "identity" or "chosen".
    """

    identity: list[Mention] = []
    guessability: list[Guessability] = []
    cut: dict[str, list[str]] = {}
    excluded: dict[str, str] = {}

    @property
    def named(self) -> list[str]:
        """The items in which an answer names a model, each once."""
        return list(dict.fromkeys(mention.item for mention in self.identity))

    @property
    def sentences(self) -> list[str]:
        """The findings for the person who prepares the session. They name no side."""
        return [*self._identity(), *self._style(), *self._length(), *self._taken_out()]

    def flags(self) -> dict[str, tuple[str, ...]]:
        """item -> why a report should also be read without it."""
        marked = {item: ["cut"] for item in self.cut}
        for item in self.named:
            marked.setdefault(item, []).append("identity")
        return {item: tuple(why) for item, why in marked.items() if item not in self.excluded}

    def _identity(self) -> list[str]:
        if not self.identity:
            return ["No answer names a model, a vendor or the set-up."]
        heard = Counter(word for mention in self.identity for word in mention.words)
        words = ", ".join(f'"{word}"' for word, _ in heard.most_common(6))
        return [
            f"{plural(len(self.named), 'item')} with an answer that gives itself away: {words}."
        ]

    def _style(self) -> list[str]:
        if not self.guessability:
            return ["Too few items to see whether style alone gives the systems away."]
        return [self.guessability[0].sentence]

    def _length(self) -> list[str]:
        if not self.cut:
            return []
        return [
            f"{plural(len(self.cut), 'item')} with an answer that was cut at the token limit: "
            "the report is also read without them."
        ]

    def _taken_out(self) -> list[str]:
        if not self.excluded:
            return []
        return [f"{plural(len(self.excluded), 'item')} taken out before the sealing."]


def inspect(
    items: Sequence[Item],
    systems: Sequence[str],
    chosen: Registration,
    special_tokens: Sequence[str] = (),
) -> Findings:
    """Look at the answers as raters will see them.

    About a second for 300 items of two systems.
    """
    texts = shown_texts(items, systems, special_tokens)
    prompts = {item.id: item.prompt for item in items}
    identity = scan(texts, prompts, [*chosen.words, *telling(systems)])
    excluded = _excluded([mention.item for mention in identity], chosen)
    left = {item: sides for item, sides in texts.items() if item not in excluded}
    sample = dict(list(left.items())[:AUDITED])
    return Findings(
        identity=identity,
        guessability=[
            found
            for pair in combinations(systems, 2)
            if (found := audit(sample, pair)).level != "unknown"
        ],
        cut={
            item.id: cut
            for item in items
            if (cut := [system for system in systems if item.finish.get(system) == "length"])
        },
        excluded={item.id: excluded[item.id] for item in items if item.id in excluded},
    )


def shown_texts(
    items: Iterable[Item], systems: Sequence[str], special_tokens: Sequence[str]
) -> dict[str, dict[str, str]]:
    """item id -> system -> the text a rater sees."""
    return {
        item.id: {system: normalise(item.outputs[system], special_tokens) for system in systems}
        for item in items
    }


def _excluded(named: Iterable[str], chosen: Registration) -> Mapping[str, str]:
    by_scan = named if chosen.identity == "exclude" else ()
    found = {item: "identity" for item in by_scan if item not in chosen.kept}
    return found | dict.fromkeys(chosen.excluded, "chosen")
