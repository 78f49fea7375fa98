"""All checks by id. A new check is one more entry in the tuple of its module."""

from __future__ import annotations

from finetui.data.checks import across, privacy, structure, text
from finetui.data.checks.model import Check

CHECKS: dict[str, Check] = {
    check.id: check for check in (*structure.CHECKS, *across.CHECKS, *text.CHECKS, *privacy.CHECKS)
}
