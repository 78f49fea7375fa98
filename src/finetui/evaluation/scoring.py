"""Answers of one subject to one set, scored row by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetui.errors import UserError
from finetui.evaluation import catalogue, labels, overlap, safety
from finetui.evaluation.formats import FormCheck
from finetui.evaluation.leakage import RUN, TrainingIndex, repeated
from finetui.evaluation.metrics import number_matches, score_answer
from finetui.evaluation.record import Answer, Item, RowScore, SetSpec
from finetui.evaluation.scorer import Scorer
from finetui.evaluation.words import folded, words

_PROSE = 6  # words of a reference from which overlap says more than equality
_NUMBERS = 0.8  # the share of references that are numbers for a set of sums
_NUMBER = re.compile(r"(?s)(?:.*####)?\s*-?\$?\d[\d,]*(?:\.\d+)?\s*")

Tell = Callable[[int, int], None]


@dataclass
class _Row:
    """What the scorers of one row add to."""

    item: Item
    answer: Answer
    values: dict[str, float] = field(default_factory=dict)
    counts: dict[str, list[float]] = field(default_factory=dict)
    labels: dict[str, tuple[str, str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


_Rule = Callable[[_Row], None]


def score_set(
    spec: SetSpec,
    items: Sequence[Item],
    answers: Sequence[Answer],
    scorer: Scorer | None = None,
    training: TrainingIndex | None = None,
    tell: Tell = lambda done, total: None,
) -> list[RowScore]:
    """Score the answers whose row is in ``items``, in the order of the items.

    ``scorer`` is the user's function when the set names one; ``training`` finds training text in
    the answers; ``tell`` hears how many rows are done. Raises UserError for a metric, a schema or
    a tokenizer that cannot be used, and when the scorer keeps failing.
    """
    rules = _rules(spec, items, scorer, training)
    wanted = {name.partition(":")[0] for name in spec.metrics}
    given = {answer.id: answer for answer in answers}
    rows = [_Row(item, given[item.id]) for item in items if item.id in given]
    for done, row in enumerate(rows, start=1):
        for rule in rules:
            rule(row)
        tell(done, len(rows))
    for rule in rules:
        if isinstance(rule, _ScorerRule):
            rule.settle()
    return [_kept(row, wanted) for row in rows]


def main_metric(spec: SetSpec, names: Sequence[str]) -> str:
    """The metric that a set is judged by: the first it names, or else the first that applies."""
    if spec.metrics:
        stem = spec.metrics[0]
        return next((name for name in names if name == stem), stem)
    stems = [name.partition(":")[0] for name in names]
    return next((names[stems.index(stem)] for stem in _MAIN[spec.role] if stem in stems), "ended")


_MAIN: Mapping[str, Sequence[str]] = {
    "test": ("passed", "score", "accuracy", "sound", "rougeL", "loss"),
    "suite": ("passed", "score", "accuracy", "contains", "rougeL", "loss"),
    "safety": ("held", "leaked"),
    "drift": ("kl", "loss"),
    "leak": ("leaked",),
}


def _rules(
    spec: SetSpec, items: Sequence[Item], scorer: Scorer | None, training: TrainingIndex | None
) -> list[_Rule]:
    """What there is to say about each row of this set."""
    for name in spec.metrics:
        catalogue.metric(name)
    rules: list[_Rule] = [_likelihood] if spec.role == "drift" else [_length, _likelihood]
    if spec.role == "leak":
        rules.append(_continued)
    elif spec.role == "safety":
        rules.append(_behaviour)
    elif spec.role in ("test", "suite"):
        rules += _reference_rules(spec, items)
    if spec.format is not None:
        rules.append(_FormRule(FormCheck(spec.format)))
    if scorer is not None:
        rules.append(_ScorerRule(scorer))
    if training is not None and spec.role != "leak":
        rules.append(_TrainingRule(training))
    return rules


def _reference_rules(spec: SetSpec, items: Sequence[Item]) -> list[_Rule]:
    """Rules for sets with references: what the references are says how to compare with them."""
    references = [item.reference for item in items if item.reference.strip()]
    if not references:
        return []
    rules: list[_Rule] = [_equality]
    asked = {name.partition(":")[0] for name in spec.metrics}
    structured = sum(labels.json_object(text) is not None for text in references)
    if structured < len(references) / 2 or asked & {"contains", "folded"}:
        rules.append(_loosely)
    fields = spec.labels or labels.fields_of(references)
    if fields:
        rules.append(_LabelRule(fields))
    numeric = sum(_NUMBER.fullmatch(text) is not None for text in references)
    if numeric >= _NUMBERS * len(references) or "number" in asked:
        rules.append(_number)
    if _is_prose(references) or asked & {"rouge1", "rouge2", "rougeL", "chrf", "bleu"}:
        rules += [_rouge, _chrf]
        if overlap.has_bleu() or "bleu" in asked:
            rules.append(_BleuRule(spec.tokenizer or overlap.tokenizer_for(references)))
    return rules


def _is_prose(references: Sequence[str]) -> bool:
    prose = [text for text in references if labels.json_object(text) is None]
    lengths = sorted(len(words(text)) for text in prose)
    return len(prose) > len(references) / 2 and lengths[len(lengths) // 2] >= _PROSE


def _kept(row: _Row, wanted: set[str]) -> RowScore:
    """The scores that the set asks for; all of them where it names none."""
    if not wanted:
        return RowScore(row.item.id, row.values, row.counts, row.labels, row.faults)
    always = {"ended", "tokens"}
    counted = {catalogue.METRICS[name].counts for name in wanted}
    return RowScore(
        row.item.id,
        {n: v for n, v in row.values.items() if n.partition(":")[0] in wanted | always},
        {n: v for n, v in row.counts.items() if n in counted | {"nll"}},
        row.labels if wanted & {"macro_f1", "accuracy"} else {},
        row.faults,
    )


def _length(row: _Row) -> None:
    row.values["ended"] = float(row.answer.finish == "stop")
    if row.answer.tokens:
        row.values["tokens"] = float(row.answer.tokens)
    if row.answer.finish != "stop":
        row.faults.append(_UNFINISHED[row.answer.finish])


_UNFINISHED = {"length": "cut off by the limit of new tokens", "error": "was not answered"}


def _likelihood(row: _Row) -> None:
    answer, size = row.answer, len(row.item.reference.encode("utf-8", "replace"))
    if answer.nll is not None and answer.nll_tokens:
        row.counts["nll"] = [answer.nll, float(answer.nll_tokens), float(size)]
    if answer.nll_all is not None and answer.nll_all_tokens:
        row.counts["nll_all"] = [answer.nll_all, float(answer.nll_all_tokens)]
    if answer.kl is not None and answer.kl_tokens:
        row.counts["kl"] = [answer.kl, float(answer.kl_tokens)]


def _equality(row: _Row) -> None:
    item, answer = row.item, row.answer.answer
    if not item.reference.strip():
        return
    right = [item.reference, *item.accept]
    score = score_answer(answer, item.reference)
    row.values["accuracy"] = float(score.correct or any(answer.strip() == text for text in right))
    if item.reference.lstrip()[:1] in ("{", "[") or "####" in item.reference:
        row.values["format"] = float(score.format)
    if not answer.strip():
        row.faults.append("empty")


def _loosely(row: _Row) -> None:
    """Right but for case and spaces; and the right words anywhere."""
    item, answer = row.item, row.answer.answer
    if not item.reference.strip():
        return
    right = [item.reference, *item.accept]
    equal = row.values["accuracy"] == 1
    row.values["folded"] = float(equal or folded(answer) in {folded(text) for text in right})
    row.values["contains"] = float(equal or any(_contains(answer, text) for text in right))


def _contains(answer: str, text: str) -> bool:
    """Whether the words of ``text`` follow each other in the answer."""
    wanted = " ".join(["", *words(text), ""])
    return bool(wanted.strip()) and wanted in " ".join(["", *words(answer), ""])


def _number(row: _Row) -> None:
    row.values["number"] = float(number_matches(row.answer.answer, row.item.reference))


def _rouge(row: _Row) -> None:
    row.values.update(overlap.rouge(row.answer.answer, row.item.reference))


def _chrf(row: _Row) -> None:
    row.counts["chrf"] = overlap.chrf_counts(row.answer.answer, row.item.reference)


def _behaviour(row: _Row) -> None:
    expected = row.item.expect
    if expected is None:
        return
    held = safety.holds(row.answer.answer, expected)
    row.values["held"] = row.values[safety.METRIC_OF[expected.kind]] = float(held)
    if not held:
        row.faults.append(_MISBEHAVED[expected.kind])
    if safety.doubtful(row.answer.answer, expected):
        row.faults.append(DOUBTFUL)


DOUBTFUL = "told by its words only: look at it"

_MISBEHAVED = {
    "refuse": "does not decline",
    "comply": "does not help",
    "resist": "follows the planted order",
    "withhold": "tells a secret",
}


def _continued(row: _Row) -> None:
    """How far an answer goes on like the training row it was begun with."""
    count = repeated(row.answer.answer, row.item.reference)
    row.values["leaked"] = float(count >= RUN)
    row.values["leaked_words"] = float(count)
    if count >= RUN:
        row.faults.append(f"repeats {count} words of a training row")


@dataclass
class _LabelRule:
    fields: Sequence[str]

    def __call__(self, row: _Row) -> None:
        for name in self.fields:
            pair = labels.pair_of(row.answer.answer, row.item.reference, name)
            if pair is None:
                continue
            row.labels[name] = pair
            if not name:
                continue
            same = folded(pair[0]) == folded(pair[1])
            row.values[f"accuracy:{name}"] = float(same)
            if not same:
                row.faults.append(f"{name}: {pair[1][:60] or 'nothing'} instead of {pair[0][:60]}")


@dataclass
class _BleuRule:
    tokenizer: str

    def __call__(self, row: _Row) -> None:
        row.counts["bleu"] = overlap.bleu_counts(
            row.answer.answer, row.item.reference, self.tokenizer
        )


@dataclass
class _FormRule:
    form: FormCheck

    def __call__(self, row: _Row) -> None:
        prompt = "\n".join(_text(message) for message in row.item.prompt)
        found = self.form.check(row.answer.answer, prompt, row.item.reference)
        row.values |= {
            "parses": float(found.parses),
            "fits": float(found.fits),
            "sound": float(found.sound),
            "parses_unfenced": float(found.parses_unfenced),
        }
        row.faults += found.faults


@dataclass
class _ScorerRule:
    scorer: Scorer
    names: dict[str, None] = field(default_factory=dict)
    failed: list[_Row] = field(default_factory=list)

    def __call__(self, row: _Row) -> None:
        verdict = self.scorer.score(row.item, row.answer)
        for name, value in verdict.values.items():
            stem = "passed" if isinstance(value, bool) else "score"
            key = f"{stem}:{name}" if name else stem
            self.names[key] = None
            row.values[key] = float(value)
        if verdict.failed:
            self.failed.append(row)
        if verdict.fault:
            row.faults.append(verdict.fault)

    def settle(self) -> None:
        """A row on which the scorer failed has passed nothing; its score stays unknown."""
        passed = [name for name in self.names if name.startswith("passed")]
        for row in self.failed:
            row.values |= dict.fromkeys(passed or ([] if self.names else ["passed"]), 0.0)


@dataclass
class _TrainingRule:
    training: TrainingIndex

    def __call__(self, row: _Row) -> None:
        prompt = "\n".join(_text(message) for message in row.item.prompt)
        run = self.training.longest(row.answer.answer, prompt)
        row.values["leaked"] = float(run is not None)
        if run is not None:
            row.values["leaked_words"] = float(run.words)
            row.faults.append(f"repeats {run.words} words of {run.row}: {run.text[:80]}")


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message, its parts joined."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def check_spec(spec: SetSpec) -> None:
    """Raises UserError for a set that could not be scored: before anything is answered."""
    for name in spec.metrics:
        catalogue.metric(name)
    if spec.format is not None:
        FormCheck(spec.format)
    if not 0 < spec.margin < 1:
        raise UserError(f"the margin {spec.margin} is no share between 0 and 1.", spec.name)
    if any(name.partition(":")[0] == "bleu" for name in spec.metrics) and not overlap.has_bleu():
        raise UserError("BLEU needs sacrebleu.", spec.name, "pip install 'finetui[eval]'")
