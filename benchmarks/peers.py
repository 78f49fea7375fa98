"""What finetui and its peers find in the same files, and what it costs them.

    python benchmarks/peers.py [FILE...] [--visidata vd]

Each file is read by `finetui check`, by `datasets.load_dataset` and, where it is installed, by
VisiData in batch mode. CPU seconds are of the whole child process, start included; the last
column is the ratio to `wc -l`. Without files, a set with planted faults is made.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

_DATASETS = """
import sys, datasets
datasets.disable_progress_bars()
try:
    found = datasets.load_dataset("json", data_files=sys.argv[1], split="train",
                                  cache_dir=sys.argv[2])
    print(f"{found.num_rows:,} rows")
except Exception as error:
    while error.__cause__ is not None:
        error = error.__cause__
    print("refused: " + str(error).splitlines()[0][:80])
"""


@dataclass
class Told:
    """What a tool said of a file and the CPU seconds that it took."""

    said: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--visidata", default=shutil.which("vd") or "", metavar="COMMAND")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetui-bench-") as name:
        folder = Path(name)
        files = options.files or [planted(folder / "planted.jsonl")]
        for file in files:
            compare(file, folder, options.visidata)
    return 0


def compare(file: Path, folder: Path, visidata: str) -> None:
    floor = run(["wc", "-l", str(file)]).seconds
    size = file.stat().st_size / 1e6
    print(f"\n{file.name}, {size:,.1f} MB (wc -l: {floor:.3f} CPU s)")
    print(f"{'tool':10} {'CPU s':>8} {'x wc':>7}  what it says")
    tools = {"finetui": finetui(file), "datasets": hf_datasets(file, folder)}
    if visidata:
        tools["VisiData"] = in_visidata(file, folder, visidata)
    for name, told in tools.items():
        print(f"{name:10} {told.seconds:8.2f} {told.seconds / floor:7.0f}  {told.said}")


def finetui(file: Path) -> Told:
    told = run([sys.executable, "-m", "finetui", "check", "--json", str(file)])
    summary = json.loads(told.said.splitlines()[-1])["summary"]
    counts = Counter(summary["checks"])
    most = ", ".join(f"{check} {count:,}" for check, count in counts.most_common(4))
    said = f"{summary['rows']:,} rows, {summary['shape']}, {sum(counts.values()):,} findings"
    return Told(f"{said}: {most}" if most else said, told.seconds)


def hf_datasets(file: Path, folder: Path) -> Told:
    cache = folder / "cache" / file.name
    told = run([sys.executable, "-c", _DATASETS, str(file), str(cache)])
    return Told(told.said.strip().splitlines()[-1] if told.said else "no answer", told.seconds)


def in_visidata(file: Path, folder: Path, command: str) -> Told:
    """Load the file and save what was loaded, as its batch mode does."""
    saved = folder / "saved.jsonl"
    kind = "jsonl" if file.suffix == ".jsonl" else "json"
    told = run([command, "--batch", "-f", kind, str(file), "-o", str(saved)])
    rows = saved.read_bytes().count(b"\n") if saved.is_file() else 0
    spoilt = saved.read_bytes().count(b"#ERR") if saved.is_file() else 0
    saved.unlink(missing_ok=True)
    note = f", {spoilt:,} cells written as #ERR" if spoilt else ""
    return Told(f"{rows:,} rows written back{note}", told.seconds)


def run(command: list[str]) -> Told:
    """Standard output and CPU seconds (user and system) of a child."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    quiet = {"HF_HUB_OFFLINE": "1", "TERM": "xterm"}
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL,
                          env=os.environ | quiet)  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Told(done.stdout.decode(errors="replace"), max(spent, 1e-3))


def planted(path: Path, rows: int = 20_000) -> Path:
    """A chat file with twelve broken lines, some of them blank, among many good ones."""
    random = Random(5)
    broken = {line: _faulty(random) for line in random.sample(range(1000, rows), 12)}
    with path.open("wb") as file:
        for line in range(rows):
            turns = [
                {"role": "user", "content": f"question {line} {random.random()}"},
                {"role": "assistant", "content": f"answer {line}"},
            ]
            good = json.dumps({"messages": turns}).encode()
            file.write(broken.get(line, good) + b"\n")
    return path


def _faulty(random: Random) -> bytes:
    return random.choice(
        [b'{"messages": [', b"", b"{'messages': []}", b'{"a": "\xff"}', b'{"a": NaN}']
    )


if __name__ == "__main__":
    raise SystemExit(main())
