"""A key of the person is in no argument, log, spec, manifest, event or crash report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_workshop import Workshop, ended, quiet, until
from net_watch import command_lines

from finetui.jobs.control import request
from finetui.jobs.folder import create
from finetui.jobs.launch import launch
from finetui.jobs.scrubbing import REMOVED, Scrubber, secret_names
from finetui.workspace import Workspace

# None looks like a key: only the names of the variables say what they are.
PLANTED = {
    "HF_TOKEN": "planted-hub-token",
    "WANDB_API_KEY": "planted-wandb-key",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret",
    "FINETUI_SUGGEST_KEY": "planted-suggest-key",
    "DB_PASSWORD": "planted-password",
}
SHAPED = (
    "hf_abcdefghijklmnopqrstuvwxyz012345",
    "sk-proj-abcdefghijklmnopqrstuvwx",
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "glpat-abcdefghijklmnopqrst",
    "xoxb-1234567890-abcdefghij",
)


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path / "jobs")
    yield made
    made.sweep()


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold a planted secret."""
    secrets = [secret.encode() for secret in (*PLANTED.values(), *SHAPED)]
    return [
        f"{path.name}: {secret.decode()}"
        for path in folder.rglob("*")
        if path.is_file()
        for secret in secrets
        if secret in path.read_bytes()
    ]


def test_spec_and_manifest_keep_no_key_wherever_it_was_typed(workspace: Workspace) -> None:
    spec = {
        "kind": "fetch",
        "source": f"https://me:{SHAPED[0]}@host/set",
        "nested": [{"header": f"Bearer {'b' * 20}", "note": f"key {SHAPED[1]} here"}],
        "hub_token": "whatever",
        "told": PLANTED["AWS_SECRET_ACCESS_KEY"],
    }
    job = create(workspace.jobs, "fetch", "x", spec, {"command": ["--key", *SHAPED]})
    assert leaks(job.path) == []
    text = (job.path / "spec.toml").read_text()
    assert "whatever" not in text and "b" * 20 not in text and text.count(REMOVED) == 5


def test_what_is_no_secret_stays(tmp_path: Path) -> None:
    kept = Scrubber({"SSL_KEY": str(tmp_path), "API_KEY": "short", "MONKEY": "bananabanana"})
    text = f"{tmp_path} short bananabanana max_new_tokens=16 commit {'0a' * 20}"
    assert kept.text(text) == text
    table = {"pad_token": "<pad>", "max_new_tokens": 16, "token_count": 3}
    assert kept.value(table) == table


def test_secret_variables_are_known_by_their_names() -> None:
    others = ("PATH", "HF_TOKEN_PATH", "TOKENIZERS_PARALLELISM", "MAX_TOKENS", "KEYBOARD", "MONKEY")
    assert secret_names({**PLANTED, **dict.fromkeys(others, "x")}) == sorted(PLANTED)


def test_a_run_that_prints_its_keys_and_dies_of_one_leaves_none_behind(
    workshop: Workshop, tmp_path: Path
) -> None:
    """Through the engine's own door: its prints, its traceback, its events and its last word."""
    shapes = ", ".join(map(repr, SHAPED))
    program = tmp_path / "noisy.py"
    program.write_text(
        "import os, sys\n"
        "import finetui.engine.__main__ as engine\n"
        f"WORDS = ' '.join([{shapes}, *(os.environ[n] for n in {sorted(PLANTED)!r})])\n"
        "def fail(session, spec):\n"
        "    print('printed', WORDS); print('told', WORDS, file=sys.stderr)\n"
        "    session.events.write('warning', text=WORDS)\n"
        "    raise RuntimeError(f'the hub said 401 to {WORDS}')\n"
        "engine.dispatch = fail\n"
        "sys.modules['finetui.engine.failures'] = None  # it would import torch\n"
        "engine.require_libraries = engine.quiet_libraries = lambda: None\n"
        "sys.exit(engine.main(sys.argv[1:]))\n"
    )
    job = workshop.job("noisy")
    launch(job, [sys.executable, str(program), str(job.path)])
    assert quiet(job).name == "failed"
    log = job.log_files()[0].read_text()
    assert "printed" in log and "told" in log and "RuntimeError" in log and REMOVED in log
    outcome = job.outcome()
    assert outcome is not None and "401" in str(outcome) and REMOVED in str(outcome)
    assert leaks(job.path) == []


def test_no_process_of_a_run_has_a_key_in_its_arguments(workshop: Workshop) -> None:
    job = workshop.start("steps", 2000, 0.01)
    proc = until(job.proc)
    lines = command_lines()
    ours = [line for line in lines if str(job.path).encode() in line]
    assert len(ours) >= 2, "supervisor and worker"
    for secret in PLANTED.values():
        assert not [line for line in lines if secret.encode() in line]
    assert PLANTED["HF_TOKEN"].encode() in Path(f"/proc/{proc.worker.pid}/environ").read_bytes()
    request(job, "stop")
    ended(job)


def test_a_crash_report_of_the_screen_holds_no_key(tmp_path: Path) -> None:
    from finetui import crash

    try:
        raise RuntimeError(f"401 for {PLANTED['HF_TOKEN']} {SHAPED[0]}")
    except RuntimeError as error:
        crash.kept(error, tmp_path)
    assert leaks(tmp_path) == []
    assert "401" in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_an_imported_recipe_drops_keys_and_says_so(tmp_path: Path) -> None:
    from finetui.recipe.files import dumps
    from finetui.recipe.importers import import_file

    file = tmp_path / "axolotl.yml"
    file.write_text(f"base_model: x\nhf_token: {SHAPED[0]}\nwandb_api_key: planted-wandb-key\n")
    imported = import_file(file)
    assert {"hf_token", "wandb_api_key"} <= {one.key for one in imported.lost}
    for told in (dumps(imported.recipe), repr(imported)):
        assert SHAPED[0] not in told and "planted-wandb-key" not in told
