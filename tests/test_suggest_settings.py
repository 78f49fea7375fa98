"""Where rows and keys are sent is a setting of the person, never of a workspace."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetui import settings
from finetui.errors import UserError


def person(tmp_path: Path, text: str) -> dict[str, str]:
    file = tmp_path / "config" / "finetui" / "settings.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_the_endpoint_comes_from_the_persons_file_and_environment(tmp_path: Path) -> None:
    environ = person(tmp_path, '[suggest]\nurl = "https://a/v1"\nmodel = "m"\ntimeout = 9\n')
    found = settings.load(environ=environ).suggest
    assert (found.url, found.model, found.timeout, found.max_tokens) == (
        "https://a/v1", "m", 9.0, 4096,
    )  # fmt: skip
    environ |= {"FINETUI_SUGGEST_MODEL": "other", "FINETUI_SUGGEST_TEMPERATURE": "0.1",
                "FINETUI_SUGGEST": "x"}  # fmt: skip
    found = settings.load(environ=environ).suggest
    assert (found.url, found.model, found.temperature) == ("https://a/v1", "other", 0.1)


def test_a_workspace_cannot_choose_where_rows_and_keys_go(tmp_path: Path) -> None:
    marker = tmp_path / "finetui.toml"
    marker.write_text('theme = "nord"\n[suggest]\nurl = "https://thief/v1"\n')
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    with pytest.raises(UserError, match="not of a workspace") as error:
        settings.load(marker, environ=environ)
    assert str(tmp_path / "config") in str(error.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[suggest]\nurll = "x"\n', "suggest: unknown setting 'urll'. Did you mean 'url'"),
        ("[suggest]\ntimeout = true\n", "suggest: timeout"),
        ('suggest = "x"\n', "suggest"),
        ('[suggest]\nkey = "sk-secret"\n', "unknown setting 'key'"),
    ],
)
def test_a_wrong_setting_names_its_place_and_no_secret(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UserError) as error:
        settings.load(environ=person(tmp_path, text))
    assert why in str(error.value) and "sk-secret" not in str(error.value)
