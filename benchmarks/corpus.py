"""A seeded chat corpus with planted faults, and the truth about every line, for the benchmarks.

    python benchmarks/corpus.py OUT.jsonl [--rows 1000000] [--seed 7]

1,000,000 rows are about 1.15 GB. Beside OUT.jsonl come OUT.heldout.jsonl (2,000 rows, a tenth of
them leaked into OUT) and OUT.truth.json:

    rows, lines, bytes, seed
    planted   check id -> physical lines (1-based) where that fault was planted
    near      [line, line of the original, way of editing, Jaccard of word 3-grams]

The words are invented and Zipf-distributed. That is optimistic about accidental likeness and
pessimistic about the caches of tokenizers; real text lies between.
"""

from __future__ import annotations

import argparse
import json
import sys
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

Row = dict[str, Any]

_SYSTEMS = (
    "You sort support tickets by urgency. Answer with JSON only: urgency, queue and reply.",
    "You help the support team of a hosting company. Answer with JSON: urgency, queue and reply.",
    "Read the ticket, then answer with one JSON object that has urgency, queue and reply.",
)
_URGENCIES = ("low", "normal", "high", "critical")
_QUEUES = ("billing", "access", "network", "hardware", "other")
_ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "qu",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ou"]
_ENDS = ["", "", "n", "r", "s", "t", "l", "m", "nd", "st", "ck"]
_ZH = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经"
_RU = [
    "пр",
    "ст",
    "но",
    "ва",
    "ка",
    "то",
    "ра",
    "ли",
    "не",
    "ко",
    "ла",
    "ре",
    "ни",
    "го",
    "во",
    "да",
    "ме",
    "ти",
    "по",
    "за",
    "сто",
    "тер",
    "вод",
    "мир",
    "лен",
]
_RECENT = 4000  # rows that copies are made of


class Words:
    """Texts of invented words; the k-th word is drawn about 1/k as often as the first."""

    def __init__(self, rng: Random, count: int = 20_000) -> None:
        self.rng = rng
        made: dict[str, None] = {}
        while len(made) < count:
            syllables = rng.choices((1, 2, 3, 4), (20, 45, 25, 10))[0]
            parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
            made["".join(parts) + rng.choice(_ENDS)] = None
        self.words = list(made)
        self.weights = list(accumulate(1 / (rank + 2.7) for rank in range(count)))

    def draw(self, count: int) -> list[str]:
        return self.rng.choices(self.words, cum_weights=self.weights, k=count)

    def text(self, count: int) -> str:
        """``count`` words in sentences of 6 to 18 words."""
        drawn, sentences, place = self.draw(count), [], 0
        while place < count:
            size = 6 + int(self.rng.random() * 13)
            words = drawn[place : place + size]
            words[0] = words[0].capitalize()
            sentences.append(" ".join(words))
            place += size
        return ". ".join(sentences) + "."

    def chinese(self, count: int) -> str:
        characters = self.rng.choices(_ZH, k=count)
        return "，".join("".join(characters[k : k + 9]) for k in range(0, count, 9)) + "。"

    def russian(self, count: int) -> str:
        syllables = self.rng.choices(_RU, k=3 * count)
        words = ("".join(syllables[k : k + 3]) for k in range(0, 3 * count, 3))
        return " ".join(words).capitalize() + "."


@dataclass
class Truth:
    """What was planted where."""

    planted: dict[str, list[int]] = field(default_factory=dict)
    near: list[tuple[int, int, str, float]] = field(default_factory=list)

    def note(self, check: str, line: int) -> None:
        self.planted.setdefault(check, []).append(line)


# ---------------------------------------------------------------- clean rows


def clean_row(words: Words, number: int) -> Row:
    """A chat of one to three exchanges, every answer a JSON object of one form."""
    rng = words.rng
    write = _language(words)
    turns = [{"role": "system", "content": _SYSTEMS[number % len(_SYSTEMS)]}]
    for _ in range(rng.choices((1, 2, 3), (70, 20, 10))[0]):
        turns.append({"role": "user", "content": write(rng.randint(12, 60))})
        turns.append({"role": "assistant", "content": _answer(rng, write(rng.randint(12, 68)))})
    row: Row = {"messages": turns}
    if number % 3 == 0:
        row["source"] = f"desk-{number % 17}"
    return row


def _language(words: Words) -> Callable[[int], str]:
    place = words.rng.random()
    if place < 0.03:
        return words.chinese
    return words.russian if place < 0.05 else words.text


def _answer(rng: Random, reply: str) -> str:
    answer = {"urgency": rng.choice(_URGENCIES), "queue": rng.choice(_QUEUES), "reply": reply}
    return json.dumps(answer, ensure_ascii=False)


def _reply(row: Row) -> str:
    return str(json.loads(row["messages"][-1]["content"])["reply"])


def _with_reply(row: Row, reply: str) -> None:
    answer = json.loads(row["messages"][-1]["content"])
    answer["reply"] = reply
    row["messages"][-1]["content"] = json.dumps(answer, ensure_ascii=False)


# ---------------------------------------------------------------- faults in a row


def _insert(rng: Random, text: str, piece: str) -> str:
    """``piece`` between two words of ``text``."""
    words = text.split(" ")
    words.insert(rng.randint(1, max(1, len(words) - 1)), piece)
    return " ".join(words)


def _in_user(make: Callable[[Random], str]) -> Callable[[Random, Row], None]:
    def plant(rng: Random, row: Row) -> None:
        turn = row["messages"][1]
        turn["content"] = _insert(rng, turn["content"], make(rng))

    return plant


def _in_reply(make: Callable[[Random], str]) -> Callable[[Random, Row], None]:
    def plant(rng: Random, row: Row) -> None:
        _with_reply(row, _insert(rng, _reply(row), make(rng)))

    return plant


def _as_answer(make: Callable[[Random], str]) -> Callable[[Random, Row], None]:
    def plant(rng: Random, row: Row) -> None:
        row["messages"][-1]["content"] = make(rng)

    return plant


def _email(rng: Random) -> str:
    return f"{_letters(rng, 6)}.{_letters(rng, 8)}@{_letters(rng, 7)}.example.org"


def _phone(rng: Random) -> str:
    return f"+1 {rng.randint(201, 989)} 555 {rng.randint(1000, 9999)}"


def _card(rng: Random) -> str:
    digits = [4, *(rng.randrange(10) for _ in range(14))]
    doubled = (2 * d - 9 * (d > 4) for d in digits[::-2])
    check = -(sum(digits[-2::-2]) + sum(doubled)) % 10
    text = "".join(map(str, (*digits, check)))
    return " ".join(text[k : k + 4] for k in range(0, 16, 4))


def _secret(rng: Random) -> str:
    upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    kinds = (
        lambda: "AKIA" + "".join(rng.choices(upper, k=16)),
        lambda: "ghp_" + _mixed(rng, 36),
        lambda: "hf_" + _mixed(rng, 34),
        lambda: f"password: {_mixed(rng, 20)}9x",
    )
    return rng.choice(kinds)()


def _iban(rng: Random) -> str:
    account = "".join(str(rng.randrange(10)) for _ in range(18))
    check = 98 - int(account + "131400") % 97  # DE00 moved to the end, letters as numbers
    return f"DE{check:02d}{account}"


def _ip(rng: Random) -> str:
    return (
        f"{rng.randint(11, 99)}.{rng.randint(1, 254)}.{rng.randint(1, 254)}.{rng.randint(1, 254)}"
    )


def _letters(rng: Random, count: int) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=count))


def _mixed(rng: Random, count: int) -> str:
    characters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(rng.choices(characters, k=count))


def _empty_turn(rng: Random, row: Row) -> None:
    row["messages"][rng.choice((1, -1))]["content"] = rng.choice(("", " ", "\n\n", "\u200b"))


def _disorder(rng: Random, row: Row) -> None:
    turns = row["messages"]
    turns.append({"role": "user", "content": turns[1]["content"] + " And?"})


def _unknown_role(rng: Random, row: Row) -> None:
    row["messages"][1]["role"] = rng.choice(("User", "customer", "human "))


def _wrong_type(rng: Random, row: Row) -> None:
    row["messages"][-1]["content"] = rng.choice((None, 7, True))


def _missing_key(rng: Random, row: Row) -> None:
    del row["messages"][-1]["content"]


def _no_assistant(rng: Random, row: Row) -> None:
    row["messages"] = row["messages"][:2]


FAULTS: dict[str, tuple[float, Callable[[Random, Row], None]]] = {
    "empty-turn": (0.001, _empty_turn),
    "role-order": (0.001, _disorder),
    "unknown-role": (0.0005, _unknown_role),
    "wrong-type": (0.0005, _wrong_type),
    "missing-keys": (0.0005, _missing_key),
    "no-assistant": (0.0005, _no_assistant),
    "mojibake": (0.002, _in_reply(lambda rng: rng.choice(("itâ€™s", "cafÃ©", "fÃ¼r")))),
    "control-characters": (0.001, _in_user(lambda rng: f"x{rng.choice(chr(27) + chr(0x200B))}y")),
    "template-token": (0.001, _in_user(lambda rng: rng.choice(("<|im_end|>", "[/INST]", "</s>")))),
    "placeholder": (0.001, _as_answer(lambda rng: rng.choice(("N/A", "TODO", "[insert reply]")))),
    "refusal": (0.003, _as_answer(lambda rng: "I'm sorry, but I cannot help with that.")),
    "output-shape": (0.005, _as_answer(lambda rng: f"It is {rng.choice(_URGENCIES)}, I think.")),
    "email": (0.003, _in_user(_email)),
    "phone": (0.002, _in_user(_phone)),
    "card": (0.001, _in_reply(_card)),
    "secret": (0.001, _in_user(_secret)),
    "iban": (0.0005, _in_user(_iban)),
    "ip-address": (0.0005, _in_user(_ip)),
}


# ---------------------------------------------------------------- faults in a line


def _doubled(rng: Random, line: bytes) -> bytes:
    return line.replace(b'"role": "user"', b'"role": "system", "role": "user"', 1)


def _unescaped(rng: Random, line: bytes) -> bytes:
    return line.replace(b"\\", b"", 1)


_BROKEN: tuple[tuple[str, Callable[[Random, bytes], bytes]], ...] = (
    ("malformed-json", lambda rng, line: line[: rng.randint(20, len(line) - 1)]),
    ("malformed-json", lambda rng, line: line[:-1] + b",}"),
    ("malformed-json", lambda rng, line: line.replace(b'"messages"', b"'messages'")),
    ("not-a-number", lambda rng, line: line[:-1] + b', "score": NaN}'),
    ("malformed-json", lambda rng, line: line + line),
    ("malformed-json", _unescaped),
    ("malformed-json", lambda rng, line: line[:-1]),
    ("malformed-json", lambda rng, line: line[:60] + b"\x07" + line[60:]),
    ("lone-surrogate", lambda rng, line: line[:-1] + b', "note": "\\ud83d"}'),
    ("invalid-utf8", lambda rng, line: line[:-1] + b', "note": "caf\xe9"}'),
    ("duplicate-keys", _doubled),
)


# ---------------------------------------------------------------- near copies


def _shout(words: Words, text: str) -> str:
    return text.upper() if words.rng.random() < 0.5 else text.title()


def _respace(words: Words, text: str) -> str:
    return text.replace(". ", ".  ").replace(",", " ,") + " "


def _swap(share: float) -> Callable[[Words, str], str]:
    def edit(words: Words, text: str) -> str:
        parts = text.split(" ")
        count = max(1, round(share * len(parts)))
        for place, word in zip(
            words.rng.sample(range(len(parts)), count), words.draw(count), strict=False
        ):
            parts[place] = word
        return " ".join(parts)

    return edit


def _drop_end(words: Words, text: str) -> str:
    return text[: max(12, int(0.85 * len(text)))].rsplit(" ", 1)[0] + "."


def _append(words: Words, text: str) -> str:
    return f"{text} {words.text(5)}"


def _open(words: Words, text: str) -> str:
    return f"{words.text(4)} {text}"


_EDITS: dict[str, Callable[[Words, str], str]] = {
    "case": _shout, "spacing": _respace, "words 3 %": _swap(0.03), "words 10 %": _swap(0.10),
    "cut": _drop_end, "appended": _append, "prefixed": _open,
}  # fmt: skip


def near_copy(words: Words, original: Row) -> tuple[str, Row]:
    """A row with all its user and answer texts edited in one way."""
    way = words.rng.choice(list(_EDITS))
    edit, copy = _EDITS[way], json.loads(json.dumps(original))
    for turn in copy["messages"]:
        if turn["role"] == "user":
            turn["content"] = edit(words, turn["content"])
    _with_reply(copy, edit(words, _reply(copy)))
    return way, copy


def jaccard(left: Row, right: Row) -> float:
    """Likeness of two rows by the 3-grams of their words, system turns left out."""
    one, other = _grams(left), _grams(right)
    return len(one & other) / max(1, len(one | other))


def _grams(row: Row) -> set[tuple[str, ...]]:
    text = " ".join(turn["content"] for turn in row["messages"] if turn["role"] != "system")
    parts = text.lower().split()
    return set(zip(parts, parts[1:], parts[2:], strict=False))


# ---------------------------------------------------------------- the files


class Corpus:
    """Lines of the training file, one after the other, and the truth about them."""

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.rng = Random(seed)
        self.words = Words(self.rng)
        self.truth = Truth()
        self.line = 0
        self._recent: list[tuple[int, Row, bytes]] = []
        self._names = list(FAULTS)
        self._bounds = list(accumulate(FAULTS[name][0] for name in self._names))
        held = Random(seed + 1)
        other = Words(held, 5000)
        self.heldout = [clean_row(other, 7 * k) for k in range(min(2000, rows // 10))]
        self._leaks = iter(self.heldout[::10])
        self._leak_every = max(1, rows // max(1, len(self.heldout) // 10))

    def lines(self) -> Iterator[bytes]:
        for number in range(self.rows):
            if self.rng.random() < 0.0005:
                yield self._told("blank-line", b"")
            yield self._line(number)

    def _line(self, number: int) -> bytes:
        if number % self._leak_every == self._leak_every - 1:
            leaked = next(self._leaks, None)
            if leaked is not None:
                return self._told("leak", self._write(leaked))
        place = self.rng.random()
        if place < 0.06 and self._recent:
            return self._copy(place)
        if place < 0.0655:
            check, spoil = self.rng.choice(_BROKEN)
            line = self._write(clean_row(self.words, number), plain=True)
            return self._told(check, spoil(self.rng, line))
        if place < 0.0655 + self._bounds[-1]:
            name = self._names[bisect(self._bounds, place - 0.0655)]
            row = clean_row(self.words, number)
            FAULTS[name][1](self.rng, row)
            return self._told(name, self._write(row))
        return self._clean(clean_row(self.words, number))

    def _clean(self, row: Row) -> bytes:
        line = self._write(row)
        self.line += 1
        kept = (self.line, row, line)
        if len(self._recent) < _RECENT:
            self._recent.append(kept)
        elif self.rng.random() < 0.05:
            self._recent[self.rng.randrange(_RECENT)] = kept
        return line

    def _copy(self, place: float) -> bytes:
        line, row, raw = self.rng.choice(self._recent)
        if place < 0.01:
            return self._told("duplicate", raw)
        if place < 0.02:
            again = dict(reversed(row.items()))
            return self._told("duplicate", json.dumps(again, separators=(",", ":")).encode())
        if place < 0.05:
            way, copy = near_copy(self.words, row)
            found = self._told("near-duplicate", self._write(copy))
            likeness = round(jaccard(row, copy), 3)
            self.truth.near.append((self.line, line, way, likeness))
            return found
        if place < 0.053:
            other = json.loads(json.dumps(row))
            other["messages"][-1]["content"] = _answer(self.rng, self.words.text(20))
            return self._told("conflicting-answers", self._write(other))
        return self._clean(clean_row(self.words, line))

    def _told(self, check: str, line: bytes) -> bytes:
        self.line += 1
        self.truth.note(check, self.line)
        return line

    def _write(self, row: Row, plain: bool = False) -> bytes:
        ascii_only = not plain and self.rng.random() < 0.1
        return json.dumps(row, ensure_ascii=ascii_only).encode()


def build(path: Path, rows: int, seed: int = 7) -> dict[str, Any]:
    """Write the three files; returns what stands in the truth file."""
    corpus = Corpus(rows, seed)
    with path.open("wb") as file:
        file.writelines(line + b"\n" for line in corpus.lines())
    with path.with_suffix(".heldout.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in corpus.heldout)
    truth = {
        "rows": rows, "lines": corpus.line, "bytes": path.stat().st_size, "seed": seed,
        "planted": corpus.truth.planted, "near": corpus.truth.near,
    }  # fmt: skip
    path.with_suffix(".truth.json").write_text(json.dumps(truth))
    return truth


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    truth = build(options.out, options.rows, options.seed)
    counts = {check: len(lines) for check, lines in truth["planted"].items()}
    print(f"{truth['rows']:,} rows, {truth['lines']:,} lines, {truth['bytes'] / 1e6:,.0f} MB")
    print(json.dumps(counts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
