"""The oldest versions of libraries without a hole that a model, an adapter or a row could use.

pyproject.toml asks for at least these, but an environment can be changed afterwards: `finetui
doctor` looks, and the engine does not start on less. `make audit` asks for holes found since.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from typing import NamedTuple

from finetui.errors import UserError


class Floor(NamedTuple):
    """``oldest`` is the first version without the ``hole``."""

    package: str
    oldest: str
    hole: str


FLOORS = (
    Floor("transformers", "5.3", "a model's config.json runs code unasked (CVE-2026-4372)"),
    Floor("torch", "2.10", "weights break out of the safe unpickler (CVE-2026-24747)"),
    Floor("datasets", "4.0", "a data set may bring a script that is run"),
    Floor("jinja2", "3.1.6", "a chat template breaks out of its sandbox (CVE-2025-27516)"),
    Floor("pyyaml", "5.4", "a YAML file runs code (CVE-2020-14343)"),
)


class Hole(NamedTuple):
    """A library that is installed in a version below its floor."""

    floor: Floor
    installed: str

    @property
    def sentence(self) -> str:
        name, oldest, hole = self.floor
        return f"{name} {self.installed} is below {oldest}: {hole}"


def holes() -> Iterator[Hole]:
    """The installed libraries that are too old; read from metadata, nothing is imported."""
    for floor in FLOORS:
        try:
            installed = importlib.metadata.version(floor.package)
        except importlib.metadata.PackageNotFoundError:
            continue
        if _numbers(installed) < _numbers(floor.oldest):
            yield Hole(floor, installed)


def require() -> None:
    """Raises UserError with every library that is too old, and how to renew them."""
    found = list(holes())
    if found:
        newer = " ".join(f"'{hole.floor.package}>={hole.floor.oldest}'" for hole in found)
        told = "; ".join(hole.sentence for hole in found)
        raise UserError(f"unsafe libraries: {told}.", fix=f"pip install {newer}")


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a release without zeros at the end; 5.3.0rc1 and 2.13.0+cpu count as such."""
    numbers = [int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", version)[0])]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
