"""One table of a recipe file."""

from __future__ import annotations

from msgspec import Struct


class Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of the file. Values are immutable; ``with_value`` makes a changed copy."""
