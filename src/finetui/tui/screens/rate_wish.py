"""What a person asks of a blind rating: the fields of the dialog, read into plain values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from finetui.contenders import systems_of
from finetui.errors import UserError
from finetui.evaluation.record import Subject
from finetui.jobs.folder import Job
from finetui.rating import power, sequential
from finetui.rating.assignment import default_repeats
from finetui.rating.registration import (
    DEFAULT_QUESTION,
    MOST_CRITERIA,
    Registration,
    checked,
    recommended,
)
from finetui.rating.sequential import StopRule
from finetui.tui.widgets.form import FormField
from finetui.workspace import Workspace

ITEMS, MOST_ITEMS = 30, 2000
SHOW_FINDINGS, SEAL_AT_ONCE = "show me what was found", "seal at once"
TIE_RATE = 25
_STOPS = ("fixed", "e-process", "looks")
_DESIGN = ("practice", "catches", "guesses")
NUMBERS = {
    "shots": (0, 50),
    "items": (1, MOST_ITEMS),
    "practice": (0, 50),
    "catches": (0, 500),
    "guesses": (0, 500),
    "margin": (0, 50),
    "ties": (0, 95),
    "cap": (0, MOST_ITEMS),
}
"""Whole numbers: the least and the most."""

Fields = Mapping[str, FormField]


def default_fields(runs: tuple[str, ...], name: str) -> dict[str, FormField]:
    """The form as it opens; ``runs`` are the names to choose from."""
    few = recommended(ITEMS)
    made = (
        FormField("run", "Systems", "run", runs[0], "choice", runs),
        FormField("base", "Systems", "its base", "true", "flag", note="the first is the reference"),
        FormField("shots", "Systems", "base with examples", "0",
                  note="so many training rows before the prompt; 0: no such system"),
        FormField("tuned", "Systems", "what it left", "true", "flag"),
        FormField("steps", "Systems", "checkpoints", "", note="steps, e.g. 100, 200"),
        FormField("others", "Systems", "others", "", note="tuned:RUN, model:PATH, outputs:FILE"),
        FormField("name", "Session", "name", name, note="it must not tell which is which"),
        FormField("question", "Session", "question", DEFAULT_QUESTION),
        FormField("criteria", "Session", "asked besides", "",
                  note=f"at most {MOST_CRITERIA} questions, by ;"),
        FormField("items", "Session", "items", str(ITEMS)),
        FormField("data", "Session", "prompts", "", note="a file; empty: the run's held-out rows"),
        FormField("raters", "Session", "raters", "", note="accounts, by comma; empty: yours"),
        FormField("interested", "Session", "with a stake", "",
                  note="raters who had a part in it: reported with and without"),
        FormField("practice", "Design", "practice pairs", str(few.practice),
                  note="first, and not counted"),
        FormField("catches", "Design", "catch items", str(few.catches),
                  note="one answer spoilt: is the rater awake?"),
        FormField("guesses", "Design", "end question", str(few.guesses),
                  note="pairs where raters guess the tuned one: did the blind hold?"),
        FormField("stop", "Design", "stops", "fixed", "choice", _STOPS,
                  note="e-process: any look is allowed"),
        FormField("looks", "Design", "looks after", "", note="items, e.g. 50, 100, 150"),
        FormField("cap", "Design", "at most", "0", note="items of an e-process; 0: all"),
        FormField("margin", "Design", "margin", "0", note="points; above 0: non-inferiority"),
        FormField("ties", "Design", "ties expected", str(TIE_RATE), note="%, for the power below"),
        FormField("findings", "Sealing", "before it", SHOW_FINDINGS, "choice",
                  (SHOW_FINDINGS, SEAL_AT_ONCE), note="models named, style that gives them away"),
        FormField("identity", "Sealing", "models named", "exclude", "choice", ("exclude", "keep"),
                  note="items whose answer names a model"),
    )  # fmt: skip
    return {field.id: field for field in made}


def number(fields: Fields, name: str) -> int:
    """The whole number of a field, -1 when it is none or out of its range."""
    text = fields[name].value
    low, high = NUMBERS[name]
    return int(text) if text.isdecimal() and low <= int(text) <= high else -1


def parts(fields: Fields, name: str, by: str = ",") -> tuple[str, ...]:
    return tuple(part.strip() for part in fields[name].value.split(by) if part.strip())


def numbers(fields: Fields, name: str) -> tuple[int, ...]:
    """Whole numbers by comma. Raises UserError."""
    found = parts(fields, name)
    if not all(part.isdecimal() for part in found):
        raise UserError("whole numbers, by comma.", fields[name].value)
    return tuple(int(part) for part in found)


def problems(fields: Fields, taken: set[str]) -> dict[str, str]:
    """What is wrong, by field; what only the disk knows is not looked at."""
    found = {
        name: f"a whole number from {low} to {high:,}"
        for name, (low, high) in NUMBERS.items()
        if number(fields, name) < 0
    }
    if fields["name"].value in taken:
        found["name"] = "a session of this name exists"
    elif not fields["name"].value:
        found["name"] = "a name, please"
    for name in ("steps", "looks"):
        try:
            numbers(fields, name)
        except UserError:
            found[name] = "whole numbers, by comma"
    if not found and len(words(fields)) < 2:
        found["base"] = "two systems at least"
    if not found:
        found |= _unregistered(fields)
    return found


def _unregistered(fields: Fields) -> dict[str, str]:
    try:
        registration(fields)
    except UserError as error:
        words = str(error)
        near = {"margin": "margin", "criteri": "criteria", "interested": "interested",
                "look": "looks"}  # fmt: skip
        place = next((name for part, name in near.items() if part in words), "question")
        return {place: words}
    return {}


def registration(fields: Fields) -> Registration:
    """Everything that is frozen at the sealing. Raises UserError."""
    return checked(
        Registration(
            question=fields["question"].value,
            criteria=parts(fields, "criteria", ";"),
            raters=parts(fields, "raters"),
            interested=parts(fields, "interested"),
            margin=number(fields, "margin") / 100,
            stop=StopRule(
                kind=fields["stop"].value,  # type: ignore[arg-type]
                cap=number(fields, "cap") if fields["stop"].value == "e-process" else 0,
                looks=numbers(fields, "looks"),
            ),
            practice=number(fields, "practice"),
            catches=number(fields, "catches"),
            guesses=number(fields, "guesses"),
            identity=fields["identity"].value,  # type: ignore[arg-type]
        )
    )


def words(fields: Fields) -> list[str]:
    """Who answers, in the words of the command, the reference first."""
    shots = number(fields, "shots")
    found = ["base"] if fields["base"].value == "true" else []
    found += [f"few-shot:{shots}"] if shots else []
    found += ["tuned"] if fields["tuned"].value == "true" else []
    found += [f"checkpoint:{step}" for step in numbers(fields, "steps")]
    return [*found, *parts(fields, "others")]


def systems(workspace: Workspace, fields: Fields, run: Job) -> list[Subject]:
    """Who answers, the reference first. Raises UserError for what is not there."""
    return systems_of(workspace, words(fields), run.id)


def with_items(fields: dict[str, FormField], put: Callable[[FormField, str], FormField]) -> None:
    """Let practice, catches and the end question follow the number of items, where nobody chose
    them."""
    items = number(fields, "items")
    if items > 0:
        few = recommended(items)
        for name in _DESIGN:
            if not fields[name].changed:
                fields[name] = put(fields[name], str(getattr(few, name)))


def forecast(fields: Fields) -> list[str]:
    """What so many items can show and what they cost; some hundred milliseconds for many."""
    items, ties = number(fields, "items"), number(fields, "ties")
    if items < 1 or ties < 0:
        return ["How many items: a whole number."]
    raters = max(1, len(parts(fields, "raters")))
    pairs = math.comb(len(words(fields)), 2)
    extra = sum(max(0, number(fields, name)) for name in _DESIGN)
    repeats = round(items * default_repeats(items))
    each = power.plan(max(1, items // max(1, pairs)), raters, ties / 100)
    cost = power.plan(items, raters, ties / 100, extra=extra + repeats)
    told = [each.sentences[0], cost.sentences[1], each.sentences[2]]
    if pairs > 1:
        told[0] = f"{pairs} pairs share the items. Of each: {told[0]}"
    return [*told, *_stopping(fields, each.decided)]


def _stopping(fields: Fields, decided: int) -> list[str]:
    """How a stop rule would behave at 60:40."""
    kind = fields["stop"].value
    looks = numbers(fields, "looks") if kind == "looks" else ()
    if kind == "fixed" or decided < 1 or (kind == "looks" and not looks):
        return []
    rule = StopRule(kind=kind, looks=looks)  # type: ignore[arg-type]
    course = sequential.expected(rule, 0.6, decided)
    return [
        f"With {kind}, 60:40 is found with {course.power:.0%}, after {course.mean_items:.0f} of "
        f"{decided} decided items on average."
    ]
