"""`finetui recipe` and `finetui sweep`: the recipe's knowledge without a screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetui import cli
from finetui.jobs.folder import create as create_job
from finetui.recipe.files import load, resolve, to_spec
from finetui.workspace import Workspace, create_sample

GOOD, FOUND, CANNOT = 0, 1, 2
AXOLOTL = """\
base_model: model
adapter: lora
datasets:
  - path: datasets/tickets.jsonl
micro_batch_size: 4
learning_rate: 3e-4
special_tokens: {pad_token: <pad>}
strict: false
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return create_sample(tmp_path_factory.mktemp("work") / "demo")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Finetui = Callable[..., Done]


@pytest.fixture
def finetui(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> Finetui:
    """Run one command line in this process, in the workspace."""

    def run(*arguments: str) -> Done:
        code = cli.run([*arguments, "-w", str(workspace.root)])
        told = capsys.readouterr()
        return Done(code, told.out, told.err)

    return run


def values(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_check_says_what_is_wrong_and_by_which_rule(finetui: Finetui, workspace: Workspace) -> None:
    good = finetui("recipe", "check", "triage-lora")
    assert good.returncode == GOOD and good.stdout == ""
    text = (workspace.recipes / "triage-lora.toml").read_text()
    bad = workspace.recipes / "bad.toml"
    bad.write_text(text.replace('kind = "lora"', 'kind = "lora"\nobjective = "dpo"'))
    found = finetui("recipe", "check", "bad", "--json")
    bad.unlink()
    assert found.returncode == FOUND
    rules = {value["rule"]: value for value in values(found)}
    assert rules["rows-and-objective"]["severity"] == "error"
    assert {"field", "message", "reason", "source"} <= rules["rows-and-objective"].keys()


def test_import_writes_a_recipe_and_tells_what_was_lost(
    finetui: Finetui, workspace: Workspace, tmp_path: Path
) -> None:
    config = tmp_path / "mine.yml"
    config.write_text(AXOLOTL)
    seen = finetui("recipe", "import", str(config), "--dry-run")
    assert seen.returncode == GOOD and "special_tokens" in seen.stdout.split("no equivalent:")[1]
    assert "strict" not in seen.stdout and not (workspace.recipes / "mine.toml").exists()
    [value] = values(finetui("recipe", "import", str(config), "--json"))
    assert value["source"] == "axolotl" and value["recipe"]["training.batch_size"] == 4
    assert {item["key"] for item in value["lost"]} == {"special_tokens", "strict"}
    assert load(workspace.recipes / "mine.toml").training.learning_rate == 3e-4
    again = finetui("recipe", "import", str(config))
    assert again.returncode == CANNOT and "is there already" in again.stderr
    config.write_text("base_model: x\n  broken: [")
    broken = finetui("recipe", "import", str(config))
    assert broken.returncode == CANNOT and "mine.yml:2:" in broken.stderr


def test_diff_compares_recipes_runs_and_the_defaults(
    finetui: Finetui, workspace: Workspace
) -> None:
    recipe = load(workspace.recipes / "triage-lora.toml")
    spec = {"kind": "train", "workspace": str(workspace.root),
            "recipe": to_spec(resolve(recipe, workspace.root))}  # fmt: skip
    job = create_job(workspace.jobs, "train", "first", spec, {})
    same = finetui("recipe", "diff", "triage-lora", job.id)
    assert same.returncode == GOOD and "no field differs" in same.stderr
    other = finetui("recipe", "diff", "triage-lora", "defaults", "--json")
    assert other.returncode == FOUND
    fields = {value["field"]: value["values"] for value in values(other)}
    assert fields["data.train"] == ["datasets/tickets.jsonl", ""]
    none = finetui("recipe", "diff", "triage-lora", "nothing")
    assert none.returncode == CANNOT and "no recipe and no job 'nothing'" in none.stderr


def test_presets_are_listed_and_a_new_recipe_begins_with_them(
    finetui: Finetui, workspace: Workspace
) -> None:
    listed = values(finetui("recipe", "presets", "triage-lora", "--json"))
    assert listed[0]["id"] == "lora-tiny-cpu" and listed[0]["recommended"]
    new = finetui("recipe", "new", "fresh", "--preset", "lora-tiny-cpu",
                  "--preset", "trial", "--set", "model.path=model", "--set", "rank=4")  # fmt: skip
    assert new.returncode == GOOD, new.stderr
    made = load(workspace.recipes / "fresh.toml")
    assert (made.training.max_steps, made.method.rank, made.name) == (30, 4, "fresh")
    wrong = finetui("recipe", "new", "other", "--preset", "lora-tiny-cpus")
    assert wrong.returncode == CANNOT and "Did you mean lora-tiny-cpu?" in wrong.stderr
    assert not (workspace.recipes / "other.toml").exists()


def test_rules_are_listed_by_id(finetui: Finetui, workspace: Workspace) -> None:
    listed = finetui("recipe", "rules").stdout.split()
    assert len(listed) > 100 and listed == sorted(listed)


def test_a_sweep_is_shown_before_it_is_started(
    finetui: Finetui, workspace: Workspace, tmp_path: Path
) -> None:
    done = finetui("sweep", "triage-lora", "rank=8,16", "lr=1", "--dry-run")
    assert done.returncode == CANNOT and "the recipe has no field 'lr'" in done.stderr
    done = finetui("sweep", "triage-lora", "rank=8,16", "epochs=1,2", "--dry-run",
                   "--json")  # fmt: skip
    assert [value["changes"]["method.rank"] for value in values(done)] == ["8", "8", "16", "16"]
    blocked = finetui("sweep", "triage-lora", "warmup=0.1;1.5", "--dry-run")
    assert blocked.returncode == FOUND and "whole number of steps" in blocked.stdout
    lines = tmp_path / "runs.txt"
    lines.write_text("rank=8\nrank=big\n")
    listed = finetui("sweep", "triage-lora", "--trials", str(lines), "--dry-run")
    assert listed.returncode == CANNOT and "runs.txt: trial 2" in listed.stderr
    assert not workspace.sweeps.exists()
    assert "no sweeps yet" in finetui("sweep", "--list").stderr
    assert finetui("sweep", "--show", "x").returncode == CANNOT
