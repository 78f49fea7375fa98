"""An evaluation as a report: text for a terminal, Markdown, JSON, and one page of HTML."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from finetui.display import clean
from finetui.evaluation import figures as taken
from finetui.evaluation.catalogue import METRICS, metric, shown, shown_change
from finetui.evaluation.labels import confusion
from finetui.evaluation.record import Manifest, Record, Usage
from finetui.evaluation.results import Difference, Figures, interval_text, p_text
from finetui.evaluation.slices import Slice
from finetui.evaluation.slices import table as slices_of
from finetui.evaluation.worst import ranked

_MOST_ROWS = 10
_MOST_CLASSES = 12
_LONGEST = 300
_WIDEST = 44  # of a column of text

_METHODS = (
    "Shares have Wilson intervals (Wilson 1927), all other figures bootstrap intervals over rows "
    "(expanded percentiles, Hesterberg 2015); all at 95 %.",
    "Differences are paired: both answered the same rows. For shares the interval is Tango's score "
    "interval (Tango 1998) and p is McNemar's exact test; for the rest both come from the paired "
    "bootstrap, which draws rows and takes both figures anew.",
    "p-values are adjusted over all differences of a subject with Holm's method (Holm 1979); "
    '"better" and "worse" are said below 0.05.',
    "A suite is kept when the bad end of the 95 % interval of the difference is within its margin "
    "(non-inferiority, one-sided 2.5 %).",
)


@dataclass(frozen=True)
class Table:
    """A head and rows of short texts; the first column is a name, the rest are figures."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """One part of a report: sentences, then tables."""

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that the four forms show, in one order; ``figures`` are for the JSON."""

    title: str
    sections: tuple[Section, ...]
    manifest: Manifest
    figures: Figures
    usage: Mapping[str, Usage] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparedRow:
    """One metric of one set over several records: a text for each, "" where it has none."""

    set: str
    metric: str
    values: tuple[str, ...]


def build(record: Record) -> Report:
    """The report of a record; takes the figures first where none are kept."""
    manifest = record.manifest()
    found = taken.read(record) or taken.compute(record)
    usage = {
        subject.name: told
        for subject in manifest.subjects
        if (told := record.usage(subject.name)) is not None
    }
    sections = [_asked(manifest), _verdicts(found)]
    for spec in manifest.sets:
        sections += _set_sections(record, manifest, found, spec.name)
    sections += [_latency(found, usage), _harness(record, manifest), _methods(found)]
    kept = tuple(section for section in sections if section.sentences or section.tables)
    return Report(f"Evaluation {manifest.name}", kept, manifest, found, usage)


def compare(records: Sequence[Record]) -> list[ComparedRow]:
    """The figures of several records side by side, set by set.

    Of each record the first subject after the reference; the reference where it is alone.
    """
    columns = [_figures_of(record) for record in records]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    return [ComparedRow(*key, tuple(column.get(key, "") for column in columns)) for key in keys]


def as_json(report: Report) -> str:
    """Everything as data: manifest, figures, usage."""
    whole = {"manifest": report.manifest, "figures": report.figures, "usage": report.usage}
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode() + "\n"


def as_text(report: Report) -> str:
    parts = [report.title, "=" * len(report.title)]
    for section in report.sections:
        parts += ["", section.title, "-" * len(section.title), *section.sentences]
        for table in section.tables:
            parts += ["", *_aligned(table)]
    return "\n".join(clean(line) for line in parts) + "\n"


def as_markdown(report: Report) -> str:
    parts = [f"# {_plain(report.title)}"]
    for section in report.sections:
        parts += ["", f"## {_plain(section.title)}", ""]
        parts += [f"- {_plain(text)}" for text in section.sentences]
        for table in section.tables:
            rule = "|".join(["---"] + ["---:"] * (len(table.head) - 1))
            parts += ["", _markdown_row(table.head), f"|{rule}|", *map(_markdown_row, table.rows)]
    return "\n".join(parts) + "\n"


def as_html(report: Report) -> str:
    """One page that loads nothing and runs nothing; every text from data is escaped."""
    parts = [_HEAD.format(title=_escaped(report.title)), f"<h1>{_escaped(report.title)}</h1>"]
    for section in report.sections:
        parts.append(f"<section><h2>{_escaped(section.title)}</h2>")
        if section.sentences:
            lines = "".join(f"<li>{_escaped(text)}</li>" for text in section.sentences)
            parts.append(f"<ul>{lines}</ul>")
        parts += [_html_table(table) for table in section.tables]
        parts.append("</section>")
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _asked(manifest: Manifest) -> Section:
    subjects = ", ".join(f"{subject.name} ({subject.kind})" for subject in manifest.subjects)
    sets = ", ".join(f"{spec.name} ({spec.role}, {spec.path or 'given'})" for spec in manifest.sets)
    sentences = [
        f"Subjects: {subjects}; compared with {manifest.reference}.",
        f"Sets: {sets}.",
        f"Answers: temperature {manifest.temperature:g}, at most {manifest.max_new_tokens} new "
        f"tokens, seed {manifest.seed}.",
    ]
    if manifest.created:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(manifest.created))
        sentences.insert(0, f"Asked on {when}.")
    files = [f"{path}: SHA-256 {hash}" for path, hash in manifest.files.items()]
    return Section("What was asked", (*sentences, *files))


def _verdicts(found: Figures) -> Section:
    signs = {True: "✓", False: "✗", None: "?"}
    main = [row.sentence for row in found.differences if row.main]
    checks = [f"{signs[row.good]} {row.subject}, {row.sentence}" for row in found.verdicts]
    left = [
        f"{count} rows of {name} were answered by only one of {subject} and the reference; they "
        "are in no difference."
        for name, subjects in found.unpaired.items()
        for subject, count in subjects.items()
    ]
    return Section("In short", tuple(main + checks + left))


def _set_sections(record: Record, manifest: Manifest, found: Figures, name: str) -> list[Section]:
    tables = [_summary_table(manifest, found, name), *_difference_tables(found, name)]
    signature = found.signatures.get(f"{name}/bleu")
    sentences = (f"BLEU: {signature}",) if signature else ()
    sections = [Section(f"Set {name}", sentences, tuple(table for table in tables if table.rows))]
    after = _first_subject(manifest, found, name)
    if after:
        sections += _detail(record, manifest, name, after)
    return sections


def _detail(record: Record, manifest: Manifest, name: str, after: str) -> list[Section]:
    """Slices, confusion and worst rows of a subject against the reference."""
    before = manifest.reference
    cut = slices_of(record, name, before, after)
    worst = [
        row for row in ranked(record, name, before, after) if row.change in ("broken", "wrong")
    ]
    sections = [
        Section(f"{name}: slices, {after} against {before}", (), _slice_tables(cut)),
        Section(f"{name}: confusion of {after}", (), _confusions(record, name, after)),
    ]
    if worst:
        rows = tuple(
            (row.item.id, row.change, _short(row.before.answer), _short(row.after.answer),
             _short(row.item.reference), _short(row.note))
            for row in worst[:_MOST_ROWS]
        )  # fmt: skip
        head = ("row", "change", before, after, "reference", "why")
        told = (f"{len(worst)} rows are broken or wrong; the first {len(rows)}:",)
        sections.append(Section(f"{name}: worst rows", told, (Table(head, rows),)))
    return sections


def _summary_table(manifest: Manifest, found: Figures, name: str) -> Table:
    subjects = [who.name for who in manifest.subjects if name in found.summaries.get(who.name, {})]
    names = dict.fromkeys(key for who in subjects for key in found.summaries[who][name])
    rows = []
    for key in names:
        entry, cells = metric(key), []
        for who in subjects:
            told = found.summaries[who][name].get(key)
            cells.append(
                f"{shown(entry, told.value)} ({shown(entry, told.low)} to "
                f"{shown(entry, told.high)})" if told else ""
            )  # fmt: skip
        counts = [found.summaries[who][name][key].n for who in subjects
                  if key in found.summaries[who][name]]  # fmt: skip
        rows.append((entry.title, *cells, str(max(counts))))
    return Table(("metric", *subjects, "rows"), tuple(rows))


def _difference_tables(found: Figures, name: str) -> list[Table]:
    subjects = dict.fromkeys(row.after for row in found.of_set(name))
    head = ("difference", "95 % interval", "fixed", "broken", "p (Holm)", "")
    return [
        Table(
            (f"{subject} less the reference", *head),
            tuple(_difference_row(row) for row in found.of_set(name, subject)),
        )
        for subject in subjects
    ]


def _difference_row(row: Difference) -> tuple[str, ...]:
    entry = metric(row.metric)
    flips = (str(row.fixed), str(row.broken)) if entry.kind == "share" else ("", "")
    interval = interval_text(row)
    change = shown_change(entry, row.value)
    return (entry.title, change, interval, *flips, p_text(row.p_holm), row.direction)


def _slice_tables(found: Sequence[Slice]) -> tuple[Table, ...]:
    tables = []
    for column in dict.fromkeys(row.column for row in found):
        rows = [row for row in found if row.column == column][:_MOST_CLASSES]
        tables.append(Table((column, "rows", "before", "after", "95 % interval"), tuple(
            (row.value, str(row.n), f"{row.before:.3f}", f"{row.after:.3f}",
             f"{row.low:+.3f} to {row.high:+.3f}") for row in rows
        )))  # fmt: skip
    return tuple(tables)


def _confusions(record: Record, name: str, subject: str) -> tuple[Table, ...]:
    scores = record.scores(subject, name)
    tables = []
    for column in dict.fromkeys(name for score in scores for name in score.labels):
        found = confusion([score.labels[column] for score in scores if column in score.labels])
        if len(found.wanted) > _MOST_CLASSES:
            continue
        rows = tuple(
            (wanted, *(str(found.table[wanted][given]) for given in found.given))
            for wanted in found.wanted
        )
        tables.append(Table((f"{column or 'label'}: wanted \\ given", *found.given), rows))
    return tuple(tables)


def _latency(found: Figures, usage: Mapping[str, Usage]) -> Section:
    timed = tuple(
        (row.condition, f"{1000 * row.first:.0f} ms", f"{1000 * row.first_p95:.0f} ms",
         f"{row.tokens_per_s:.1f}", _ratio(row.ratio, row.low, row.high), _bytes(row.peak_bytes))
        for row in found.latency
    )  # fmt: skip
    head = ("condition", "first token, median", "95th", "tokens/s", "pace over base", "memory")
    loaded = tuple(
        (name, f"{told.load_seconds:.1f} s", _bytes(told.peak_bytes), f"{told.parameters:,}")
        for name, told in usage.items()
    )
    tables = [Table(head, timed)] if timed else []
    if loaded:
        tables.append(Table(("subject", "load", "memory at most", "parameters"), loaded))
    return Section("Latency and memory", (), tuple(tables))


def _harness(record: Record, manifest: Manifest) -> Section:
    rows = tuple(
        (task, name, subject.name, f"{value[0]:.4f}", f"{value[1]:.4f}" if value[1:] else "")
        for subject in manifest.subjects
        for task, metrics in record.harness(subject.name).items()
        for name, value in metrics.items()
    )
    head = ("task", "metric", "subject", "value", "standard error")
    return Section("lm-evaluation-harness", (), (Table(head, rows),) if rows else ())


def _methods(found: Figures) -> Section:
    names = {name for sets in found.summaries.values() for told in sets.values() for name in told}
    stems = {name.partition(":")[0] for name in names}
    used = [f"{entry.title}: {entry.help}" for key, entry in METRICS.items() if key in stems]
    return Section("How the figures are made", (*_METHODS, *used))


def _first_subject(manifest: Manifest, found: Figures, name: str) -> str:
    others = [
        subject.name
        for subject in manifest.subjects
        if subject.name != manifest.reference and name in found.summaries.get(subject.name, {})
    ]
    answered = name in found.summaries.get(manifest.reference, {})
    return others[0] if others and answered else ""


def _figures_of(record: Record) -> dict[tuple[str, str], str]:
    manifest = record.manifest()
    found = taken.read(record) or taken.compute(record)
    texts = {}
    for spec in manifest.sets:
        who = _first_subject(manifest, found, spec.name) or manifest.reference
        for key, told in found.summaries.get(who, {}).get(spec.name, {}).items():
            entry = metric(key)
            span = f"{shown(entry, told.low)} to {shown(entry, told.high)}"
            texts[spec.name, key] = f"{shown(entry, told.value)} ({span})"
    return texts


def _ratio(value: float | None, low: float | None, high: float | None) -> str:
    if value is None or low is None or high is None:
        return ""
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count else ""


def _short(text: str, limit: int = _LONGEST) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _aligned(table: Table) -> list[str]:
    rows = [[_short(cell, _WIDEST) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(table.head))]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _plain(text: str) -> str:
    """Text in which Markdown finds nothing to do."""
    line = clean(" ".join(text.split()))
    for sign in "\\`*_[]<>#|!&~":
        line = line.replace(sign, "\\" + sign if sign not in "<>&" else html.escape(sign))
    return line


def _markdown_row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(_plain(str(cell)) for cell in cells) + " |"


def _escaped(text: str) -> str:
    return html.escape(clean(text))


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{_escaped(cell)}</th>" for cell in table.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; margin: .8em 0; display: block; overflow-x: auto; }}
th, td {{ border-bottom: 1px solid #8886; padding: .25em .7em; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
td {{ font-variant-numeric: tabular-nums; max-width: 28em; overflow-wrap: anywhere; }}
</style></head><body>"""
