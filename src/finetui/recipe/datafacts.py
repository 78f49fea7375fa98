"""A look into a recipe's files and this installation: shapes, start adapter, packages.

Quick enough for a form: the first rows of a file are read, and again only when it changed.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from finetui.errors import BROKEN
from finetui.recipe.files import is_template_file
from finetui.recipe.schema import Recipe

_ROWS, _BYTES = 200, 1 << 20  # looked at of each file
_LARGEST_CONFIG = 10 << 20  # bytes

# Column names in the wild; the data room's own reader is the authority on single rows.
_CHAT = ("messages", "conversations", "conversation", "chat", "dialogue", "dialog")
_LABELS = ("label", "kto_tag", "is_desirable")
_ANSWERS = ("completion", "response", "output", "answer", "target")
_ASKED = ("prompt", "instruction", "question", "query", "input")
_TEXT = ("text", "content", "document")

# Packages that some recipes need, by the name they are imported by.
PACKAGES = (
    "torch", "bitsandbytes", "liger_kernel", "flash_attn", "tensorboard", "tensorboardX", "wandb",
    "trackio", "mlflow",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileLook:
    """What the first rows of a data file are like.

    ``shape`` is chat, answer (a prompt and its answer), pair (chosen and rejected), labelled
    (good or bad answers), text, or "" where no row is of a known shape; ``others`` are further
    shapes in the file. The counts are of ``rows`` rows looked at: conversations with several
    answers, rows with tools, good and bad labels, pairs whose sides are the same, rows whose
    answer is empty.
    """

    shape: str = ""
    others: tuple[str, ...] = ()
    rows: int = 0
    several_turns: int = 0
    tools: int = 0
    good: int = 0
    bad: int = 0
    same_sides: int = 0
    empty: int = 0


@dataclass(frozen=True, slots=True)
class AdapterLook:
    """The adapter_config.json of the adapter that training goes on from; "" is unknown."""

    kind: str
    rank: int | None
    alpha: float | None
    dora: bool
    rslora: bool
    targets: tuple[str, ...]
    base: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """A look into the files of a recipe. None is unknown; ``train`` is in the recipe's order.

    ``adapter_found`` is False where ``model.adapter`` is named and no adapter is there.
    ``quantised`` is the method that the model's weights are stored by, "" for none.
    ``model_is_adapter`` tells of a model folder that holds an adapter only. ``template_found`` is
    False where ``model.chat_template`` names a file that is not there. ``torch`` is its version.
    """

    train: tuple[FileLook | None, ...] = ()
    eval: FileLook | None = None
    general: FileLook | None = None
    suite: FileLook | None = None
    adapter: AdapterLook | None = None
    adapter_found: bool | None = None
    quantised: str = ""
    model_is_adapter: bool = False
    template_found: bool | None = None
    packages: frozenset[str] | None = None
    torch: tuple[int, int] | None = None


def look(recipe: Recipe, absolute: Recipe, model: Path | None) -> Details:
    """Look at the files of a recipe; ``absolute`` is the same with whole paths, ``model`` the
    folder of the model where there is one here.
    """
    data = absolute.data
    folder = _adapter_folder(Path(absolute.model.adapter)) if recipe.model.adapter else None
    return Details(
        train=tuple(look_at(Path(path)) for path in data.train),
        eval=_look_at_named(data.eval),
        general=_look_at_named(data.general),
        suite=_look_at_named(absolute.evaluation.suite),
        adapter=_adapter(folder) if folder else None,
        adapter_found=folder is not None if recipe.model.adapter else None,
        quantised=_quantised(model) if model else "",
        model_is_adapter=model is not None and _holds_adapter_only(model),
        template_found=_template_found(recipe, absolute),
        packages=installed(),
        torch=_torch_version(),
    )


# --- rows ----------------------------------------------------------------------------------------


def _look_at_named(path: str) -> FileLook | None:
    return look_at(Path(path)) if path else None


def look_at(path: Path) -> FileLook | None:
    """The look of one file; None where it cannot be read here (Parquet, packed, missing)."""
    try:
        state = path.stat()
    except OSError:
        return None
    return _cached_look(str(path), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _cached_look(name: str, size: int, _changed: int) -> FileLook | None:
    path = Path(name)
    try:
        match path.suffix.lower():
            case ".jsonl" | ".ndjson":
                rows = _lines(path)
            case ".csv" | ".tsv":
                rows = _table(path)
            case ".json":
                rows = _array(path, size)
            case _:
                return None
    except (OSError, csv.Error):
        return None
    return summed(rows) if rows else None


def _lines(path: Path) -> list[object]:
    with path.open("rb") as stream:
        block = stream.read(_BYTES).split(b"\n")
    whole = block[:-1] if len(block) > 1 else block
    rows = []
    for line in [line for line in whole if line.strip()][:_ROWS]:
        try:
            rows.append(msgspec.json.decode(line))
        except BROKEN:
            continue
    return rows


def _table(path: Path) -> list[object]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter)
        return [row for row, _ in zip(reader, range(_ROWS), strict=False)]


def _array(path: Path, size: int) -> list[object]:
    if size > 8 * _BYTES:
        return []
    try:
        found = msgspec.json.decode(path.read_bytes())
    except BROKEN:
        return _lines(path)
    return found[:_ROWS] if isinstance(found, list) else []


def summed(rows: Sequence[object]) -> FileLook:
    """The look of decoded rows, by majority."""
    shapes = [shape_of(row) for row in rows]
    ranked = [shape for shape, _ in Counter(filter(None, shapes)).most_common()]
    pairs = [row for row, shape in zip(rows, shapes, strict=True) if shape == "pair"]
    labels = [_label(row) for row, shape in zip(rows, shapes, strict=True) if shape == "labelled"]
    return FileLook(
        shape=ranked[0] if ranked else "",
        others=tuple(ranked[1:]),
        rows=len(rows),
        several_turns=sum(_answers_of(row) > 1 for row in rows),
        tools=sum(isinstance(row, dict) and bool(row.get("tools")) for row in rows),
        good=sum(label is True for label in labels),
        bad=sum(label is False for label in labels),
        same_sides=sum(row["chosen"] == row["rejected"] for row in pairs if isinstance(row, dict)),
        empty=sum(_is_empty(row) for row in rows),
    )


def shape_of(row: object) -> str:
    """The shape of one row by its columns: chat, answer, pair, labelled, text or ""."""
    if isinstance(row, str):
        return "text"
    if not isinstance(row, dict):
        return ""
    if "chosen" in row and "rejected" in row:
        return "pair"
    chat = any(isinstance(row.get(key), list) for key in _CHAT)
    asked = any(key in row for key in _ASKED) and any(key in row for key in _ANSWERS)
    if (chat or asked) and _label(row) is not None:
        return "labelled"
    if chat or asked:
        return "chat" if chat else "answer"
    return "text" if any(isinstance(row.get(key), str) for key in _TEXT) else ""


def _label(row: object) -> bool | None:
    """Good or bad; None where a row does not say."""
    words = {"true": True, "1": True, "false": False, "0": False}
    values = (row.get(key) for key in _LABELS) if isinstance(row, dict) else ()
    return next((words[text] for value in values if (text := str(value).lower()) in words), None)


def _turns(row: object) -> list[Mapping[str, Any]]:
    if not isinstance(row, dict):
        return []
    found: list[Any] = next((row[key] for key in _CHAT if isinstance(row.get(key), list)), [])
    return [turn for turn in found if isinstance(turn, dict)]


def _answers_of(row: object) -> int:
    return sum(_is_answer(turn) for turn in _turns(row))


def _is_answer(turn: Mapping[str, Any]) -> bool:
    return turn.get("role", turn.get("from")) in ("assistant", "gpt", "model")


def _is_empty(row: object) -> bool:
    """Whether a row's answer is there and says nothing."""
    if not isinstance(row, dict):
        return False
    answers = [turn for turn in _turns(row) if _is_answer(turn)]
    if answers:
        last = answers[-1]
        return not (last.get("content") or last.get("value") or last.get("tool_calls"))
    texts = [row[key] for key in _ANSWERS if key in row]
    return bool(texts) and all(isinstance(text, str) and not text.strip() for text in texts)


# --- model, adapter, packages --------------------------------------------------------------------


def _adapter_folder(named: Path) -> Path | None:
    """The folder with the adapter: the one named, or that of a job."""
    for folder in (named, named / "adapter"):
        if (folder / "adapter_config.json").is_file():
            return folder
    return None


def _adapter(folder: Path) -> AdapterLook:
    config = _json(folder / "adapter_config.json")
    targets = config.get("target_modules")
    listed = targets if isinstance(targets, list) else [targets] if targets else []
    rank, alpha = config.get("r"), config.get("lora_alpha")
    return AdapterLook(
        kind=str(config.get("peft_type") or ""),
        rank=rank if isinstance(rank, int) else None,
        alpha=float(alpha) if isinstance(alpha, (int, float)) else None,
        dora=config.get("use_dora") is True,
        rslora=config.get("use_rslora") is True,
        targets=tuple(sorted(str(name).rpartition(".")[2] for name in listed)),
        base=str(config.get("base_model_name_or_path") or ""),
    )


def _quantised(model: Path) -> str:
    config = _json(model / "config.json").get("quantization_config")
    return str(config.get("quant_method") or "stored bits") if isinstance(config, dict) else ""


def _holds_adapter_only(model: Path) -> bool:
    there = (model / "adapter_config.json").is_file()
    return there and not (model / "config.json").is_file()


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            return {}
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _template_found(recipe: Recipe, absolute: Recipe) -> bool | None:
    """Whether the template file is there; None where none is named."""
    if not is_template_file(recipe.model.chat_template):
        return None
    return Path(absolute.model.chat_template).is_file()


@lru_cache(maxsize=1)
def installed() -> frozenset[str]:
    """Those of PACKAGES that can be imported; none of them is."""
    return frozenset(name for name in PACKAGES if find_spec(name) is not None)


@lru_cache(maxsize=1)
def _torch_version() -> tuple[int, int] | None:
    from importlib.metadata import PackageNotFoundError, version  # 20 ms

    try:
        major, minor, *_ = version("torch").split(".")
        return int(major), int(minor)
    except (PackageNotFoundError, ValueError):
        return None
