"""A scorer is code: it runs where the person named it, not because a file from elsewhere does."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetui import consent, start
from finetui.cli import run
from finetui.errors import UserError
from finetui.evaluation.record import Manifest, SetSpec, Subject
from finetui.evaluation_wish import Wish
from finetui.jobs.folder import create
from finetui.workspace import Workspace


@pytest.fixture
def scorer(workspace: Workspace) -> Path:
    file = workspace.root / "scorers" / "mine.py"
    file.parent.mkdir()
    file.write_text("def score(answer, reference, prompt, row):\n    return True\n")
    return file


@pytest.fixture
def theirs(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """An evaluation of somebody else, whose scorer came along with the workspace."""
    monkeypatch.setattr(start, "launch", lambda *_, **__: 1)
    rows = workspace.datasets / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    sets = [SetSpec("rows", path=str(rows), scorer="scorers/mine.py::score")]
    return Manifest(
        name="theirs", created=0.0, base="base", subjects=[Subject("base", "base", model="m")],
        sets=sets,
    )  # fmt: skip


def test_an_evaluation_from_elsewhere_cannot_bring_its_scorer_along(
    workspace: Workspace, theirs: Manifest, scorer: Path
) -> None:
    with pytest.raises(UserError, match="have not allowed") as caught:
        start.start_evaluation(workspace, theirs)
    assert f"finetui trust {scorer}" in str(caught.value)
    assert not list(workspace.jobs.iterdir())
    assert run(["trust", str(scorer), "--yes"]) == 0
    assert start.start_evaluation(workspace, theirs).path.is_dir()


def test_a_changed_scorer_needs_a_new_word(
    workspace: Workspace, theirs: Manifest, scorer: Path
) -> None:
    consent.allow_file(scorer)
    scorer.write_text("def score(answer, reference, prompt, row):\n    return 0\n")
    with pytest.raises(UserError, match="have not allowed"):
        start.start_evaluation(workspace, theirs)


def test_who_types_the_name_of_a_scorer_allows_it(
    workspace: Workspace, theirs: Manifest, scorer: Path
) -> None:
    job = create(workspace.jobs, "train", "x", {"kind": "train"}, {})
    Wish(run=job, scorer="scorers/mine.py::score")._scoring(workspace)
    assert start.start_evaluation(workspace, theirs).path.is_dir()


def test_the_engine_asks_too(workspace: Workspace, scorer: Path) -> None:
    pytest.importorskip("torch")
    from types import SimpleNamespace

    from finetui.engine.evaluate import _scorer

    session = SimpleNamespace(job=SimpleNamespace(path=workspace.root))
    evaluation = SimpleNamespace(session=session, workspace=workspace)
    with pytest.raises(UserError, match="have not allowed"):
        _scorer(evaluation, SetSpec("rows", scorer="scorers/mine.py::score"))  # type: ignore[arg-type]
