"""The live monitor in a real terminal: CPU, bytes, delay of keys and figures, memory, idle traffic.

    python benchmarks/live_view.py [--seconds 20] [--history 10000] [--rate 2]

A real worker session (a process of its own) writes a history and then ``--rate`` steps a second;
finetui watches it with four charts in a terminal of 120x40. Each figure is printed beside
its goal; the exit status is 1 when one was missed. CPU is user + system time of the TUI process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from pty_harness import Terminal

from finetui.jobs.folder import Job, create
from finetui.jobs.worker import WorkerSession
from finetui.workspace import Workspace
from finetui.workspace import create as create_workspace

SIZE = (120, 40)
CHARTS = ("loss", "gradient", "rate", "speed")
ASK, ANSWER = b"\x1b[6n", "\x1b[40;120R"
_STEP = re.compile(r"step ([\d,]+) of")
_TICKS = os.sysconf("SC_CLK_TCK")


# -- the run that is watched -------------------------------------------------------------------


def write_run(folder: Path, history: int, rate: float) -> None:
    """A worker that has made ``history`` steps and makes ``rate`` a second until it is ended."""
    chance = random.Random(1)
    with WorkerSession(folder) as session:
        session.events.write("start", total_steps=3 * history, parameters=8_000_000_000,
                             trainable=40_000_000, device="CPU")  # fmt: skip
        for step in range(1, history + 1):
            write_step(session, step, chance)
        session.events.write("message", text="history written")
        step = history
        while "stop" not in session.control.poll():
            time.sleep(1 / rate)
            step += 1
            write_step(session, step, chance)


def write_step(session: WorkerSession, step: int, chance: random.Random) -> None:
    loss = 0.5 + 2 * math.exp(-step / 3000) + chance.gauss(0, 0.1)
    session.events.write(
        "step", step=step, loss=loss, lr=2e-4 * (1 - step / 60_000), epoch=step / 10_000,
        grad_norm=abs(chance.gauss(1, 0.2)), tokens=4096 * step, trained_tokens=1800 * step,
        tokens_per_s=chance.gauss(9000, 200), step_s=0.5, memory_bytes=61 << 30,
        memory_peak_bytes=62 << 30, rss_bytes=4 << 30, figures={},
        rows=[[0, chance.randrange(1, 100_000)] for _ in range(16)],
    )  # fmt: skip
    if step % 500 == 0:
        session.events.write("eval", step=step, loss=loss + 0.1, seconds=3.0, probe_loss=1.0)
        session.events.write("checkpoint", step=step, path="")


@contextlib.contextmanager
def worker(job: Job, history: int, rate: float) -> Iterator[None]:
    command = [sys.executable, __file__, "--write", str(job.path),
               "--history", str(history), "--rate", str(rate)]  # fmt: skip
    with subprocess.Popen(command) as process:
        try:
            end = time.monotonic() + 60
            events = job.events_path(1)
            while b"history written" not in (events.read_bytes() if events.exists() else b""):
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError("the worker did not write its history")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


# -- looking at the screen ---------------------------------------------------------------------


def watch(workspace: Workspace) -> Terminal:
    """finetui with the newest run of the workspace on screen."""
    terminal = Terminal([sys.executable, "-m", "finetui", str(workspace.root)], size=SIZE)
    terminal.wait_for("Next")
    terminal.press("3")
    return terminal


def pump(terminal: Terminal, seconds: float) -> bytes:
    """Read for a while as a terminal does: it answers where its cursor is."""
    end, got = time.monotonic() + seconds, b""
    while (left := end - time.monotonic()) > 0:
        chunk = terminal.pump(left)
        got += chunk
        for _ in range(chunk.count(ASK)):
            terminal.write(ANSWER)
    return got


def wait(terminal: Terminal, condition: Callable[[], object], limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"never seen; the screen:\n{terminal.text}")
        pump(terminal, 0.002)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(pid: int) -> float:
    """Megabytes in memory now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


# -- the figures -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    goal: float
    unit: str

    @property
    def missed(self) -> bool:
        return self.value > self.goal

    def line(self) -> str:
        sign = "✗" if self.missed else "✓"
        return f"{sign} {self.name:<46} {self.value:8.1f}  goal ≤ {self.goal:g} {self.unit}"


def live_figures(terminal: Terminal, seconds: float) -> list[Figure]:
    began, cpu = time.monotonic(), cpu_seconds(terminal.pid)
    sent = len(pump(terminal, seconds))
    spent = time.monotonic() - began
    return [
        Figure("CPU with charts live", 100 * (cpu_seconds(terminal.pid) - cpu) / spent, 3.0,
               "% of a core"),
        Figure("bytes with charts live", sent / spent, 3000, "B/s"),
    ]  # fmt: skip


def key_delays(terminal: Terminal, keys: int = 60) -> Figure:
    """From a key to the cross-hair's new value on the screen, the run going on meanwhile."""
    terminal.press("left")
    wait(terminal, lambda: "step " in terminal.lines[2])
    delays = []
    for number in range(keys):
        before = terminal.lines[2].split("━")[0]
        pump(terminal, 0.05 + 0.013 * (number % 7))
        began = time.perf_counter()
        terminal.press("left" if number % 20 < 10 else "right")
        wait(terminal, lambda before=before: terminal.lines[2].split("━")[0] != before)
        delays.append(1000 * (time.perf_counter() - began))
    terminal.press("esc")
    return Figure("key to frame with the run live, p95", _p95(delays), 30, "ms")


def figure_delays(terminal: Terminal, job: Job, steps: int = 12) -> Figure:
    """From the moment an event is written until its step is on the screen."""
    delays = []
    for _ in range(steps):
        before = _shown_step(terminal)
        wait(terminal, lambda before=before: _shown_step(terminal) not in (before, 0))
        seen, step = time.time(), _shown_step(terminal)
        delays.append(1000 * (seen - _written(job, step)))
    return Figure("event written to figure on screen, p95", _p95(delays), 200, "ms")


def _shown_step(terminal: Terminal) -> int:
    found = _STEP.search(terminal.text)
    return int(found[1].replace(",", "")) if found else 0


def _written(job: Job, step: int) -> float:
    tail = job.events_path(1).read_bytes()[-65536:]
    found = re.search(rb'"t":([\d.]+),"kind":"step","step":%d,' % step, tail)
    return float(found[1]) if found else time.time()


def slow_line(workspace: Workspace, rate: int = 9600, delay: float = 0.05) -> Figure:
    """The longest of some keys on a line of ``rate`` bytes a second behind a buffer of 256 kB, as
    an SSH connection has it, with the run live."""
    with watch(workspace) as terminal:
        os.set_blocking(terminal.fd, False)
        line = Line(terminal, rate, delay)
        line.run(5.0)
        line.run(60.0, lambda: len(line.buffer) < 1000)  # the first paint takes its time
        delays = []
        for number in range(8):
            line.run(0.7 + 0.1 * (number % 3))
            delays.append(line.press("left"))
    return Figure(f"key to screen on {rate:,} B/s, longest", 1000 * max(delays), 500, "ms")


class Line:
    """What leaves the program waits in a buffer and comes to the screen at a rate."""

    def __init__(self, terminal: Terminal, rate: int, delay: float) -> None:
        self.terminal, self.rate, self.delay = terminal, rate, delay
        self.buffer = b""
        self._answers: list[float] = []
        self._last = time.monotonic()
        self._budget = 0.0

    def run(self, seconds: float, until: Callable[[], object] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self._step()
            time.sleep(0.004)

    def _step(self) -> None:
        with contextlib.suppress(BlockingIOError):
            room = (256 << 10) - len(self.buffer)
            self.buffer += os.read(self.terminal.fd, max(0, min(65536, room)))
        now = time.monotonic()
        self._budget = min(self._budget + self.rate * (now - self._last), self.rate * 0.1)
        self._last = now
        count = min(len(self.buffer), int(self._budget))
        chunk, self.buffer = self.buffer[:count], self.buffer[count:]
        self._budget -= count
        self.terminal._stream.feed(chunk)
        self._answers += [now + 2 * self.delay] * chunk.count(ASK)
        while self._answers and self._answers[0] <= now:
            self._answers.pop(0)
            self.terminal.write(ANSWER)

    def press(self, key: str) -> float:
        """Seconds until the key's answer is on the screen."""
        before = self.terminal.lines[2].split("━")[0]
        began = time.monotonic()
        self.run(self.delay)
        self.terminal.press(key)
        self.run(10.0, lambda: self.terminal.lines[2].split("━")[0] != before)
        self.run(self.delay)
        return time.monotonic() - began


def idle_bytes(workspace: Workspace, seconds: float) -> Figure:
    """What a screen sends on which nothing happens: a run that has ended."""
    with watch(workspace) as terminal:
        wait(terminal, lambda: "▸" in terminal.text or "state" in terminal.text)
        terminal.press("enter")
        wait(terminal, lambda: "took" in terminal.text)
        pump(terminal, 5.0)
        sent = _without_machine(pump(terminal, seconds))
    return Figure("bytes of a run that has ended", len(sent) / seconds, 0, "B/s")


def _without_machine(sent: bytes) -> bytes:
    """Without the first line of the screen: the memory of the machine that it names changes with
    what other programs do."""
    return re.sub(rb"\x1b\[1;\d+H(?:[^\x1b]|\x1b\[[\d;]*m)*", b"", sent)


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--history", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=2.0)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        write_run(options.write, options.history, options.rate)
        return 0
    with tempfile.TemporaryDirectory(prefix="finetui-bench-") as name:
        os.environ["XDG_CONFIG_HOME"] = f"{name}/config"
        charts = Path(name) / "config" / "finetui" / "charts.json"
        charts.parent.mkdir(parents=True)
        charts.write_text(json.dumps(CHARTS))
        found = measure(create_workspace(Path(name) / "work"), options)
    for figure in found:
        print(figure.line())
    return int(any(figure.missed for figure in found))


def measure(workspace: Workspace, options: argparse.Namespace) -> list[Figure]:
    job = create(workspace.jobs, "train", "live", {"kind": "train"}, {})
    found: list[Figure] = []
    with worker(job, options.history, options.rate):
        with watch(workspace) as terminal:
            wait(terminal, lambda: _shown_step(terminal))
            pump(terminal, 4.0)
            found += live_figures(terminal, options.seconds)
            found.append(figure_delays(terminal, job))
            found.append(key_delays(terminal))
            found.append(Figure("memory of the TUI process", resident(terminal.pid), 80, "MB"))
        found.append(slow_line(workspace))
    job.write_json("outcome.json", {"status": "finished", "attempt": 1, "t": time.time(),
                                    "sentence": "finished"})  # fmt: skip
    found.append(idle_bytes(workspace, 10.0))
    shutil.rmtree(workspace.root)
    return found


if __name__ == "__main__":
    sys.exit(main())
