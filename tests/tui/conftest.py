"""Small workspaces, one of them with data that try to reach the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from desk import HOSTILE, chat, write_rows

from finetui.workspace import Workspace, create


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace with one small chat file."""
    made = create(tmp_path / "desk")
    rows: list[Any] = [chat(f"question {number}", f"answer {number}") for number in range(1, 41)]
    rows[4] = '{"messages": [{"role": "user", "content": "cut'
    write_rows(made.datasets / "small.jsonl", rows)
    return made


@pytest.fixture
def hostile(tmp_path: Path) -> Workspace:
    """A workspace whose data, file names and columns try to reach the terminal."""
    made = create(tmp_path / "desk")
    rows: list[Any] = [
        chat(f"{HOSTILE} 你好世界", HOSTILE),
        "not json " + HOSTILE.replace("\0", ""),
        chat("plain", ""),
        {"messages": [{"role": HOSTILE, "content": HOSTILE}], HOSTILE: HOSTILE},
        chat(f"{HOSTILE} 你好世界", "another answer"),
    ]
    write_rows(made.datasets / "bad\x1b[31mred[@click=app.quit]x[b].jsonl", rows)
    return made
