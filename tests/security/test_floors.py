"""Libraries with known holes are asked for in newer versions, and refused where they lie."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from finetui import floors
from finetui.cli import run
from finetui.errors import UserError
from finetui.floors import FLOORS

ROOT = Path(__file__).parent.parent.parent


def requirements() -> dict[str, str]:
    """What pyproject.toml asks for, by package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    lines = [line for group in groups for line in group]
    return {re.split(r"[\[<>=!~]", line)[0]: line for line in lines}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in pairs}


@pytest.mark.parametrize("floor", FLOORS, ids=lambda floor: floor.package)
def test_a_floor_is_asked_for_and_the_release_is_above_it(floor: floors.Floor) -> None:
    asked = re.search(r">=([\d.]+)", requirements()[floor.package])
    assert asked is not None
    assert floors._numbers(asked[1]) >= floors._numbers(floor.oldest)
    assert floors._numbers(pinned()[floor.package]) >= floors._numbers(floor.oldest)


def test_every_version_of_the_release_is_exact_so_that_it_can_be_audited() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    loose = [line for line in lines if line and not line.startswith("#") and "==" not in line]
    assert loose == []


@pytest.mark.parametrize(
    ("older", "newer"),
    [("5.2.9", "5.3"), ("5.3rc1", "5.4"), ("2.9.1+cu128", "2.10"), ("2.10", "2.10.1"), ("4", "10")],
)
def test_versions_are_compared_as_numbers(older: str, newer: str) -> None:
    assert floors._numbers(older) < floors._numbers(newer)
    assert floors._numbers("5.3") == floors._numbers("5.3.0+local")


@pytest.fixture
def old_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "5.2.0" if name == "transformers" else real(name),
    )


def test_doctor_tells_the_hole_and_the_cure(
    old_transformers: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["doctor", "-w", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "transformers 5.2.0 is below 5.3" in told and "CVE-2026-4372" in told
    assert "pip install 'transformers>=5.3'" in told


def test_the_engine_does_not_start_on_a_library_with_a_hole(old_transformers: None) -> None:
    from finetui.engine.__main__ import require_libraries

    with pytest.raises(UserError, match="CVE-2026-4372"):
        require_libraries()


def test_doctor_tells_of_a_workspace_that_others_may_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", str(tmp_path / "work")]) == 0
    run(["doctor", "-w", str(tmp_path / "work")])
    assert "may be written" not in capsys.readouterr().out
    (tmp_path / "work").chmod(0o777)
    assert run(["doctor", "-w", str(tmp_path / "work")]) == 1
    assert "may be written by everybody" in capsys.readouterr().out


# -- make audit ------------------------------------------------------------------------------------

REPORTS = {
    "clean": ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', 0, "0 known holes"),
    "hole": (
        '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "aliases": '
        '["CVE-1"], "fix_versions": ["2"]}]}]}',
        1,
        "a 1: PYSEC-1, CVE-1; mended in 2",
    ),
    "no answer": ("", 3, "Nothing was audited"),
    "a mirror": ('{"dependencies": [{"name": "a", "skip_reason": "x"}]}', 3, "Nothing was audited"),
}


@pytest.mark.parametrize("case", REPORTS)
def test_an_audit_that_asked_nobody_is_not_a_clean_one(tmp_path: Path, case: str) -> None:
    report, code, said = REPORTS[case]
    tool = tmp_path / "build" / "audit" / "bin" / "pip-audit"
    tool.parent.mkdir(parents=True)
    tool.write_text(f"#!{sys.executable}\nimport sys\nprint({report!r})\nsys.exit(1)\n")
    tool.chmod(0o700)
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "audit.py"
    script.write_text((ROOT / "scripts" / "audit.py").read_text())
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
