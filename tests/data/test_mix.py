"""General data is mixed in by rows or tokens, without what gives held-out rows away."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from finetui import workspace
from finetui.data.dataset import DataSet, open_dataset
from finetui.data.mix import HeldOut, MixSpec, estimate, write_mix
from finetui.data.split import SplitSpec
from finetui.data.versions import Version, verify_version
from finetui.errors import UserError
from finetui.workspace import Workspace


def chat(prompt: str, answer: str = "ok", **extra: object) -> dict[str, object]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **extra}


def nothing(general: DataSet, held_out: HeldOut) -> Iterable[int]:
    return ()


class Desk:
    """A workspace with data sets that stay open."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.space: Workspace = workspace.create(root)
        self._stack = stack

    def open(self, name: str, rows: list[dict[str, object]]) -> DataSet:
        path = self.space.datasets / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return self._stack.enter_context(open_dataset(path, self.space))

    def mix(self, task: DataSet, general: DataSet, mix: MixSpec, **more: Any) -> Version:
        more.setdefault("contaminated", nothing)
        return write_mix([task], [general], self.space, mix, **more)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(tmp_path / "work", stack)


def rows_of(version: Version, name: str = "data") -> list[dict[str, Any]]:
    return [json.loads(line) for line in version.file(name).read_bytes().splitlines()]


def prompts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["messages"][0]["content"] for row in rows]


def test_a_share_of_rows_is_drawn_and_every_row_tells_its_source(desk: Desk) -> None:
    task = desk.open("task", [chat(f"q{n}") for n in range(40)])
    general = desk.open("general", [chat(f"g{n}", id=n) for n in range(100)])
    version = desk.mix(task, general, MixSpec(0.25))
    found = rows_of(version)
    assert [row["source"] for row in found] == ["task"] * 40 + ["general"] * 10
    assert version.manifest["counts"]["left_out"] == 90
    (taken,) = version.manifest["mix"]["general"]
    assert (taken["rows"], taken["available"], taken["path"]) == (
        10, 100, "datasets/general.jsonl",
    )  # fmt: skip
    assert verify_version(version) == []


def test_without_a_column_rows_keep_their_bytes_and_a_column_of_their_own_stays(
    desk: Desk,
) -> None:
    task = desk.open("task", [chat(f"q{n}", source="mine") for n in range(8)])
    general = desk.open("general", [chat(f"g{n}") for n in range(8)])
    version = desk.mix(task, general, MixSpec(1.0, column=""))
    both = task.path.read_bytes() + general.path.read_bytes()
    assert version.file("data").read_bytes() == both
    told = rows_of(desk.mix(task, general, MixSpec(1.0)))
    assert [row["source"] for row in told] == ["mine"] * 8 + ["general"] * 8


def test_one_seed_gives_one_draw_whatever_the_order_of_the_file(desk: Desk) -> None:
    task = desk.open("task", [chat(f"q{n}") for n in range(40)])
    rows = [chat(f"g{n}") for n in range(100)]
    one, two = desk.open("one", rows), desk.open("two", rows[::-1])

    def drawn(general: DataSet, seed: int) -> set[str]:
        return set(prompts(rows_of(desk.mix(task, general, MixSpec(0.5, seed=seed)))))

    assert drawn(one, 1) == drawn(two, 1) != drawn(one, 2)


def test_tokens_can_be_counted_instead_of_rows(desk: Desk) -> None:
    task = desk.open("task", [chat("q " * 50 + str(n), "a") for n in range(30)])
    general = desk.open("general", [chat(f"g{n}", "word " * (n % 7)) for n in range(500)])
    version = desk.mix(task, general, MixSpec(0.2, by="tokens"))
    (taken,) = version.manifest["mix"]["general"]
    own = sum(estimate(task.record(row)) for row in range(30))
    assert abs(taken["tokens"] - 0.2 * own) <= 5 and taken["exact"] is False
    exact = desk.mix(task, general, MixSpec(0.2, by="tokens"), measure=lambda record: 10)
    (taken,) = exact.manifest["mix"]["general"]
    assert (taken["rows"], taken["tokens"], taken["exact"]) == (6, 60, True)


def test_what_gives_held_out_rows_away_is_left_out_first(desk: Desk) -> None:
    """The real search, in its own process: an equal prompt, and a near one."""
    texts = [
        f"the {n} quick brown fox jumps over the lazy dog number {n * 7919}" for n in range(60)
    ]
    task = desk.open("task", [chat(text) for text in texts])
    leaky = [*texts[:30], *(text.upper() + " please" for text in texts[30:])]
    clean = [f"wholly different matters, such as the price of tea {n}" for n in range(20)]
    general = desk.open("general", [chat(text) for text in [*leaky, *clean]])
    version = desk.mix(task, general, MixSpec(4.0), split=SplitSpec((0.5, 0.5)), contaminated=None)
    test = {text.lower() for text in prompts(rows_of(version, "test"))}
    trained = [text.lower() for text in prompts(rows_of(version, "train"))]
    assert len(test) == 30
    assert not any(text.removesuffix(" please") in test for text in trained)
    (taken,) = version.manifest["mix"]["general"]
    assert taken["contaminated"] == 30 and taken["rows"] == 50
    assert version.manifest["mix"]["held_out"] == ["datasets/task.jsonl"]


def test_a_file_can_be_held_out_beside_the_split(desk: Desk) -> None:
    task = desk.open("task", [chat(f"q{n}") for n in range(20)])
    held = desk.open("held", [chat("never seen")])
    general = desk.open("general", [chat(f"g{n}") for n in range(20)])
    seen: list[Any] = []

    def contaminated(own: DataSet, held_out: HeldOut) -> Iterable[int]:
        seen.extend(held_out)
        return range(15)

    version = desk.mix(
        task, general, MixSpec(1.0), held_out=[held], split=SplitSpec(), contaminated=contaminated
    )
    assert seen[0] is held and seen[1][0] is task and len(seen[1][1]) == 4
    assert sorted(prompts(rows_of(version, "train")))[:5] == ["g15", "g16", "g17", "g18", "g19"]


def test_short_rows_come_first_where_asked(desk: Desk) -> None:
    task = desk.open("task", [chat("q" * (n * 7 % 40)) for n in range(40)])
    general = desk.open("general", [chat("g" * (n * 3 % 40)) for n in range(40)])
    version = desk.mix(task, general, MixSpec(1.0, order="short-to-long", column=""))
    lengths = [len(line) for line in version.file("data").read_bytes().splitlines()]
    assert lengths == sorted(lengths) and len(lengths) == 80
    assert version.manifest["outputs"][0]["rows"] == 80 and verify_version(version) == []
    as_is = desk.mix(task, general, MixSpec(1.0, column=""))
    shuffled = desk.mix(task, general, MixSpec(1.0, order="shuffled", column=""))
    assert prompts(rows_of(shuffled)) != prompts(rows_of(as_is))
    assert sorted(prompts(rows_of(shuffled))) == sorted(prompts(rows_of(as_is)))


def test_general_rows_of_another_shape_are_converted(desk: Desk) -> None:
    task = desk.open("task", [chat(f"q{n}") for n in range(20)])
    general = desk.open(
        "general", [{"instruction": f"i{n}", "input": "", "output": f"o{n}"} for n in range(20)]
    )
    version = desk.mix(task, general, MixSpec(1.0))
    mixed = [row for row in rows_of(version) if row["source"] == "general"]
    assert len(mixed) == 20
    assert sorted(row["messages"][-1]["content"] for row in mixed) == sorted(
        f"o{n}" for n in range(20)
    )
    converted = version.manifest["mix"]["general"][0]["converted"]
    assert (converted["from"], converted["to"], converted["impossible"]) == ("alpaca", "chat", 0)


@pytest.mark.parametrize(
    ("mix", "what"),
    [
        (MixSpec(0), "not a share"),
        (MixSpec(by="bytes"), "cannot be counted"),  # type: ignore[arg-type]
        (MixSpec(order="up"), "not an order"),
    ],
)
def test_nonsense_is_refused(desk: Desk, mix: MixSpec, what: str) -> None:
    task = desk.open("task", [chat(f"q{n}") for n in range(4)])
    with pytest.raises(UserError, match=what):
        desk.mix(task, task, mix)


def test_nothing_to_mix_in_is_said(desk: Desk) -> None:
    task = desk.open("task", [chat(f"q{n}") for n in range(4)])
    general = desk.open("general", [chat("g")])
    with pytest.raises(UserError, match="no general row can be mixed in"):
        desk.mix(task, general, MixSpec(), contaminated=lambda own, held_out: [0])
