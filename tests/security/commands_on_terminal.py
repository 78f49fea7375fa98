"""Run in a pseudo-terminal: every command over a hostile workspace, one after another.

``python commands_on_terminal.py WORKSPACE CODES`` writes "code command" lines into the file CODES.
"""

# ruff: noqa: E402, E501  (paths first; tables)

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent)]

from terminal_bytes import HOSTILE, HOSTILE_NAME

from finetui import cli
from finetui.errors import UserError
from finetui.jobs import launch
from finetui.jobs.folder import list_jobs
from finetui.workspace import Workspace


def refuse(*_: object, **__: object) -> None:
    raise UserError(HOSTILE, HOSTILE, HOSTILE)


def command_lines(workspace: Workspace) -> list[list[str]]:
    data = next(str(path) for path in workspace.dataset_files() if path.name.startswith("x"))
    table = next(str(path) for path in workspace.dataset_files() if path.suffix == ".csv")
    broken = next(str(path) for path in workspace.dataset_files() if "broken" in path.name)
    held = str(workspace.datasets / "tickets_heldout.jsonl")
    jobs = {job.kind: job.id for job in list_jobs(workspace.jobs)}
    train, record = jobs["train"], jobs["evaluate"]
    recipe = str(workspace.recipes / f"{HOSTILE_NAME}.toml")
    bad = str(workspace.recipes / f"bad{HOSTILE_NAME}.toml")
    lines = [
        ["check", data, table, broken], ["check", data, "--json"], ["duplicates", data],
        ["query", data, "override"], ["query", data, HOSTILE], ["query", data, "--json"],
        ["query", data, "--sql", "select * from data"], ["query", data, "--where", HOSTILE],
        ["fix", data, "--redact", "--dry-run"], ["edits", data], ["edits", data, "--json"],
        ["ready", data, "--chart"], ["prices"], ["prices", "--json"],
        ["convert", data, "--to", "prompt"], ["convert", data, "--to", HOSTILE],
        ["feedback", "list"], ["review"], ["review", "show", "1"], ["review", "log"],
        ["suggest", data, "--lines", "1", "--dry-run", "--url", "http://localhost:1/v1", "--model", HOSTILE],
        ["split", data, "--name", HOSTILE], ["split", held, "--name", HOSTILE],
        ["versions"], ["versions", "show", HOSTILE], ["versions", "verify"],
        ["leaks", data, "--held-out", held], ["recipe", "check", recipe], ["recipe", "check", bad],
        ["recipe", "check", HOSTILE], ["recipe", "diff", recipe, "defaults"], ["recipe", "diff", train, "defaults"],
        ["recipe", "import", broken], ["recipe", "new", HOSTILE], ["train", recipe, "--dry-run"],
        ["train", recipe], ["sweep", "--list"], ["sweep", "--show", "last"],
        ["sweep", recipe, f"learning_rate={HOSTILE}", "--dry-run"], ["jobs"], ["jobs", "--json"],
        ["jobs", "--compare", "--diff"], ["jobs", "--compare", "["], ["watch", train, "--once"],
        ["watch", train, "--once", "--json"], ["watch", train, "--chart"], ["watch", train, "--chart", HOSTILE],
        ["watch", HOSTILE], ["stop", train], ["control", train, "save"], ["resume", train, "--dry-run"],
        ["tokens", recipe, data, "1"], ["evaluate", "list"], ["evaluate", "show", record],
        ["evaluate", "show", record, "--worst", "3"], ["evaluate", "report", record],
        ["evaluate", "start", train, "--manifest-only"], ["rate", "list"], ["rate", "verify", "trial"],
        ["rate", "report", "done"], ["rate", "report", "done", "--json"], ["rate", "report", HOSTILE],
        ["doctor"], ["queue"], ["queue", "--json"], ["keys"], ["export", train, "--to", HOSTILE],
        ["trust", HOSTILE], ["stack", train],
        [f"--{HOSTILE}"], ["jobs", f"--{HOSTILE}"], ["watch", "--chart", HOSTILE, HOSTILE, HOSTILE],
        ["edits", data, "--undo", HOSTILE], ["jobz"],
    ]  # fmt: skip
    apart = {"keys", "doctor", "queue", "trust", "jobz"}
    return [
        line if line[0] in apart or line[0].startswith("-") else [*line, "-w", str(workspace.root)]
        for line in lines
    ]


def main(workspace: Workspace, codes: Path) -> None:
    launch.launch = refuse  # type: ignore[assignment]
    os.environ["COLUMNS"] = "100"
    told = []
    for line in command_lines(workspace):
        try:
            code: object = cli.run(line)
        except SystemExit as left:
            code = left.code
        told.append(f"{code} {line[0]} {' '.join(line[1:2]) if len(line) > 1 else ''}"[:60])
    module = __import__("finetui.commands.jobs", fromlist=["run"])
    module.run = lambda arguments: 1 / len("") if arguments is None else [][HOSTILE]
    told.append(f"{cli.run(['jobs'])} unforeseen")
    codes.write_text("\n".join(line.encode("ascii", "replace").decode() for line in told))


if __name__ == "__main__":
    main(Workspace(Path(sys.argv[1])), Path(sys.argv[2]))
