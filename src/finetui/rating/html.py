"""A report as one HTML page: self-contained, without a script, printable.

Everything from the session is escaped; the page may load nothing from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from finetui.display import clean
from finetui.rating.analysis import Report
from finetui.rating.figures import Picture, Row, pictures
from finetui.rating.report import FORMULAE, Table, tables, unsealed

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p.verdict { font-size: 1.2rem; font-weight: 600; border-left: 4px solid #2b6cb0;
  padding-left: .8rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid #ddd; overflow-wrap: anywhere; }
ul.problems { border-left: 4px solid #b00020; padding-left: 1.6rem; }
figure { margin: 1.2rem 0; break-inside: avoid; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
.axis { stroke: #999; } .line { stroke: #999; stroke-dasharray: 3 3; }
.mark { fill: #2b6cb0; } .whisker { stroke: #2b6cb0; stroke-width: 2; }
small, footer { color: #555; }
@media (prefers-color-scheme: dark) { body { color: #e6e6e6; background: #16181c; }
  th, td { border-color: #3a3f47; } small, footer { color: #aaa; }
  .mark { fill: #7cb3f0; } .whisker { stroke: #7cb3f0; } }
"""
_LABELS, _PLOT, _NOTES, _LINE = 230, 420, 150, 22


def as_html(report: Report) -> str:
    """The whole page."""
    body = [
        f"<h1>Rating report: {_text(report.session)}</h1>",
        f"<p>Question: {_text(report.question)}</p>",
        f'<p class="verdict">{_text(report.verdict)}</p>',
        f"<p><small>Endpoint: {_text(report.endpoint)}; alpha {report.alpha:g}, two-sided; "
        f"{_text(report.stop_rule)}.</small></p>",
    ]
    if report.problems:
        body += ["<h2>Problems</h2>", _list(report.problems, "problems")]
    body += [_picture(picture) for picture in pictures(report)]
    body += [_table(table) for table in tables(report)]
    if report.notes:
        body += ["<h2>Notes</h2>", _list(report.notes)]
    body += ["<h2>Formulae</h2>", _list(FORMULAE)]
    body.append(f"<footer><p>{_text(unsealed(report))}</p></footer>")
    title = _text(f"Rating report: {report.session}")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return escape(clean(text), quote=True)


def _list(texts: Sequence[str], kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<ul{mark}>" + "".join(f"<li>{_text(text)}</li>" for text in texts) + "</ul>"


def _table(table: Table) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    head = "".join(f"<th>{_text(cell)}</th>" for cell in table.head)
    head = f"<thead><tr>{head}</tr></thead>" if any(table.head) else ""
    return f"<h2>{_text(table.title)}</h2><table>{head}<tbody>{rows}</tbody></table>"


def _picture(picture: Picture) -> str:
    """One picture as inline SVG; the numbers stand beside the marks, so colour tells nothing."""
    height = _LINE * (len(picture.rows) + 1)
    width = _LABELS + _PLOT + _NOTES
    parts = [_row(picture, row, _LINE * n + _LINE // 2) for n, row in enumerate(picture.rows)]
    bottom = _LINE * len(picture.rows)
    zero = _place(picture, picture.line)
    parts.append(
        f'<line class="axis" x1="{_LABELS}" y1="{bottom}" x2="{_LABELS + _PLOT}" y2="{bottom}"/>'
    )
    parts.append(f'<line class="line" x1="{zero:.1f}" y1="0" x2="{zero:.1f}" y2="{bottom}"/>')
    for value in sorted({picture.low, picture.line, picture.high}):
        x = _place(picture, value)
        words = _number(picture, value)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{words}</text>')
    return (
        f"<figure><figcaption>{_text(picture.title)}</figcaption>"
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{_text(picture.title)}">'
        + "".join(parts)
        + "</svg></figure>"
    )


def _row(picture: Picture, row: Row, y: int) -> str:
    x = _place(picture, row.value)
    label = clean(row.label)
    label = label if len(label) <= 34 else label[:33] + "…"
    found = f'<text x="{_LABELS - 8}" y="{y + 4}" text-anchor="end">{escape(label)}</text>'
    if picture.kind == "count":
        found += (
            f'<rect class="mark" x="{_LABELS}" y="{y - 6}" width="{x - _LABELS:.1f}" height="12"/>'
        )
    else:
        low, high = _place(picture, row.low), _place(picture, row.high)
        found += f'<line class="whisker" x1="{low:.1f}" y1="{y}" x2="{high:.1f}" y2="{y}"/>'
        found += f'<circle class="mark" cx="{x:.1f}" cy="{y}" r="4"/>'
    note = _number(picture, row.value) + (f" ({clean(row.note)})" if row.note else "")
    return found + f'<text x="{_LABELS + _PLOT + 8}" y="{y + 4}">{escape(note)}</text>'


def _place(picture: Picture, value: float) -> float:
    """Where a value lies on the drawing, kept inside it; a missing one at the line."""
    span = picture.high - picture.low or 1.0
    value = picture.line if value != value else value
    return _LABELS + _PLOT * min(1.0, max(0.0, (value - picture.low) / span))


def _number(picture: Picture, value: float) -> str:
    if picture.kind == "count":
        return f"{value:.0f}"
    return f"{value:.0%}" if picture.unit == "share" else f"{value:.2f}"
