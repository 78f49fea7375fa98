"""Errors that are for the person: what happened, where, and what to do next."""

from __future__ import annotations

BROKEN = (ValueError, RecursionError)
"""What parsers raise on a text that is not what it should be; ValueError is bad Unicode too."""


class UserError(Exception):
    """A problem that the person can act on; never shown with a traceback.

    ``what`` is one sentence, ``where`` a file, file:line or field, ``fix`` the next step.
    """

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}{' ' + self.fix if self.fix else ''}"
