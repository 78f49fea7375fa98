"""``finetui evaluate``: records listed, shown, compared, reported; a plan without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetui import cli
from finetui.evaluation import figures
from finetui.evaluation.record import Answer, Item, Manifest, SetSpec, Subject, of_job
from finetui.evaluation.repairs import rows
from finetui.evaluation.scoring import score_set
from finetui.jobs.folder import Job, create
from finetui.workspace import Workspace
from finetui.workspace import create as make

SPEC = SetSpec("task")


def evaluation(workspace: Workspace, slug: str, right: int) -> Job:
    """Twenty sums: the base knows the last four, the tuned model the first ``right``."""
    job = create(workspace.jobs, "evaluate", slug, {"kind": "evaluate"}, {})
    record = of_job(job.path)
    subjects = [Subject("base", "base"), Subject("tuned", "adapter"), Subject("late", "adapter")]
    record.write_manifest(Manifest(slug, subjects, [SPEC], resamples=200))
    items = [
        Item(f"d/sums.jsonl:{n + 1}", [{"role": "user", "content": f"{n} + 1?"}], str(n + 1))
        for n in range(20)
    ]
    record.write_items("task", items)
    for subject, good in (("base", range(16, 20)), ("tuned", range(right)), ("late", range(1))):
        given = [
            Answer(item.id, item.reference if n in good else "no \x1b[31m", tokens=2)
            for n, item in enumerate(items)
        ]
        with record.writer(subject, "task") as out:
            for answer in given:
                out.add(answer)
        record.write_scores(subject, "task", score_set(SPEC, items, given))
    figures.write(record)
    return job


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = make(tmp_path / "work")
    evaluation(made, "first", 14)
    evaluation(made, "second", 9)
    return made


def called(
    capsys: pytest.CaptureFixture[str], workspace: Workspace, *words: str
) -> tuple[int, str, str]:
    verb, *rest = words
    code = cli.run(["evaluate", verb, "-w", str(workspace.root), *rest])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_the_list_names_who_was_asked_what(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = called(capsys, workspace, "list", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and {row["id"].rpartition("-")[2] for row in found} == {"first", "second"}
    assert found[0]["subjects"] == ["base", "tuned", "late"] and found[0]["sets"] == ["task"]


def test_a_record_is_shown_in_words_and_as_figures(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = called(capsys, workspace, "show", "first")
    assert "20.0% → 70.0%" in out and "14 fixed, 4 broken" in out
    _, out, _ = called(capsys, workspace, "show", "first", "--json")
    found = json.loads(out)
    assert found["summaries"]["tuned"]["task"]["accuracy"]["value"] == 0.7


def test_the_worst_rows_come_first_and_are_printable(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = called(capsys, workspace, "show", "first", "--worst", "5")
    assert [line.split("\t")[0] for line in out.splitlines()] == ["broken"] * 4 + ["wrong"]
    assert "\x1b" not in out
    told = ["show", "first", "--worst", "1", "--subject", "late", "--json"]
    _, out, _ = called(capsys, workspace, *told)
    assert json.loads(out)["row"] == "d/sums.jsonl:17"
    code, _, err = called(capsys, workspace, "show", "first", "--worst", "1", "--set", "nope")
    assert code == 2 and "There are: task." in err


def test_two_records_are_compared_row_by_row_more_beside_each_other(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = called(capsys, workspace, "compare", "first", "second", "--json")
    found = next(one for one in json.loads(out)["differences"] if one["metric"] == "accuracy")
    assert (found["fixed"], found["broken"], found["n"]) == (0, 5, 20)
    assert found["value"] == pytest.approx(9 / 20 - 14 / 20) and found["high"] < 0
    _, out, _ = called(capsys, workspace, "compare", "first", "second")
    assert "70.0%" in out and "45.0%" in out and "-25.0 pp" in out
    _, out, _ = called(capsys, workspace, "compare", "first", "second", "first", "--json")
    found = next(row for row in map(json.loads, out.splitlines()) if row["metric"] == "accuracy")
    assert found["set"] == "task"
    assert [text.split()[0] for text in found["values"].values()] == ["70.0%", "45.0%"]


@pytest.mark.parametrize(("form", "sign"), [("md", "# "), ("html", "<!doctype html>"),
                                            ("json", "{"), ("text", "Evaluation")])  # fmt: skip
def test_a_report_comes_in_every_form(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], form: str, sign: str, tmp_path: Path
) -> None:
    _, out, _ = called(capsys, workspace, "report", "first", "--format", form)
    assert out.startswith(sign) and "\x1b" not in out
    file = tmp_path / "new" / f"page.{form}"
    _, told, _ = called(capsys, workspace, "report", "first", "--format", form, "--to", str(file))
    assert told.strip() == str(file) and file.read_text() == out


def test_rows_are_put_on_the_repair_list_by_the_end_of_their_name(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = called(capsys, workspace, "repair", "first", "sums.jsonl:17")
    assert code == 0 and "1 row added" in err
    assert rows(workspace.root) == {"d/sums.jsonl:17"}
    code, _, err = called(capsys, workspace, "repair", "first", "sums.jsonl:99")
    assert code == 2 and "no row is called so" in err


def test_what_is_asked_is_shown_without_starting_anything(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: workspace.datasets / f"{name}.jsonl" for name in ("held", "train", "own")}
    for file in files.values():
        file.write_text("{}\n")
    recipe = {"model": {"path": "m"}, "evaluation": {"max_new_tokens": 50},
              "data": {"eval": str(files["held"]), "train": [str(files["train"])]}}  # fmt: skip
    run = create(workspace.jobs, "train", "run", {"kind": "train", "recipe": recipe}, {})
    run.adapter.mkdir()
    (run.adapter / "adapter_config.json").write_text("{}")
    outputs = workspace.root / "theirs.jsonl"
    outputs.write_text("{}\n")
    schema = workspace.root / "schema.json"
    schema.write_text('{"type": "object"}')
    options = ["--shots", "2", "--few-shot", "datasets/own.jsonl", "--outputs", "theirs.jsonl",
               "--data", "datasets/own.jsonl", "--no-suites", "--no-leaks", "--limit", "5",
               "--schema", "schema.json", "--seed", "3", "--margin", "0.1"]  # fmt: skip
    code, out, err = called(capsys, workspace, "start", "run", "--manifest-only", *options)
    assert code == 0, err
    asked = json.loads(out)
    assert [one["name"] for one in asked["subjects"]] == ["base", "tuned", "base-2-shot", "theirs"]
    assert asked["subjects"][2]["few_shot"] == str(files["own"])
    assert [one["name"] for one in asked["sets"]] == ["own", "drift"]
    assert asked["sets"][0]["format"]["schema"] == {"type": "object"}
    assert {one["limit"] for one in asked["sets"]} == {5} and asked["seed"] == 3
    assert asked["max_new_tokens"] == 50
    assert len(list(workspace.jobs.iterdir())) == 3
    code, _, err = called(capsys, workspace, "start", "run", "--data", "nope.jsonl")
    assert code == 2 and "nope.jsonl" in err
