"""What a model answered before, kept in the workspace's cache so that nothing is asked twice.

A file a model: its name is the fingerprint of weights, adapter, number format and libraries, and
each line has the key of one question with what came back. Losing it costs time only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
from blake3 import blake3

from finetui.errors import UserError

_MOST_BYTES = 4 << 30
_WEIGHTS = ("*.safetensors", "config.json", "adapter_config.json", "*.py")
_LIBRARIES = ("torch", "transformers", "peft")

T = TypeVar("T", bound=msgspec.Struct)


class Generated(msgspec.Struct, frozen=True):
    """An answer; ``seconds`` is its share of the time of its batch."""

    text: str
    ended: bool
    tokens: int
    seconds: float


class Likelihood(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sums in nats over an answer's tokens, over all tokens, and the divergence from the base.

    None stands for a sum that is no finite number.
    """

    nll: float | None
    nll_tokens: int
    nll_all: float | None
    nll_all_tokens: int
    kl: float | None = None
    kl_tokens: int = 0


class Cache(Generic[T]):
    """Values by key in one file that only grows. A file that cannot be written keeps nothing."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path = path
        self.writable = True
        self._found = dict(_entries(path, kind))

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str) -> T | None:
        return self._found.get(key)

    def put(self, entries: Mapping[str, T]) -> None:
        """Remember values, on disk too."""
        self._found.update(entries)
        lines = b"".join(
            msgspec.json.encode([key, value]) + b"\n" for key, value in entries.items()
        )
        if not self.writable or not lines:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _append(self.path, lines)
        except OSError:
            self.writable = False


def key_of(what: str, *parts: object) -> str:
    """The key of a question: what is asked, and everything that the answer depends on."""
    said = json.dumps([what, *parts], sort_keys=True, default=list).encode()
    return hashlib.blake2b(said, digest_size=16).hexdigest()


def fingerprint(*parts: object) -> str:
    """What a model's numbers depend on, the installed libraries included."""
    return key_of("model", *parts, [(name, version(name)) for name in _LIBRARIES])


def folder_hash(folder: Path) -> str:
    """BLAKE3 of a folder's weights and configuration, read as fast as the disk gives them."""
    files = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    if not files:
        raise UserError("holds no weights.", str(folder))
    total = blake3()
    for path in files:
        digest = blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
        total.update(f"{path.name} {digest}\n".encode())
    return str(total.hexdigest())


def tidy(folder: Path, most: int = _MOST_BYTES) -> None:
    """Remove the files that were not used for the longest time until the rest fits."""
    try:
        files = [(path.stat(), path) for path in folder.glob("*.jsonl")]
        files.sort(key=lambda each: each[0].st_mtime, reverse=True)
        used = 0
        for state, path in files:
            used += state.st_size
            if used > most:
                path.unlink()
    except OSError:
        return


def _entries(path: Path, kind: type[T]) -> Sequence[tuple[str, T]]:
    """The lines that read; a torn one, or one of another version, is passed over."""
    try:
        lines = path.read_bytes().split(b"\n")
        os.utime(path)
    except OSError:
        return []
    decoder = msgspec.json.Decoder(tuple[str, kind])  # type: ignore[valid-type]
    found: list[Any] = []
    for line in lines:
        try:
            found.append(decoder.decode(line))
        except ValueError:
            continue
    return found


def _append(path: Path, lines: bytes) -> None:
    """Whole lines in one write; behind a torn line a new one begins."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        view = memoryview(lines)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
