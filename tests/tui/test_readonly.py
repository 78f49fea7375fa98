"""``--readonly``: a workspace is watched by somebody who changes nothing in it."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import chat, write_rows
from look import finished_job, sealed_session, until, words
from pty_harness import Terminal

from finetui import readonly
from finetui.commands.tui import watched
from finetui.data.dataset import open_dataset
from finetui.data.review.queue import Queue
from finetui.errors import UserError
from finetui.jobs import control
from finetui.jobs.events import EventWriter
from finetui.jobs.folder import Job, create, list_jobs
from finetui.recipe.files import save
from finetui.recipe.schema import Recipe
from finetui.start import start_training
from finetui.tui import modes
from finetui.tui.actions import ACTIONS, Action
from finetui.tui.app import FinetuiApp
from finetui.tui.messages import OpenJob
from finetui.workspace import Workspace, find
from finetui.workspace import create as create_workspace

SOMEBODY = 65534
"""A user who owns the workspace in the tests that need root."""


@pytest.fixture
def shared(tmp_path: Path) -> Workspace:
    """Somebody's workspace: edited data, a recipe, a run, a session."""
    made = create_workspace(tmp_path / "theirs")
    path = write_rows(made.datasets / "small.jsonl", [chat(f"q {n}", f"a {n}") for n in range(12)])
    with open_dataset(path, made) as rows:
        rows.build_index()
        rows.drop([3])
    save(made.recipes / "theirs.toml", Recipe(name="theirs"))
    finished_job(made)
    sealed_session(made)
    return made


@pytest.fixture
def watching(shared: Workspace, tmp_path: Path, monkeypatch) -> Iterator[Workspace]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    readonly.begin(shared.root)
    yield shared
    readonly.end()


def state_of(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file and folder below, with mode, time of change and content."""
    return {
        str(path): (path.stat().st_mode, path.stat().st_mtime_ns,
                    path.read_bytes() if path.is_file() else b"")
        for path in [root, *sorted(root.rglob("*"))]
    }  # fmt: skip


def test_whatever_would_change_the_workspace_is_refused_as_by_a_read_only_disk(watching, tmp_path):
    root, before = watching.root, state_of(watching.root)
    (tmp_path / "alias").symlink_to(root)
    inside = root / "finetui.toml"
    for attempt in (
        lambda: (root / "new").write_text("x"),
        lambda: (tmp_path / "alias" / "new").write_text("x"),
        lambda: inside.open("a"),
        lambda: os.open(inside, os.O_RDWR),
        lambda: (root / "folder").mkdir(),
        lambda: inside.unlink(),
        lambda: inside.rename(tmp_path / "away"),
        lambda: os.link(tmp_path / "alias", root / "new"),
        lambda: inside.chmod(0o644),
        lambda: os.utime(inside),
        lambda: os.truncate(inside, 0),
        lambda: sqlite3.connect(root / "new.sqlite"),
    ):
        with pytest.raises(readonly.ReadOnlyError) as refused:
            attempt()
        assert refused.value.errno == errno.EROFS
    assert state_of(root) == before
    (tmp_path / "beside").write_text("other places are free")


def test_reading_goes_on_with_copies_and_a_cache_of_ones_own(watching, tmp_path):
    before = state_of(watching.root)
    with open_dataset(watching.datasets / "small.jsonl", watching) as rows:
        rows.build_index()
        assert not rows.state(3).kept  # the owner's edit
        with pytest.raises(readonly.ReadOnlyError):
            rows.drop([4])
    assert Queue(watching).items() == []
    assert watching.cache.is_relative_to(tmp_path / "mine")
    assert state_of(watching.root) == before


def test_an_owners_newer_edits_are_seen_when_the_set_is_opened_again(watching):
    path = watching.datasets / "small.jsonl"
    script = (
        "import sys; from pathlib import Path; from finetui.data.dataset import open_dataset;"
        "from finetui.workspace import Workspace;"
        "rows = open_dataset(Path(sys.argv[2]), Workspace(Path(sys.argv[1])));"
        "rows.build_index(); rows.drop([5]); import os; os._exit(0)"  # its WAL stays behind
    )
    theirs = {key: value for key, value in os.environ.items() if not key.startswith("FINETUI_")}
    command = [sys.executable, "-c", script, str(watching.root), str(path)]
    subprocess.run(command, check=True, env=theirs, timeout=60)
    before = state_of(watching.root)
    with open_dataset(path, watching) as rows:
        rows.build_index()
        assert not rows.state(3).kept and not rows.state(5).kept
    assert state_of(watching.root) == before


def test_no_run_is_started_and_none_is_asked_for_anything(watching):
    running = list_jobs(watching.jobs)[0]
    for attempt in (
        lambda: start_training(watching, Recipe(name="mine")),
        lambda: create(watching.jobs, "train", "mine", {"kind": "train"}, {}),
        lambda: control.request(running, "save"),
    ):
        with pytest.raises(UserError):
            attempt()


def test_the_commands_that_a_screen_runs_write_elsewhere_too(watching, tmp_path):
    before = state_of(watching.root)
    command = [sys.executable, "-m", "finetui", "check", str(watching.datasets / "small.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=watching.root, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    assert state_of(watching.root) == before


def test_the_variable_alone_is_enough_for_a_command(shared, tmp_path):
    before = state_of(shared.root)
    theirs = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "mine"), readonly.ROOT: "."}
    done = subprocess.run(
        [sys.executable, "-m", "finetui", "edits", "datasets/small.jsonl", "--undo"],
        capture_output=True, text=True, cwd=shared.root, env=theirs, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "read only" in done.stderr, done.stderr
    assert state_of(shared.root) == before


async def _ready(app: FinetuiApp, pilot, workspace: Workspace) -> None:
    """All modes on, a run open."""
    for mode in modes.BY_NAME:
        pane = await app.show(mode)
        await until(pilot, lambda shown=pane: shown.children)
    await app.show("train", OpenJob(list_jobs(workspace.jobs)[0].path))
    await until(pilot, lambda: app.pane.snapshot)


def _actions(writing: bool) -> list[Action]:
    modes.load_all()
    return [one for one in ACTIONS.values() if one.place in modes.BY_NAME and one.writes == writing]


async def test_an_action_that_would_write_opens_no_dialog_in_any_mode(watching):
    before = state_of(watching.root)
    app = FinetuiApp(watching, start="home")
    async with app.run_test(size=(60, 15)) as pilot:
        await _ready(app, pilot, watching)
        tried = _actions(writing=True)
        assert len(tried) > 30
        for action in tried:
            await app.run_action(action.method, await app.show(action.place))
            assert len(app.screen_stack) == 1, f"{action.id} opened a dialog"
    assert state_of(watching.root) == before


@pytest.mark.figures
async def test_no_other_action_of_any_mode_tries_to_write(watching, monkeypatch):
    tried: list[str] = []

    class Counted(readonly.ReadOnlyError):
        def __init__(self, where: str = "") -> None:
            tried.append(where)
            super().__init__(where)

    before = state_of(watching.root)
    app = FinetuiApp(watching, start="home")
    async with app.run_test(size=(60, 15)) as pilot:
        await _ready(app, pilot, watching)
        monkeypatch.setattr(readonly, "ReadOnlyError", Counted)
        for action in _actions(writing=False):
            await app.run_action(action.method, await app.show(action.place))
            while len(app.screen_stack) > 1:
                await pilot.pause()
                app.screen.dismiss(None)
                await pilot.pause()
            assert tried == [], f"{action.id} tries to write but does not say so"
        await pilot.pause()
    print(
        f"actions that only look: {len(_actions(writing=False))}, attempts to write: {len(tried)}"
    )
    assert tried == [] and state_of(watching.root) == before


async def test_a_key_that_would_write_is_answered_with_a_sentence(watching):
    job = list_jobs(watching.jobs)[0]
    app = FinetuiApp(watching, start="train", request=OpenJob(job.path))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: app.pane and app.pane.snapshot)
        await pilot.press("s")
        await until(pilot, lambda: any("read only" in n.message for n in app._notifications))
        assert len(app.screen_stack) == 1
        hints = [text for _, text in app.query_one("HintBar").hints]
        assert "stop" not in hints and "samples" in hints
        await pilot.press("question_mark")
        await until(pilot, lambda: len(app.screen_stack) > 1)
        await until(pilot, lambda: app.screen.query("#help-lines"))
        sections = app.screen.query_one("#help-lines").sections
        told = {action.id for _, _, actions in sections for action in actions}
        assert "train.samples" in told and "train.pause" not in told
        await pilot.press("escape")
        assert "read only" in "".join(s.text for s in app.query_one("TopBar").render_line(0))


async def test_the_badge_is_there_only_while_one_watches(shared):
    app = FinetuiApp(shared)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert "read only" not in "".join(s.text for s in app.query_one("TopBar").render_line(0))


def test_a_runs_folder_alone_can_be_named(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    job = list_jobs(shared.jobs)[0]
    try:
        workspace, found = watched(job.path / "adapter")
        assert (workspace.root, found) == (shared.root, job.path)
        assert workspace.readonly
    finally:
        readonly.end()
    assert not find(shared.root).readonly


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def _hand_over(shared: Workspace) -> None:
    """Make somebody else the owner, who lets others look."""
    for path in [shared.root, *shared.root.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.chown(path, SOMEBODY, SOMEBODY)


def _without_power(*arguments: str) -> list[str]:
    """finetui as root without the capabilities that overrule permissions: one user of many."""
    script = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True);"
        "assert not any(libc.prctl(24, power, 0, 0, 0) for power in (1, 2, 3));"
        "os.execv(sys.executable, [sys.executable, '-m', 'finetui', *sys.argv[1:]])"
    )
    return [sys.executable, "-c", script, *arguments]


@pytest.fixture
def mine(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": f"{tmp_path}/cache"}


@needs_root
def test_another_user_watches_a_run_that_grows(shared, mine, tmp_path):
    job = create(shared.jobs, "train", "growing", {"kind": "train"}, {})
    events = EventWriter(job, 1)
    events.write("start", total_steps=9, parameters=10, trainable=10, device="CPU")
    events.write("step", step=1, loss=2.0, lr=1e-3, grad_norm=0.5, tokens=1, trained_tokens=1,
                 tokens_per_s=1.0, step_s=1.0)  # fmt: skip
    _hand_over(shared)
    before = state_of(shared.root)
    with Terminal(
        _without_power("--readonly", str(job.path)), size=(100, 30), env=mine, cwd="/"
    ) as terminal:
        terminal.wait_for("read only")
        terminal.wait_for("step 1 of 9")
        assert state_of(shared.root) == before
        events.write("step", step=2, loss=1.5, lr=1e-3, grad_norm=0.5, tokens=1,
                     trained_tokens=1, tokens_per_s=1.0, step_s=1.0)  # fmt: skip
        terminal.wait_for("step 2 of 9")
        terminal.press("S")
        terminal.wait_for("opened read only")
        terminal.press("q")
    events.close()
    changed = {path for path, now in state_of(shared.root).items() if before.get(path, ()) != now}
    assert changed == {str(job.events_path(1))}


@needs_root
def test_another_user_is_told_what_permissions_are_lacking(shared, mine):
    _hand_over(shared)
    shared.root.chmod(0o700)
    said = subprocess.run(
        _without_power("--readonly", str(shared.root)), capture_output=True, text=True, env=mine,
        cwd="/", timeout=60,
    )  # fmt: skip
    assert said.returncode == 2
    assert "may not be looked into" in said.stderr and "Traceback" not in said.stderr


@needs_root
def test_a_run_whose_last_word_may_not_be_read_is_unknown_and_not_dead(shared, mine):
    _hand_over(shared)
    job: Job = list_jobs(shared.jobs)[0]
    (job.path / "outcome.json").chmod(0o600)
    said = subprocess.run(
        _without_power("watch", "--readonly", "--once", str(job.path)),
        capture_output=True, text=True, env=mine, cwd="/", timeout=60,
    )  # fmt: skip
    assert "unknown" in said.stderr and "permission" in said.stderr, said.stderr


async def test_the_words_of_a_run_are_the_same_as_for_its_owner(watching):
    app = FinetuiApp(watching, start="train", request=OpenJob(list_jobs(watching.jobs)[0].path))
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.pane and app.pane.snapshot)
        assert "finished" in words(app, "#run")
