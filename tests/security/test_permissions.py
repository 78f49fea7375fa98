"""What we write is for one person, and jobs run only where nobody else chooses what they do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from job_workshop import Workshop, quiet

from finetui.cli import run
from finetui.errors import UserError
from finetui.jobs.folder import Job, create
from finetui.jobs.launch import launch
from finetui.workspace import ALLOW_SHARED, Workspace, refuse_unsafe

STRANGER = 54_321
needs_root = pytest.mark.skipif(
    os.getuid() != 0, reason="giving a folder to another account needs root"
)


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The most careless setting that a login can have."""
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(folder: Path) -> list[str]:
    """Everything below a folder that anybody but its owner may read, write or enter."""
    return [
        f"{path.stat().st_mode & 0o777:o} {path}"
        for path in [folder, *folder.rglob("*")]
        if not path.is_symlink() and path.stat().st_mode & 0o077
    ]


def test_a_careless_umask_leaves_a_workspace_private(tmp_path: Path) -> None:
    root = tmp_path / "work"
    assert run(["init", str(root)]) == 0
    job = create(root / "jobs", "fetch", "x", {"kind": "fetch"}, {})
    assert open_to_others(root) == [] and open_to_others(job.path) == []


def test_all_that_a_run_leaves_is_private_under_a_careless_umask(tmp_path: Path) -> None:
    shop = Workshop(tmp_path / "jobs")
    try:
        job = shop.start("steps", 3, 0)
        quiet(job)
        assert job.log_files() and job.events_files()
        assert open_to_others(job.path) == []
    finally:
        shop.sweep()


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777])
def test_a_folder_that_everybody_may_write_is_refused_with_the_way_out(
    workspace: Workspace, mode: int
) -> None:
    workspace.root.chmod(mode)
    with pytest.raises(UserError, match="may be written by everybody") as caught:
        create(workspace.jobs, "fetch", "x", {"kind": "fetch"}, {})
    assert f"chmod go-w {workspace.root}" in str(caught.value)
    assert list(workspace.jobs.iterdir()) == []


def test_a_shared_jobs_folder_in_a_private_workspace_is_refused_too(workspace: Workspace) -> None:
    workspace.jobs.chmod(0o777)
    with pytest.raises(UserError, match="may be written by everybody"):
        create(workspace.jobs, "fetch", "x", {"kind": "fetch"}, {})


def test_a_job_whose_folder_others_may_write_is_not_started(workspace: Workspace) -> None:
    job = create(workspace.jobs, "fetch", "x", {"kind": "fetch"}, {})
    job.path.chmod(0o707)
    with pytest.raises(UserError, match="may be written"):
        launch(Job(job.path), ["true"])
    assert not job.log_files()


def test_a_group_with_other_members_is_refused_and_ones_own_is_not(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import grp
    import pwd

    me = pwd.getpwuid(os.getuid())
    workspace.root.chmod(0o770)
    os.chown(workspace.root, -1, me.pw_gid)

    def members(*names: str) -> None:
        entry = grp.struct_group((me.pw_name, "x", me.pw_gid, list(names)))
        monkeypatch.setattr(grp, "getgrgid", lambda number: entry)

    members(me.pw_name)
    refuse_unsafe(workspace.root)
    members(me.pw_name, "colleague")
    with pytest.raises(UserError, match="may be written by its group"):
        refuse_unsafe(workspace.root)


@needs_root
def test_somebody_elses_workspace_is_refused_unless_the_person_says_so(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(workspace.root, STRANGER, -1)
    with pytest.raises(UserError, match="belongs to another account"):
        create(workspace.jobs, "fetch", "x", {"kind": "fetch"}, {})
    monkeypatch.setenv(ALLOW_SHARED, "1")
    assert create(workspace.jobs, "fetch", "x", {"kind": "fetch"}, {}).path.is_dir()


@needs_root
def test_another_account_reads_nothing_of_a_workspace(workspace: Workspace) -> None:
    secret = workspace.datasets / "rows.jsonl"
    secret.write_text("{}\n")
    for folder in workspace.root.parents:
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o111)
    code = f"import os; os.setuid({STRANGER}); open({str(secret)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PermissionError" in done.stderr
