"""What a job should remember of the machine and the software that it started with."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from finetui.jobs import procfs

_PACKAGES = (
    "finetui",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "tokenizers",
    "safetensors",
    "numpy",
    "msgspec",
    "nvidia-ml-py",
)
_GIT_LIMIT_S = 3.0
# No write to the index (a hook follows it), no fetching of objects that are missing.
_GIT_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_TERMINAL_PROMPT": "0",
}


def surroundings(workspace: Path) -> dict[str, object]:
    """Return machine, Python, package versions and the workspace's git state, as plain values."""
    return {
        "machine": {
            "host": procfs.host(),
            "system": platform.system(),
            "kernel": platform.release(),
            "architecture": platform.machine(),
            "cores": os.cpu_count() or 0,
        },
        "python": platform.python_version(),
        "packages": package_versions(),
        "git": git_state(workspace),
    }


def package_versions() -> dict[str, str]:
    """Return installed versions by package name, read from metadata: nothing is imported."""
    versions: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path) -> dict[str, object] | None:
    """Return {commit, changed} of the repository around a folder, None where there is none.

    A repository may come from somebody else, and its own configuration may name programs to run:
    none of them is. Where it filters files, `changed` is True, as it cannot be told.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    filters = _git(folder, "config", "--show-scope", "--get-regexp", r"^filter\.") or ""
    own = any(line.startswith(("local", "worktree")) for line in filters.splitlines())
    asked = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    changes = None if own else _git(folder, *asked)
    return {"commit": commit, "changed": changes is None or bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    settings = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    command = ["git", *settings, "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_LIMIT_S,
            env={**os.environ, **_GIT_ENVIRONMENT},
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return os.fsdecode(done.stdout).strip()
