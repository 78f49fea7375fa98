"""A long form stays calm: groups fold, a search finds, only what is changed can be shown."""

from dataclasses import replace

import pytest
from desk import until
from stage import Stage, Watched, lines_of

from finetui.tui.widgets.form import FormField, FormList

FIELDS = [
    FormField("model.path", "Model", "path", "model", changed=True),
    FormField("training.rate", "Training", "learning rate", "2e-4", words="size of each update"),
    FormField("training.decay", "Training", "weight decay", "0", severity="warning", note="odd"),
    FormField("preference.beta", "Preference", "beta", "0.1", idle="only dpo"),
    FormField("preference.loss", "Preference", "loss", "sigmoid", idle="only dpo"),
    FormField("notes", "Recipe", "notes", "first\nsecond", "lines"),
]


class FormStage(Stage):
    """A stage that keeps what a long form says."""

    def on_form_list_narrowed(self, message: FormList.Narrowed) -> None:
        self.seen.append(message)

    def on_form_list_lines_wanted(self, message: FormList.LinesWanted) -> None:
        self.seen.append(message)


def shown(form: FormList) -> list[str]:
    return [field.id for _, field in form.page.items if field is not None]


@pytest.fixture
def stage():
    form = FormList()
    return form, FormStage(form)


async def test_a_folded_group_tells_its_remarks_and_why_it_has_no_effect(stage) -> None:
    form, app = stage
    async with app.run_test(size=(80, 20)):
        form.show(FIELDS)
        form.fold(["Training", "Preference"])
        text = "\n".join(lines_of(form.page))
        assert "▸ Training   2 fields   ! 1" in text
        assert "▸ Preference   2 fields · only dpo" in text
        assert shown(form) == ["model.path", "notes"]


async def test_a_field_without_effect_says_why_in_its_line(stage) -> None:
    form, app = stage
    async with app.run_test(size=(80, 20)):
        form.show(FIELDS)
        assert any("beta" in line and "only dpo" in line for line in lines_of(form.page))


async def test_the_arrows_open_and_close_a_group_at_its_heading(stage) -> None:
    form, app = stage
    async with app.run_test(size=(80, 20)) as pilot:
        form.show(FIELDS)
        form.fold(["Training"])
        form.page.focus()
        await pilot.press("right_square_bracket")
        assert (form.page.group, form.current) == ("Training", None)
        await pilot.press("right")
        assert "training.rate" in shown(form)
        await pilot.press("left")
        assert "training.rate" not in shown(form)


async def test_plus_opens_all_groups_and_folds_the_same_ones_again(stage) -> None:
    form, app = stage
    async with app.run_test(size=(80, 20)) as pilot:
        form.show(FIELDS)
        form.fold(["Training", "Recipe"])
        form.page.focus()
        await pilot.press("plus")
        assert len(shown(form)) == len(FIELDS)
        await pilot.press("plus")
        assert form.page.folded == {"Training", "Recipe"}


async def test_a_search_looks_into_folded_groups_and_falls_back_to_the_help(stage) -> None:
    form, app = stage
    async with app.run_test(size=(80, 20)) as pilot:
        form.show(FIELDS)
        form.fold(["Training"])
        form.page.focus()
        await pilot.press("slash", *"decay")
        assert shown(form) == ["training.decay"]
        form.editor.value = "update"
        await until(lambda: shown(form) == ["training.rate"])
        assert form.current is not None
        form.editor.value = "zzz"
        await until(lambda: shown(form) == [])
        assert any("no field like that" in line for line in lines_of(form.page))
        await pilot.press("escape")
        assert shown(form) == [f.id for f in FIELDS if f.group != "Training"]


async def test_only_what_is_changed_is_shown_on_a_key_and_all_again(stage) -> None:
    form, app = stage
    async with app.run_test(size=(80, 20)) as pilot:
        form.show(FIELDS)
        form.page.focus()
        await pilot.press("c")
        assert shown(form) == ["model.path"]
        told = [m for m in app.seen if isinstance(m, FormList.Narrowed)]
        assert (told[-1].only_changed, told[-1].count) == (True, 1)
        await pilot.press("c")
        assert len(shown(form)) == len(FIELDS)


async def test_going_to_a_field_ends_what_hides_it(stage) -> None:
    form, app = stage
    async with app.run_test(size=(80, 20)):
        form.show(FIELDS)
        form.fold(["Training"])
        form.page.narrow("beta", only_changed=False)
        form.go_to("training.rate")
        assert form.current is not None
        assert form.current.id == "training.rate"


async def test_a_text_of_some_lines_asks_for_an_editor(stage) -> None:
    form, app = stage
    async with app.run_test(size=(80, 20)) as pilot:
        form.show(FIELDS)
        form.go_to("notes")
        form.page.focus()
        await pilot.press("enter")
        wanted = [m for m in app.seen if isinstance(m, FormList.LinesWanted)]
        assert [(m.id, m.text) for m in wanted] == [("notes", "first\nsecond")]
        assert not form.editor.display


async def test_other_values_repaint_only_their_lines(stage, monkeypatch) -> None:
    form, app = stage
    async with app.run_test(size=(80, 20)):
        form.show(FIELDS)
        await until(lambda: form.page.size.height)
        watched = Watched(form.page, monkeypatch)
        form.show([replace(FIELDS[0], value="other"), *FIELDS[1:]])
        lines = {region.y for call in watched.regions for region in call}
        headings = {place for place, (_, field) in enumerate(form.page.items) if field is None}
        assert lines == {form.page.place_of("model.path"), *headings}
