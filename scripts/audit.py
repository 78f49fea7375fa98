"""Ask whether the libraries of this release have known holes: ``make audit``.

pip-audit runs in an environment of its own (build/audit), so that it is no dependency of finetui,
and looks up the exact versions in constraints.txt; none of them is installed or imported. Exit
code 0: none is known; 1: some are; 3: nobody could be asked, which says nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "build" / "audit"
LOCKED = ROOT / "constraints.txt"
SERVICES = ("pypi", "osv")
LIMIT_S = 300
CLEAN, FOUND, UNASKED = 0, 1, 3


def main() -> int:
    tool = _installed()
    if tool is None:
        return UNASKED
    for service in SERVICES:
        report = _asked(tool, service)
        if report is not None:
            return _tell(report, service)
    print(
        "Nothing was audited: no advisory service could be reached. "
        "Try again from a machine with a connection.",
        file=sys.stderr,
    )
    return UNASKED


def _installed() -> Path | None:
    """pip-audit in its own environment, None where it cannot be installed."""
    tool = HOME / "bin" / "pip-audit"
    if tool.is_file():
        return tool
    venv.create(HOME, with_pip=True, clear=True)
    pip = [str(HOME / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*pip, "install", "pip-audit>=2.10"], check=False)
    if done.returncode:
        print("Nothing was audited: pip-audit could not be installed.", file=sys.stderr)
        return None
    return tool


def _asked(tool: Path, service: str) -> list[dict[str, Any]] | None:
    """What the service knows of each package; None when it could not be asked.

    pip-audit ends with 1 both for a hole and for a service that does not answer: only its report
    tells them apart.
    """
    command = [
        str(tool), "--requirement", str(LOCKED), "--no-deps", "--disable-pip",
        "--vulnerability-service", service, "--format", "json", "--progress-spinner", "off",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"{service} did not answer within {LIMIT_S} s", file=sys.stderr)
        return None
    except (ValueError, KeyError):
        reason = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        print(f"{service} could not be asked: {''.join(reason)[:300]}", file=sys.stderr)
        return None
    if all("skip_reason" in one for one in packages):
        print(f"{service} knows none of these packages: is it a mirror?", file=sys.stderr)
        return None
    return list(packages)


def _tell(packages: list[dict[str, Any]], service: str) -> int:
    looked = [one for one in packages if "skip_reason" not in one]
    if passed_over := [one["name"] for one in packages if "skip_reason" in one]:
        print(f"not known there: {', '.join(passed_over)}", file=sys.stderr)
    holes = [(one, hole) for one in looked for hole in one.get("vulns", [])]
    for one, hole in holes:
        names = ", ".join([hole["id"], *hole.get("aliases", [])])
        cure = ", ".join(hole.get("fix_versions", [])) or "none yet"
        print(f"{one['name']} {one['version']}: {names}; mended in {cure}")
    print(f"{len(looked)} packages looked up at {service}: {len(holes)} known holes")
    return FOUND if holes else CLEAN


if __name__ == "__main__":
    sys.exit(main())
