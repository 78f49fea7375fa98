"""Presets, import, differences and sweeps change a recipe only as told, and undo takes it back."""

import json
import os

import pytest
from look import until, words
from textual.widgets import Input

from finetui import start
from finetui.jobs.devices import DeviceSample, Gpu
from finetui.jobs.folder import create
from finetui.recipe.files import load, to_spec
from finetui.recipe.schema import with_value
from finetui.tui.app import FinetuiApp
from finetui.tui.screens.recipe_compare import ComparePage
from finetui.tui.screens.recipe_forecast import ForecastPage
from finetui.tui.screens.recipe_import import ImportPage, config_files
from finetui.tui.screens.recipe_presets import PresetsPage
from finetui.tui.screens.recipe_sweep import SweepPage, runs_of
from finetui.tui.widgets.dialogs import Choose, Confirm, EditorDialog, Reading
from finetui.workspace import create as create_workspace

CONFIG = """\
base_model: model
adapter: qlora
datasets:
  - path: datasets/rows.jsonl
    type: chat_template
lora_r: 48
lora_alpha: 96
learning_rate: 0.0003
deepspeed: zero2.json
made_up_key: "\x1b[31m[/b]"
"""
SMALL = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14_336, "vocab_size": 128_256, "max_position_embeddings": 8192,
}  # fmt: skip


@pytest.fixture
def workspace(tmp_path):
    made = create_workspace(tmp_path / "work")
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    (made.datasets / "rows.jsonl").write_text(f"{row}\n" * 40)
    (made.datasets / "more.jsonl").write_text(f"{row}\n" * 4)
    (made.root / "model").mkdir()
    (made.root / "model" / "config.json").write_text(json.dumps(SMALL))
    (made.root / "axolotl.yaml").write_text(CONFIG.encode("unicode_escape").decode()
                                            .replace("\\n", "\n"))  # fmt: skip
    (made.recipes / "other.toml").write_text('name = "other"\n[method]\nrank = 64\nalpha = 128\n')
    (made.recipes / "first.toml").write_text(
        'name = "first"\n[model]\npath = "model"\n[data]\ntrain = ["datasets/rows.jsonl"]\n'
    )
    return made


SMALL_GPU = DeviceSample(
    (Gpu(0, "small", "GPU-0", 0.0, 0, 12 * 2**30, 40.0, 50.0, 300.0),), "550", "", 2**30, 2**34, 0.0
)


async def opened(app, pilot):
    await until(pilot, lambda: app.pane and getattr(app.pane, "path", None))
    await until(pilot, lambda: app.pane.facts.rows == 40)
    return app.pane


async def page_of(shell, pilot, kind):
    """The page or dialog of this class, once it is there to be used."""
    await until(pilot, lambda: isinstance(shell.screen, kind) and shell.screen.is_mounted)
    return shell.screen


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """What the screen wants measured; the process itself has tests of its own."""
    keys = []
    monkeypatch.setattr(
        "finetui.tui.screens.recipe_form.measure",
        lambda root, folder, wanted: keys.append(wanted) or "no",
    )
    return keys


@pytest.fixture
def shell(workspace):
    os.utime(workspace.recipes / "other.toml", (1, 1))
    return FinetuiApp(workspace, start="recipe")


async def test_a_preset_is_taken_as_one_step_that_undo_takes_back(shell):
    async with shell.run_test(size=(80, 24)) as pilot:
        pane = await opened(shell, pilot)
        before = pane.edits.value
        await pilot.press("P")
        page = await page_of(shell, pilot, PresetsPage)
        await until(pilot, lambda: page.presets)
        trial = next(n for n, found in enumerate(page.presets) if found.id == "trial")
        page.table("presets").go_to(trial)
        await until(pilot, lambda: "max steps" in page.query_one("#about-text").text.plain)
        await pilot.press("enter")
        await until(pilot, lambda: pane.edits.value.training.max_steps > 0)
        assert pane.edits.value.data == before.data
        await pilot.press("u")
        await until(pilot, lambda: pane.edits.value == before)


async def test_an_import_lists_what_has_no_equivalent_and_becomes_a_new_recipe(shell):
    async with shell.run_test(size=(80, 24)) as pilot:
        pane = await opened(shell, pilot)
        await pilot.press("I")
        await page_of(shell, pilot, Choose)
        await pilot.press("enter")
        page = await page_of(shell, pilot, ImportPage)
        assert {"deepspeed", "made_up_key"} <= {found.key for found in page.imported.lost}
        assert page.imported.lost[0].key in page.query_one("#why").text.plain
        await pilot.press("t")
        await until(pilot, lambda: pane.edits.value.method.rank == 48)
        assert pane.path is None
        assert pane.edits.missed


async def test_an_import_that_is_dropped_changes_nothing(shell):
    async with shell.run_test(size=(80, 24)) as pilot:
        pane = await opened(shell, pilot)
        before = pane.edits.value
        pane._import(shell.workspace.root / "axolotl.yaml")
        await page_of(shell, pilot, ImportPage)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(shell.screen, ImportPage))
        assert pane.edits.value == before


async def test_a_file_that_is_no_config_is_told_in_words(shell):
    (shell.workspace.root / "bad.yaml").write_text("a: [1\n")
    async with shell.run_test(size=(80, 24), notifications=True) as pilot:
        pane = await opened(shell, pilot)
        pane._import(shell.workspace.root / "bad.yaml")
        await until(pilot, lambda: any("bad.yaml" in n.message for n in shell._notifications))
        assert not isinstance(shell.screen, ImportPage)


def test_configs_are_looked_for_beside_the_data_and_not_in_runs(workspace):
    (workspace.jobs / "run").mkdir()
    (workspace.jobs / "run" / "spec.yaml").write_text("a: 1")
    (workspace.root / "configs").mkdir()
    (workspace.root / "configs" / "b.yml").write_text("a: 1")
    names = [workspace.relative(path) for path in config_files(workspace.root)]
    assert names == ["axolotl.yaml", "configs/b.yml"]


async def test_values_are_taken_over_from_another_recipe_one_by_one(shell):
    async with shell.run_test(size=(80, 24)) as pilot:
        pane = await opened(shell, pilot)
        pane._compare(str(shell.workspace.recipes / "other.toml"))
        page = await page_of(shell, pilot, ComparePage)
        ids = [found.field for found in page.found]
        page.table("fields").go_to(ids.index("method.rank"))
        await pilot.press("enter")
        assert page.recipe.method.rank == 64
        assert page.recipe.method.alpha == 32
        await pilot.press("escape")
        await until(pilot, lambda: pane.edits.value.method.rank == 64)
        assert pane.edits.value.model.path == "model"


async def test_a_recipe_is_compared_with_a_run_whose_paths_were_made_absolute(shell):
    recipe = load(shell.workspace.recipes / "first.toml")
    ran = with_value(recipe, "method.rank", "8")
    ran = with_value(ran, "model.path", str(shell.workspace.root / "model"))
    job = create(
        shell.workspace.jobs, "train", "ran", {"kind": "train", "recipe": to_spec(ran)}, {}
    )
    async with shell.run_test(size=(120, 36)) as pilot:
        pane = await opened(shell, pilot)
        pane._compare(job.id)
        page = await page_of(shell, pilot, ComparePage)
        assert [found.field for found in page.found] == ["method.rank"]
        await pilot.press("a", "escape")
        await until(pilot, lambda: pane.edits.value.method.rank == 8)


def test_lines_of_one_field_make_a_grid_and_lines_of_two_make_a_list(workspace):
    recipe = load(workspace.recipes / "first.toml")
    assert runs_of(recipe, []) == []
    grid = runs_of(recipe, ["learning_rate=1e-4,2e-4", "method.rank=8,16"])
    assert len(grid) == 4
    listed = runs_of(recipe, ["learning_rate=1e-4 method.rank=8", "method.rank=16"])
    assert [trial.recipe.method.rank for trial in listed] == [8, 16]


async def test_a_sweep_is_started_with_the_runs_that_were_shown(shell, monkeypatch):
    started = []

    class Made:
        id = "20261122-000000-first"

    def begin(_, name, trials):
        started.append((name, [trial.recipe.training.learning_rate for trial in trials]))
        return Made()

    monkeypatch.setattr(start, "start_sweep", begin)
    monkeypatch.setattr("finetui.tui.screens.recipe_sweep.advise", lambda *_: [])
    async with shell.run_test(size=(80, 24)) as pilot:
        pane = await opened(shell, pilot)
        pane.form.go_to("training.learning_rate")
        await pilot.press("S")
        page = await page_of(shell, pilot, SweepPage)
        line = page.query_one("#line", Input)
        assert line.value == "training.learning_rate="
        line.value = "learning_rate=fast"
        await pilot.press("enter")
        await until(pilot, lambda: "learning rate" in page.query_one("#told").text.plain)
        assert page.runs == []
        line.value = "learning_rate=1e-4,3e-4"
        await pilot.press("enter")
        await until(pilot, lambda: len(page.runs) == 2)
        await pilot.press("tab", "s")
        await until(pilot, lambda: started)
        assert started == [("first", [1e-4, 3e-4])]


async def test_a_sweep_with_a_run_that_cannot_start_is_not_started(shell):
    async with shell.run_test(size=(80, 24)) as pilot:
        await opened(shell, pilot)
        await pilot.press("S")
        page = await page_of(shell, pilot, SweepPage)
        page.query_one("#line", Input).value = "learning_rate=1e-4,3e-4"
        await pilot.press("enter")
        await until(pilot, lambda: len(page.runs) == 2)
        assert all(run.errors for run in page.runs)  # the model has no weights
        await pilot.press("tab", "s")
        assert shell.screen is page


async def test_a_change_that_makes_it_fit_is_made_on_one_key(shell, monkeypatch):
    monkeypatch.setattr("finetui.tui.lookout._devices", lambda: SMALL_GPU)
    async with shell.run_test(size=(80, 24)) as pilot:
        pane = await opened(shell, pilot)
        await until(pilot, lambda: pane.fixes)
        await pilot.press("f")
        page = await page_of(shell, pilot, ForecastPage)
        assert "activations" in page.query_one("#figures").text.plain
        wanted = page.fixes[0].recipe
        await pilot.press("1")
        await until(pilot, lambda: pane.edits.value == wanted)
        await pilot.press("u")
        await until(pilot, lambda: pane.edits.value != wanted)
        await pilot.press("F")
        await until(pilot, lambda: pane.edits.value == wanted)


async def test_a_rehearsal_asks_once_and_its_figures_come_into_the_forecast(shell, monkeypatch):
    started = []

    def begin(workspace, recipe):
        job = create(workspace.jobs, "rehearse", "first", {"kind": "rehearse"}, {})
        metrics = {"peak_bytes": 3 * 2**30, "step_s": 0.25, "checkpoint_bytes": 5 * 2**20}
        outcome = {"status": "finished", "attempt": 1, "t": 1.0, "metrics": metrics}
        job.write_json("outcome.json", {**outcome, "sentence": "peak 3 GiB"})
        started.append(job)
        return job

    monkeypatch.setattr(start, "start_rehearsal", begin)
    monkeypatch.setattr("finetui.tui.screens.recipe_launch.advise", lambda *_: [])
    async with shell.run_test(size=(120, 36)) as pilot:
        pane = await opened(shell, pilot)
        await pilot.press("R")
        await page_of(shell, pilot, Confirm)
        assert started == []
        await pilot.press("y")
        await until(pilot, lambda: "3.0 GiB, 0.25 s/step" in words(shell, "#forecast"))
        pane.change(with_value(pane.edits.value, "method.rank", "8"))
        assert "before: 3.0 GiB" in words(shell, "#forecast")


async def test_what_the_forecast_only_estimates_is_measured_once_beside_the_screen(shell, asked):
    async with shell.run_test(size=(120, 36)) as pilot:
        pane = await opened(shell, pilot)
        await until(pilot, lambda: asked and not pane._measuring)
        pane.change(with_value(pane.edits.value, "method.rank", "8"))
        await until(pilot, lambda: pane._seen is pane.edits.value)
        pane._measure_if_worth()
        wanted = [key for keys in asked for key in keys]
        assert len(wanted) == len(set(wanted))


async def test_notes_keep_their_lines_when_they_are_edited(shell):
    async with shell.run_test(size=(80, 24)) as pilot:
        pane = await opened(shell, pilot)
        pane.change(with_value(pane.edits.value, "notes", "one\ntwo"))
        pane.form.go_to("notes")
        await pilot.press("enter")
        await page_of(shell, pilot, EditorDialog)
        await pilot.press("x", "f2")
        await until(pilot, lambda: pane.edits.value.notes == "xone\ntwo")


async def test_a_file_is_added_to_the_training_data_and_taken_out_again(shell):
    async with shell.run_test(size=(80, 24)) as pilot:
        pane = await opened(shell, pilot)
        pane.form.go_to("data.train")
        for names in (("datasets/rows.jsonl", "datasets/more.jsonl"), ("datasets/rows.jsonl",)):
            await pilot.press("p")
            await page_of(shell, pilot, Choose)
            await pilot.press("enter")
            await until(pilot, lambda names=names: pane.edits.value.data.train == names)


async def test_the_help_of_a_field_is_there_in_full_on_a_small_screen(shell):
    async with shell.run_test(size=(80, 24)) as pilot:
        pane = await opened(shell, pilot)
        pane.form.go_to("model.path")
        await until(pilot, lambda: "more" in words(shell, "#below") or words(shell, "#below"))
        await pilot.press("h")
        await page_of(shell, pilot, Reading)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(shell.screen, Reading))


async def test_undo_shows_the_field_that_it_changed(shell):
    async with shell.run_test(size=(80, 24)) as pilot:
        pane = await opened(shell, pilot)
        pane.change(with_value(pane.edits.value, "guards.spike", "off"))
        pane.form.go_to("model.path")
        await pilot.press("u")
        await until(pilot, lambda: pane.form.current.id == "guards.spike")
        assert pane.edits.value.guards.spike == "warn"
