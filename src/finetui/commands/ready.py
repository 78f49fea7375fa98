"""``finetui ready``: is a set ready to train on, what would be lost, what would it cost."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetui.commands import console
from finetui.data import questions, readiness
from finetui.data.readiness import Measure, Plan, Point
from finetui.data.trainers import TRAINERS
from finetui.display import clean, plural
from finetui.errors import UserError
from finetui.recipe.facts import Facts, model_facts
from finetui.recipe.forecast import plan as forecast
from finetui.recipe.resumption import update_rows
from finetui.recipe.schema import Recipe, defaults
from finetui.workspace import Workspace

if TYPE_CHECKING:
    from finetui.data.checks.model import CheckOptions
    from finetui.data.dataset import DataSet

SIGNS = {"good": "✓", "warn": "!", "bad": "✗", "unknown": "?"}

_LONG = ("fates", "sizes")  # what the page tells in other words


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Say whether a data set is ready to train on: what is learnt from, what this and other "
        "trainers would drop or cut, what the run costs, and whether tuning is the right tool.",
        json=True,
    )
    made.add_argument("file", type=Path, nargs="?", metavar="FILE")
    made.add_argument("--chart", action="store_true", help="also draw how long the rows are")
    made.add_argument("--recipe", type=Path, help="the run to judge for (default: the newest)")
    made.add_argument("--max-length", type=int, default=0, metavar="TOKENS")
    made.add_argument(
        "--answer",
        action="append",
        default=[],
        metavar="QUESTION=yes|no|unsure",
        help="answer a question on whether to tune at all; kept in tuning.toml",
    )
    made.add_argument("--note", default="", help="why, kept beside the answer")
    return made


def run(arguments: argparse.Namespace) -> int:
    workspace = console.workspace_of(arguments)
    for entry in arguments.answer:
        question, _, said = entry.partition("=")
        questions.answer(workspace, question.strip(), said.strip().lower(), arguments.note)
    if arguments.file is None:
        if not arguments.answer:
            raise UserError("no file to judge.", fix="Name one: finetui ready FILE")
        return _tell_questions(workspace, arguments.json)
    recipe = _recipe(workspace, arguments.recipe)
    page = _look(workspace, arguments.file, recipe, arguments.max_length)
    if arguments.json:
        console.emit(page.as_dict())
    else:
        _tell(page, arguments.chart)
        _tell_questions(workspace, False)
    return 1 if page.state == "bad" else 0


@dataclass
class Page:
    """Everything `finetui ready` knows of a file."""

    file: str
    model: str
    state: str
    points: list[Point]
    found: Measure
    steps: int | None
    epochs: float
    costs: list[dict[str, Any]]
    answers: dict[str, Any]
    verdict: questions.Verdict

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "model": self.model,
            "state": self.state,
            "points": [asdict(point) for point in self.points],
            "measure": {
                key: value for key, value in asdict(self.found).items() if key not in _LONG
            },
            "tokens": self.found.estimate(self.found.tokens),
            "trained": self.found.estimate(self.found.trained),
            "trainers": trainers(self.found),
            "steps": self.steps,
            "epochs": self.epochs,
            "costs": self.costs,
            "answers": self.answers,
            "verdict": asdict(self.verdict),
        }


def _recipe(workspace: Workspace, named: Path | None) -> Recipe:
    from finetui.recipe.files import load

    if named is not None:
        return load(workspace.resolve(named))
    files = sorted(workspace.recipe_files(), key=lambda path: path.stat().st_mtime, reverse=True)
    for file in files:
        try:
            return load(file)
        except UserError:
            continue
    return defaults()


def _look(workspace: Workspace, file: Path, recipe: Recipe, limit: int) -> Page:
    from finetui.data.dataset import open_dataset

    path = file if file.is_file() else workspace.resolve(file)
    limit = limit or recipe.data.max_length
    model = workspace.resolve(recipe.model.path) if recipe.model.path else None
    with ExitStack() as stack:
        dataset = stack.enter_context(open_dataset(path, workspace))
        update = stack.enter_context(console.progress("reading"))
        tokenizer = _tokenizer(model)
        found = readiness.measure(dataset, tokenizer, limit, update)
        checks, severities = _checks(dataset, workspace, model, limit)
        run = _plan(workspace, recipe, found, dataset)
        lines = readiness.points(found, checks, severities, run)
    tokens = found.estimate(found.tokens)
    given = questions.replies(workspace)
    return Page(
        str(path),
        "" if model is None else str(model),
        readiness.ready(lines),
        lines,
        found,
        run.steps,
        run.epochs,
        _costs(workspace, round(tokens * run.epochs)),
        {name: asdict(reply) for name, reply in given.items()},
        questions.verdict(given),
    )


def _tokenizer(model: Path | None) -> Any:
    from finetui.data.tokens import load_chat_tokenizer

    if model is None or not (model / "tokenizer.json").is_file():
        return None
    return load_chat_tokenizer(model)


def _checks(
    dataset: DataSet, workspace: Workspace, model: Path | None, limit: int
) -> tuple[dict[str, int], dict[str, str]]:
    """Counts and severities of the findings of the kept rows as they are now, by check."""
    from finetui.data.checks.model import CheckOptions
    from finetui.data.checks.registry import CHECKS
    from finetui.data.checks.run import check_row

    options = CheckOptions(model_dir=model, max_length=limit, cache=workspace.cache)
    counts, changed = _known(dataset, workspace, options), dataset.changed_rows()
    if counts is None:
        counts = _looked(dataset, options)
    for row in changed:
        if dataset.state(row).kept:
            counts.update(finding.check for finding in check_row(dataset, row, options))
    severities = {check.id: check.severity for check in CHECKS.values()}
    return dict(counts), dict(severities)


def _known(dataset: DataSet, workspace: Workspace, options: CheckOptions) -> Counter[str] | None:
    """Findings of the unchanged rows from a finished scan of the same bytes, None without one."""
    from finetui.data.scan.stored import StoredScan

    scan = StoredScan([dataset.path], [], replace(options, whole=True), workspace.cache)
    store = scan.kept()
    if store is None:
        return None
    with store:
        counts = Counter(store.counts())
        for row in dataset.changed_rows():
            counts.subtract(finding.check for finding in store.of_row(row))
    return +counts


def _looked(dataset: DataSet, options: CheckOptions) -> Counter[str]:
    """Findings of the unchanged rows from a pass over them."""
    from finetui.data.checks.run import check_files

    changed = set(dataset.changed_rows())
    findings = check_files([dataset.path], options)
    return Counter(finding.check for finding in findings if finding.row not in changed)


def _plan(workspace: Workspace, recipe: Recipe, found: Measure, dataset: DataSet) -> Plan:
    facts = Facts(rows=found.kept, tokens=found.estimate(found.tokens), longest=found.longest)
    if recipe.model.path:
        facts = _with_model(facts, workspace.resolve(recipe.model.path))
    made = forecast(recipe, facts)
    return Plan(
        epochs=recipe.training.epochs,
        batch=update_rows(recipe),
        steps=made.steps,
        held_out=_held_out(workspace, recipe, dataset.path),
        pairs=dataset.shape == "preference",
    )


def _with_model(facts: Facts, model: Path) -> Facts:
    from finetui.recipe.facts import merge

    return merge(model_facts(model), facts) if model.is_dir() else facts


def _held_out(workspace: Workspace, recipe: Recipe, path: Path) -> int | None:
    """Rows of the recipe's held-out file; None when the recipe does not train on this set."""
    from finetui.data.formats.source import open_source

    named = {workspace.resolve(name).resolve() for name in recipe.data.train}
    if path.resolve() not in named:
        return None
    if not recipe.data.eval:
        return 0
    file = workspace.resolve(recipe.data.eval)
    if not file.is_file():
        return 0
    with open_source(file, workspace.cache) as source:
        source.build_index()
        return source.rows


def _costs(workspace: Workspace, tokens: int) -> list[dict[str, Any]]:
    """What the run's tokens cost where training is sold by the token."""
    from finetui.data.prices import cost, money, read_prices

    return [
        {
            "name": price.name,
            "tokens": tokens,
            "cost": cost(tokens, price),
            "told": money(cost(tokens, price), price.currency),
            "sample": price.sample,
        }
        for price in read_prices(workspace)
        if price.use == "training"
    ]


def trainers(found: Measure) -> list[dict[str, Any]]:
    """One entry a trainer: rows by fate, and the reasons with their first rows."""
    told = []
    for trainer in TRAINERS:
        counts = found.fates.get(trainer.name)
        if counts is None:
            continue
        kinds = dict.fromkeys(("trained", "cut", "dropped", "stops"), 0)
        for entry in counts:
            kinds[entry.kind] += found.estimate(entry.count)
        reasons = [
            {"kind": entry.kind, "why": entry.why, "count": found.estimate(entry.count),
             "rows": entry.rows}
            for entry in counts if entry.kind != "trained"
        ]  # fmt: skip
        key = f"{trainer.limit_key} {found.limit}"
        told.append({"name": trainer.name, "limit": key, **kinds, "reasons": reasons})
    return told


# ---------------------------------------------------------------- for people


def _tell(page: Page, chart: bool) -> None:
    for point in page.points:
        console.out(f"{SIGNS[point.state]} {point.title:<15} {clean(point.detail)}")
        if point.fix and point.state != "good":
            console.out(f"{'':18}{clean(point.fix)}")
    if page.found.fates:
        console.out()
        _tell_trainers(page.found)
    if page.steps:
        about = "" if page.found.exact else "≈ "
        console.out(f"\n{page.epochs:g} epochs are {about}{plural(page.steps, 'step')}")
    _tell_costs(page.costs)
    if chart:
        from finetui.commands.plots import histogram

        console.out("\n" + histogram(page.found.sizes, "tokens of a row"))


def _tell_trainers(found: Measure) -> None:
    about = "" if found.exact else "≈ "
    rows = []
    for entry in trainers(found):
        why = "; ".join(f"{reason['kind']}: {reason['why']}" for reason in entry["reasons"])
        figures = [f"{about}{entry[kind]:,}" for kind in ("trained", "cut", "dropped", "stops")]
        rows.append((entry["name"], entry["limit"], *figures, why))
    console.table(rows, ("trainer", "limit", "trained", "cut", "dropped", "stops", "why"))


def _tell_costs(costs: Sequence[dict[str, Any]]) -> None:
    if not costs:
        return
    console.out("\nat a provider:")
    for entry in costs:
        sample = "   (a sample price: edit prices.toml)" if entry["sample"] else ""
        console.out(f"  {clean(entry['name'])}: {clean(entry['told'])}{sample}")


def _tell_questions(workspace: Workspace, as_json: bool) -> int:
    given = questions.replies(workspace)
    found = questions.verdict(given)
    if as_json:
        answers = {name: asdict(reply) for name, reply in given.items()}
        console.emit({"answers": answers, "verdict": asdict(found)})
        return 0
    console.out("\nis tuning the right tool?")
    for question in questions.QUESTIONS:
        said = given.get(question.id, questions.Reply()).answer or "–"
        console.out(f"  {said:<7}{question.id:<11}{question.text}")
    console.out(f"{SIGNS[found.state]} {found.sentence}")
    for line in found.advice:
        console.out(f"  {line}")
    return 0
