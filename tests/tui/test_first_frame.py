"""The first frame comes from a light process: nothing heavy is imported to show it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "datasets", "peft", "numpy", "pyarrow", "duckdb", "tokenizers",
         "jinja2", "ftfy", "pandas", "trl", "plotext")  # fmt: skip
PROGRAM = """
import asyncio, sys
from pathlib import Path
from finetui.tui.app import FinetuiApp
from finetui.workspace import find

async def main():
    app = FinetuiApp(find(Path(sys.argv[1])))
    async with app.run_test(size=(120, 36)):
        for _ in range(2000):
            if app.mode == "home" and app.pane is not None and app.devices is not None:
                break
            await asyncio.sleep(0.01)
        assert app.mode == "home"
        print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))

asyncio.run(main())
"""


def test_the_first_frame_loads_nothing_heavy(workspace) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(workspace.root)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "textual" in loaded
    assert not loaded & set(HEAVY)
