"""Rules on the data: is it there, is it held out, is it enough, does it fit."""

from __future__ import annotations

import os
from collections.abc import Iterator

from finetui.recipe.field import quote
from finetui.recipe.forecast import too_long_share
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.sources import GUIDES, HOUSE, MEASURED, TRAINER

_FEW, _ENOUGH = 50, 200  # training rows
_PACKING_PAYS = 2_000  # rows; below it a run is short anyway


def _same(one: str, other: str) -> bool:
    return bool(one and other) and os.path.normpath(one) == os.path.normpath(other)


@rule("no-training-data")
def no_training_data(case: Case) -> Iterator[Advice]:
    if not case.recipe.data.train:
        yield error(
            "data.train",
            "No training data are chosen.",
            "Name one file or more of the workspace's datasets or versions.",
            HOUSE,
        )


@rule("data-not-found")
def data_not_found(case: Case) -> Iterator[Advice]:
    for id, path in case.facts.missing:
        if id != "model.path":
            yield error(
                id,
                f"There is no file {quote(path)}.",
                "Paths are taken from the workspace folder.",
                HOUSE,
            )


@rule("trained-twice")
def trained_twice(case: Case) -> Iterator[Advice]:
    files = [os.path.normpath(path) for path in case.recipe.data.train]
    twice = sorted({path for path in files if files.count(path) > 1})
    if twice:
        yield warning(
            "data.train",
            f"{quote(twice[0])} is listed twice.",
            "Its rows count double: an epoch is two epochs for them.",
            HOUSE,
        )


@rule("held-out-is-trained")
def held_out_is_trained(case: Case) -> Iterator[Advice]:
    data, suite = case.recipe.data, case.recipe.evaluation.suite
    if any(_same(data.eval, path) for path in data.train):
        yield error(
            "data.eval",
            "The held-out file is also training data.",
            "Rows that were learned by heart score well: the result would mean nothing.",
            HOUSE,
        )
    if any(_same(suite, path) for path in (*data.train, data.general)):
        yield error(
            "evaluation.suite",
            "The general check is also trained on.",
            "It can show what was forgotten only with rows the run never sees.",
            HOUSE,
        )


@rule("nothing-held-out")
def nothing_held_out(case: Case) -> Iterator[Advice]:
    if case.recipe.data.train and not case.recipe.data.eval:
        yield warning(
            "data.eval",
            "No held-out data: memorising will look like learning.",
            "Split 10 to 15 % off (finetui split); scores and eval loss need it.",
            GUIDES,
        )


@rule("held-out-size")
def held_out_size(case: Case) -> Iterator[Advice]:
    held, rows = case.facts.eval_rows, case.facts.rows
    if held is not None and 0 < held < 50:
        yield advice(
            "data.eval",
            f"{held} held-out rows tell little.",
            f"Accuracy over {held} rows is uncertain by {98 / held**0.5:.0f} points either way.",
            "binomial interval",
        )
    if held is not None and rows and held > rows / 2:
        yield advice(
            "data.eval",
            f"{held:,} rows are held out against {rows:,} trained on.",
            "10 to 15 % are usual; the rest would teach more than it tests.",
            GUIDES,
        )


@rule("few-rows")
def few_rows(case: Case) -> Iterator[Advice]:
    rows = case.facts.rows
    if rows is None or rows >= _ENOUGH:
        return
    if rows < _FEW:
        yield warning(
            "data.train",
            f"{rows} rows are hardly enough to learn from.",
            "They will be learned by heart. With 100 rows the demo task reached 72 % on unseen "
            "cases, with 600 rows 98 %.",
            MEASURED,
        )
    else:
        yield advice(
            "data.train",
            f"{rows} rows are few: expect gaps on unseen cases.",
            "With 100 rows the demo task reached 72 % on unseen cases, with 600 rows 98 %.",
            MEASURED,
        )


@rule("general-file")
def general_file(case: Case) -> Iterator[Advice]:
    data = case.recipe.data
    if data.general_share > 0 and not data.general:
        yield error(
            "data.general",
            "A general share is set, but no general file.",
            "Name the file to mix in, or set the share to 0.",
            HOUSE,
        )
    if data.general and data.general_share == 0 and not case.recipe.training.kl_weight:
        yield warning(
            "data.general_share",
            "The general file is not used: its share is 0.",
            "25 % kept the demo model's other skills.",
            MEASURED,
        )


@rule("general-share")
def general_share(case: Case) -> Iterator[Advice]:
    data, facts = case.recipe.data, case.facts
    if data.general and data.general_share > 1:
        yield advice(
            "data.general_share",
            "More general rows than rows of the task.",
            "The task is diluted and the run longer; 10 to 30 % usually keeps old skills.",
            HOUSE,
        )
    if not (data.general and facts.rows and facts.general_rows is not None):
        return
    wanted = int(facts.rows * data.general_share)
    if wanted > facts.general_rows:
        yield advice(
            "data.general_share",
            f"The general file has {facts.general_rows:,} rows, the share asks for {wanted:,}.",
            "All of them are used, and the share is smaller than it says.",
            HOUSE,
        )


@rule("forgetting")
def forgetting(case: Case) -> Iterator[Advice]:
    data, suite = case.recipe.data, case.recipe.evaluation.suite
    if data.train and not data.general and case.objective in ("sft", "pretrain"):
        yield advice(
            "data.general",
            "Nothing general is mixed in: other skills may be lost.",
            "Without a mix the demo model's other skills fell from 94 % to 0; with 25 % they "
            "stayed at 87 % and more.",
            MEASURED,
        )
    if data.train and not suite:
        yield advice(
            "evaluation.suite",
            "No general check: what is forgotten will not be seen.",
            "A file of everyday rows, scored before and after, shows it.",
            MEASURED,
        )


@rule("too-long-rows")
def too_long_rows(case: Case) -> Iterator[Advice]:
    facts, data = case.facts, case.recipe.data
    if facts.longest is None or facts.longest <= data.max_length:
        return
    share = too_long_share(case.recipe, facts)
    sign = "" if facts.exact else "≈ "
    how_many = f"{sign}{100 * share:.0f} % of the rows are" if share >= 0.01 else "Some rows are"
    fate = "dropped" if data.overlong == "drop" else "cut, and lose the end of their answer"
    make = warning if share > 0.02 else advice
    yield make(
        "data.max_length",
        f"{how_many} longer than {data.max_length:,} tokens and will be {fate}.",
        f"The longest has {sign}{facts.longest:,} tokens.",
        "the data",
    )


@rule("cut-answers")
def cut_answers(case: Case) -> Iterator[Advice]:
    data, longest = case.recipe.data, case.facts.longest
    cut = data.overlong == "truncate" and (longest is None or longest > data.max_length)
    if cut and data.truncation_side == "end" and case.objective != "pretrain":
        yield advice(
            "data.overlong",
            "A row that is cut has no end to learn from.",
            "The model learns to stop in mid-sentence, or not to stop at all.",
            HOUSE,
        )
    if cut and data.truncation_side == "start":
        yield advice(
            "data.truncation_side",
            "A row that is cut at its start loses its system turn, or half its question.",
            "The model then learns answers to questions it cannot see.",
            HOUSE,
        )


@rule("packing")
def packing(case: Case) -> Iterator[Advice]:
    facts, data = case.facts, case.recipe.data
    if not (facts.rows and facts.tokens) or case.objective in ("dpo", "orpo", "kto"):
        return
    mean = facts.tokens / facts.rows
    if not data.packing and facts.rows >= _PACKING_PAYS and mean < data.max_length / 4:
        yield advice(
            "data.packing",
            f"Rows have ≈ {mean:.0f} tokens: packing fills sequences of {data.max_length:,}.",
            "Less padding and fewer passes; lower the batch size with it, as each sequence then "
            "holds several rows.",
            HOUSE,
        )
    if data.packing and mean > 0.7 * data.max_length:
        yield advice(
            "data.packing",
            "Rows nearly fill a sequence: packing gains little.",
            "Two rows seldom fit into one sequence.",
            HOUSE,
        )


@rule("loss-on-prompts")
def loss_on_prompts(case: Case) -> Iterator[Advice]:
    if case.recipe.data.loss_on == "all" and case.objective == "sft":
        yield advice(
            "data.loss_on",
            "The prompts are learned as well.",
            "Right for plain text; for chats it teaches the model to write the user's part, and "
            "logits need the memory of every position.",
            "TRL docs, assistant_only_loss",
        )


@rule("suite-is-held-out")
def suite_is_held_out(case: Case) -> Iterator[Advice]:
    if _same(case.recipe.evaluation.suite, case.recipe.data.eval):
        yield warning(
            "evaluation.suite",
            "The general check is the held-out file itself.",
            "It is there to show what is forgotten: rows of everyday use, not of the task.",
            HOUSE,
        )


@rule("general-is-trained")
def general_is_trained(case: Case) -> Iterator[Advice]:
    data = case.recipe.data
    if any(_same(data.general, path) for path in data.train):
        yield warning(
            "data.general",
            "The general file is also training data.",
            "Its rows are mixed in on top of themselves; take it out of one of the two.",
            HOUSE,
        )


@rule("general-and-pairs")
def general_and_pairs(case: Case) -> Iterator[Advice]:
    data = case.recipe.data
    if data.general and data.general_share > 0 and case.objective in ("dpo", "orpo", "kto"):
        yield warning(
            "data.general_share",
            f"General rows are not mixed in: {case.objective} learns from pairs or labels only.",
            "training.kl_weight holds the model to its start on them instead.",
            HOUSE,
        )


@rule("order")
def order(case: Case) -> Iterator[Advice]:
    data = case.recipe.data
    if data.order == "file" and (case.plan.epochs or 0) > 1:
        yield advice(
            "data.order",
            "Every pass has the rows in the order of the files.",
            "The last rows are learned best; a curriculum is one pass, or random afterwards.",
            HOUSE,
        )
    if data.order == "length" and data.packing:
        yield advice(
            "data.order",
            "Packed sequences are all of one length: there is nothing to group.",
            "random mixes them better.",
            TRAINER,
        )


@rule("pretrain-unpacked")
def pretrain_unpacked(case: Case) -> Iterator[Advice]:
    if case.objective == "pretrain" and not case.recipe.data.packing:
        yield advice(
            "data.packing",
            "Plain text is usually packed.",
            "Texts of all lengths then fill whole sequences, without padding.",
            GUIDES,
        )


@rule("answers-cut-in-scoring")
def answers_cut_in_scoring(case: Case) -> Iterator[Advice]:
    facts, evaluation = case.facts, case.recipe.evaluation
    scored = evaluation.generate and case.recipe.data.eval and case.objective != "pretrain"
    if not (scored and facts.rows and facts.trained_tokens):
        return
    mean = facts.trained_tokens / facts.rows
    if mean > evaluation.max_new_tokens:
        yield warning(
            "evaluation.max_new_tokens",
            f"Answers have ≈ {mean:.0f} tokens, and {evaluation.max_new_tokens} are generated.",
            "An answer that is cut counts as wrong: the scores would be too low.",
            "the data",
        )
