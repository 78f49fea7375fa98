"""Length and layout of answers, and how much of a preference they explain.

A log-linear adjustment in the manner of Chatbot Arena's style control and AlpacaEval's length
control: the share that would be left if both answers were equally long and laid out alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from statistics import NormalDist, fmean, pstdev
from typing import NamedTuple

import msgspec

from finetui.rating.logistic import Fit, NoFit, fit, sigmoid
from finetui.rating.statistics import Interval

COVARIATES = ("length", "headers", "list items", "bold")
ONE_SIDED = 0.9  # a candidate longer (or shorter) on this share of items: style is the model
INFLATED = 2.0  # the adjusted error over the raw one from which nothing can be told apart

_WORD = re.compile(r"\w+")
_MARKS = {
    "headers": re.compile(r"^\s{0,3}#{1,6}\s", re.MULTILINE),
    "list items": re.compile(r"^\s*(?:[-*+•]|\d{1,3}[.)])\s", re.MULTILINE),
    "bold": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
    "code blocks": re.compile(r"^\s*```", re.MULTILINE),
    "table rows": re.compile(r"^\s*\|.*\|\s*$", re.MULTILINE),
    "links": re.compile(r"https?://|\]\("),
    "exclamations": re.compile(r"[!！]"),
    "questions": re.compile(r"[?？]"),
    "emoji": re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]"),
}
_REFUSAL = re.compile(
    r"\b(?:I(?:'m| am) (?:sorry|unable|not able)|I (?:can(?:no|')t|won't|must decline)|"
    r"as an AI|es tut mir leid|je suis désolé|lo siento|mi dispiace)\b|"
    "对不起|抱歉|申し訳|К сожалению",
    re.IGNORECASE,
)
_ENDED = re.compile(r"[.!?…:;)\]}\"'`»”。！？」|>]\s*\Z")


def features(text: str) -> dict[str, float]:
    """Countable properties of one shown answer, by name.

    "length" is characters; "repetition" the share of words that came before; "open end" 1 where the
    text stops without a closing mark, as a cut or rambling answer does.
    """
    words = _WORD.findall(text.lower())
    found = {name: float(len(pattern.findall(text))) for name, pattern in _MARKS.items()}
    return found | {
        "length": float(len(text)),
        "words": float(len(words)),
        "lines": float(text.count("\n") + 1),
        "refusal": float(bool(_REFUSAL.search(text))),
        "repetition": 1 - len(set(words)) / len(words) if words else 0.0,
        "open end": float(bool(text) and not _ENDED.search(text)),
        "empty": float(not text.strip()),
    }


def first_word(text: str) -> str:
    """The first word, in lower case; empty if there is none."""
    found = _WORD.search(text.lower())
    return found.group() if found else ""


def relative(a: float, b: float) -> float:
    """(a - b)/(a + b + 1), between -1 and 1."""
    return (a - b) / (a + b + 1)


class StyledVote(NamedTuple):
    """One verdict: ``score`` 1 candidate, 0 reference, 1/2 tie; who stood left; the two styles."""

    item: Hashable
    score: float
    candidate_left: bool
    candidate: Mapping[str, float]
    reference: Mapping[str, float]


class Adjusted(msgspec.Struct, frozen=True):
    """The candidate's share with these differences set to zero, and the log odds it comes from."""

    name: str
    share: float
    interval: Interval
    theta: float
    error: float


class Effect(msgspec.Struct, frozen=True):
    """One term of the full model, in log odds a unit of its covariate."""

    name: str
    value: float
    interval: Interval


class Style(msgspec.Struct, frozen=True):
    """Share without and with adjustment; an adjustment that would only blur it is left out.

    ``longer`` is the share of items on which the candidate is the longer one. ``warning`` says why
    style and model cannot be told apart, or is empty.
    """

    votes: int
    longer: float
    length_ratio: float
    adjusted: list[Adjusted]
    effects: list[Effect]
    warning: str


def adjust(votes: Sequence[StyledVote], confidence: float = 0.95) -> Style:
    """Fit the raw, the length-adjusted and the style-adjusted share.

    logit P(candidate) = theta + gamma side + b1 tanh(dLength/sd) + b2 dHeaders + b3 dLists + b4
    dBold, differences as (a - b)/(a + b + 1), ties as one half, errors robust by item.
    """
    by_item = {vote.item: vote for vote in votes}
    lengths = [(v.candidate["length"], v.reference["length"]) for v in by_item.values()]
    longer = fmean((a > b) + (a == b) / 2 for a, b in lengths) if lengths else math.nan
    ratio = math.exp(fmean(math.log((a + 1) / (b + 1)) for a, b in lengths)) if lengths else 1.0
    models: list[tuple[str, tuple[str, ...], Fit]] = []
    broken = ""
    for name, columns in (("raw", ()), ("length", COVARIATES[:1]), ("style", COVARIATES)):
        rows, used = _rows(votes, columns)
        if columns and not used:
            continue
        try:
            models.append((name, used, _fitted(votes, rows)))
        except NoFit as error:
            broken = broken or str(error)
    sharp = [one for one in models if one[2].error(0) <= INFLATED * models[0][2].error(0)]
    blurred, models = len(models) - len(sharp), sharp
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return Style(
        votes=len(votes),
        longer=longer,
        length_ratio=ratio,
        adjusted=[_adjusted(name, found, z) for name, _, found in models],
        effects=_effects(models[-1], z) if len(models) > 1 else [],
        warning=_warning(longer, blurred > 0, broken),
    )


def _rows(
    votes: Sequence[StyledVote], columns: Sequence[str]
) -> tuple[list[list[float]], tuple[str, ...]]:
    """Model rows with intercept and side first; covariates that never differ are left out."""
    spread = pstdev([v.candidate["length"] - v.reference["length"] for v in votes] or [0.0]) or 1.0
    table = {name: [_difference(vote, name, spread) for vote in votes] for name in columns}
    used = tuple(name for name in columns if any(table[name]))
    rows = [
        [1.0, 0.5 if vote.candidate_left else -0.5, *(table[name][n] for name in used)]
        for n, vote in enumerate(votes)
    ]
    return rows, used


def _difference(vote: StyledVote, name: str, spread: float) -> float:
    a, b = vote.candidate[name], vote.reference[name]
    return math.tanh((a - b) / spread) if name == "length" else relative(a, b)


def _fitted(votes: Sequence[StyledVote], rows: Sequence[Sequence[float]]) -> Fit:
    if len({vote.item for vote in votes}) < 5 * len(rows[0] if rows else [0]):
        raise NoFit("too few items for so many terms")
    if len({vote.candidate_left for vote in votes}) == 1:
        raise NoFit("every vote had the candidate on one side")
    return fit(rows, [vote.score for vote in votes], [vote.item for vote in votes])


def _adjusted(name: str, found: Fit, z: float) -> Adjusted:
    theta, error = found.coefficients[0], found.error(0)
    span = Interval(sigmoid(theta - z * error), sigmoid(theta + z * error))
    return Adjusted(name, sigmoid(theta), span, theta, error)


def _effects(model: tuple[str, tuple[str, ...], Fit], z: float) -> list[Effect]:
    _, used, found = model
    effects = []
    for k, name in enumerate(("left side", *used), 1):
        value, half = found.coefficients[k], z * found.error(k)
        effects.append(Effect(name, value, Interval(value - half, value + half)))
    return effects


def _warning(longer: float, blurred: bool, broken: str) -> str:
    """One sentence where an adjustment would pretend to know more than the votes do."""
    if not math.isnan(longer) and max(longer, 1 - longer) >= ONE_SIDED:
        which = "longer" if longer > 0.5 else "shorter"
        return (
            f"The candidate's answer is the {which} one on {max(longer, 1 - longer):.0%} of items: "
            "style and model cannot be told apart here."
        )
    if broken:
        return f"No style adjustment: {broken}."
    if blurred:
        return (
            "Layout or length differs so regularly between the systems that its effect and the "
            "model's cannot be told apart."
        )
    return ""
