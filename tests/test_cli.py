"""The commands as a script meets them: data on stdout, narration on stderr, honest exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetui import __version__
from finetui.cli import COMMANDS
from finetui.jobs.folder import create as create_job
from finetui.workspace import Workspace, create

GOOD, FOUND, CANNOT = 0, 1, 2


def finetui(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "finetui", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        env={**os.environ, "COLUMNS": "100"},
    )


def chat(user: str, answer: str) -> str:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": turns})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = create(tmp_path / "work")
    rows = [chat(f"question {number}", f"answer {number}") for number in range(40)]
    (made.datasets / "good.jsonl").write_text("\n".join(rows) + "\n")
    rows[6] = '{"messages": ['
    rows[9] = rows[3]
    (made.datasets / "bad.jsonl").write_text("\n".join(rows) + "\n")
    return made


def test_version_and_help_name_every_command() -> None:
    assert finetui("--version").stdout == f"finetui {__version__}\n"
    shown = finetui("--help")
    assert shown.returncode == GOOD and all(name in shown.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    shown = finetui(name, "--help")
    assert shown.returncode == GOOD
    assert shown.stdout.startswith(f"usage: finetui {name}")


def test_a_slip_of_the_finger_gets_the_nearest_command() -> None:
    done = finetui("tarin", "recipe.toml")
    assert done.returncode == CANNOT and "finetui train" in done.stderr and not done.stdout


def test_without_a_terminal_the_screens_refuse_and_say_so(workspace: Workspace) -> None:
    done = finetui(str(workspace.root))
    assert done.returncode == CANNOT and "terminal" in done.stderr
    assert "Traceback" not in done.stderr and "\x1b" not in done.stdout + done.stderr


def test_init_makes_a_workspace_and_may_be_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert finetui("init", str(tmp_path / "new")).returncode == GOOD
    assert (tmp_path / "new" / "finetui.toml").is_file()


def test_check_prints_one_finding_a_line_and_the_summary_last(workspace: Workspace) -> None:
    bad = workspace.datasets / "bad.jsonl"
    done = finetui("check", str(bad), "--json")
    *findings, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == FOUND
    keys = {"check", "severity", "file", "line", "offset", "turn", "message"}
    assert all(keys <= finding.keys() for finding in findings)
    [malformed] = [found for found in findings if found["check"] == "malformed-json"]
    assert malformed["line"] == 7
    assert bad.read_bytes()[malformed["offset"] :].startswith(b'{"messages": [\n')
    [double] = [found for found in findings if found["check"] == "duplicate"]
    assert (double["line"], "line 4" in double["message"]) == (10, True)
    summary = last["summary"]
    assert (summary["rows"], summary["shape"]) == (40, "chat")
    assert summary["checks"] == {"malformed-json": 1, "duplicate": 1, "too-few-rows": 1}


def test_check_of_a_good_file_is_good_and_of_a_missing_one_cannot_run(workspace: Workspace) -> None:
    assert finetui("check", str(workspace.datasets / "good.jsonl")).returncode == GOOD
    missing = finetui("check", "nothing.jsonl", cwd=workspace.root)
    assert missing.returncode == CANNOT and "nothing.jsonl" in missing.stderr


def test_a_leak_between_two_files_is_told_with_both_places(workspace: Workspace) -> None:
    test = workspace.datasets / "test.jsonl"
    test.write_text(chat("question 5", "answer 5") + "\n")
    done = finetui("check", str(workspace.datasets / "good.jsonl"), str(test))
    assert done.returncode == FOUND
    assert "good.jsonl:6:" in done.stdout and "test.jsonl:1" in done.stdout


def test_the_list_of_checks_says_why_each_matters() -> None:
    checks = [json.loads(line) for line in finetui("check", "--list", "--json").stdout.splitlines()]
    assert len(checks) >= 12
    assert all(check["why"] and check["fix"] and check["title"] for check in checks)


def test_split_writes_a_version_and_leaves_the_source_alone(workspace: Workspace) -> None:
    source = workspace.datasets / "good.jsonl"
    before = source.read_bytes()
    done = finetui("split", str(source), "--json", "-w", str(workspace.root))
    version = json.loads(done.stdout)
    assert done.returncode == GOOD and source.read_bytes() == before
    rows = {Path(out["file"]).stem: out["rows"] for out in version["manifest"]["outputs"]}
    assert rows == {"train": 32, "validation": 4, "test": 4}
    lines = [
        line
        for out in version["manifest"]["outputs"]
        for line in (Path(version["path"]) / out["file"]).read_bytes().splitlines()
    ]
    assert sorted(lines) == sorted(before.splitlines())


def test_split_of_unreadable_rows_asks_before_it_leaves_them_out(workspace: Workspace) -> None:
    bad = str(workspace.datasets / "bad.jsonl")
    refused = finetui("split", bad, "-w", str(workspace.root))
    assert refused.returncode == CANNOT and "7" in refused.stderr
    assert finetui("split", bad, "--skip-malformed", "-w", str(workspace.root)).returncode == GOOD
    nonsense = finetui("split", bad, "--fractions", "80", "-w", str(workspace.root))
    assert nonsense.returncode == CANNOT and "80/10/10" in nonsense.stderr


def test_jobs_gives_one_line_a_job_with_its_derived_state(workspace: Workspace) -> None:
    assert finetui("jobs", "--json", "-w", str(workspace.root)).stdout == ""
    job = create_job(workspace.jobs, "train", "try", {"kind": "train"}, {})
    job.write_json("outcome.json", {"status": "finished", "attempt": 1, "t": 1.0})
    [row] = [
        json.loads(line)
        for line in finetui("jobs", "--json", "-w", str(workspace.root)).stdout.splitlines()
    ]
    assert (row["id"], row["state"], row["path"]) == (job.id, "finished", str(job.path))
    watched = finetui("watch", job.id, "--once", "-w", str(workspace.root))
    assert watched.returncode == GOOD and "finished" in watched.stderr
    stopped = finetui("stop", job.id, "-w", str(workspace.root))
    assert stopped.returncode == FOUND and "not running" in stopped.stderr


def test_a_recipe_that_cannot_run_starts_nothing_and_says_which_field(workspace: Workspace) -> None:
    (workspace.root / "models").mkdir()  # without it the name would be taken for a hub id
    (workspace.recipes / "try.toml").write_text(
        '[model]\npath = "models/none"\n[data]\ntrain = ["datasets/gone.jsonl"]\n'
    )
    done = finetui("train", "try", "-w", str(workspace.root))
    assert done.returncode == CANNOT
    assert "model.path" in done.stderr and "data.train" in done.stderr
    assert not list(workspace.jobs.iterdir())
    (workspace.recipes / "typo.toml").write_text("[training]\nlearning_rat = 1e-4\n")
    typo = finetui("train", "typo", "-w", str(workspace.root))
    assert typo.returncode == CANNOT and "typo.toml:2" in typo.stderr
    assert "learning_rate" in typo.stderr


def test_rate_without_sessions_says_how_to_make_one(workspace: Workspace) -> None:
    for place in (("-w", str(workspace.root), "report"), ("report", "-w", str(workspace.root))):
        assert "finetui rate prepare" in finetui("rate", *place).stderr
    done = finetui("rate", "report", cwd=workspace.root)
    assert done.returncode == CANNOT and "finetui rate prepare" in done.stderr


def test_doctor_reports_every_package_and_the_devices() -> None:
    rows = [json.loads(line) for line in finetui("doctor", "--json").stdout.splitlines()]
    names = {row["name"] for row in rows}
    assert {"finetui", "python", "torch", "peft", "host memory", "disk"} <= names


def test_names_from_files_reach_the_terminal_harmless(workspace: Workspace) -> None:
    evil = workspace.datasets / "a\x1b]52;c;eA==\x07.jsonl"
    evil.write_text("not json \x1b[31m\n")
    done = finetui("check", str(evil))
    assert done.returncode == FOUND
    assert "\x1b" not in done.stdout + done.stderr and "\x07" not in done.stdout + done.stderr
