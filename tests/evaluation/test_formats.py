"""The form of answers: JSON Schema, patterns, parsers."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from finetui.errors import UserError
from finetui.evaluation.formats import PARSERS, Form, FormCheck, unfenced
from finetui.evaluation.patterns import TooSlow, compiled
from finetui.evaluation.record import Format

TICKET: dict[str, Any] = {
    "type": "object",
    "required": ["urgency", "product"],
    "additionalProperties": False,
    "properties": {
        "urgency": {"enum": ["low", "high"]},
        "product": {"type": "string", "pattern": "^[A-Z]"},
    },
}


def rates(form: Form) -> tuple[bool, bool, bool, bool]:
    return form.parses, form.fits, form.sound, form.parses_unfenced


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ('{"urgency": "low", "product": "Mail"}', (True, True, True, True)),
        ('{"urgency": "low", "product": "Chat"}', (True, True, False, True)),
        ('{"urgency": "soon", "product": "Mail"}', (True, False, False, True)),
        ('```json\n{"urgency": "low", "product": "Mail"}\n```', (False, False, False, True)),
        ("I think it is low.", (False, False, False, False)),
        ("", (False, False, False, False)),
    ],
)
def test_three_rates_and_the_fence(answer: str, wanted: tuple[bool, ...]) -> None:
    check = FormCheck(Format("json", TICKET, grounded=["product"], equal=["urgency"]))
    reference = '{"urgency": "low", "product": "Mail"}'
    form = check.check(answer, "My Mail is broken", reference)
    assert rates(form) == wanted
    assert bool(form.faults) != form.sound


def test_faults_name_the_field() -> None:
    form = FormCheck(Format("json", TICKET)).check('{"urgency": "soon", "product": "mail"}')
    assert any(fault.startswith("urgency: 'soon' is not one of") for fault in form.faults)
    assert any(fault.startswith("product: ") and "^[A-Z]" in fault for fault in form.faults)


def test_a_field_that_is_not_the_references_is_told() -> None:
    form = FormCheck(Format("json", equal=["a"])).check('{"a": 1}', "", '{"a": 2}')
    assert form.faults == ["a: not what the reference says"]


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": 1, "a": 2}', "{'a': 1}", '{"a": 1} x'])
def test_json_is_taken_as_the_standard_has_it(text: str) -> None:
    assert not FormCheck(Format("json")).check(text).parses


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 10_000, "x" * (1 << 21)])
def test_answers_made_to_break_the_reader_are_wrong_and_no_crash(text: str) -> None:
    form = FormCheck(Format("json", {"type": "object"})).check(text)
    assert rates(form) == (False, False, False, False)
    assert form.faults


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.org/schema.json"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"$ref": "#/$defs/absent"},
    ],
)
def test_a_schema_that_refers_outside_is_refused_and_nothing_is_fetched(
    schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("tried to fetch")

    monkeypatch.setattr(socket, "create_connection", no_network)
    with pytest.raises(UserError, match="refers to something outside"):
        FormCheck(Format("json", schema))


def test_references_inside_of_a_schema_hold() -> None:
    tree = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    }
    check = FormCheck(Format("json", tree))
    assert check.check('{"next": {"next": {}}}').fits
    assert not check.check('{"next": {"next": 3}}').fits


def test_an_older_dialect_is_read_as_what_it_is() -> None:
    draft7 = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "number"}]}
    check = FormCheck(Format("json", draft7))
    assert not check.check('["x"]').fits
    assert check.check("[1]").fits


@pytest.mark.parametrize("schema", [{"type": "thing"}, {"pattern": "("}])
def test_what_is_no_schema_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        FormCheck(Format("json", schema))


def test_a_pattern_of_a_schema_cannot_hang_even_through_a_reference() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "pattern": "^(a+)+$",
        "items": {"$ref": "#"},
    }
    check = FormCheck(Format("json", schema))
    began = time.perf_counter()
    assert not check.check('["' + "a" * 28 + '!"]').fits
    assert time.perf_counter() - began < 2


def test_a_pattern_must_match_the_whole_answer() -> None:
    check = FormCheck(Format("regex", pattern=r"\d{4}-\d{2}"))
    assert check.check(" 2024-05\n").parses
    assert not check.check("on 2024-05").parses


def test_a_pattern_with_look_around_is_given_up_after_its_time() -> None:
    pattern = compiled(r"(?=a)(a+)+$", 0.3)
    assert pattern.whole("aaa")
    assert not pattern.whole("b")
    began = time.perf_counter()
    with pytest.raises(TooSlow):
        pattern.whole("a" * 60 + "!")
    assert time.perf_counter() - began < 5
    assert pattern.search("still here: aaa")


def test_linear_patterns_need_no_process() -> None:
    began = time.perf_counter()
    assert not compiled(r"(a+)+$").whole("a" * 20_000 + "!")
    assert time.perf_counter() - began < 1


def test_text_that_no_utf8_can_hold_can_be_matched() -> None:
    assert compiled("a.c").whole("a\ud800c")
    assert compiled("(?=a)a.c").whole("a\ud800c")


GOOD_AND_BAD = {
    "json": ('{"a": [1]}', "{"),
    "jsonl": ('{"a": 1}\n{"b": 2}\n', '{"a": 1}\nx'),
    "yaml": ("a: 1\nb: [2]", "just prose"),
    "toml": ('a = "x"', "a ="),
    "xml": ("<a><b/></a>", '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'),
    "csv": ("a,b\n1,2\n", "a,b\n1\n"),
    "python": ("def f():\n    return 1", "def f(:"),
    "number": ("1,234.5", "many"),
    "date": ("2024-05-03", "3 May"),
}


@pytest.mark.parametrize("parser", PARSERS)
def test_every_parser_tells_good_from_bad(parser: str) -> None:
    good, bad = GOOD_AND_BAD[parser]
    check = FormCheck(Format("parser", parser=parser))
    assert check.check(good).parses
    assert check.check(f"```\n{good}\n```").parses_unfenced
    assert not check.check(bad).parses
    assert not check.check("").parses


def test_a_parser_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match='no parser "cobol"'):
        FormCheck(Format("parser", parser="cobol"))
    with pytest.raises(UserError, match="no pattern"):
        FormCheck(Format("regex"))


def test_only_a_fence_around_the_whole_is_taken_off() -> None:
    assert unfenced("```json\n{}\n```") == "{}"
    assert unfenced("Here:\n```\n{}\n```") == "Here:\n```\n{}\n```"
