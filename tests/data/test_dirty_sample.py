"""The checks against the planted faults of the sample's dirty file, line by line."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from finetui import workspace
from finetui.data.checks.model import CheckOptions, Finding
from finetui.data.checks.run import check_files

# What was planted, to the check that must tell it.
EXPECTED = {
    "zero_width": "control-characters", "control_characters": "control-characters",
    "bidi_override": "control-characters", "osc52": "control-characters",
    "template_token": "template-token", "unknown_role": "unknown-role",
    "row_not_an_object": "wrong-type", "content_number": "wrong-type",
    "content_null": "wrong-type", "answer_not_json": "output-shape",
    "answer_with_prose": "output-shape", "answer_other_fields": "output-shape",
    "malformed_cut_line": "malformed-json", "malformed_trailing_comma": "malformed-json",
    "malformed_single_quotes": "malformed-json", "malformed_two_objects": "malformed-json",
    "malformed_raw_control": "malformed-json", "malformed_no_json": "malformed-json",
    "lone_surrogate": "lone-surrogate", "invalid_utf8": "invalid-utf8",
    "card_number": "card", "phone_number": "phone", "email_address": "email",
    "aws_key": "secret", "private_key": "secret", "mojibake": "mojibake",
    "exact_duplicate": "duplicate", "reserialized_duplicate": "duplicate",
    "conflicting_answers": "conflicting-answers", "leak": "leak",
    "missing_assistant": "no-assistant", "missing_messages": "missing-keys",
    "missing_content": "missing-keys", "empty_answer": "empty-turn",
    "empty_user_turn": "empty-turn", "wrong_order": "role-order",
    "placeholder": "placeholder", "refusal": "refusal", "duplicate_keys": "duplicate-keys",
    "blank_line": "blank-line", "messages_not_a_list": "wrong-type", "too_long": "too-long",
}  # fmt: skip
# Valid JSON that must not shift a line or an offset, and nothing more.
HARMLESS = {"rich_markup", "other_language", "crlf", "lone_carriage_return", "line_separator"}


@pytest.fixture(scope="module")
def folder() -> Path:
    return workspace.sample_data()


@pytest.fixture(scope="module")
def faults(folder: Path) -> list[dict[str, Any]]:
    listed = json.loads((folder / "datasets/tickets_dirty.faults.json").read_bytes())
    assert isinstance(listed, list)
    return listed


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[int, list[Finding]]:
    dirty = folder / "datasets/tickets_dirty.jsonl"
    heldout = folder / "datasets/tickets_heldout.jsonl"
    by_line = defaultdict(list)
    for finding in check_files([dirty, heldout], CheckOptions(model_dir=folder / "model")):
        assert finding.file == str(dirty)
        by_line[finding.line].append(finding)
    return by_line


def test_every_planted_fault_is_told_at_its_line_and_offset(
    faults: list[dict[str, Any]], told: dict[int, list[Finding]]
) -> None:
    assert {fault["kind"] for fault in faults} <= EXPECTED.keys() | HARMLESS
    for fault in faults:
        if fault["kind"] in HARMLESS:
            continue
        found = {finding.check: finding for finding in told[fault["line"]]}
        check = EXPECTED[fault["kind"]]
        if fault["kind"] == "messages_not_a_list" and check not in found:
            check = "no-assistant"  # an empty list is a list, with no turns
        assert check in found, fault
        finding = found[check]
        assert finding.offset == fault["offset"]
        if "original_line" in fault:
            assert f"line {fault['original_line']}" in finding.message


def test_no_healthy_row_is_accused(
    faults: list[dict[str, Any]], told: dict[int, list[Finding]]
) -> None:
    spoiled = {fault["line"] for fault in faults}
    assert {line: found for line, found in told.items() if line not in spoiled and found} == {}


def test_the_clean_sample_files_are_clean(folder: Path) -> None:
    names = ("tickets", "tickets_heldout", "general", "general_check", "preferences")
    assert list(check_files([folder / f"datasets/{name}.jsonl" for name in names])) == []
