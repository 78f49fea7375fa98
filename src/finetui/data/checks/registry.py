"""All checks by id. A new check is one more entry in the tuple of its module."""

from __future__ import annotations

from finetui.data.checks import (
    across,
    examples,
    language,
    privacy,
    refusals,
    secrets,
    structure,
    text,
    whole_set,
)
from finetui.data.checks.model import Check

CHECKS: dict[str, Check] = {
    check.id: check
    for check in (
        *structure.CHECKS,
        *across.CHECKS,
        *text.CHECKS,
        *examples.CHECKS,
        *privacy.CHECKS,
        *secrets.CHECKS,
        *refusals.CHECKS,
        *language.CHECKS,
        *whole_set.CHECKS,
    )
}
