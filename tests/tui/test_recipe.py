"""The Recipe screen judges while typing, undoes, keeps comments, and starts nothing broken."""

import pytest
from look import until, words
from textual.content import Content

from finetui import start
from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.recipe.advice import advise
from finetui.recipe.applies import idle
from finetui.recipe.facts import Facts
from finetui.recipe.files import load
from finetui.recipe.forecast import plan
from finetui.recipe.schema import FIELDS, defaults, replace, with_value
from finetui.recipe.schema import field as field_of
from finetui.settings import Cluster, Settings
from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenRecipe
from finetui.tui.screens import recipe_view
from finetui.tui.screens.recipe_view import Edits
from finetui.tui.widgets.dialogs import Choose, Confirm
from finetui.tui.widgets.form import FormList
from finetui.workspace import create

RECIPE = """\
# my own words
name = "first"

[model]
path = "model"

[data]
train = ["datasets/rows.jsonl"]

[training]
learning_rate = 2e-4   # as in the paper
"""


def test_the_form_holds_every_field_of_the_schema_once():
    fields = recipe_view.form_fields(defaults(), [], {})
    assert sorted(field.id for field in fields) == sorted(found.id for found in FIELDS)


def test_a_newcomer_sees_the_ten_fields_that_matter_and_the_rest_folded():
    fields = recipe_view.form_fields(defaults(), [], {})
    folded = recipe_view.folded_groups()
    assert [f.id for f in fields if f.group not in folded] == list(recipe_view.FIRST)
    assert len(recipe_view.FIRST) == 10


def test_a_value_that_is_not_the_default_is_marked_and_the_default_told():
    recipe = with_value(defaults(), "method.rank", "64")
    marked = [field for field in recipe_view.form_fields(recipe, [], {}) if field.changed]
    assert [(field.id, field.note) for field in marked] == [("method.rank", "default 16")]


def test_a_field_without_effect_says_why():
    recipe = with_value(defaults(), "method.kind", "full")
    fields = recipe_view.form_fields(recipe, [], idle(recipe))
    rank = next(field for field in fields if field.id == "method.rank")
    assert rank.idle == "full tuning has no adapter"
    assert rank.idle in recipe_view.help_panel(field_of("method.rank"), [], rank.idle).plain


def test_a_remark_stands_at_its_field_with_its_reason_in_the_help():
    recipe = with_value(defaults(), "training.learning_rate", "0.5")
    advice = advise(recipe, Facts())
    remark = recipe_view.worst_remarks(advice)["training.learning_rate"]
    line = next(f for f in recipe_view.form_fields(recipe, advice, {}) if f.id == remark.field)
    assert line.severity == remark.severity
    for dense in (False, True):
        text = recipe_view.help_panel(field_of(remark.field), advice, dense=dense).plain
        assert remark.message in text
        assert remark.reason in text
        assert remark.source in text


def test_choices_that_cannot_run_yet_are_not_offered():
    lines = recipe_view.form_fields(defaults(), [], {})
    line = next(found for found in lines if found.id == "method.objective")
    assert line.choices == ("sft", "pretrain", "dpo", "orpo", "kto")


def test_a_cut_text_says_so_and_a_short_one_keeps_its_lines():
    text = Content("one two three four five six seven")
    assert recipe_view.fitted(text, 9, 2, 2, "more").plain == "one two\nmore"
    assert recipe_view.fitted(Content("one"), 9, 3, 3, "more").plain == "one\n \n "


def test_a_new_recipe_is_missed_only_when_something_was_chosen():
    fresh = with_value(defaults(), "name", "new")
    edits = Edits(fresh, blank=fresh)
    assert edits.changed
    assert not edits.missed
    edits.change(with_value(fresh, "method.rank", "64"))
    assert edits.missed
    assert Edits(fresh).missed  # an import: nothing of it is on disk


def test_undo_and_redo_walk_through_plain_values():
    edits = Edits(defaults(), defaults())
    changed = with_value(defaults(), "method.rank", "64")
    assert edits.change(changed)
    assert not edits.change(changed)
    assert edits.changed
    assert edits.undo()
    assert edits.value == defaults()
    assert not edits.changed
    assert not edits.undo()
    assert edits.redo()
    assert edits.value == changed


def test_the_launch_page_says_what_will_run_and_what_is_recorded():
    recipe = replace(defaults(), "model.path", "models/[/b]base")
    advice = advise(recipe, Facts(rows=10))
    page = recipe_view.launch_page(recipe, plan(recipe, Facts(rows=10)), advice)
    assert "models/[/b]base" in page
    assert "lora, rank 16, alpha 32" in page
    assert "train-run/adapter" in page
    warnings = [remark for remark in advice if remark.severity == "warning"]
    assert warnings
    assert all(remark.message in page for remark in warnings)


def test_the_launch_page_of_full_tuning_names_no_adapter():
    recipe = with_value(defaults(), "method.kind", "full")
    page = recipe_view.launch_page(recipe, plan(recipe), [])
    assert "full: all weights" in page
    assert "train-run/model" in page
    assert "rank" not in page


@pytest.fixture
def workspace(tmp_path):
    made = create(tmp_path / "work")
    (made.recipes / "first.toml").write_text(RECIPE)
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    (made.datasets / "rows.jsonl").write_text(f"{row}\n" * 40)
    return made


async def opened(app, pilot):
    """Wait until the recipe is in the form and its files were looked at."""
    await until(pilot, lambda: app.pane and app.pane.path and app.pane.facts.rows == 40)
    return app.pane


async def test_the_newest_recipe_opens_and_its_files_are_looked_at(workspace):
    app = FinetuiApp(workspace, start="recipe")
    async with app.run_test(size=(120, 36)) as pilot:
        pane = await opened(app, pilot)
        assert pane.edits.value.name == "first"
        assert "5 an epoch" in words(app, "#forecast")


async def test_an_edit_is_judged_while_typing_and_saved_with_the_comments(workspace):
    app = FinetuiApp(workspace, start="recipe")
    async with app.run_test(size=(120, 36)) as pilot:
        pane = await opened(app, pilot)
        form = pane.query_one(FormList)
        form.go_to("training.learning_rate")
        await pilot.press("enter")
        form.editor.value = "x"
        await until(pilot, lambda: form.current.severity == "error")
        assert pane.edits.value.training.learning_rate == 2e-4
        form.editor.value = "3e-4"
        await pilot.press("enter")
        await until(pilot, lambda: pane.edits.value.training.learning_rate == 3e-4)
        await pilot.press("w")
        await until(pilot, lambda: not pane.edits.changed)
    text = (workspace.recipes / "first.toml").read_text()
    assert "# my own words" in text
    assert "# as in the paper" in text
    assert load(workspace.recipes / "first.toml").training.learning_rate == 3e-4


async def test_undo_puts_the_value_back(workspace):
    app = FinetuiApp(workspace, start="recipe")
    async with app.run_test(size=(120, 36)) as pilot:
        pane = await opened(app, pilot)
        pane.query_one(FormList).go_to("data.packing")
        await pilot.press("space")
        await until(pilot, lambda: pane.edits.value.data.packing)
        await pilot.press("u")
        await until(pilot, lambda: not pane.edits.value.data.packing)
        await pilot.press("ctrl+r")
        await until(pilot, lambda: pane.edits.value.data.packing)
        await pilot.press("x")
        await until(pilot, lambda: not pane.edits.value.data.packing)


async def test_an_error_blocks_the_launch_and_shows_its_field(workspace):
    app = FinetuiApp(workspace, start="recipe")
    async with app.run_test(size=(120, 36)) as pilot:
        pane = await opened(app, pilot)
        await pilot.press("r")
        errors = [remark for remark in pane.advice if remark.severity == "error"]
        assert errors  # the model's folder is not there
        await until(pilot, lambda: pane.query_one(FormList).current.id == errors[0].field)
        assert not isinstance(app.screen, Confirm)


async def test_a_launch_asks_once_and_leads_to_the_train_screen(workspace, monkeypatch):
    started = []

    def begin(_, recipe):
        started.append(recipe.name)
        job = Job(workspace.jobs / "20261122-000000-train-first")
        job.path.mkdir(parents=True)
        (job.path / "spec.toml").write_text('kind = "train"\n')
        return job

    monkeypatch.setattr(start, "start_training", begin)
    monkeypatch.setattr("finetui.tui.screens.recipe_launch.shutil.which", lambda _: None)
    app = FinetuiApp(workspace, start="recipe")
    async with app.run_test(size=(120, 36)) as pilot:
        pane = await opened(app, pilot)
        monkeypatch.setattr("finetui.tui.screens.recipe_launch.advise", lambda *_: [])
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert started == []
        await pilot.press("y")
        await until(pilot, lambda: app.mode == "train")
        assert started == ["first"]
        assert pane is not app.pane
        await until(pilot, lambda: app.pane.job is not None)


async def test_with_a_cluster_the_launch_asks_where_first(workspace, monkeypatch):
    started = []

    def begin(_, recipe, on=""):
        started.append(on)
        raise UserError("Slurm does not answer.")

    monkeypatch.setattr(start, "start_training", begin)
    monkeypatch.setattr("finetui.tui.screens.recipe_launch.advise", lambda *_: [])
    settings = Settings(cluster={"big": Cluster(partition="gpu", gpus=4)})
    app = FinetuiApp(workspace, settings, start="recipe")
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await opened(app, pilot)
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, Confirm))
        assert "slurm:big: partition gpu, up to 4 GPUs" in str(
            app.screen.query_one("#detail").content
        )
        assert started == []
        await pilot.press("y")
        await until(pilot, lambda: started == ["slurm:big"])
        await until(pilot, lambda: any("does not answer" in n.message for n in app._notifications))


async def test_a_data_file_from_another_screen_begins_a_new_recipe(workspace):
    request = OpenRecipe(data=workspace.datasets / "rows.jsonl")
    app = FinetuiApp(workspace, start="recipe", request=request)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.edits.value.name == "rows")
        assert app.pane.edits.value.data.train == ("datasets/rows.jsonl",)
        assert app.pane.path is None


async def test_a_recipe_that_does_not_read_is_named_with_its_line(workspace):
    broken = workspace.recipes / "broken.toml"
    broken.write_text("name = 3\n")
    app = FinetuiApp(workspace, start="recipe", request=OpenRecipe(path=broken))
    async with app.run_test(size=(120, 36), notifications=True) as pilot:
        await until(pilot, lambda: app._notifications)
        told = [notice.message for notice in app._notifications]
        assert any("broken.toml:1" in text for text in told)
