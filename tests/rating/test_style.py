"""Style: what is counted, what it explains, and whether it gives the systems away."""

from __future__ import annotations

import math
import random

import pytest

from finetui.rating.guessing import FEWEST, audit
from finetui.rating.logistic import NoFit, estimate, fit
from finetui.rating.style import StyledVote, adjust, features, relative

WORDS = ("the", "of", "and", "to", "in", "is", "it", "that", "for", "on", "with", "as", "was", "at")


def test_the_properties_of_a_marked_up_answer() -> None:
    found = features("# Title\n\n- one\n- two\n1. three\n\n**bold** text, again text\n```py\n```\n")
    assert (found["headers"], found["list items"], found["bold"]) == (1, 3, 1)
    assert found["code blocks"] == 2
    assert features("one two two one")["repetition"] == pytest.approx(1 / 2)
    assert features("I'm sorry, I can't help.")["refusal"] == 1
    assert features("It rained.")["refusal"] == 0
    assert features("and then it")["open end"] == 1
    assert features("")["empty"] == 1


def test_differences_are_relative_and_antisymmetric() -> None:
    assert relative(3, 1) == pytest.approx(2 / 5)
    assert relative(1, 3) == -relative(3, 1)
    assert relative(0, 0) == 0


def test_logistic_regression_has_its_closed_form_for_one_binary_column() -> None:
    rows = [[1.0, float(x)] for x in (0, 0, 0, 0, 1, 1, 1, 1, 1)]
    found = fit(rows, [1, 0, 0, 0, 1, 1, 1, 0, 0], range(9))
    assert found.coefficients[0] == pytest.approx(math.log(1 / 3))
    assert found.coefficients[1] == pytest.approx(math.log(3 / 2) - math.log(1 / 3))


def test_clusters_of_copies_give_the_error_of_one_copy() -> None:
    draw = random.Random(3)
    rows = [[1.0, draw.gauss(0, 1)] for _ in range(80)]
    outcomes = [float(draw.random() < 0.6) for _ in rows]
    once = fit(rows, outcomes, range(80))
    thrice = fit(rows * 3, outcomes * 3, list(range(80)) * 3)
    assert thrice.coefficients == pytest.approx(once.coefficients)
    assert thrice.error(0) == pytest.approx(once.error(0))


def test_separated_outcomes_have_no_estimate_without_a_ridge() -> None:
    rows = [[1.0, x] for x in (-2.0, -1.0, 1.0, 2.0)]
    with pytest.raises(NoFit):
        estimate(rows, [0, 0, 1, 1])
    assert estimate(rows, [0, 0, 1, 1], [0.0, 1.0])[0][1] > 0


def styled(draw: random.Random, items: int, gap: float, pull: float) -> list[StyledVote]:
    """Votes that follow length alone: ``pull`` log odds a standard deviation of the difference."""
    votes = []
    for item in range(items):
        ours, theirs = (max(20, draw.gauss(300 + g, 80)) for g in (gap, 0))
        chance = 1 / (1 + math.exp(-pull * math.tanh((ours - theirs) / 113)))
        texts = [dict.fromkeys(features(""), 0.0) | {"length": x} for x in (ours, theirs)]
        for rater in range(3):
            left = (item + rater) % 2 == 0
            votes.append(StyledVote(item, float(draw.random() < chance), left, *texts))
    return votes


def test_a_preference_for_length_goes_away_at_equal_length() -> None:
    found = adjust(styled(random.Random(2), 250, gap=60, pull=1.5))
    raw, length = found.adjusted[0], found.adjusted[1]
    assert raw.interval.low > 0.5, "by votes the longer system is ahead"
    assert length.interval.low < 0.5 < length.interval.high
    assert found.effects[1].name == "length"
    assert found.effects[1].interval.low > 0
    assert not found.warning


def test_a_real_preference_stays_at_equal_length() -> None:
    draw = random.Random(4)
    votes = [v._replace(score=float(draw.random() < 0.7)) for v in styled(draw, 200, 30, 0)]
    found = adjust(votes)
    assert found.adjusted[-1].interval.low > 0.55
    assert found.adjusted[0].share == pytest.approx(0.7, abs=0.05)


def test_a_system_that_is_always_longer_cannot_be_told_from_its_length() -> None:
    found = adjust(styled(random.Random(2), 100, gap=600, pull=1))
    assert "cannot be told apart" in found.warning


def test_layout_that_only_one_system_uses_gives_no_adjusted_share() -> None:
    draw = random.Random(5)
    votes = [
        v._replace(
            candidate={**v.candidate, "bold": float(3 + draw.randrange(2))},
            score=float(draw.random() < 0.6),
        )
        for v in styled(draw, 100, 0, 0)
    ]
    found = adjust(votes)
    assert [one.name for one in found.adjusted] == ["raw", "length"]
    assert "cannot be told apart" in found.warning


def test_too_few_items_give_no_adjustment_but_a_reason() -> None:
    found = adjust(styled(random.Random(2), 4, 0, 0))
    assert found.adjusted == []
    assert "too few items" in found.warning
    assert adjust([]).adjusted == []


def texts(draw: random.Random, items: int, gap: int) -> dict[str, dict[str, str]]:
    return {
        f"row-{n}": {
            system: " ".join(draw.choices(WORDS, k=max(1, int(draw.gauss(60 + more, 15))))) + "."
            for system, more in (("old", 0), ("new", gap))
        }
        for n in range(items)
    }


def test_texts_of_one_kind_are_not_told_apart() -> None:
    found = audit(texts(random.Random(1), 80, 0), ("old", "new"))
    assert 0.35 < found.auc < 0.65
    assert found.level == "low"
    assert "hardly better than a coin" in found.sentence


def test_a_system_with_longer_answers_is_given_away() -> None:
    found = audit(texts(random.Random(1), 60, 45), ("old", "new"))
    assert found.auc > 0.9
    assert found.level == "high"
    assert found.cues[0].name in ("length", "words", "repetition")
    assert found.cues[0].auc > 0.9
    assert set(found.giveaways) <= set(texts(random.Random(1), 60, 45))
    assert "old" not in found.sentence.split()
    assert "new" not in found.sentence.split()


def test_swapping_the_systems_changes_nothing_but_the_direction_of_the_cues() -> None:
    pairs = texts(random.Random(7), 40, 15)
    one, other = audit(pairs, ("old", "new")), audit(pairs, ("new", "old"))
    assert one.auc == pytest.approx(other.auc)
    assert one.giveaways == other.giveaways


def test_a_first_word_gives_a_system_away() -> None:
    draw = random.Random(9)
    pairs = {
        item: {"old": sides["old"], "new": f"Certainly {sides['new']}"}
        for item, sides in texts(draw, 30, 0).items()
    }
    found = audit(pairs, ("old", "new"))
    assert found.cues[0].name == "first word 'certainly'"
    assert found.hits > 0.95


def test_too_few_pairs_say_so() -> None:
    found = audit(texts(random.Random(1), FEWEST - 1, 45), ("old", "new"))
    assert found.level == "unknown"
    assert "Too few" in found.sentence
    assert audit({}, ("old", "new")).items == 0
