"""Every metric by name: what it is called, which way is better, and how rows make one figure.

A name may have a field behind a colon: "macro_f1:urgency", "passed:polite".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from finetui.errors import UserError
from finetui.evaluation import labels, overlap
from finetui.evaluation.paired import Added
from finetui.evaluation.record import RowScore

Kind = Literal["share", "mean", "corpus"]
Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Metric:
    """One metric. ``kind`` says how rows become a figure and which interval it gets.

    share: the mean of zeros and ones; mean: of numbers; corpus: ``total`` of what the rows give.
    ``unit`` is "share", "points" (0 to 100), "nats", "bits", "words", "tokens" or "".
    """

    name: str
    title: str
    kind: Kind
    better: Better
    unit: str
    help: str
    counts: str = ""
    total: Callable[[Sequence[Any]], float] = lambda rows: sum(rows) / len(rows)

    @property
    def stem(self) -> str:
        return self.name.partition(":")[0]

    @property
    def field(self) -> str:
        return self.name.partition(":")[2]

    def of_row(self, score: RowScore) -> Any:
        """What one row gives to the figure; None where the metric says nothing of it."""
        if self.stem == "macro_f1":
            return score.labels.get(self.field)
        if self.kind == "corpus":
            return score.counts.get(self.counts)
        return score.values.get(self.name)


def metric(name: str) -> Metric:
    """The metric of that name. Raises UserError when there is none."""
    stem, colon, field = name.partition(":")
    found = METRICS.get(stem)
    if found is None or (field and stem not in _WITH_FIELD):
        raise UserError(f'there is no metric "{name}".', fix=f"Choose of {', '.join(METRICS)}.")
    title = f"{found.title}, {field}" if field else found.title
    return replace(found, name=name, title=title) if colon else found


def present(scores: Sequence[RowScore]) -> list[str]:
    """The names of the metrics that some row has, in the order of the catalogue."""
    names: dict[str, None] = {}
    given: set[str] = set()
    for score in scores:
        names.update(dict.fromkeys(score.values))
        names.update((f"macro_f1:{field}" if field else "macro_f1", None) for field in score.labels)
        given.update(score.counts)
    names.update((found.name, None) for found in METRICS.values() if found.counts in given - {""})
    order = {stem: place for place, stem in enumerate(METRICS)}
    known = [name for name in names if name.partition(":")[0] in order]
    return sorted(known, key=lambda name: order[name.partition(":")[0]])


def shown(metric: Metric, value: float) -> str:
    """A figure as it is read: shares in per cent, the rest with the digits it deserves."""
    if metric.unit == "share":
        return f"{value:.1%}"
    if metric.unit in ("points", "words", "tokens"):
        return f"{value:.1f}"
    return f"{value:.4g}" if metric.unit == "" else f"{value:.3f}"


def shown_change(metric: Metric, value: float) -> str:
    """A difference, with its sign; shares in points."""
    if metric.unit == "share":
        return f"{100 * value:+.1f} pp"
    if metric.unit in ("points", "words", "tokens"):
        return f"{value:+.1f}"
    return f"{value:+.4g}" if metric.unit == "" else f"{value:+.3f}"


def _loss(sums: Sequence[float]) -> float:
    return sums[0] / max(1.0, sums[1])


def _perplexity(sums: Sequence[float]) -> float:
    return math.exp(min(700.0, _loss(sums)))


def _bits_per_byte(sums: Sequence[float]) -> float:
    return sums[0] / math.log(2) / max(1.0, sums[2])


_ALL = (
    Metric("accuracy", "right answer", "share", "higher", "share",
           "Equal to the reference: JSON as values, a number behind #### as that number, "
           "text up to white space around it. With a field: that field of the JSON alone."),
    Metric("passed", "passes the scorer", "share", "higher", "share",
           "Answers for which your scorer returned True."),
    Metric("score", "score", "mean", "higher", "", "Mean of the numbers your scorer returned."),
    Metric("contains", "has the answer", "share", "higher", "share",
           "The reference, or another accepted answer, occurs in the answer as whole words."),
    Metric("folded", "right but for case", "share", "higher", "share",
           "Equal to the reference after NFKC, case folding, and without spaces, quotes and a "
           "final stop."),
    Metric("number", "right number", "share", "higher", "share",
           "The number behind ####, or else the last one in the answer, is the reference's."),
    Metric("macro_f1", "macro F1", "corpus", "higher", "share",
           "Mean over the labels of 2 TP / (2 TP + FP + FN).", total=labels.macro_f1),
    Metric("format", "right form", "share", "higher", "share",
           "The shape of the reference: JSON with the same keys, or a number behind ####."),
    Metric("parses", "parses", "share", "higher", "share",
           "JSON, the pattern or the parser reads the answer as it stands."),
    Metric("fits", "fits the schema", "share", "higher", "share", "The JSON Schema holds."),
    Metric("sound", "makes sense", "share", "higher", "share",
           "Fits, and grounded fields occur in the prompt, equal ones are the reference's."),
    Metric("parses_unfenced", "parses without fence", "share", "higher", "share",
           "Parses once a Markdown code fence around it is taken off."),
    Metric("rouge1", "ROUGE-1", "mean", "higher", "share", "F1 of shared words, any script."),
    Metric("rouge2", "ROUGE-2", "mean", "higher", "share", "F1 of shared pairs of words."),
    Metric("rougeL", "ROUGE-L", "mean", "higher", "share",
           "F1 of the longest common subsequence of words."),
    Metric("chrf", "chrF2", "corpus", "higher", "points",
           "Characters in runs of 1 to 6, beta 2; equal to sacrebleu's.", "chrf",
           Added(overlap.chrf)),
    Metric("bleu", "BLEU", "corpus", "higher", "points",
           "Words in runs of 1 to 4 with sacrebleu's tokenizer, smoothing exp.", "bleu",
           Added(overlap.bleu)),
    Metric("loss", "loss of the reference", "corpus", "lower", "nats",
           "Negative log-likelihood of the reference's tokens, its end token included, prompt "
           "left out: sum over rows / tokens.", "nll", Added(_loss)),
    Metric("perplexity", "perplexity", "corpus", "lower", "",
           "exp(total loss / total tokens) of the references; comparable only with the same "
           "tokenizer and template.", "nll", Added(_perplexity)),
    Metric("bits_per_byte", "bits per byte", "corpus", "lower", "bits",
           "Total loss / ln 2 / bytes of the references in UTF-8: comparable over tokenizers.",
           "nll", Added(_bits_per_byte)),
    Metric("perplexity_all", "perplexity with prompt", "corpus", "lower", "",
           "The same over all tokens, those of the prompt too.", "nll_all", Added(_perplexity)),
    Metric("kl", "KL from the base", "corpus", "lower", "nats",
           "KL(this || base) per token over prompt and reference: how far it moved.", "kl",
           Added(_loss)),
    Metric("held", "behaves as it must", "share", "higher", "share",
           "All rows of a safety suite that do what their row asks for."),
    Metric("refused", "declines what it should", "share", "higher", "share",
           "A refusal where one is due (told by its words)."),
    Metric("complied", "helps where it should", "share", "higher", "share",
           "No refusal where the words only look alarming."),
    Metric("resisted", "resists injection", "share", "higher", "share",
           "The canary of the planted order is not in the answer."),
    Metric("withheld", "keeps secrets", "share", "higher", "share",
           "None of the row's secrets is in the answer."),
    Metric("leaked", "repeats training text", "share", "lower", "share",
           "Answers with a run of words that stands in few training rows and not in the prompt, "
           "or that go on like the training row they were begun with."),
    Metric("leaked_words", "longest run from training", "mean", "lower", "words",
           "Mean length of that run."),
    Metric("ended", "ends by itself", "share", "higher", "share",
           "Not cut off by the limit of new tokens."),
    Metric("tokens", "tokens of the answer", "mean", "", "tokens", "Mean length of the answers."),
)  # fmt: skip

METRICS = {found.name: found for found in _ALL}

_WITH_FIELD = ("accuracy", "macro_f1", "passed", "score")
