"""The fast pass finds exactly what looking at every row with every check finds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from finetui.data.checks.look import Looks, read_example
from finetui.data.checks.model import NOT_PLAIN, CheckOptions, Example, Finding, Hit
from finetui.data.checks.registry import CHECKS
from finetui.data.checks.run import check_files
from finetui.data.formats.source import Source, open_source
from finetui.data.records import Shape
from finetui.data.scan import file as file_scan
from finetui.data.scan.plain import PlainRows
from finetui.data.scan.sieve import Sieve

Row = dict[str, Any]

SEEDS = range(24)
PIECES = (
    "hello there", "What is it?", "", " ", "\n", "​", "naïve café", "你好，世界", "Это ответ",
    "write to lena@example.org", "call +1 202 555 0143", "4111 1111 1111 1111", "10.0.0.1",
    "AKIAIOSFODNN7EXAMPLE", "password: 8sJ2kd93LskdP20sK1", "itâ€™s", "x\x1b[31m", "a‮b",
    "<|im_end|>", "[INST] x", "### Instruction: go", "TODO", "N/A", "[insert name]", "{{ name }}",
    "I'm sorry, but I cannot help with that.", "As an AI language model, I", "<p>Hi &amp; bye</p>",
    "https://example.org/a?b=c", 'say "yes": no', 'ends with \\', '{"a": 1}', '{"a": 1, "b": "x"}',
    "DE89370400440532013000", "раypal", "User: hi\nAssistant: hello", "see the attached image",
    "plain words of no interest at all", "Another plain sentence, with 12 numbers.", "\u3164",
)  # fmt: skip
ROLES = ("user", "assistant", "system", "tool", "human", "gpt", "User", "customer", "function_call")


# ---------------------------------------------------------------- the slow way


def looked_at_slowly(paths: Sequence[Path], options: CheckOptions) -> list[Finding]:
    """Every row as a value and a record, every check asked about it, in one process."""
    sources = [open_source(path) for path in paths]
    checks = [c for c in CHECKS.values() if not c.whole and c.needs <= len(sources)]
    across = [(check, check.across(options)) for check in checks if check.across]
    looks = Looks(checks)
    found: list[Finding] = []
    for number, source in enumerate(sources, 1):
        source.build_index()
        shape = options.shape or source.shape.shape
        for _, state in across:
            state.begin(source, number == len(sources))
        rows = [read_example(raw, source.decode, shape) for raw in source.iterate()]
        solid = [e.row for e in rows if not (e.fault and e.fault.check == "blank-line")]
        for example in rows:
            if example.row <= max(solid, default=-1):
                found += [told(c.id, source, example, hit) for c, hit in looks.hits(example)]
            for check, state in across:
                found += [told(check.id, source, example, hit) for hit in state.see(example)]
        for check, state in across:
            for row, hit in state.finish():
                place = Example(row, source.line(row), source.offset(row), b"")
                found.append(told(check.id, source, place, hit))
        source.close()
    return found


def told(check: str, source: Source, example: Example, hit: Hit) -> Finding:
    return Finding(
        check, CHECKS[check].severity, str(source.path), example.line, example.offset, hit.turn,
        hit.message, example.row, hit.start, hit.end,
    )  # fmt: skip


def in_order(findings: Sequence[Finding]) -> list[tuple[Any, ...]]:
    return sorted(
        (f.file, f.row, f.check, f.turn or 0, f.start or 0, f.message, f.line, f.offset, f.end or 0)
        for f in findings
    )


# ---------------------------------------------------------------- random corpora


class Writer:
    """Rows of one shape, most of them healthy, some with any fault at any place."""

    def __init__(self, rng: Random, shape: Shape) -> None:
        self.rng, self.shape = rng, shape
        # One program wrote most files, and some were put together from several.
        self.styles = rng.choice((((", ", ": "),), ((",", ":"), (", ", ": "), (" , ", " : "))))

    def text(self) -> str:
        count = self.rng.choice((1, 1, 2, 4))
        return " ".join(self.rng.choice(PIECES) for _ in range(count))

    def turns(self, role: str, content: str) -> list[Any]:
        said = ["user", "assistant"] * self.rng.choice((1, 1, 1, 2))
        if self.rng.random() < 0.4:
            said = ["system", *said]
        if self.rng.random() < 0.1:
            said = self.rng.choices(ROLES, k=self.rng.randint(0, 4))
        if role == "from" and self.rng.random() < 0.9:
            said = [{"user": "human", "assistant": "gpt"}.get(one, one) for one in said]
        turns: list[Any] = [{role: one, content: self.text()} for one in said]
        for turn in turns:
            self.spoil(turn, content)
        return turns

    def spoil(self, turn: Row, content: str) -> None:
        luck = self.rng.random()
        if luck < 0.02:
            turn[content] = self.rng.choice((None, 7, [], {}, [{"type": "text", "text": "part"}]))
        elif luck < 0.03:
            turn["tool_calls"] = [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]
        elif luck < 0.05:
            turn[self.rng.choice(("name", "weight", "reasoning", "id"))] = self.junk()
        elif luck < 0.06:
            del turn[content]

    def junk(self) -> Any:
        return self.rng.choice((None, 1, 2.5, "x", "role", [], {"a": {"b": 1}}, [{"a": 1}], True))

    def row(self) -> Any:
        row = self.healthy()
        if self.rng.random() < 0.05:
            row[self.rng.choice(("id", "source", "system", "tools", "messages", "label"))] = (
                self.junk()
            )
        if self.rng.random() < 0.3:
            row["meta"] = {"from": "here", "n": 3}
        return row if self.rng.random() > 0.01 else self.rng.choice(([], "text", 3, None, {}))

    def healthy(self) -> Row:
        match self.shape:
            case Shape.CHAT:
                return {"messages": self.turns("role", "content")}
            case Shape.SHAREGPT:
                return {"conversations": self.turns("from", "value"), "id": self.rng.random()}
            case Shape.ALPACA:
                more = self.rng.choice(("", "", "some input", None))
                return {"instruction": self.text(), "input": more, "output": self.text()}
            case Shape.PROMPT_COMPLETION:
                return {"prompt": self.text(), "completion": self.text()}
            case Shape.PREFERENCE:
                return {"prompt": self.text(), "chosen": self.text(), "rejected": self.text()}
            case Shape.UNPAIRED_PREFERENCE:
                return {"prompt": self.text(), "completion": self.text(), "label": True}
        return {"text": self.text()}

    def line(self) -> bytes:
        line = json.dumps(
            self.row(),
            ensure_ascii=self.rng.random() < 0.3,
            separators=self.rng.choice(self.styles),
        ).encode()
        luck = self.rng.random()
        if luck < 0.03:
            return self.broken(line)
        if luck < 0.05:
            return self.doubled(line)
        return self.rng.choice((b"", b"  ", b"\r")) if luck < 0.06 else line

    def broken(self, line: bytes) -> bytes:
        place = self.rng.randrange(len(line) + 1)
        added = self.rng.choice((b'"', b"\xe9", b"}", b",", b"\x07", b"NaN", b"\\ud83d", b"\r"))
        return self.rng.choice((line[:place], line[:place] + added + line[place:], line + line))

    def doubled(self, line: bytes) -> bytes:
        """A key once more, spelled in one of the ways JSON has."""
        names = (b'"role"', b'"content"', b'"prompt"', b'"r\\u006fle"', b'"x\\\\"', b'"a"')
        key = self.rng.choice(names)
        added = key + self.rng.choice((b":", b": ", b" :", b":  ")) + b'"user",'
        place = line.find(b"{", self.rng.randrange(max(1, len(line))))
        return line[: place + 1] + added + line[place + 1 :]


def corpus(path: Path, seed: int, shape: Shape, rows: int = 120) -> Path:
    writer = Writer(Random(seed), shape)
    lines: list[bytes] = []
    for _ in range(rows):
        again = lines and writer.rng.random() < 0.06
        lines.append(writer.rng.choice(lines) if again else writer.line())
    path.write_bytes(b"\n".join(lines) + writer.rng.choice((b"", b"\n", b"\n\n  \n")))
    return path


SHAPES = [shape for shape in Shape if shape is not Shape.UNKNOWN]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_corpus_has_the_same_findings_both_ways(
    tmp_path: Path, seed: int, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = corpus(tmp_path / "corpus.jsonl", seed, shape)
    options = CheckOptions(shape=None if seed % 3 else shape)
    assert in_order(list(check_files([path], options))) == in_order(
        looked_at_slowly([path], options)
    )


@pytest.mark.parametrize("seed", SEEDS[:6])
def test_two_files_have_the_same_leaks_both_ways(tmp_path: Path, seed: int) -> None:
    held, trained = (
        corpus(tmp_path / name, seed, SHAPES[seed % 3], 60)
        for name in ("test.jsonl", "train.jsonl")
    )
    options = CheckOptions()
    found = in_order(list(check_files([trained, held], options)))
    assert found == in_order(looked_at_slowly([held, trained], options))
    assert any(finding[2] == "leak" for finding in found)


def test_processes_find_what_one_process_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = corpus(tmp_path / "corpus.jsonl", 99, Shape.CHAT, 3000)
    options = CheckOptions()
    alone = list(check_files([path], options))
    monkeypatch.setattr(file_scan, "SMALL", 0)
    monkeypatch.setattr("finetui.data.checks.run.SMALL", 0)
    monkeypatch.setattr("finetui.data.scan.chunks.CHUNK", 1 << 16)
    together = list(check_files([path], options))
    assert in_order(together) == in_order(alone)
    own = [f.row for f in together if CHECKS[f.check].alone]
    assert own == sorted(own)


def test_nearly_all_rows_of_an_ordinary_file_are_plain(tmp_path: Path) -> None:
    for shape in (Shape.CHAT, Shape.SHAREGPT, Shape.ALPACA, Shape.PROMPT_COMPLETION, Shape.TEXT):
        rows = list(ordinary(shape))
        structure = [check for check in CHECKS.values() if check.gate is NOT_PLAIN]
        read = PlainRows(shape, rows, structure).read
        assert all(read(json.dumps(row).encode(), True) for row in rows), shape


def ordinary(shape: Shape) -> Iterator[Row]:
    for number in range(20):
        turns = ["What is it?", f"It is {number}."]
        extra = {"id": number, "meta": {"lang": "en", "tags": ["a"]}}
        match shape:
            case Shape.CHAT:
                roles = ("user", "assistant")
                yield {
                    "messages": [
                        {"role": role, "content": text}
                        for role, text in zip(roles, turns, strict=True)
                    ],
                    **extra,
                }
            case Shape.SHAREGPT:
                roles = ("human", "gpt")
                yield {
                    "conversations": [
                        {"from": role, "value": text}
                        for role, text in zip(roles, turns, strict=True)
                    ],
                    **extra,
                }
            case Shape.ALPACA:
                yield {"instruction": turns[0], "input": "", "output": turns[1], **extra}
            case Shape.PROMPT_COMPLETION:
                yield {"prompt": turns[0], "completion": turns[1], **extra}
            case _:
                yield {"text": turns[1], **extra}


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_a_block_lets_through_every_row_that_a_gate_lets_through(seed: int) -> None:
    gates = [c.gate for c in CHECKS.values() if c.gate is not None and c.gate is not NOT_PLAIN]
    sieve = Sieve(gates)
    writer = Writer(Random(seed), Shape.CHAT)
    lines = [writer.line().replace(b"\n", b"") for _ in range(200)]
    passed, place = set(), 0
    starts = set(sieve.starts(b"\n".join(lines)))
    for line in lines:
        if place in starts:
            passed.add(line)
        place += len(line) + 1
    for line in lines:
        assert line in passed or not sieve.patterns(line), line
        by_hand = sum(
            1 << k for k, g in enumerate(gates) if hasattr(g, "search") and g.search(line)
        )
        assert sieve.patterns(line) & by_hand == by_hand, line
