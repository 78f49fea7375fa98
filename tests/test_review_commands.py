"""``feedback``, ``suggest`` and ``review`` as a script or a person at a terminal meets them."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from local_endpoint import fails, rows, serving

from finetui import cli
from finetui.data.dataset import open_dataset
from finetui.data.review.candidates import read_prompts, variations, write_prompts
from finetui.data.review.queue import Queue, chat_row
from finetui.jobs.folder import create as create_job
from finetui.workspace import Workspace, create

KEY = "sk-secret-of-the-person-1234567"
GOOD, FOUND, CANNOT = 0, 1, 2


def chat(asked: str, answer: str, **more: Any) -> dict[str, Any]:
    return {**chat_row([{"role": "user", "content": asked}], answer), **more}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = create(tmp_path / "work")
    data = [chat("Where is the\x1b[31m harbour?", "North.", id=1),
            chat("Write to eva.miller@example.com", "Done.", id=2),
            chat("When does it open?", "At nine.", id=3)]  # fmt: skip
    (made.datasets / "town.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    return made


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def finetui(workspace: Workspace, *arguments: str, stdin: str = "", **environ: str) -> Done:
    """One command line, run in this process: what it printed and its exit code."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace.root)
        patch.setattr("sys.stdin", io.StringIO(stdin))
        for name in [name for name in os.environ if name.startswith("FINETUI")]:
            patch.delenv(name)
        for name, value in {**clean_environment(workspace), **environ}.items():
            patch.setenv(name, value)
        with redirect_stdout(out), redirect_stderr(err):
            code = cli.run(arguments)
    return Done(code, out.getvalue(), err.getvalue())


def clean_environment(workspace: Workspace) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "FINETUI" not in name}
    return {**kept, "COLUMNS": "100", "XDG_CONFIG_HOME": str(workspace.root / "config")}


def everything_written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- feedback and review


def test_feedback_from_file_to_data_set(workspace: Workspace) -> None:
    failures = workspace.root / "failures.jsonl"
    failures.write_text(
        '{"prompt": "Is it far?", "output": "No idea \\u001b[2J", "expected": "A mile."}\n'
        '{"prompt": "Is it deep?", "output": "Perhaps."}\n'
        '{"prompt": \n'
    )
    done = finetui(workspace, "feedback", "import", "failures.jsonl")
    assert done.returncode == FOUND and "failures.jsonl:3: " in done.stderr
    listed = finetui(workspace, "feedback", "list")
    assert listed.returncode == GOOD and "\x1b" not in listed.stdout
    assert "Is it deep?" in listed.stdout and "1 pending, 1 corrected" in listed.stderr
    assert finetui(workspace, "feedback", "correct", "2", stdin="Ten feet.\n").returncode == GOOD
    added = finetui(workspace, "feedback", "add", "--json")
    assert json.loads(added.stdout)["files"] == {"datasets/feedback.jsonl": 2}
    told = (workspace.datasets / "feedback.jsonl").read_text().splitlines()
    assert [json.loads(line)["messages"][-1]["content"] for line in told] == [
        "A mile.",
        "Ten feet.",
    ]
    assert finetui(workspace, "check", "datasets/feedback.jsonl").returncode == GOOD
    undone = finetui(workspace, "review", "undo")
    assert "Undid the add of 2 items" in undone.stderr
    assert not (workspace.datasets / "feedback.jsonl").exists()


def test_review_decides_shows_and_logs(workspace: Workspace) -> None:
    (workspace.root / "f.jsonl").write_text(
        "".join(json.dumps({"prompt": f"q{n}", "output": "bad"}) + "\n" for n in range(3))
    )
    finetui(workspace, "feedback", "import", "f.jsonl")
    row = json.dumps(chat("q0!", "right"))
    accepted = finetui(workspace, "review", "accept", "1", "--row", row, "--json")
    assert json.loads(accepted.stdout)["row"] == chat("q0!", "right")
    assert finetui(workspace, "review", "accept", "2").returncode == CANNOT
    assert finetui(workspace, "review", "dismiss", "2", "3", "--reason", "spam").returncode == GOOD
    listed = finetui(workspace, "review", "list", "--state", "dismissed", "--json")
    items = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [(item["id"], item["reason"]) for item in items] == [(2, "spam"), (3, "spam")]
    assert finetui(workspace, "review", "reopen", "3").returncode == GOOD
    shown = finetui(workspace, "review", "show", "2").stdout
    assert "spam" in shown and "bad output:" in shown
    log = [
        json.loads(line)
        for line in finetui(workspace, "review", "log", "--json").stdout.splitlines()
    ]
    assert [step["kind"] for step in log] == ["reopen", "dismiss", "correct", "arrive"]
    assert finetui(workspace, "review").returncode == GOOD
    assert finetui(workspace, "review", "show", "99").returncode == CANNOT


# ---------------------------------------------------------------- suggest


def test_the_plan_is_told_and_a_dry_run_sends_nothing(workspace: Workspace) -> None:
    with serving(rows()) as server:
        done = finetui(workspace, "suggest", "datasets/town.jsonl", "--lines", "1-2", "--url",
                       server.url, "--model", "tiny", "--dry-run",
                       FINETUI_SUGGEST_KEY=KEY)  # fmt: skip
        assert done.returncode == GOOD and not server.seen
        for words in ("10 new rows in 2 requests", "2 rows of", "(line 1, 2)", server.url,
                      "model tiny", "the columns id", "≈", "no input and output price",
                      "with the key of $FINETUI_SUGGEST_KEY", "line 2 holds private"):  # fmt: skip
            assert words in done.stderr, words
    assert "harbour" in done.stdout and "\x1b" not in done.stdout
    assert KEY not in done.stdout + done.stderr


def test_a_script_must_say_yes(workspace: Workspace) -> None:
    with serving(rows()) as server:
        done = finetui(workspace, "suggest", "datasets/town.jsonl", "--lines", "1", "--url",
                       server.url, "--model", "tiny")  # fmt: skip
        assert done.returncode == CANNOT and "--yes" in done.stderr and not server.seen


def test_candidates_wait_for_review_and_the_key_is_nowhere(workspace: Workspace) -> None:
    new = chat("Where is the market?", "South.")
    with serving(fails(429, **{"Retry-After": "0"}),
                 rows(new, chat("When does it open?", "x"), {"text": "?"})) as server:  # fmt: skip
        config = workspace.root / "config" / "finetui"
        config.mkdir(parents=True)
        key = workspace.root.parent / "key"
        key.write_text(KEY + "\n")
        key.chmod(0o600)
        (config / "settings.toml").write_text(
            f'[suggest]\nurl = "{server.url}"\nmodel = "tiny"\nkey_file = "{key}"\n'
        )
        done = finetui(workspace, "suggest", "datasets/town.jsonl", "--lines", "1", "--count", "3",
                       "--instruction", "other places", "--yes", "--json")  # fmt: skip
        assert done.returncode == GOOD, done.stderr
        outcome = json.loads(done.stdout)
        assert (outcome["new"], outcome["refused"]) == (1, 2)
        assert outcome["reasons"] == {"duplicate": 1, "wrong shape": 1}
        assert server.seen[1]["headers"]["Authorization"] == f"Bearer {KEY}"
        sent = json.dumps(server.bodies())
        assert "other places" in sent and "eva.miller" not in sent and "nine" not in sent
        elsewhere = finetui(workspace, "suggest", "datasets/town.jsonl", "--lines", "1", "--url",
                            server.url + "/other", "--yes")  # fmt: skip
        assert "Authorization" not in server.seen[-1]["headers"], elsewhere.stderr
    assert "trying again" in done.stderr and "7 tokens in and 5 out" in done.stderr
    assert KEY not in done.stderr + done.stdout
    assert KEY.encode() not in everything_written(workspace.root)
    assert [file.name for file in workspace.datasets.iterdir()] == ["town.jsonl"]
    with Queue(workspace) as queue:
        assert [item.row for item in queue.items("pending")] == [new]


def test_a_failing_endpoint_is_an_error_code(workspace: Workspace) -> None:
    with serving(fails(401, f"bad key {KEY}")) as server:
        done = finetui(workspace, "suggest", "datasets/town.jsonl", "--lines", "1", "--url",
                       server.url, "--model", "tiny", "--yes", FINETUI_SUGGEST_KEY=KEY)  # fmt: skip
    assert done.returncode == FOUND and "HTTP 401" in done.stderr and KEY not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--url", "http://127.0.0.1:1/v1", "--model", "m"], "Either --lines"),
        (["--lines", "1"], "no endpoint is named"),
        (["--lines", "9", "--url", "http://127.0.0.1:1/v1"], "no row that begins in line 9"),
        (["--lines", "x", "--url", "http://127.0.0.1:1/v1"], "is no line"),
        (["--lines", "1", "--url", "http://127.0.0.1:1/v1"], "no model is named"),
        (["--class", "South", "--url", "http://127.0.0.1:1/v1"], "no row has 'South'"),
    ],
)
def test_what_cannot_be_asked_is_told(workspace: Workspace, arguments: list[str], why: str) -> None:
    done = finetui(workspace, "suggest", "datasets/town.jsonl", *arguments, "--yes")
    assert done.returncode == CANNOT and why in done.stderr


@pytest.mark.parametrize(("said", "sent"), [("n\n", 0), ("\n", 0), ("yes\n", 1)])
def test_a_person_at_a_terminal_is_asked_first(workspace: Workspace, said: str, sent: int) -> None:
    with serving(rows(chat("Something else?", "Yes."))) as server:
        command = [sys.executable, "-m", "finetui", "suggest", "datasets/town.jsonl", "--lines",
                   "3", "--url", server.url, "--model", "tiny"]  # fmt: skip
        shown, code = at_a_terminal(command, workspace, "[y/N]", said)
        assert len(server.seen) == sent
    assert ("Nothing was sent" in shown) == (not sent)
    assert code == (GOOD if sent else CANNOT)


def at_a_terminal(
    command: list[str], workspace: Workspace, until: str, answer: str
) -> tuple[str, int]:
    """Run a command on a pseudo-terminal, answer its question; what it showed and its code."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command, cwd=workspace.root, stdin=child, stdout=child, stderr=child,
        env=clean_environment(workspace),
    )  # fmt: skip
    os.close(child)
    shown, answered = "", False
    while select.select([parent], [], [], 60)[0]:
        try:
            shown += os.read(parent, 4096).decode(errors="replace")
        except OSError:
            break
        if until in shown and not answered:
            os.write(parent, answer.encode())
            answered = True
    os.close(parent)
    return shown, process.wait(60)


def test_answers_of_a_local_job_are_collected(workspace: Workspace) -> None:
    with open_dataset(workspace.datasets / "town.jsonl", workspace) as opened:
        path = write_prompts(workspace, variations(opened, [0], 2, workspace), "town-1")
    job = create_job(workspace.jobs, "generate", "town-1", {"data": str(path)}, {})
    (name,) = read_prompts(path)
    answer = json.dumps(chat("Where is the market?", "South.")) + "\nnot a row"
    output = {"id": name, "prompt": [], "answer": answer, "reference": "", "format": False,
              "correct": False}  # fmt: skip
    refused = finetui(workspace, "suggest", "datasets/town.jsonl", "--lines", "1", "--job", job.id)
    assert refused.returncode == CANNOT and "no train job is called" in refused.stderr
    (job.path / "outputs-after.jsonl").write_text(json.dumps(output) + "\n")
    done = finetui(workspace, "suggest", "datasets/town.jsonl", "--collect", job.id, "--json")
    assert done.returncode == GOOD, done.stderr
    assert json.loads(done.stdout)["new"] == 1 and json.loads(done.stdout)["refused"] == 1
