"""What the tests of the shell share: rows, hostile text, and waiting for a condition."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOSTILE = (
    "\x1b[31mred\x1b[0m \x1b]52;c;cHduZWQ=\x07 \x1bcreset \x9b2J \x07bell \x00nul \x7fdel "
    "‮override ​zero [/b] [@click=app.quit]x[/] [link=http://x]y[/link] \U000e0041tag"
)
PAYLOADS = (
    b"\x1b[31mred", b"\x1b]52;", b"\x1bc", "\x9b".encode(), b"\x07bell", b"\x00nul", b"\x7fdel",
    "‮".encode(), "​".encode(), "\U000e0041".encode(),
)  # fmt: skip


def chat(user: str, answer: str, system: str = "Answer shortly.") -> dict[str, Any]:
    turns = [("system", system), ("user", user), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def write_rows(path: Path, rows: list[Any]) -> Path:
    """JSON lines; a string is written as it is, so that a line can be broken."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8", errors="surrogatepass")
    return path


async def until(condition: Callable[[], Any], limit: float = 20.0) -> Any:
    """Let the app work until the condition holds; its value. AssertionError after ``limit``."""
    end = time.monotonic() + limit
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "the condition never came"
        await asyncio.sleep(0.01)
