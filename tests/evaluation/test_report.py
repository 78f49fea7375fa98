"""The report in its four forms."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluated import asked, record_of, right_from, tickets

from finetui.evaluation import report
from finetui.evaluation.record import Answer, Item, Record, SetSpec, Timing, Usage

EVIL = '<script>alert(1)</script> | [x](javascript:y) \x1b]52;c;eA==\x07 \u202e "&amp;'


@pytest.fixture
def record(tmp_path: Path) -> Record:
    items = tickets()
    prose = [Item(f"e:{i}", asked(EVIL), f"{EVIL} row {i} of several words") for i in range(3)]
    made = record_of(tmp_path, [
        (SetSpec("test", path="d.jsonl"), items,
         {"base": right_from(items, 40), "tuned": right_from(items, 10)}),
        (SetSpec("evil"), prose, {
            "base": [Answer(item.id, item.reference) for item in prose],
            "tuned": [Answer(item.id, EVIL) for item in prose]}),
    ])  # fmt: skip
    with made.timings_writer() as out:
        for prompt in "ab":
            out.add(Timing("base", prompt, 0, 0.1, 1.0, 10))
            out.add(Timing("adapter", prompt, 0, 0.2, 2.0, 10))
    made.write_usage("tuned", Usage(1.5, 3 << 20, 1000))
    made.write_harness("tuned", {"arc": {"acc": [0.5, 0.1]}})
    return made


def test_all_parts_are_in_all_forms(record: Record) -> None:
    built = report.build(record)
    for text in (report.as_text(built), report.as_markdown(built), report.as_html(built)):
        for wanted in ("33.3%", "+50.0", "confusion", "worst rows", "tokens/s", "MiB", "arc"):
            assert wanted in text, wanted
        assert "McNemar" in text and "Tango" in text and "Holm" in text


def test_the_json_holds_what_the_figures_are(record: Record) -> None:
    found = json.loads(report.as_json(report.build(record)))
    change = next(row for row in found["figures"]["differences"] if row["metric"] == "accuracy")
    assert (change["fixed"], change["broken"], change["value"]) == (30, 0, 0.5)
    assert found["manifest"]["name"] == "try"
    assert found["usage"]["tuned"]["load_seconds"] == 1.5


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_the_page_runs_nothing_and_loads_nothing(record: Record) -> None:
    page = report.as_html(report.build(record))
    tags = Tags()
    tags.feed(page)
    assert not tags.seen & {"script", "a", "img", "link", "iframe", "object", "form"}
    assert not tags.attributes & {"href", "src", "onclick", "onload"}
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("form", [report.as_text, report.as_markdown, report.as_html])
def test_no_form_carries_what_a_terminal_would_obey(form: object, record: Record) -> None:
    text = form(report.build(record))  # type: ignore[operator]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_markdown_tables_stay_whole(record: Record) -> None:
    text = report.as_markdown(report.build(record))
    width = 0
    for line in text.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line))
        if not line.startswith("|"):
            width = 0
        elif width == 0:
            width = cells
        assert cells == width or not line.startswith("|"), line
    assert "<script>" not in text


def test_records_are_put_side_by_side(record: Record, tmp_path: Path) -> None:
    items = tickets()
    other = record_of(tmp_path / "other", [
        (SetSpec("test"), items, {"base": right_from(items, 40), "tuned": right_from(items, 0)})
    ])  # fmt: skip
    rows = {(row.set, row.metric): row.values for row in report.compare([record, other])}
    first, second = rows["test", "accuracy"]
    assert first.startswith("83.3% (") and second.startswith("100.0% (")
    assert rows["evil", "accuracy"][1] == ""
