"""A workspace in which every name and every text tries to reach the terminal."""

# ruff: noqa: E402, E501  (paths first; tables)

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.extend(str(TESTS / name) for name in ("", "tui", "rating"))

from evaluations import evaluation
from look import finished_job, write_outputs
from rating_cases import make_session, vote_by
from terminal_bytes import HOSTILE, HOSTILE_NAME

from finetui.cli import run
from finetui.data.dataset import open_dataset
from finetui.jobs.folder import Job
from finetui.jobs.rowlosses import RowLossWriter
from finetui.jobs.sweep import create_sweep
from finetui.rating.session import Item
from finetui.recipe import files as recipe_files
from finetui.workspace import Workspace, create_sample


def chat(user: str, answer: str, **more: object) -> str:
    turns = [("system", HOSTILE), ("user", user), ("assistant", answer)]
    row = {"messages": [{"role": role, "content": text} for role, text in turns], **more}
    return json.dumps(row, ensure_ascii=False)


def hostile_workspace(parent: Path) -> Workspace:
    """One of everything, all of it hostile; the folder's own name too."""
    workspace = create_sample(parent / HOSTILE_NAME)
    for file in workspace.datasets.iterdir():
        if file.name not in ("tickets_heldout.jsonl",):
            file.unlink()
    data = _data(workspace)
    recipe = _recipes(workspace, data)
    job = _jobs(workspace, data, recipe)
    _ratings(workspace)
    _journals(workspace, data)
    _themes(workspace)
    create_sweep(workspace.sweeps, HOSTILE, [(HOSTILE, [("learning_rate", HOSTILE)], job)])
    return workspace


def _data(workspace: Workspace) -> Path:
    rows = [
        chat(
            f"{HOSTILE} {number} 你好",
            f"{HOSTILE} {number % 4}",
            **{HOSTILE: HOSTILE, "tag": HOSTILE},
        )
        for number in range(12)
    ]
    rows[3] = "no json " + HOSTILE
    rows[5] = json.dumps({"messages": [{"role": HOSTILE, "content": HOSTILE}]}, ensure_ascii=False)
    rows[6] = chat("a question", f"mail someone@example.org, key sk-{'a1B2' * 12} {HOSTILE}")
    path = workspace.datasets / f"{HOSTILE_NAME}.jsonl"
    path.write_text("\n".join(rows) + "\n", "utf-8", errors="surrogatepass")
    columns = workspace.datasets / f"c{HOSTILE_NAME}.csv"
    head = HOSTILE.replace('"', "").replace(",", "")
    columns.write_text(f'"{head}",completion\n"{head}","{head}"\n')
    broken = workspace.datasets / f"broken{HOSTILE_NAME}.json"
    broken.write_text("{" + HOSTILE)
    suite = workspace.root / "suites" / f"{HOSTILE_NAME}.jsonl"
    suite.write_text(json.dumps({"prompt": HOSTILE, "reference": HOSTILE}) + "\n")
    return path


def _recipes(workspace: Workspace, data: Path) -> dict[str, object]:
    found = recipe_files.load(workspace.recipes / "triage-lora.toml")
    text = recipe_files.dumps(found).replace(
        "datasets/tickets.jsonl", f"datasets/{HOSTILE_NAME}.jsonl"
    )
    tree = recipe_files.to_spec(found)
    tree["data"]["train"] = [str(data)]
    tree["model"]["path"] = str(workspace.root / "model")
    import tomlkit

    (workspace.recipes / f"{HOSTILE_NAME}.toml").write_text(tomlkit.dumps(tree))
    (workspace.recipes / f"bad{HOSTILE_NAME}.toml").write_text(f"'{HOSTILE_NAME}' = 1\n")
    assert text
    return tree


def _jobs(workspace: Workspace, data: Path, recipe: dict[str, object]) -> Job:
    made = finished_job(workspace, recipe=recipe)
    named = made.path.with_name(f"20261101-101010-train-{HOSTILE_NAME}")
    made.path.rename(named)
    job = Job(named)
    job.write_json(
        "outcome.json", {"status": "failed", "attempt": 1, "t": time.time(), "sentence": HOSTILE}
    )
    job.write_json("manifest.json", {"created": time.time(), "kind": HOSTILE, "host": HOSTILE})
    job.log_path(1).write_text(f"{HOSTILE}\n" * 5)
    held = workspace.datasets / "tickets_heldout.jsonl"
    write_outputs(job, held, {"before": [False, True], "after": [True, True]})
    events = [
        {"kind": "stage", "text": HOSTILE}, {"kind": "message", "text": HOSTILE},
        {"kind": "data", "rows": 12, "tokens": 100, "trained_tokens": 40, "files": [str(data), HOSTILE]},
        {"kind": "guard", "guard": HOSTILE, "action": "stop", "text": HOSTILE, "step": 7, "rows": [[0, 1]]},
        {"kind": "sample", "step": 9, "prompt": HOSTILE, "answer": HOSTILE, "reference": HOSTILE,
         "id": HOSTILE, "set": HOSTILE},
        {"kind": "control", "verb": HOSTILE, "who": HOSTILE, "fields": {HOSTILE: HOSTILE}, "text": HOSTILE},
        {"kind": "score", "when": "before", "set": HOSTILE, "accuracy": 0.5, "n": 3},
        {"kind": "step", "step": 21, "loss": 0.1, "figures": {HOSTILE: 1.0},
         "ranks": [{"rank": 0, "host": HOSTILE, "gpu": HOSTILE, "memory_bytes": 1}]},
        {"kind": "resume", "step": 21, "path": HOSTILE, "text": HOSTILE},
        {"kind": HOSTILE, "text": HOSTILE},
    ]  # fmt: skip
    with job.events_path(1).open("a") as lines:
        lines.writelines(json.dumps({"t": time.time(), **event}) + "\n" for event in events)
    losses = RowLossWriter(job, 1)
    for step in range(1, 22):
        losses.append(step, [(0, step % 11 + 1)], [2.0 / step], [3])
    losses.close()
    evaluation(workspace, HOSTILE)
    return job


def _ratings(workspace: Workspace) -> None:
    items = [
        Item(f"item {n} {HOSTILE}", [{"role": "user", "content": f"{HOSTILE} {n}"}], f"{HOSTILE}",
             {"plainfish": f"one {HOSTILE}{n}", "tunedfish": f"two {HOSTILE}{n}"})
        for n in range(3)
    ]  # fmt: skip
    shared = {"items": items, "question": HOSTILE}
    done = make_session(workspace.ratings, raters=("root",), **shared)
    vote_by(done, "root", lambda item: "L")
    run(["rate", "unseal", "trial", "--reason", HOSTILE, "-w", str(workspace.root)])
    done.path.rename(done.path.with_name("done"))
    here = make_session(workspace.ratings, raters=("root",), **shared)
    told = json.loads((here.path / "manifest.json").read_bytes())
    told |= {"criteria": [HOSTILE], "tags": [HOSTILE], "stop_rule": HOSTILE, "created": HOSTILE,
             "excluded": {HOSTILE: 1}, "end_question": HOSTILE}  # fmt: skip
    (here.path / "manifest.json").write_text(json.dumps(told))
    (workspace.ratings / HOSTILE_NAME).mkdir()
    (workspace.ratings / HOSTILE_NAME / "manifest.json").write_text(HOSTILE)


def _journals(workspace: Workspace, data: Path) -> None:
    with open_dataset(data, workspace) as rows:
        rows.drop([1], HOSTILE, HOSTILE)
        rows.label([2], HOSTILE)
    failures = workspace.root / "failures.jsonl"
    failures.write_text(
        json.dumps({"input": HOSTILE, "output": HOSTILE, "id": HOSTILE, "note": HOSTILE}) + "\n"
    )
    for words in (
        ("feedback", "import", failures), ("prices", HOSTILE, "3", "--note", HOSTILE),
        ("split", data, "--name", HOSTILE, "--skip-malformed"), ("check", data),
        ("ready", data, "--answer", "base=yes", "--note", HOSTILE),
    ):  # fmt: skip
        run([*map(str, words), "-w", str(workspace.root)])


def _themes(workspace: Workspace) -> None:
    folder = workspace.root / "themes"
    folder.mkdir()
    shutil.copy(TESTS.parent / "themes" / "finetui-dark.toml", folder / f"{HOSTILE_NAME}.toml")
    (folder / "bad.toml").write_text(
        f'primary = "#fff"\nname = "{HOSTILE_NAME}"\n', errors="replace"
    )


if __name__ == "__main__":
    hostile_workspace(Path(sys.argv[1]))
