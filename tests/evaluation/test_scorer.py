"""A user's own scorer in its own process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetui.errors import UserError
from finetui.evaluation.record import Answer, Item
from finetui.evaluation.scorer import Scorer, Verdict

CODE = """
import html, os, subprocess, sys, time

def score(answer, reference, prompt, row):
    print("noise on stdout", answer)
    if answer == "loop":
        while True: pass
    if answer == "sleep with a child":
        child = subprocess.Popen(["sleep", "60"])
        open(reference, "w").write(str(child.pid))
        time.sleep(60)
    if answer == "exit": os._exit(7)
    if answer == "raise": raise ValueError("not today")
    if answer == "eat": return sys.stdin.read() == ""
    if answer == "memory": bytearray(1 << 40)
    if answer == "nothing": return None
    if answer == "nan": return float("nan")
    if answer == "list": return [1]
    if answer == "words": return "too rude"
    if answer == "number": return 0.25
    if answer == "several": return {"polite": True, "length": 12, "tone": "cold"}
    if answer == "row": return row["id"] == "d:1" and prompt[0]["role"] == "user"
    return answer == reference and hasattr(html, "escape")
"""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Verdict]:
    (tmp_path / "mine.py").write_text(CODE)

    def asked(*answers: str, reference: str = "yes", seconds: float = 0.5) -> Verdict:
        item = Item("d:1", [{"role": "user", "content": "?"}], reference)
        with Scorer(tmp_path, "mine.py::score", seconds) as scorer:
            return [scorer.score(item, Answer("d:1", answer)) for answer in answers][-1]

    return asked


def test_bools_numbers_words_and_dicts_are_understood(ask: Callable[..., Verdict]) -> None:
    assert ask("yes") == Verdict({"": True})
    assert ask("no").values == {"": False}
    assert ask("number").values == {"": 0.25}
    assert ask("nothing") == Verdict({})
    assert ask("words") == Verdict({"": False}, "too rude")
    found = ask("several")
    assert found.values == {"polite": True, "length": 12.0, "tone": False}
    assert found.fault == "tone: cold"
    assert ask("row").values == {"": True}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("loop", "longer than 0.5 s"),
        ("exit", "exit status 7"),
        ("raise", "ValueError: not today"),
        ("memory", "out of memory"),
        ("nan", "returned nan"),
        ("list", "returned a list"),
    ],
)
def test_a_scorer_that_fails_costs_one_row(
    answer: str, said: str, ask: Callable[..., Verdict]
) -> None:
    verdict = ask(answer)
    assert verdict.failed and said in verdict.fault
    assert ask(answer, "yes") == Verdict({"": True})


def test_the_questions_cannot_be_eaten(ask: Callable[..., Verdict]) -> None:
    assert ask("eat", "yes") == Verdict({"": True})


def test_what_it_started_ends_with_it(ask: Callable[..., Verdict], tmp_path: Path) -> None:
    note = tmp_path / "pid"
    assert ask("sleep with a child", reference=str(note)).failed
    pid = int(note.read_text())
    deadline = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")


def test_what_it_prints_goes_to_the_log(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    log = tmp_path / "scorer.log"
    with Scorer(tmp_path, "mine.py::score", log=log) as scorer:
        scorer.score(Item("d:1", []), Answer("d:1", "hello"))
    assert "noise on stdout hello" in log.read_text()


def test_a_scorer_that_always_fails_stops_the_work(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(**_):\n    return 1 / 0\n")
    with Scorer(tmp_path, "mine.py") as scorer, pytest.raises(UserError, match="20 rows in a row"):
        for _ in range(20):
            scorer.score(Item("d:1", []), Answer("d:1", "x"))


@pytest.mark.parametrize(
    ("code", "named", "said"),
    [
        ("", "absent.py::score", "no such scorer"),
        ("", "mine.txt::score", "no such scorer"),
        ("x = 1", "mine.py::score", "has no function score"),
        ("import nothing_of_that_name", "mine.py::score", "ModuleNotFoundError"),
        ("def score(:", "mine.py::score", "SyntaxError"),
        ("import sys; sys.exit(3)", "mine.py::score", "SystemExit"),
    ],
)
def test_a_scorer_that_cannot_be_loaded_says_why(
    code: str, named: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "mine.txt").write_text(code)
    with pytest.raises(UserError, match=said), Scorer(tmp_path, named):
        pass


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(**_): return True\n")
    first = Scorer(tmp_path, "mine.py").sha256
    (tmp_path / "mine.py").write_text("def score(**_): return False\n")
    assert Scorer(tmp_path, "mine.py").sha256 != first
