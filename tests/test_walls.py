"""The walls hold in a real process: what is imported is looked up in its ``sys.modules``."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import finetui

PURE = ("data", "recipe", "jobs", "evaluation", "rating")
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "accelerate"}
SCREEN = {"textual", "rich"}
NUMERIC = {"numpy", "pyarrow", "pandas"}


def loaded_after(code: str) -> set[str]:
    """Top-level modules loaded by ``code`` in a fresh interpreter."""
    probe = (
        f"{code}\nimport sys\nprint('|'.join({{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split("|"))


# Checks of whole sets compute with numpy, in processes of their own.
COMPUTING = "finetui.data.whole"


def modules_of(room: str) -> list[str]:
    folder = Path(finetui.__file__).parent / room
    found = pkgutil.walk_packages([str(folder)], f"finetui.{room}.")
    return [
        module.name
        for module in found
        if not module.name.endswith("__main__") and not module.name.startswith(COMPUTING)
    ]


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_loads_no_screen_and_no_heavy_library(room: str) -> None:
    imports = "\n".join(f"import {name}" for name in modules_of(room))
    assert imports
    assert not loaded_after(imports) & (HEAVY | SCREEN | NUMERIC | {"duckdb"})


def test_help_and_version_load_next_to_nothing() -> None:
    for argument in ("--help", "--version"):
        code = f"from finetui.cli import run; run(['{argument}'])"
        assert not loaded_after(code) & (HEAVY | SCREEN | NUMERIC | {"msgspec", "tokenizers"})


def test_every_command_parses_its_help_without_heavy_libraries() -> None:
    from finetui.cli import COMMANDS

    code = "import importlib\n" + "\n".join(
        f"importlib.import_module('finetui.commands.{name.replace('-', '_')}').parser()"
        for name in COMMANDS
    )
    assert not loaded_after(code) & (HEAVY | NUMERIC)


def test_the_screens_load_no_heavy_library() -> None:
    names = ["finetui.tui.app", *modules_of("tui")]
    imports = "\n".join(f"import {name}" for name in names)
    assert not loaded_after(imports) & (HEAVY | NUMERIC | {"duckdb"})


def test_the_engine_loads_no_screen_library() -> None:
    pytest.importorskip("torch")
    imports = "\n".join(f"import {name}" for name in modules_of("engine"))
    # rich may come along with a library of the engine, but textual and our screens must not
    assert "textual" not in loaded_after(imports)
