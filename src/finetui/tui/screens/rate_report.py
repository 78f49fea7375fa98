"""The report of an unsealed session: verdict, pictures, tables, and the formulae behind them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message

from finetui.display import clean
from finetui.tui.actions import Action, register
from finetui.tui.screens import lines, rate_plot
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.textpanel import TextPanel
from finetui.workspace import write_atomic

if TYPE_CHECKING:
    from finetui.rating.analysis import Report
    from finetui.rating.report import Table

_LABEL = 26
_WIDEST = 110
"""Cells of a line of prose; longer ones are hard to read."""


class ReportView(VerticalScroll, can_focus=True):
    """Shows one report; the pictures follow the width."""

    BINDINGS: ClassVar = register(
        Action("report.write", "w", "save report",
               "Write the report as an HTML page, Markdown and JSON.", show=True, writes=True),
    )  # fmt: skip
    DEFAULT_CSS = """
    ReportView { height: 1fr; padding: 0 2; }
    ReportView #report-head { margin: 1 0; }
    """

    class Wanted(Message):
        """The person wants the report as files."""

    def __init__(self) -> None:
        super().__init__(id="report", classes="panel")
        self.border_title = "report"
        self.report: Report | None = None
        self._drawn_for = 0

    def compose(self) -> ComposeResult:
        yield TextPanel(wrap=True, id="report-head")
        yield TextPanel(id="report-plot")
        yield TextPanel(wrap=True, id="report-body")

    def show(self, report: Report) -> None:
        """Show another report from its beginning."""
        self.report, self._drawn_for = report, 0
        self.query_one("#report-head", TextPanel).show(head(report))
        self._draw()
        entitle(self, f"report · {report.session}")
        self.scroll_home(animate=False)

    def on_resize(self, event: events.Resize) -> None:
        self._draw()

    def _draw(self) -> None:
        from finetui.rating.figures import pictures

        width = self.container_size.width - 8 if not self.size.width else self.size.width - 7
        if self.report is None or width == self._drawn_for:
            return
        self._drawn_for = width
        plots = rate_plot.page(pictures(self.report), max(40, width))
        self.query_one("#report-plot", TextPanel).show(plots)
        words = body(self.report, min(_WIDEST, max(40, width)))
        self.query_one("#report-body", TextPanel).show(words)

    def action_write(self) -> None:
        self.post_message(self.Wanted())


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write ``<session>.html``, ``.md`` and ``.json`` into the folder. Raises OSError."""
    from finetui.rating.html import as_html
    from finetui.rating.report import as_json, as_markdown

    folder.mkdir(mode=0o700, exist_ok=True)
    forms = {".html": as_html, ".md": as_markdown, ".json": as_json}
    paths = [folder / f"{report.session}{suffix}" for suffix in forms]
    for path, form in zip(paths, forms.values(), strict=True):
        write_atomic(path, form(report))
    return paths


def head(report: Report) -> Content:
    """The question, the verdict, and what makes the report doubtful."""
    told = [
        Content.styled(clean(report.question), "$muted"),
        Content.styled(clean(report.verdict), "bold $accent"),
    ]
    told += [Content.styled(f"✗ {clean(problem)}", "bold $error") for problem in report.problems]
    return lines.join(told)


def body(report: Report, width: int) -> Content:
    """The tables and notes as text, and the formulae by name."""
    from finetui.rating.report import FORMULAE, tables, unsealed

    rows: list[Content] = []
    for table in tables(report):
        rows += [*_table(table, width), Content("")]
    for title, texts in (("Notes", [*report.notes, unsealed(report)]), ("Formulae", FORMULAE)):
        rows.append(Content.styled(title, "bold"))
        for text in texts:
            rows += [Content(line) for line in _wrapped(text, width, "- ")]
        rows.append(Content(""))
    return lines.join(rows)


def _table(table: Table, width: int) -> list[Content]:
    title = Content.styled(clean(table.title), "bold")
    if any(table.head):
        cells = [[clean(cell) for cell in row] for row in [table.head, *table.rows]]
        return [title, *lines.columns(cells, ("$muted",))]
    rows = [title]
    for label, value in table.rows:
        first, *more = _wrapped(value, width - _LABEL - 2) or [""]
        rows.append(Content.assemble((f"{clean(label):<{_LABEL}}  ", "$muted"), first))
        rows += [Content(" " * (_LABEL + 2) + line) for line in more]
    return rows


def _wrapped(text: str, width: int, bullet: str = "") -> list[str]:
    return textwrap.wrap(
        clean(text), max(20, width), initial_indent=bullet, subsequent_indent=" " * len(bullet)
    )
