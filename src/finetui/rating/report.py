"""A report as plain text (80 columns), Markdown and JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from finetui.display import clean
from finetui.rating.analysis import RaterRow, Report
from finetui.rating.statistics import Interval

WIDTH = 80
BAR = 30

FORMULAE = (
    "Score of a vote: 1 if the candidate's answer was preferred, 0 if the reference's, 1/2 for "
    "both good or both bad. Cannot-judge votes have no score. Votes on one item are averaged over "
    "raters first.",
    "Win share: mean of the item scores; items with identical outputs count as 1/2.",
    "Interval of the win share: percentile bootstrap (Efron 1979) over items; from five raters on "
    "over items and raters (pigeonhole bootstrap, Owen 2007).",
    "Test: exact two-sided sign test (binomial, 1/2) on items whose score is above or below 1/2.",
    "Interval of the decisive votes and of the left share: Wilson score interval (Wilson 1927); "
    "it takes votes as independent.",
    "Side effect gamma: half the difference of the candidate's log odds shown left and shown "
    "right, 1/2 added to each cell (Bradley-Terry with an order effect); interval by bootstrap "
    "over items.",
    "Agreement: Krippendorff's alpha, 1 - D_o/D_e (nominal over four answers, ordinal over "
    "reference/tie/candidate), and Gwet's AC1 (2008).",
    "Repeats: items shown again with sides swapped; the same answer after mapping the sides back. "
    "They count for nothing else.",
)


def as_text(report: Report) -> str:
    """The report for a terminal or a screen reader.

    No colour, no box drawing, at most 80 columns.
    """
    lines = [f"Rating report: {report.session}", *_wrap(f"Question: {clean(report.question)}"), ""]
    lines += [*_wrap(report.verdict), ""]
    lines += _pairs(_summary(report))
    lines += ["", "Answers", *_bars(report), "", "Raters", *_rater_lines(report.raters)]
    if report.agreement:
        lines += ["", "Agreement", *_pairs(_agreement(report))]
    for title, texts in (("PROBLEMS", report.problems), ("Notes", report.notes)):
        if texts:
            lines += ["", title]
            for text in texts:
                lines += _wrap(clean(text), "- ")
    return "\n".join(line.rstrip() for line in [*lines, "", *_wrap(_unsealed(report))]) + "\n"


def as_markdown(report: Report) -> str:
    """The report as a page that names its formulae."""
    parts = [f"# Rating report: {_cell(report.session)}", f"Question: {_cell(report.question)}"]
    parts += [
        f"**{_cell(report.verdict)}**",
        f"Endpoint: {_cell(report.endpoint)}; alpha {report.alpha:g}, two-sided.",
    ]
    parts.append(_table(("", ""), [*_summary(report), *_answers(report)]))
    parts += ["## Raters", _table(_RATER_HEAD, [_rater_cells(row) for row in report.raters])]
    if report.agreement:
        parts += ["## Agreement", _table(("", ""), _agreement(report))]
    if report.problems:
        parts += ["## Problems", _list(report.problems)]
    parts += ["## Notes", _list([*report.notes, _unsealed(report)])]
    resampling = (
        f"Bootstrap here: {report.resamples:,} resamples of {report.resampled}, seed {report.seed}."
    )
    parts += ["## Formulae", _list([*FORMULAE, resampling])]
    return "\n\n".join(parts) + "\n"


def as_json(report: Report) -> str:
    """The report as one JSON object with the verdict and the answers' counts.

    What is not defined is null.
    """
    fields = {
        **msgspec.to_builtins(report),
        "verdict": report.verdict,
        "systems": list(report.systems),
    }
    return msgspec.json.format(msgspec.json.encode(fields), indent=2).decode() + "\n"


def _summary(report: Report) -> list[tuple[str, str]]:
    reference, candidate = report.systems
    tally = report.tally
    rows = [
        ("Items", f"{report.items}: {report.shown} shown, {report.identical} identical (ties)"),
        (
            "Rated",
            f"{report.rated} of {report.shown} shown, {tally.total} votes, {_raters(report)}",
        ),
        (
            f"Win share of {candidate}",
            f"{_share(report.share)} {_interval(report.share_interval)} (95% bootstrap)",
        ),
        (
            "Items decided",
            f"{report.items_won} for {candidate}, {report.items_lost} for {reference}, "
            f"{report.items_even} even",
        ),
        ("Sign test on items", f"p = {report.sign_p:.4g} (exact, two-sided)"),
        (
            "Decisive votes",
            f"{tally.wins} of {tally.decisive} for {candidate} "
            f"{_interval(report.decisive_interval)} (95% Wilson)",
        ),
        *_side_rows(report),
    ]
    if report.post_unblind:
        rows.append(("After the unsealing", f"{report.post_unblind} answers or changes, left out"))
    return rows


def _side_rows(report: Report) -> list[tuple[str, str]]:
    side, repeats = report.side_bias, report.repeats
    low, high = side.gamma_interval
    rows = [
        (
            "Left side chosen",
            f"{side.left} of {side.decisive} decisive {_interval(side.interval)} p = {side.p:.3g}",
        ),
        ("Side effect gamma", f"{_number(side.gamma)} [{_number(low)}, {_number(high)}] log odds"),
    ]
    if repeats.pairs:
        alike = f"{repeats.same} of {repeats.pairs} answered alike"
        rows.append(("Repeats, sides swapped", f"{alike}, {repeats.same_side} by the same side"))
    return rows


def _answers(report: Report) -> list[tuple[str, str]]:
    reference, candidate = report.systems
    tally = report.tally
    return [
        (f"{candidate} better", str(tally.wins)),
        (f"{reference} better", str(tally.losses)),
        ("both good", str(tally.ties_good)),
        ("both bad", str(tally.ties_bad)),
        ("cannot judge", str(tally.skips)),
        ("identical (items)", str(report.identical)),
    ]


def _bars(report: Report) -> list[str]:
    rows = [(label, int(count)) for label, count in _answers(report)]
    most = max(1, *(count for _, count in rows))
    return [
        f"  {_fit(label, 24)} {count:>5}  {'#' * math.ceil(count / most * BAR)}"
        for label, count in rows
    ]


_RATER_HEAD = ("rater", "votes", "win", "loss", "good", "bad", "skip", "share", "left", "s/item")


def _rater_cells(row: RaterRow) -> tuple[str, ...]:
    tally = row.tally
    return (
        row.rater,
        f"{tally.total}",
        f"{tally.wins}",
        f"{tally.losses}",
        f"{tally.ties_good}",
        f"{tally.ties_bad}",
        f"{tally.skips}",
        _share(row.share),
        f"{row.left}/{tally.decisive}",
        "-" if math.isnan(row.median_s) else f"{row.median_s:.0f}",
    )


def _rater_lines(raters: Sequence[RaterRow]) -> list[str]:
    lines = [_rater_line(cells) for cells in (_RATER_HEAD, *map(_rater_cells, raters))]
    recognised = [f"{row.rater} ({row.recognised})" for row in raters if row.recognised]
    if recognised:
        lines += _wrap(f"Thought to recognise a model: {', '.join(recognised)}.", "  ")
    return lines


def _rater_line(cells: Sequence[str]) -> str:
    counts = "".join(f"{cell:>6}" for cell in cells[1:7])
    return f"  {_fit(cells[0], 16)}{counts}" + "".join(f"{cell:>8}" for cell in cells[7:])


def _agreement(report: Report) -> list[tuple[str, str]]:
    found = report.agreement
    if found is None:
        return []
    nominal, ordinal = _number(found.alpha_nominal), _number(found.alpha_ordinal)
    ties = _rate(found.same, found.pairs)
    decided = _rate(found.same_decisive, found.pairs_decisive)
    return [
        ("Items with 2+ raters", str(found.items)),
        ("Krippendorff's alpha", f"{nominal} nominal, {ordinal} ordinal"),
        ("Gwet's AC1", _number(found.ac1)),
        ("Same answer", f"{ties} of pairs with ties (MT-Bench humans: 63%)"),
        ("Same, without ties", f"{decided} of pairs (MT-Bench humans: 81%)"),
    ]


def _pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    lines = []
    for label, value in rows:
        start = f"  {_fit(label, 24)} "
        rest = " " * len(start)
        lines += textwrap.wrap(value, WIDTH, initial_indent=start, subsequent_indent=rest)
    return lines


def _unsealed(report: Report) -> str:
    moment = datetime.fromtimestamp(report.unsealed_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    unsealed = f"unsealed {moment} by {report.unsealed_by}: {clean(report.unsealed_reason)}"
    return f"Sealed {report.created}; {unsealed}"


def _raters(report: Report) -> str:
    count = sum(row.tally.total > 0 for row in report.raters)
    return f"{count} rater{'' if count == 1 else 's'}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value * 100:.1f}%"


def _rate(part: int, whole: int) -> str:
    return f"{part}/{whole} ({part / whole:.0%})" if whole else "-"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _interval(interval: Interval) -> str:
    return f"[{_share(interval.low)}, {_share(interval.high)}]"


def _wrap(text: str, bullet: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=bullet, subsequent_indent=" " * len(bullet))


def _fit(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


def _cell(text: str) -> str:
    """Text for a Markdown line or cell: one line, nothing of it markup."""
    line = clean(text)
    for mark in "\\`*_[]<>|#":
        line = line.replace(mark, "\\" + mark)
    return line


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _list(texts: Sequence[str]) -> str:
    return "\n".join(f"- {_cell(text)}" for text in texts)
