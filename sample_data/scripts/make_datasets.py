"""Write all sample data sets: `python make_datasets.py --out ../datasets`.

Seeds are fixed and nothing but the standard library is used, so the bytes are the same every
time and everywhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

from dirty import Line, Row, plant, to_bytes
from world import (
    DESK_SYSTEM,
    EXACT_SKILLS,
    GENERAL_SYSTEM,
    HELDOUT_ISSUES,
    HELDOUT_PRODUCTS,
    PRODUCTS,
    SKILLS,
    TUNING_ISSUES,
    TUNING_PRODUCTS,
    Chat,
    Issue,
    Ticket,
    base_chat,
    make_reply,
    make_ticket,
    message,
    triage_chat,
)

TICKETS = 750
HELDOUT = 150
GENERAL = 300
CHECKS_PER_SKILL = 9  # of 24 product questions in all, so that general.jsonl keeps some
DIRTY = 400
PREFERENCES = 60


def new_tickets(
    rng: Random, seen: set[str], issues: Sequence[Issue], products: Sequence[str]
) -> Iterator[Ticket]:
    """Tickets without end, none with a text in `seen`; adds each to it."""
    while True:
        ticket = make_ticket(rng, issues, products)
        if ticket.text not in seen:
            seen.add(ticket.text)
            yield ticket


def take_rows(tickets: Iterator[Ticket], count: int, prefix: str) -> list[Row]:
    """The next `count` tickets as rows of the triage task, named t0001 and so on."""
    return [
        {"messages": triage_chat(next(tickets)), "id": f"{prefix}{number:04d}"}
        for number in range(1, count + 1)
    ]


def user_texts(chat: Chat) -> list[str]:
    return [turn["content"] for turn in chat if turn["role"] == "user"]


def general_checks(rng: Random, seen: set[str]) -> list[Row]:
    """Skill questions with one right answer each, the same number for every exact skill."""
    rows: list[Row] = []
    for skill in EXACT_SKILLS:
        for _ in range(CHECKS_PER_SKILL):
            question, answer = SKILLS[skill](rng)
            while question in seen or mentions_heldout(question):
                question, answer = SKILLS[skill](rng)
            seen.add(question)
            chat = [
                message("system", GENERAL_SYSTEM),
                message("user", question),
                message("assistant", answer),
            ]
            rows.append({"messages": chat, "id": f"c{len(rows) + 1:04d}", "skill": skill})
    return rows


def general_rows(rng: Random, seen: set[str]) -> list[Row]:
    """Chats of the base mix with questions not seen before, and nothing of the held-out part."""
    rows: list[Row] = []
    while len(rows) < GENERAL:
        chat = base_chat(rng)
        texts = user_texts(chat)
        if seen.intersection(texts) or any(mentions_heldout(turn["content"]) for turn in chat):
            continue
        seen.update(texts)
        rows.append({"messages": chat, "id": f"g{len(rows) + 1:04d}"})
    return rows


def mentions_heldout(text: str) -> bool:
    """Whether `text` names a held-out product or tells of a held-out issue."""
    folded = text.casefold()
    return any(product.casefold() in folded for product in HELDOUT_PRODUCTS) or any(
        phrasing.format(p=product).casefold() in folded
        for issue in HELDOUT_ISSUES
        for phrasing in issue.phrasings
        for product in PRODUCTS
    )


def preference_rows(rng: Random, tickets: Iterator[Ticket]) -> list[Row]:
    """Pairs of desk replies: the one without the sign-off line is chosen."""
    rows: list[Row] = []
    for number in range(1, PREFERENCES + 1):
        ticket = next(tickets)
        chosen, rejected = make_reply(rng, ticket, False), make_reply(rng, ticket, True)
        rows.append(
            {
                "prompt": [message("system", DESK_SYSTEM), message("user", ticket.text)],
                "chosen": [message("assistant", chosen)],
                "rejected": [message("assistant", rejected)],
                "id": f"p{number:04d}",
            }
        )
    return rows


def list_faults(lines: Iterable[Line]) -> list[dict[str, int | str]]:
    """Line (from 1), byte offset and kind of every fault; with the original's line, if any."""
    faults: list[dict[str, int | str]] = []
    numbers: dict[Line, int] = {}
    offset = 0
    for number, line in enumerate(lines, start=1):
        numbers[line] = number
        if line.kind:
            fault: dict[str, int | str] = {"line": number, "offset": offset, "kind": line.kind}
            if line.original:
                fault["original_line"] = numbers[line.original]
            faults.append(fault)
        offset += len(line.data) + 1
    return faults


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.write_bytes(b"".join(to_bytes(row) + b"\n" for row in rows))


def write_dirty(folder: Path, lines: Sequence[Line]) -> None:
    """The spoiled file, without a newline at its end, and the list of its faults."""
    (folder / "tickets_dirty.jsonl").write_bytes(b"\n".join(line.data for line in lines))
    faults = ",\n".join(json.dumps(fault) for fault in list_faults(lines))
    (folder / "tickets_dirty.faults.json").write_bytes(f"[\n{faults}\n]\n".encode())


def write_all(folder: Path) -> None:
    """Every data set; one generator of chance for each, so that one can change alone."""
    seen: set[str] = set()

    def tuning(seed: int) -> Iterator[Ticket]:
        return new_tickets(Random(seed), seen, TUNING_ISSUES, TUNING_PRODUCTS)

    heldout = new_tickets(Random(2), seen, HELDOUT_ISSUES, HELDOUT_PRODUCTS)
    heldout_rows = take_rows(heldout, HELDOUT, "h")
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "tickets.jsonl", take_rows(tuning(1), TICKETS, "t"))
    write_rows(folder / "tickets_heldout.jsonl", heldout_rows)
    write_rows(folder / "general_check.jsonl", general_checks(Random(4), seen))
    write_rows(folder / "general.jsonl", general_rows(Random(3), seen))
    write_dirty(folder, plant(Random(6), take_rows(tuning(5), DIRTY, "d"), heldout_rows))
    write_rows(folder / "preferences.jsonl", preference_rows(Random(8), tuning(7)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write all sample data sets.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the data sets")
    write_all(parser.parse_args().out)


if __name__ == "__main__":
    main()
