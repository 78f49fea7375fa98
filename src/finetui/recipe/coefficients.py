"""What one layer of a model keeps and works with, in bytes: measured once, used at every key.

A quantity of memory is linear in a few features of the batch, so a handful of measurements on the
meta device (`finetui.engine.measure`) gives figures for every batch size, length, rank and depth.
They are kept in the workspace's cache, one file a model, and read here without torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from finetui.workspace import write_atomic

FORMAT = 1  # of the cache file; another number makes every model be measured anew
_LARGEST = 10 * 2**20  # bytes of a config.json or a cache file


class Amount(msgspec.Struct, frozen=True):
    """Bytes = one + token n + token_rank n r + rank r + square b T^2.

    n tokens of the batch, b sequences of T tokens each (n = b T), r the adapter's rank.
    """

    one: float = 0.0
    token: float = 0.0
    token_rank: float = 0.0
    rank: float = 0.0
    square: float = 0.0

    def bytes(self, sequences: int, length: int, rank: int) -> float:
        tokens = sequences * length
        per_token = self.token + self.token_rank * rank
        rest = self.one + self.rank * rank + self.square * sequences * length**2
        return rest + per_token * tokens


class Coefficients(msgspec.Struct, frozen=True):
    """What one way of training keeps in memory beside weights, optimiser and gradients.

    ``outer`` is kept outside the layers from forward to backward, ``layer`` in each layer,
    ``border`` is a layer's input: all that stays of it under gradient checkpointing. ``forward``
    and ``backward`` come on top of what is kept, while the layers run forward and backward.
    """

    outer: Amount
    layer: Amount
    border: Amount
    forward: Amount
    backward: Amount


class Measured(msgspec.Struct, frozen=True):
    """The cache file of one model: coefficients by key, and why a key could not be measured.

    ``parameters`` is the exact count, 0 where nothing could be measured.
    """

    format: int = FORMAT
    parameters: int = 0
    found: dict[str, Coefficients] = {}
    problems: dict[str, str] = {}
    versions: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Key:
    """What decides the coefficients besides the model.

    ``trains`` is adapter, dora or full; ``targets`` what all-linear or the listed names are;
    ``wide`` tells fp32 arithmetic from 16 bits; ``attention`` is flash, sdpa or eager;
    ``quantised`` that the frozen weights are in 4 bits, ``dropout`` that the adapter has some.
    """

    trains: str
    targets: tuple[str, ...]
    wide: bool
    attention: str
    quantised: bool = False
    dropout: bool = False

    def __str__(self) -> str:
        marks = [
            self.trains,
            ",".join(self.targets),
            "fp32" if self.wide else "bf16",
            self.attention,
            "4bit" if self.quantised else "",
            "dropout" if self.dropout else "",
        ]
        return ":".join(marks)


def key_of(text: str) -> Key:
    """The key that ``str(key)`` wrote. Raises ValueError."""
    trains, targets, precision, attention, quantised, dropout = text.split(":")
    return Key(
        trains,
        tuple(name for name in targets.split(",") if name),
        precision == "fp32",
        attention,
        bool(quantised),
        bool(dropout),
    )


def cache_file(root: Path, model_folder: Path) -> Path | None:
    """Where the coefficients of a model are kept: named by the bytes of its config.json."""
    try:
        config = model_folder / "config.json"
        if config.stat().st_size > _LARGEST:
            return None
        name = hashlib.sha256(config.read_bytes()).hexdigest()[:24]
    except OSError:
        return None
    return root / ".finetui" / "memory" / f"{name}.json"


def read(root: Path, model_folder: Path) -> Measured | None:
    """The kept coefficients of a model; None when there are none that this version can read."""
    file = cache_file(root, model_folder)
    try:
        if file is None or file.stat().st_size > _LARGEST:
            return None
        kept = msgspec.json.decode(file.read_bytes(), type=Measured)
    except (OSError, msgspec.MsgspecError):
        return None
    return kept if kept.format == FORMAT else None


def keep(root: Path, model_folder: Path, new: Measured) -> None:
    """Add coefficients to a model's file; what was measured before stays. Raises OSError."""
    file = cache_file(root, model_folder)
    if file is None:
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    old = read(root, model_folder) or Measured()
    merged = msgspec.structs.replace(
        new,
        parameters=new.parameters or old.parameters,
        found={**old.found, **new.found},
        problems={**old.problems, **new.problems},
    )
    write_atomic(file, msgspec.json.encode(merged))
