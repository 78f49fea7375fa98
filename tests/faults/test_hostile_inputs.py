"""Broken and hostile files of every kind: an answer or a clear error each, and nothing else.

`hostile_families` has the workspace and what reads it, `hostile_bench` the damage and the verdict:
no traceback, no unforeseen error, no byte that a terminal obeys, no error without words.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from unittest import mock

import pytest
from hostile_bench import ALL, Bench, Tally, damage, intrusions, judged_error
from hostile_families import SHARES, Place, families

FEW = 50  # a share of 10,000 divided by this


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with mock.patch.dict(os.environ):
        place = Place(tmp_path / "place")
        try:
            yield Bench(place.root, families(place))
        finally:
            place.close()


def told(tally: Tally) -> str:
    return "\n".join(str(fault) for fault in tally.faults[:5])


def test_a_few_broken_files_of_every_kind_get_a_clear_answer(bench: Bench) -> None:
    tally = Tally()
    for name, share in SHARES.items():
        for seed in range(max(4, share // FEW)):
            bench.try_one(name, seed, tally)
    assert not tally.faults, told(tally)
    assert tally.inputs > 200
    assert tally.refused > tally.inputs // 4, "the damage is no damage"


@pytest.mark.figures
@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_broken_files_get_a_clear_answer(bench: Bench, part: int) -> None:
    started, tally = time.monotonic(), Tally()
    for name in list(SHARES)[part::4]:
        for seed in range(SHARES[name]):
            bench.try_one(name, 100_000 + seed, tally)
    seconds = time.monotonic() - started
    figures = f"{tally.inputs:,} inputs, {tally.refused:,} refused with a clear error"
    figures += f", {len(tally.faults)} faults, {seconds:.0f} s"
    print(f"\nhostile inputs, part {part + 1} of 4: {figures}")
    assert not tally.faults, told(tally)


def test_ten_thousand_it_is() -> None:
    assert sum(SHARES.values()) == 10_000


def test_damage_is_the_same_for_the_same_seed_and_mostly_damage() -> None:
    clean = b'{"a": [1, 2, {"b": "text"}], "c": null}'
    made = [damage(Random(seed), Path("x.json"), clean) for seed in range(200)]
    assert made == [damage(Random(seed), Path("x.json"), clean) for seed in range(200)]
    assert sum(one == clean for one in made) < 10
    assert None in made, "a folder in the place of a file"


def test_the_verdict_sees_what_it_is_for() -> None:
    assert intrusions("fine ⟨U+202E⟩\n\ttext ␛[0m") == ""
    assert all(intrusions(f"text {char}") for char in ALL)
    assert judged_error("") and judged_error("x" * 5000) and judged_error("<class 'int'>")
    assert judged_error("a.json: is not valid JSON.") == ""
