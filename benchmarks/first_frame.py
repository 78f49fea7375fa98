"""First frame of the TUI against an empty Textual app, and `--help` against a bare interpreter.

    python benchmarks/first_frame.py [rounds]

Each round starts every program once in a real terminal of 120x36; the ratios are of the medians.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from pty_harness import Terminal

from finetui.workspace import create_sample

EMPTY = """
from textual.app import App
from textual.widgets import Static
class Empty(App):
    def compose(self):
        yield Static("FIRST FRAME")
Empty().run()
"""


def first_frame(command: list[str], text: str) -> float:
    """Seconds from process start to the program's own text on the screen."""
    began = time.perf_counter()
    with Terminal(command, size=(120, 36)) as terminal:
        terminal.wait_for(text)
        return time.perf_counter() - began


def run_time(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        create_sample(Path(folder) / "work")
        tasks = {
            "empty Textual app": lambda: first_frame([python, "-c", EMPTY], "FIRST FRAME"),
            "finetui on a workspace": lambda: first_frame(
                [python, "-m", "finetui", str(Path(folder) / "work")], "Home"
            ),
            "python -c pass": lambda: run_time([python, "-c", "pass"]),
            "finetui --help": lambda: run_time([python, "-m", "finetui", "--help"]),
        }
        seconds = {name: [task() for _ in range(rounds)] for name, task in tasks.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:<24} {median * 1000:6.0f} ms")
    app = medians["finetui on a workspace"] / medians["empty Textual app"]
    cli = medians["finetui --help"] / medians["python -c pass"]
    print(f"first frame: {app:.2f} x an empty Textual app; --help: {cli:.2f} x a bare interpreter")


if __name__ == "__main__":
    main()
