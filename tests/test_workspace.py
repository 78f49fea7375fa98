"""The workspace folder: found from inside, made private, written to without half files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetui import settings
from finetui.errors import UserError
from finetui.workspace import Workspace, create, create_sample, find, require, write_atomic


def test_a_workspace_is_found_from_a_folder_inside_it(tmp_path: Path) -> None:
    workspace = create(tmp_path / "work")
    assert find(workspace.jobs) == workspace
    assert find(tmp_path) is None


def test_its_folders_are_private_and_making_it_again_keeps_what_is_there(tmp_path: Path) -> None:
    workspace = create(tmp_path / "work")
    (workspace.root / "finetui.toml").write_text('theme = "mine"\n')
    create(workspace.root)
    assert (workspace.root / "finetui.toml").read_text() == 'theme = "mine"\n'
    assert {
        folder.stat().st_mode & 0o777 for folder in workspace.root.iterdir() if folder.is_dir()
    } == {0o700}


def test_without_a_workspace_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="finetui init"):
        require(tmp_path)


def test_the_sample_workspace_has_data_recipe_and_model_and_keeps_edits(tmp_path: Path) -> None:
    workspace = create_sample(tmp_path / "demo")
    mine = workspace.datasets / "tickets.jsonl"
    assert mine in workspace.dataset_files() and workspace.recipe_files()
    assert (workspace.root / "model" / "model.safetensors").is_file()
    assert not [file for file in workspace.dataset_files() if "faults" in file.name]
    mine.write_text("edited")
    create_sample(workspace.root)
    assert mine.read_text() == "edited"


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    write_atomic(target, "old")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            write_atomic(target, "new")
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_names_are_resolved_from_the_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.resolve("datasets/a.jsonl") == tmp_path / "datasets/a.jsonl"
    assert workspace.resolve("/else/where") == Path("/else/where")
    assert workspace.relative(tmp_path / "datasets/a.jsonl") == "datasets/a.jsonl"


def test_settings_take_the_nearest_source(tmp_path: Path) -> None:
    person = tmp_path / "config" / "finetui" / "settings.toml"
    person.parent.mkdir(parents=True)
    person.write_text('theme = "from user file"\nrefresh = 3\n')
    marker = tmp_path / "finetui.toml"
    marker.write_text('theme = "from workspace"\n')
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert settings.load(marker, environ=environ) == settings.Settings("from workspace", False, 3.0)
    environ["FINETUI_THEME"] = "from environment"
    assert settings.load(marker, environ=environ).theme == "from environment"
    assert settings.load(marker, {"theme": "typed"}, environ).theme == "typed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('thme = "x"', "Did you mean 'theme'"),
        ("refresh = 'slow'", "refresh"),
        ("theme =", "not valid TOML"),
    ],
)
def test_a_wrong_setting_names_file_and_cure(tmp_path: Path, text: str, said: str) -> None:
    marker = tmp_path / "finetui.toml"
    marker.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        settings.load(marker, environ={})
    assert str(marker) in str(caught.value)
