"""On a real terminal: every command over hostile data, hostile arguments, and a crash."""

from __future__ import annotations

import sys
from pathlib import Path

from hostile_workspace import hostile_workspace
from terminal_bytes import intruders, record

from finetui.cli import COMMANDS

PROGRAM = Path(__file__).with_name("commands_on_terminal.py")
# They ask the network, need torch, or are whole loops of their own.
LEFT_OUT = {
    "init",
    "fetch",
    "mix",
    "drift",
    "accept-leak",
    "forecast",
    "rehearse",
    "generate",
    "demo",
}


def test_no_command_sends_a_byte_of_hostile_data_to_the_terminal(tmp_path: Path) -> None:
    workspace, codes = hostile_workspace(tmp_path), tmp_path / "codes"
    command = [sys.executable, str(PROGRAM), str(workspace.root), str(codes)]
    found = record(command, limit=600, typed=b"n\n")
    assert found.status == 0, found.end
    assert intruders(found.raw) == []
    assert b"Traceback" not in found.raw
    lines = codes.read_text().splitlines()
    *told, crashed = lines
    assert [line for line in told if line.split()[0] not in ("0", "1", "2")] == []
    assert crashed == "70 unforeseen"
    seen = {line.split()[1] for line in told}
    assert set(COMMANDS) - LEFT_OUT <= seen
    assert b"an error that was not expected" in found.raw
