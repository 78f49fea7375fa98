"""`finetui fix` and `finetui edits`: the whole repair without a screen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetui.workspace import Workspace, create

GOOD, FOUND, CANNOT = 0, 1, 2


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = create(tmp_path / "work")
    rows = [f"q{number}" for number in range(10)]
    rows[2], rows[5] = "mail anna@x.org", "or anna@x.org, berta@x.org"
    rows[7] = rows[3]
    write(made, rows)
    return made


def write(space: Workspace, prompts: list[str]) -> None:
    turns = [
        json.dumps({"prompt": f"\x1b[31m{text}", "completion": f"answer {number % 7}"})
        for number, text in enumerate(prompts)
    ]
    turns[7] = turns[3]
    (space.datasets / "a.jsonl").write_text("".join(each + "\n" for each in turns))


def finetui(space: Workspace, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "finetui", *arguments, "-w", str(space.root)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    return done


def values(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_fix_shows_then_repairs_and_edits_takes_it_back(workspace: Workspace) -> None:
    file = str(workspace.datasets / "a.jsonl")
    seen = finetui(workspace, "fix", file, "--check", "email", "--dry-run")
    assert seen.returncode == GOOD and "[EMAIL_1], [EMAIL_2]" in seen.stdout
    assert "2 rows would be changed" in seen.stderr
    assert "no edits" in finetui(workspace, "edits", file).stderr
    *_, done = values(finetui(workspace, "fix", file, "--check", "email", "--json"))
    assert done == {"step": 1, "checks": ["email"], "rows": 2, "unfixable": 0, "written": True}
    assert "nothing to repair" in finetui(workspace, "fix", file, "--check", "email").stderr
    dropped = finetui(workspace, "fix", file, "--check", "duplicate")
    assert "Step 2: 1 row changed" in dropped.stderr and "--undo" in dropped.stderr
    *steps, counts = values(finetui(workspace, "edits", file, "--json"))
    assert [(step["kind"], step["rows"], step["active"]) for step in steps] == [
        ("fix", 2, True), ("drop", 1, True),
    ]  # fmt: skip
    assert counts["counts"] == [
        {"what": "dropped", "reason": "duplicate", "rows": 1},
        {"what": "edited", "reason": "email", "rows": 2},
    ]
    assert "Undid the drop of 1 row" in finetui(workspace, "edits", file, "--undo").stderr
    assert "nothing to redo" not in finetui(workspace, "edits", file, "--redo").stderr
    table = finetui(workspace, "edits", file).stdout
    assert "duplicate" in table and "email" in table


def test_steps_are_switched_and_moved_by_number(workspace: Workspace) -> None:
    file = str(workspace.datasets / "a.jsonl")
    finetui(workspace, "fix", file, "--redact")
    finetui(workspace, "fix", file, "--check", "email,duplicate", "--by", "mark")
    finetui(workspace, "fix", file, "--check", "duplicate", "--by", "quarantine")
    assert "Switched step 1 off" in finetui(workspace, "edits", file, "--switch-off", "1").stderr
    assert "Moved step 3" in finetui(workspace, "edits", file, "--move", "3", "1").stderr
    *steps, counts = values(finetui(workspace, "edits", file, "--json"))
    assert [(step["seq"], step["active"]) for step in steps] == [(3, True), (1, False), (2, True)]
    assert {"what": "quarantined", "reason": "duplicate", "rows": 1} in counts["counts"]
    refused = finetui(workspace, "edits", file, "--switch-off", "9")
    assert refused.returncode == CANNOT and "no step 9" in refused.stderr


def test_unplaced_edits_are_listed_placed_and_dismissed(workspace: Workspace) -> None:
    file = str(workspace.datasets / "a.jsonl")
    finetui(workspace, "fix", file, "--check", "email")
    write(workspace, [f"q{number}" for number in range(10)])
    listed = finetui(workspace, "edits", file, "--unplaced")
    assert listed.returncode == FOUND and "line 3 holds another" in listed.stdout
    assert "2 were not" in listed.stderr
    assert "2 edits could not be placed" in finetui(workspace, "edits", file).stderr
    found = values(finetui(workspace, "edits", file, "--unplaced", "--json"))
    assert [(each["number"], each["line"]) for each in found] == [(1, 3), (2, 6)]
    assert "on line 4" in finetui(workspace, "edits", file, "--place", "1", "4").stderr
    assert "1 unplaced edit" in finetui(workspace, "edits", file, "--dismiss", "1").stderr
    assert finetui(workspace, "edits", file, "--unplaced").returncode == GOOD


def test_a_repair_without_a_check_or_a_known_one_is_refused(workspace: Workspace) -> None:
    file = str(workspace.datasets / "a.jsonl")
    for more in ((), ("--check", "emial")):
        done = finetui(workspace, "fix", file, *more)
        assert done.returncode == CANNOT and done.stderr.startswith("finetui: ")
