"""Rules on the rows themselves: are they of the shape that the objective learns from."""

from __future__ import annotations

from collections.abc import Iterator

from finetui.recipe.datafacts import FileLook
from finetui.recipe.field import quote
from finetui.recipe.rule import Advice, Case, advice, error, rule, warning
from finetui.recipe.sources import DPO, HOUSE, KTO

# Shapes that an objective can learn from.
_LEARNS = {
    "sft": ("chat", "answer", "pair", "labelled"),
    "pretrain": ("text",),
    "dpo": ("pair",),
    "orpo": ("pair",),
    "kto": ("labelled", "pair"),
}
_WORDS = {
    "chat": "conversations",
    "answer": "prompts with answers",
    "pair": "pairs of answers",
    "labelled": "answers judged good or bad",
    "text": "plain text",
}
_NEEDS = {
    "sft": "answers to learn from",
    "pretrain": "plain text",
    "dpo": "pairs: a chosen and a rejected answer",
    "orpo": "pairs: a chosen and a rejected answer",
    "kto": "answers with a label, good or bad",
}
_SUITS = {"chat": "sft", "answer": "sft", "pair": "dpo", "labelled": "kto", "text": "pretrain"}


def trained(case: Case) -> Iterator[tuple[str, FileLook]]:
    """The training files that were looked into, by name."""
    for name, found in zip(case.recipe.data.train, case.details.train, strict=False):
        if found is not None:
            yield name, found


@rule("rows-and-objective")
def rows_and_objective(case: Case) -> Iterator[Advice]:
    learns = _LEARNS.get(case.objective)
    if learns is None:
        return
    for name, found in trained(case):
        if found.shape and found.shape not in learns and not _text_in_chats(case, found):
            yield error(
                "method.objective",
                f"{case.objective} cannot learn from {quote(name)}: {_WORDS[found.shape]}.",
                f"It needs {_NEEDS[case.objective]}; these rows suit {_SUITS[found.shape]}.",
                DPO if case.objective != "kto" else KTO,
            )


def _text_in_chats(case: Case, found: FileLook) -> bool:
    return case.objective == "pretrain" and found.shape in ("chat", "answer")


@rule("chats-as-text")
def chats_as_text(case: Case) -> Iterator[Advice]:
    for name, found in trained(case):
        if _text_in_chats(case, found):
            yield warning(
                "method.objective",
                f"{quote(name)} holds {_WORDS[found.shape]}, and pretrain learns plain text.",
                "Every turn would be learned, the user's too; sft learns the answers.",
                HOUSE,
            )


@rule("rows-unknown")
def rows_unknown(case: Case) -> Iterator[Advice]:
    for name, found in trained(case):
        if found.rows and not found.shape:
            yield warning(
                "data.train",
                f"The columns of {quote(name)} are of no known shape.",
                "Open it in the Data screen and choose its shape, or finetui convert it.",
                HOUSE,
            )


@rule("rows-mixed")
def rows_mixed(case: Case) -> Iterator[Advice]:
    files = list(trained(case))
    shapes = {found.shape for _, found in files if found.shape}
    if len(shapes - {"answer"}) > 1:
        words = " and ".join(sorted(_WORDS[shape] for shape in shapes))
        yield warning(
            "data.train",
            f"The files differ in shape: {words}.",
            "They are read by one objective: some rows may teach what you do not mean.",
            HOUSE,
        )
    for name, found in files:
        if found.others:
            yield warning(
                "data.train",
                f"{quote(name)} also has rows of other shapes: {_WORDS[found.others[0]]}.",
                "Rows of another shape than most are left out, or read wrongly.",
                HOUSE,
            )


@rule("held-out-shape")
def held_out_shape(case: Case) -> Iterator[Advice]:
    learns, held = _LEARNS.get(case.objective), case.details.eval
    if learns and held is not None and held.shape and held.shape not in learns:
        yield error(
            "data.eval",
            f"The held-out rows are {_WORDS[held.shape]}; {case.objective} cannot measure on them.",
            f"It needs {_NEEDS[case.objective]}.",
            HOUSE,
        )


@rule("general-shape")
def general_shape(case: Case) -> Iterator[Advice]:
    used = case.recipe.data.general_share > 0 or case.recipe.training.kl_weight > 0
    for id, found in (
        ("data.general", case.details.general if used else None),
        ("evaluation.suite", case.details.suite),
    ):
        if found is not None and found.shape == "text":
            yield error(
                id,
                "Plain text has no answers: general rows are conversations.",
                "Name a file of everyday prompts with answers.",
                HOUSE,
            )


@rule("kto-balance")
def kto_balance(case: Case) -> Iterator[Advice]:
    good = sum(found.good for _, found in trained(case))
    bad = sum(found.bad for _, found in trained(case))
    if case.objective != "kto" or not good + bad:
        return
    weights = case.recipe.preference
    if not (good and bad):
        yield error(
            "data.train",
            f"All answers are {'good' if good else 'bad'}: there is nothing to compare.",
            "KTO learns from the difference of the two; good answers alone suit sft.",
            KTO,
        )
        return
    heavy, light = good * weights.desirable_weight, bad * weights.undesirable_weight
    ratio = heavy / light if light else float("inf")
    if not 0.75 <= ratio <= 1.5:
        yield warning(
            "preference.desirable_weight",
            f"Good and bad weigh {ratio:.1f} : 1 (rows {good} : {bad} of those looked at).",
            f"Within 1 : 1 to 4 : 3 is usual: about {bad / good:.2g} : 1 as weights here.",
            KTO,
        )


@rule("pairs-without-difference")
def pairs_without_difference(case: Case) -> Iterator[Advice]:
    if case.objective not in ("dpo", "orpo", "kto"):
        return
    for name, found in trained(case):
        if found.same_sides:
            yield warning(
                "data.train",
                f"{found.same_sides} of {found.rows} pairs looked at in {quote(name)} have the "
                "same answer twice.",
                "They teach nothing, and count as pairs.",
                DPO,
            )


@rule("empty-answers")
def empty_answers(case: Case) -> Iterator[Advice]:
    for name, found in trained(case):
        if found.empty and case.objective != "pretrain":
            yield warning(
                "data.train",
                f"{found.empty} of {found.rows} rows looked at in {quote(name)} have an empty "
                "answer.",
                "The model learns to say nothing. The Data screen finds them.",
                HOUSE,
            )


@rule("loss-on-last-turn")
def loss_on_last_turn(case: Case) -> Iterator[Advice]:
    several = sum(found.several_turns for _, found in trained(case))
    looked = sum(found.rows for _, found in trained(case))
    if case.recipe.data.loss_on == "last" and looked and several > looked / 4:
        yield advice(
            "data.loss_on",
            f"{100 * several / looked:.0f} % of the conversations have several answers, and only "
            "the last is learned.",
            "assistant learns all of them from the same row, at no cost.",
            "TRL docs, assistant_only_loss",
        )
