"""Small records to take figures of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from finetui.evaluation.record import Answer, Item, Manifest, Record, SetSpec, Subject
from finetui.evaluation.scoring import score_set


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def record_of(
    folder: Path,
    sets: Sequence[tuple[SetSpec, Sequence[Item], dict[str, Sequence[Answer]]]],
    subjects: Sequence[Subject] = (Subject("base", "base"), Subject("tuned", "adapter")),
) -> Record:
    """A record with its answers scored; the first subject is the reference."""
    record = Record(folder / "evaluation")
    record.write_manifest(
        Manifest("try", list(subjects), [spec for spec, _, _ in sets], resamples=400)
    )
    for spec, items, answers in sets:
        record.write_items(spec.name, items)
        for subject, given in answers.items():
            with record.writer(subject, spec.name) as out:
                for answer in given:
                    out.add(answer)
            record.write_scores(subject, spec.name, score_set(spec, items, given))
    return record


def tickets(n: int = 60) -> list[Item]:
    """JSON references with two fields of labels, in two languages."""
    urgencies, products = ("low", "high"), ("Mail", "Chat", "Pay")
    return [
        Item(
            f"d:{i}",
            asked(f"Ticket {i} about {products[i % 3]}"),
            json.dumps({"urgency": urgencies[i % 2], "product": products[i % 3]}),
            tags={"language": [["en", "de"][i % 2]], "length": ["short"]},
        )
        for i in range(n)
    ]


def right_from(items: Sequence[Item], first: int, nll: float = 1.0) -> list[Answer]:
    """Right answers from row ``first`` on; before it prose."""
    return [
        Answer(item.id, item.reference if i >= first else "Dear customer,", tokens=9,
               nll=nll * 8, nll_tokens=8)
        for i, item in enumerate(items)
    ]  # fmt: skip
