"""Order and sides: balanced, complementary, unpredictable without the key, the same with it."""

from __future__ import annotations

from itertools import accumulate

import pytest

from finetui.rating.assignment import (
    REPEAT_GAP,
    Cast,
    assign,
    default_repeats,
    first_showings,
    keyed_digest,
    prf,
)

KEYS = [n.to_bytes(32) for n in range(500)]
ITEMS = [f"item {n}" for n in range(101)]


@pytest.mark.parametrize("rater", [0, 1, 2])
def test_sides_are_balanced_in_total_and_at_every_moment_for_500_keys(rater: int) -> None:
    for key in KEYS:
        signs = [1 if left else -1 for _, left in first_showings(key, ITEMS, rater)]
        running = list(accumulate(signs))
        assert abs(running[-1]) <= 1
        assert max(map(abs, running)) <= 4


def test_every_item_is_as_often_left_as_right_over_keys() -> None:
    left = dict.fromkeys(ITEMS, 0)
    for key in KEYS:
        for item, candidate_left in first_showings(key, ITEMS, 0):
            left[item] += candidate_left
    # 500 fair draws: five standard deviations are 56.
    assert all(abs(count - 250) < 56 for count in left.values())


def test_the_odd_item_of_the_last_block_favours_neither_side_over_keys() -> None:
    more_left = sum(sum(left for _, left in first_showings(key, ITEMS, 0)) > 50 for key in KEYS)
    assert abs(more_left - 250) < 56


def test_two_raters_of_a_pair_see_every_item_from_opposite_sides_in_another_order() -> None:
    for key in KEYS[:50]:
        first, second = (first_showings(key, ITEMS, rater) for rater in (0, 1))
        assert {item: not left for item, left in first} == dict(second)
        assert [item for item, _ in first] != [item for item, _ in second]


def test_the_next_pair_of_raters_gets_its_own_draw() -> None:
    assert dict(first_showings(KEYS[1], ITEMS, 0)) != dict(first_showings(KEYS[1], ITEMS, 2))


def test_the_same_key_gives_the_same_session_and_another_key_another() -> None:
    one, same, other = (
        assign(k, "s", Cast(ITEMS), ["a", "b"], 0.1) for k in (KEYS[1], KEYS[1], KEYS[2])
    )
    assert one == same
    assert one != other


def test_repeats_swap_sides_and_come_at_least_fifteen_items_later() -> None:
    for key in KEYS[:100]:
        for slots in assign(key, "s", Cast(ITEMS), ["a", "b"], 0.1).values():
            first = {slot.item: slot for slot in slots if slot.kind == "item"}
            repeats = [slot for slot in slots if slot.kind == "repeat"]
            assert len(repeats) == 10
            assert len({slot.item for slot in repeats}) == 10
            for slot in repeats:
                assert slot.candidate_left != first[slot.item].candidate_left
                assert slot.seq - first[slot.item].seq >= REPEAT_GAP


def test_a_short_session_has_no_repeats_unless_asked_and_then_spreads_them() -> None:
    assert default_repeats(19) == 0
    assert default_repeats(20) == 0.1
    slots = assign(KEYS[3], "s", Cast(ITEMS[:8]), ["a"], 0.25)["a"]
    repeats = [slot for slot in slots if slot.kind == "repeat"]
    first = {slot.item: slot.seq for slot in slots if slot.kind == "item"}
    assert len(repeats) == 2
    assert all(slot.seq - first[slot.item] >= 4 for slot in repeats)


def test_ids_are_opaque_unique_and_of_one_form_for_repeats_and_items() -> None:
    drawn = assign(KEYS[4], "s", Cast(ITEMS), ["a", "b", "c"], 0.2)
    pids = [slot.pid for slots in drawn.values() for slot in slots]
    assert len(set(pids)) == len(pids)
    assert all(len(pid) == 16 and set(pid) <= set("0123456789abcdef") for pid in pids)
    assert [slot.seq for slot in drawn["a"]] == list(range(1, len(drawn["a"]) + 1))


def test_the_keyed_digest_is_hmac_sha256_of_rfc_4231() -> None:
    found = keyed_digest(b"Jefe", b"what do ya want for nothing?").hex()
    assert found == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    found = keyed_digest(b"\x0b" * 20, b"Hi There").hex()
    assert found == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"


def test_no_two_lists_of_parts_share_a_draw() -> None:
    assert prf(b"k", "a", "bc") != prf(b"k", "ab", "c")
    assert prf(b"k", "1") != prf(b"k", 1)
