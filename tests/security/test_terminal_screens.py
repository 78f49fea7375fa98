"""On a real terminal: every screen over hostile data, and none of its bytes arrives there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hostile_workspace import hostile_workspace
from terminal_bytes import intruders, record

PROGRAM = Path(__file__).with_name("screens_on_terminal.py")
MODES = {"home", "data", "recipe", "train", "evaluate", "rate"}
# Pages and dialogs that the short walk opens too.
DIALOGS = {
    "AlikePage", "ChartsPage", "CommandPalette", "EvaluationsPage", "FiguresPage", "MachinePage",
    "QueuePage", "RowsPage", "RunsPage", "SamplesPage", "StepsPage", "VersionsPage",
}  # fmt: skip


def walked(folder: Path, *words: str, limit: float) -> set[str]:
    """The screens that were open; AssertionError where a byte of the data got through."""
    workspace, seen = hostile_workspace(folder), folder / "seen"
    command = [sys.executable, str(PROGRAM), str(workspace.root), str(seen), *words]
    found = record(command, limit=limit)
    log = workspace.cache / "finetui.log"
    assert found.status == 0, log.read_text() if log.exists() else found.end
    assert not log.exists(), log.read_text()
    assert intruders(found.raw) == []
    assert len(found.raw) > 200_000
    return set(seen.read_text().split())


def test_no_byte_of_hostile_data_reaches_the_terminal_from_any_screen(tmp_path: Path) -> None:
    seen = walked(tmp_path, limit=600)
    assert seen >= MODES | DIALOGS, MODES | DIALOGS - seen


@pytest.mark.figures
def test_no_byte_reaches_the_terminal_from_any_action_at_both_sizes(tmp_path: Path) -> None:
    seen = walked(tmp_path, "whole", limit=1800)
    print(f"hostile terminal: {len(seen)} screens walked, 0 bytes let through")
    assert seen >= MODES | DIALOGS
