"""Themes: the shipped ones can be read by everybody, a broken one says where it is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.color import Color

from finetui.errors import UserError
from finetui.tui import themes
from finetui.tui.app import FinetuiApp
from finetui.workspace import themes_dir

SHIPPED, PROBLEMS = themes.load_all([themes_dir()])
WRITTEN_ON = ("background", "surface")
INKS = ("foreground", "primary", "accent", "success", "warning", "error")
OWN_INKS = ("muted", "key", "role-system", "role-user", "role-assistant", "role-tool")


def contrast(ink: str, paper: str) -> float:
    """WCAG 2.1 contrast ratio, 1 to 21."""

    def light(text: str) -> float:
        parts = [part / 255 for part in Color.parse(text).rgb]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((light(ink), light(paper)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_there_are_dark_light_high_contrast_and_16_colour_themes() -> None:
    assert not PROBLEMS
    assert len(SHIPPED) >= 4
    assert any(not theme.dark for theme in SHIPPED)
    assert any(theme.ansi for theme in SHIPPED)
    assert themes.DEFAULT in {theme.name for theme in SHIPPED}


@pytest.mark.parametrize("theme", SHIPPED, ids=lambda theme: theme.name)
def test_every_text_colour_can_be_read_on_every_ground(theme: themes.Theme) -> None:
    if theme.ansi:
        assert all(value.startswith("ansi_") for value in theme.variables.values()
                   if value not in ("reverse", "none", "bold"))  # fmt: skip
        return
    least = 7.0 if "contrast" in theme.name else 4.5
    for paper in WRITTEN_ON:
        ground = getattr(theme, paper)
        for ink in INKS:
            assert contrast(getattr(theme, ink), ground) >= least, f"{ink} on {paper}"
        for ink in OWN_INKS:
            assert contrast(theme.variables[ink], ground) >= least, f"{ink} on {paper}"
    cursor = contrast(theme.variables["cursor-text"], theme.variables["cursor"])
    assert cursor >= 4.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("primary = 'not a colour'", "primary"),
        ("primary = '#fff'\ncolour = 1", "colour"),
        ("secondary = '#fff'", "primary"),
        ("primary = ", "theme"),
    ],
)
def test_a_broken_theme_names_file_and_key(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        themes.load(path)
    assert told in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_one_broken_theme_does_not_take_the_others_away(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("primary = 3")
    (tmp_path / "good.toml").write_text("primary = '#123456'")
    found, problems = themes.load_all([tmp_path])
    assert [theme.name for theme in found] == ["good"]
    assert len(problems) == 1


@pytest.mark.parametrize("name", [theme.name for theme in SHIPPED] + ["nord", "ansi-light"])
async def test_every_theme_can_draw_the_shell(name: str) -> None:
    from finetui.settings import Settings

    app = FinetuiApp(None, Settings(theme=name))
    async with app.run_test(size=(80, 24)):
        assert app.theme == name


async def test_an_unknown_theme_falls_back_and_says_so() -> None:
    from finetui.settings import Settings

    app = FinetuiApp(None, Settings(theme="no-such"))
    async with app.run_test(size=(80, 24)):
        assert app.theme == themes.DEFAULT
        assert "no-such" in app._theme_problems[0]
