"""How much of a reference an answer repeats: ROUGE, chrF and BLEU.

chrF and BLEU are metrics of a whole set: a row gives counts, which are added up before the score
is taken, so a resampled set has a score too. Both equal sacrebleu's corpus scores.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from finetui.errors import UserError
from finetui.evaluation.words import unspaced_share, words

_ORDER = 4
_CHARACTERS = 6
_BETA = 2.0
_MUCH_UNSPACED = 0.3


def rouge(answer: str, reference: str) -> dict[str, float]:
    """F1 of shared words, of shared pairs of words, and of the longest common subsequence.

    Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", with equal weight of
    precision and recall, no stemming, and words as `words` takes them: any script.
    """
    given, wanted = words(answer), words(reference)
    return {
        "rouge1": _f1(_shared(given, wanted, 1), len(given), len(wanted)),
        "rouge2": _f1(_shared(given, wanted, 2), len(given) - 1, len(wanted) - 1),
        "rougeL": _f1(common_subsequence(given, wanted), len(given), len(wanted)),
    }


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, 64 columns and more at a time.

    Hyyrö 2004, "Bit-parallel LCS-length computation revisited": a bit of ``row`` is 0 where the
    length grows by one.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & full
    return len(a) - row.bit_count()


def chrf_counts(answer: str, reference: str) -> list[float]:
    """For n from 1 to 6: n-grams of characters in the answer, in the reference, in both."""
    given, wanted = ("".join(text.split()) for text in (answer, reference))
    counts: list[float] = []
    for n in range(1, _CHARACTERS + 1):
        ours, theirs = _grams(given, n), _grams(wanted, n)
        counts += [ours.total(), theirs.total(), (ours & theirs).total()]
    return counts


def chrf(sums: Sequence[float]) -> float:
    """chrF2 of added counts, 0 to 100 (Popović 2015): mean precision and recall over n to 6."""
    orders = [sums[at : at + 3] for at in range(0, len(sums), 3)]
    effective = [order for order in orders if order[0] and order[1]]
    if not effective:
        return 0.0
    precision = sum(shared / given for given, _, shared in effective) / len(effective)
    recall = sum(shared / wanted for _, wanted, shared in effective) / len(effective)
    if precision + recall == 0:
        return 0.0
    square = _BETA * _BETA
    return 100 * (1 + square) * precision * recall / (square * precision + recall)


def bleu_counts(answer: str, reference: str, tokenizer: str) -> list[float]:
    """Words given, words wanted, then for n from 1 to 4 shared n-grams, then given n-grams.

    Raises UserError when sacrebleu, whose tokenizer this is, is missing.
    """
    score = _sentence_bleu(tokenizer).sentence_score(answer, [reference])
    return [score.sys_len, score.ref_len, *score.counts, *score.totals]


def bleu(sums: Sequence[float]) -> float:
    """BLEU of added counts, 0 to 100 (Papineni et al. 2002); the k-th order without a hit 1/2^k.

    An order that no answer is long enough for makes it 0.
    """
    given, wanted = sums[:2]
    shared, total = sums[2 : 2 + _ORDER], sums[2 + _ORDER :]
    if not any(shared) or not all(total):
        return 0.0
    logs, smooth = 0.0, 1.0
    for hits, all_grams in zip(shared, total, strict=True):
        if hits == 0:
            smooth *= 2
        logs += math.log(hits / all_grams if hits else 1 / (smooth * all_grams))
    brevity = 1.0 if given >= wanted else math.exp(1 - wanted / given)
    return 100 * brevity * math.exp(logs / _ORDER)


def bleu_signature(tokenizer: str) -> str:
    """What must be said with a BLEU score for others to repeat it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("sacrebleu")
    except PackageNotFoundError:  # scored elsewhere
        number = "unknown"
    parts = ("nrefs:1", "case:mixed", "eff:no", f"tok:{tokenizer}", "smooth:exp")
    return "|".join((*parts, f"version:{number}"))


def tokenizer_for(references: Sequence[str]) -> str:
    """sacrebleu's tokenizer that fits: "char" for scripts without spaces, else "13a"."""
    return "char" if unspaced_share(" ".join(references[:200])) > _MUCH_UNSPACED else "13a"


def has_bleu() -> bool:
    """Whether sacrebleu is installed."""
    from importlib.util import find_spec

    return find_spec("sacrebleu") is not None


@lru_cache(maxsize=8)
def _sentence_bleu(tokenizer: str) -> Any:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise UserError(
            "BLEU needs sacrebleu.", fix="Install it with: pip install 'finetui[eval]'"
        ) from error
    try:
        return BLEU(tokenize=tokenizer, effective_order=True)
    except Exception as error:  # an unknown name, or a tokenizer whose own package is missing
        raise UserError(f'sacrebleu has no tokenizer "{tokenizer}" here ({error}).') from error


def _grams(text: str, n: int) -> Counter[str]:
    return Counter(text[at : at + n] for at in range(len(text) - n + 1))


def _shared(a: Sequence[str], b: Sequence[str], n: int) -> int:
    ours, theirs = (
        Counter(tuple(text[at : at + n]) for at in range(len(text) - n + 1)) for text in (a, b)
    )
    return (ours & theirs).total()


def _f1(shared: int, given: int, wanted: int) -> float:
    """2PR / (P + R) in counts; two texts that have nothing to compare agree when both are empty."""
    if given <= 0 or wanted <= 0:
        return float(given <= 0 and wanted <= 0)
    return 2 * shared / (given + wanted)
