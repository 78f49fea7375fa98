"""Run a finetui command in a process of its own and read what it says: heavy work is never here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from finetui.errors import UserError

_LONGEST_LINE = 1 << 22  # bytes of one JSON line


def together(paths: Sequence[Path]) -> list[str]:
    """The files of one set as a command takes them, the last of its options."""
    first, *more = map(str, paths)
    return [*(f"--with={path}" for path in more), "--", first]


async def command_lines(arguments: Sequence[str]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON lines of ``finetui ARGUMENTS`` as they come; closing the generator ends it.

    Raises UserError with the command's own words when it could not run.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "finetui", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, limit=_LONGEST_LINE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    reading = asyncio.create_task(process.stderr.read())
    try:
        async for line in process.stdout:
            yield json.loads(line)
        await process.wait()
        if process.returncode not in (0, 1):
            raise UserError(_last_words(await reading))
    finally:
        reading.cancel()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def command_answer(arguments: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """All JSON lines of a short command, and what it told beside them; raises like the other."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "finetui", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        said, told = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
    if process.returncode not in (0, 1):
        raise UserError(_last_words(told))
    return [json.loads(line) for line in said.splitlines()], told.decode(errors="replace")


def _last_words(told: bytes) -> str:
    """The command's error without its own name."""
    lines = told.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("finetui: ") if lines else "the command stopped without a word"
