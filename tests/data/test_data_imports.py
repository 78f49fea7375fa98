"""Opening a data set loads nothing heavy: the screen starts with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "numpy duckdb textual rich torch transformers datasets pyarrow tokenizers jinja2 ftfy"


@pytest.mark.parametrize(
    "module",
    [
        "formats.source", "dataset", "records", "shapes", "filter", "split", "versions",
        "checks.registry", "checks.run", "checks.fixes",
    ],
)  # fmt: skip
def test_importing_a_data_module_loads_no_heavy_library(module: str) -> None:
    program = (
        f"import sys, finetui.data.{module}\n"
        f"print([name for name in {HEAVY.split()!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_opening_json_lines_loads_no_heavy_library() -> None:
    program = (
        "import sys, pathlib, tempfile\n"
        "from finetui.data.dataset import open_dataset\n"
        "path = pathlib.Path(tempfile.mkdtemp()) / 'a.jsonl'\n"
        "path.write_text('{\"text\": 1}\\n')\n"
        "dataset = open_dataset(path); dataset.row(0); dataset.shape; dataset.close()\n"
        f"print([name for name in {HEAVY.split()!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
