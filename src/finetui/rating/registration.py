"""What a person decides before a session is sealed, and what suits its size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from finetui.errors import UserError
from finetui.rating.sequential import StopRule

DEFAULT_QUESTION = "Which answer is better, all in all?"
DEFAULT_ENDPOINT = (
    "share of items on which the new model's answer is preferred, item by item, ties counted half"
)
END_QUESTION = "Which of the two do you take for the new model's answer?"
TAGS = (
    "wrong fact",
    "format",
    "tone",
    "unsafe",
    "refusal",
    "too long",
    "too short",
    "language",
)
MOST_CRITERIA = 3
PRACTICE, GUESSES = 5, 10
ITEMS_A_CATCH, FEWEST_CATCHES = 15, 3  # one miss alone must not put a rater out
EXTRAS_FROM = 20  # items; a shorter session is not made longer
_LONGEST = 200  # characters of a question, a criterion or a tag


class Registration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that is chosen before the first vote, and frozen by the sealing.

    ``criteria`` are further questions with the same five answers. ``interested`` raters had a part
    in making a system. ``margin`` above 0 asks for non-inferiority, in win share. ``pairing`` of
    three and more systems: "spread" deals one pair to each item, evenly; "each" shows every pair.
    ``repeats`` is a fraction of the items (None: what suits their number); ``practice``,
    ``catches`` (one text spoilt) and ``guesses`` (the end question) are numbers of showings, and a
    rater who passes a smaller share of the catches than ``catch_needed`` stays out of the endpoint.
    ``identity`` says what becomes of items in which a text names a model; ``words`` are names to
    look for besides, and ``excluded`` and ``kept`` item ids decided by hand.
    """

    question: str = DEFAULT_QUESTION
    endpoint: str = DEFAULT_ENDPOINT
    criteria: tuple[str, ...] = ()
    tags: tuple[str, ...] = TAGS
    end_question: str = END_QUESTION
    raters: tuple[str, ...] = ()
    interested: tuple[str, ...] = ()
    alpha: float = 0.05
    margin: float = 0.0
    stop: StopRule = StopRule()
    pairing: Literal["spread", "each"] = "spread"
    repeats: float | None = None
    practice: int = 0
    catches: int = 0
    catch_needed: float = 0.5
    guesses: int = 0
    identity: Literal["exclude", "keep"] = "exclude"
    words: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    @property
    def aside(self) -> int:
        """Prompts that are needed besides the counted ones."""
        return self.practice + self.catches


def recommended(items: int) -> Registration:
    """Practice, catches and the end question for a session of so many items."""
    if items < EXTRAS_FROM:
        return Registration()
    catches = max(FEWEST_CATCHES, items // ITEMS_A_CATCH)
    return Registration(practice=PRACTICE, catches=catches, guesses=GUESSES)


def checked(chosen: Registration) -> Registration:
    """The registration as it can be sealed: texts stripped, one alpha. Raises UserError."""
    made = msgspec.structs.replace(
        chosen,
        question=chosen.question.strip() or DEFAULT_QUESTION,
        end_question=chosen.end_question.strip() or END_QUESTION,
        criteria=tuple(text.strip() for text in chosen.criteria if text.strip()),
        tags=tuple(text.strip() for text in chosen.tags if text.strip()),
        stop=msgspec.structs.replace(chosen.stop, alpha=chosen.alpha),
    )
    _refuse_texts("criterion", made.criteria)
    _refuse_texts("tag", made.tags)
    if len(made.criteria) > MOST_CRITERIA:
        raise UserError(
            f"{len(made.criteria)} criteria are too many.",
            fix=f"Ask at most {MOST_CRITERIA} questions besides the main one.",
        )
    _refuse_numbers(made)
    _refuse_rule(made.stop)
    if made.margin and made.stop.kind != "fixed":
        raise UserError(
            "non-inferiority is tested once, at the end.",
            fix="Take a margin with a fixed stop rule, or an early stop without a margin.",
        )
    strangers = set(made.interested) - set(made.raters)
    if strangers:
        raise UserError(
            "an interested rater is no rater of this session.", ", ".join(sorted(strangers))
        )
    return made


def _refuse_texts(what: str, texts: Sequence[str]) -> None:
    for text in texts:
        if len(text) > _LONGEST or not text.isprintable():
            raise UserError(f"this {what} is too long or not printable.", text[:40])
    if len(set(texts)) != len(texts):
        raise UserError(f"a {what} is named twice.", ", ".join(texts), "Name each once.")


def _refuse_numbers(made: Registration) -> None:
    ranges = {
        "alpha": (made.alpha, 0.0001, 0.5),
        "margin": (made.margin, 0.0, 0.5),
        "repeats": (made.repeats or 0.0, 0.0, 1.0),
        "catch_needed": (made.catch_needed, 0.0, 1.0),
        "practice": (made.practice, 0, 50),
        "catches": (made.catches, 0, 500),
        "guesses": (made.guesses, 0, 500),
    }
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise UserError(f"{name} is {value:g}.", fix=f"Choose from {low:g} to {high:g}.")


def _refuse_rule(rule: StopRule) -> None:
    if rule.cap < 0 or rule.prior <= 0:
        raise UserError("the stop rule's cap or prior is negative.", fix="Cap 0 is every item.")
    rising = all(a < b for a, b in pairwise(rule.looks))
    if (rule.kind == "looks") != bool(rule.looks) or not rising or min(rule.looks, default=1) < 1:
        raise UserError(
            "scheduled looks need rising numbers of items, and only they take them.",
            ", ".join(map(str, rule.looks)),
            "For example --stop looks --look-at 50,100,150.",
        )
