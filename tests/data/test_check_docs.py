"""The page about the checks is the registry's."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetui.commands.check import described, markdown
from finetui.data.checks.model import FAMILIES, Check
from finetui.data.checks.registry import CHECKS

DOCS = Path(__file__).parents[2] / "docs" / "checks.md"


def test_the_page_about_the_checks_is_up_to_date() -> None:
    if not DOCS.is_file():
        pytest.skip("the docs are not part of this installation")
    made = markdown()
    assert DOCS.read_text().strip() == made, "make it: finetui check --list --markdown"
    assert all(f"`{check}`" in made for check in CHECKS)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_a_check_says_what_family_it_is_of_and_how_it_looks(check: Check) -> None:
    assert check.family in FAMILIES
    assert (check.gate is None) or check.alone
    said = described(check)
    assert said["fixable"] is check.fixable and said["files"] == check.needs
    if check.whole:
        module, _, function = check.whole.partition(":")
        assert module.startswith("finetui.data.whole.") and function.isidentifier()
