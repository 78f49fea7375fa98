"""A report as plain text (80 columns), Markdown and JSON; html.py has the page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from finetui.display import clean
from finetui.rating.analysis import Line, Report
from finetui.rating.panel import RaterRow, Third
from finetui.rating.statistics import Interval

WIDTH = 80
BAR = 30

FORMULAE = (
    "Score of a vote: 1 if the candidate's answer was preferred, 0 if the reference's, 1/2 for "
    "both good or both bad. Cannot-judge votes have no score. Votes on one item are averaged over "
    "raters first, because they are correlated.",
    "Win share: mean of the item scores; items with identical outputs count as 1/2.",
    "Interval of the win share: percentile bootstrap (Efron 1979) over items; from five raters on "
    "over items and raters (pigeonhole bootstrap, Owen 2007).",
    "Test, fixed number of items: exact two-sided sign test, p = min(1, 2 sum C(n,j)/2^n), on "
    "items whose score is above or below 1/2. Several comparisons: Holm 1979.",
    "Test, e-process: betting, the mean over lambda = +-0.1 ... +-1.8 of prod(1 + lambda (x - "
    "1/2)) over item scores x (Waudby-Smith and Ramdas 2024), or beta-binomial, 2^n B(a+W, a+L)/"
    "B(a, a) (Robbins 1970, Howard and others 2021); p = 1/max E. Valid at any moment of looking.",
    "Test, scheduled looks: exact binomial boundaries for the spending function 2 - 2 "
    "Phi(z/sqrt(t)) (O'Brien and Fleming 1979, Lan and DeMets 1983).",
    "Non-inferiority: the lower end of the 95% interval of the win share lies above 1/2 less the "
    "registered margin.",
    "Interval of decisive votes, of sides, ties and repeats: Wilson score interval (Wilson 1927); "
    "it takes votes as independent.",
    "Side effect gamma: half the difference of the candidate's log odds shown left and shown "
    "right, 1/2 added to each cell (Bradley-Terry with an order effect); interval by bootstrap "
    "over items.",
    "Adjusted share: logit P = theta + gamma side + b1 tanh(length difference/sd) + b2 headers + "
    "b3 lists + b4 bold, differences as (a - b)/(a + b + 1), ties 1/2 (Papke and Wooldridge 1996), "
    "Newton's method, errors robust by item (Liang and Zeger 1986); the share at zero differences.",
    "Ranking: Davidson's model of 1970 with a side effect, P(i):P(j):P(tie) = exp(s_i + g/2) : "
    "exp(s_j - g/2) : nu exp((s_i + s_j)/2), maximum likelihood, errors robust by item.",
    "Agreement: Krippendorff's alpha, 1 - D_o/D_e (nominal over four answers, ordinal over "
    "reference/tie/candidate), Gwet's AC1 (2008), Conger's kappa (Cohen's for two raters); "
    "intervals by bootstrap over items.",
    "Repeats: items shown again with sides swapped; the same answer after mapping the sides back. "
    "They count for nothing else.",
    "Blinding: Bang's index (2004), (right - wrong)/all guesses, 0 for guessing, 1 for knowing; "
    "James' index (1996), 1/2 for guessing, 0 for knowing, 1 for \"don't know\" throughout.",
    "Told apart by style: area under the curve of a ridge-penalised logistic model on countable "
    "properties of the texts, each pair guessed by a model of the others (50 folds at most).",
)


class Table(NamedTuple):
    """One table of the report: title, column heads (empty for pairs), rows of cells."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(report: Report) -> list[Table]:
    """Every table of the report, in the order of the page."""
    return [
        Table("Result", ("", ""), [*_summary(report), *_answers(report)]),
        Table("Raters", _RATER_HEAD, [_rater_cells(row) for row in report.raters]),
        *(Table(title, ("", ""), rows) for title, rows in _sections(report)),
    ]


def as_text(report: Report) -> str:
    """The report for a terminal or a screen reader.

    No colour, no box drawing, at most 80 columns.
    """
    lines = [f"Rating report: {report.session}", *_wrap(f"Question: {clean(report.question)}"), ""]
    lines += [*_wrap(report.verdict), ""]
    lines += _pairs(_summary(report))
    lines += ["", "Answers", *_bars(report), "", "Raters", *_rater_lines(report.raters)]
    for title, rows in _sections(report):
        lines += ["", title, *_pairs(rows)]
    for title, texts in (("PROBLEMS", report.problems), ("Notes", report.notes)):
        if texts:
            lines += ["", title]
            for text in texts:
                lines += _wrap(clean(text), "- ")
    return "\n".join(line.rstrip() for line in [*lines, "", *_wrap(unsealed(report))]) + "\n"


def as_markdown(report: Report) -> str:
    """The report as a page that names its formulae."""
    parts = [f"# Rating report: {_cell(report.session)}", f"Question: {_cell(report.question)}"]
    parts += [
        f"**{_cell(report.verdict)}**",
        f"Endpoint: {_cell(report.endpoint)}; alpha {report.alpha:g}, two-sided; "
        f"{_cell(report.stop_rule)}.",
    ]
    for table in tables(report):
        parts += [f"## {table.title}", _table(table.head, table.rows)]
    if report.problems:
        parts += ["## Problems", _list(report.problems)]
    parts += ["## Notes", _list([*report.notes, unsealed(report)])]
    resampling = (
        f"Bootstrap here: {report.main.resamples:,} resamples of {report.main.resampled}, seed "
        f"{report.seed}; 1,000 or fewer beside the endpoint."
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
    reference, candidate = report.pair
    main, tally = report.main, report.tally
    rows = [
        ("Items", f"{report.items}: {report.shown} shown, {main.identical} identical (ties)"),
        ("Rated", f"{main.rated} items, {tally.total} votes, {_raters(report)}"),
        (
            f"Win share of {candidate}",
            f"{_share(main.share)} {_interval(main.interval)} (95% bootstrap)",
        ),
        ("Net preference", f"{_net(report)} of all votes (wins less losses)"),
        (
            "Items decided",
            f"{main.items_won} for {candidate}, {main.items_lost} for {reference}, "
            f"{main.items_even} even",
        ),
        ("Sign test on items", f"p = {main.sign_p:.4g} (exact, two-sided)"),
        *_registered(report),
        (
            "Decisive votes",
            f"{tally.wins} of {tally.decisive} for {candidate} "
            f"{_interval(main.decisive_interval)} (95% Wilson)",
        ),
        *_side_rows(report),
    ]
    if report.looks:
        rows.append(("Interim looks", str(report.looks)))
    if report.post_unblind:
        rows.append(("After the unsealing", f"{report.post_unblind} answers or changes, left out"))
    return rows


def _net(report: Report) -> str:
    tally = report.tally
    judged = tally.decisive + tally.ties
    return f"{(tally.wins - tally.losses) / judged:+.1%}" if judged else "-"


def _registered(report: Report) -> list[tuple[str, str]]:
    """The registered test where it is not the sign test itself."""
    test = report.test
    if test.name.startswith("exact"):
        return []
    rows = [("Registered test", test.name)]
    if not math.isnan(test.p):
        rows.append(("Always-valid p", f"{test.p:.4g}"))
    if test.sequence:
        rows.append(("Confidence sequence", f"{_interval(test.sequence)} (95%, at any moment)"))
    return rows


def _sections(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """The parts that a session may or may not have, as title and rows."""
    found = [
        ("Comparisons", _comparisons(report)),
        ("Ranking", _ranking(report)),
        ("Other choices of votes", [_line(line) for line in report.sensitivity]),
        ("Criteria", [_line(line) for line in report.criteria]),
        ("Tags", _tags(report)),
        ("Length and style", _style(report)),
        ("Agreement", _agreement(report)),
        ("Each rater", _each_rater(report)),
        ("By third of the session", [_third(third) for third in report.thirds]),
        ("Did the blind hold?", _blinding(report)),
    ]
    return [(title, rows) for title, rows in found if rows]


def _comparisons(report: Report) -> list[tuple[str, str]]:
    if len(report.comparisons) < 2:
        return []
    return [
        (
            f"{one.candidate} over {one.reference}",
            f"{_share(one.share)} {_interval(one.interval)}, items {one.items_won}:"
            f"{one.items_lost}, p = {one.sign_p:.3g}, {one.p_holm:.3g} adjusted (Holm)",
        )
        for one in report.comparisons
    ]


def _ranking(report: Report) -> list[tuple[str, str]]:
    found = report.ranking
    if found is None:
        return []
    rows = []
    for place in found.places:
        ranks = str(place.best) if place.best == place.worst else f"{place.best} to {place.worst}"
        low, high = place.interval
        rows.append(
            (
                place.system,
                f"rank {ranks}: {place.strength:+.3f} [{low:+.3f}, {high:+.3f}] log odds, "
                f"{_share(place.share)} against the mean system",
            )
        )
    low, high = found.gamma_interval
    rows.append((f"{found.model} model", f"nu {found.nu:.3f}, {found.verdicts} verdicts"))
    rows.append(("Left side", f"{found.gamma:+.3f} [{low:+.3f}, {high:+.3f}] log odds"))
    return rows


def _line(line: Line) -> tuple[str, str]:
    figures = f"{_share(line.share)} {_interval(line.interval)}, p = {line.p:.3g}"
    return line.name, f"{figures}, {line.items} items, {line.votes} votes"


def _tags(report: Report) -> list[tuple[str, str]]:
    candidate = report.pair[1]
    return [
        (tag, f"{tally.total} votes: {candidate} won {tally.wins}, lost {tally.losses}")
        for tag, tally in report.tags.items()
    ]


def _style(report: Report) -> list[tuple[str, str]]:
    found = report.style
    if found is None:
        return []
    names = {"raw": "Share by votes", "length": "At equal length", "style": "At equal style"}
    rows = [
        ("Longer answer", f"{_share(found.longer)} of items; length ratio {found.length_ratio:.2f}")
    ]
    rows += [
        (names[one.name], f"{_share(one.share)} {_interval(one.interval)} (95%, robust by item)")
        for one in found.adjusted
    ]
    rows += [
        (
            f"  {effect.name}",
            f"{effect.value:+.2f} [{effect.interval.low:+.2f}, {effect.interval.high:+.2f}] "
            "log odds",
        )
        for effect in found.effects
    ]
    return rows


def _each_rater(report: Report) -> list[tuple[str, str]]:
    if len(report.raters) < 2:
        return []
    return [(row.rater, _rater_words(row)) for row in report.raters if row.tally.total]


def _rater_words(row: RaterRow) -> str:
    parts = []
    if row.against_rest.pairs:
        parts.append(f"agrees with others {_rate(row.against_rest.same, row.against_rest.pairs)}")
    if not math.isnan(row.alpha_without):
        parts.append(f"alpha without {_number(row.alpha_without)}")
    if row.repeats.pairs:
        parts.append(f"repeats alike {row.repeats.same}/{row.repeats.pairs}")
    if row.catches.shown:
        parts.append(f"catches {row.catches.passed}/{row.catches.shown}")
    if row.side.decisive:
        parts.append(f"left side p = {row.side.p:.2g}")
    if row.bang:
        parts.append(f"Bang {row.bang.index:+.2f}")
    marks = [
        word for word, on in (("interested", row.interested), ("left out", row.left_out)) if on
    ]
    return "; ".join([*parts, *marks])


def _third(third: Third) -> tuple[str, str]:
    parts = [f"share {_share(third.share)}", f"ties {_share(third.tie_rate)}"]
    if not math.isnan(third.median_s):
        parts.append(f"{third.median_s:.0f} s an item")
    if third.agreement.pairs:
        parts.append(f"agreement {third.agreement.share:.0%}")
    if third.repeats.pairs:
        parts.append(f"repeats alike {third.repeats.same}/{third.repeats.pairs}")
    return f"Third {third.part}", ", ".join(parts)


def _blinding(report: Report) -> list[tuple[str, str]]:
    rows = []
    if found := report.blinding:
        overall = found.overall
        low, high = found.interval
        rows += [
            ("Bang's index", f"{overall.index:+.3f} [{low:+.3f}, {high:+.3f}]"),
            (
                "Guesses",
                f"{overall.correct} right, {overall.incorrect} wrong, {overall.unsure} don't know",
            ),
            ("James' index", _number(found.james)),
        ]
    recognised = sum(row.recognised for row in report.raters)
    if recognised:
        rows.append(("Recognised", f"{recognised} votes"))
    if report.guessability and not math.isnan(report.guessability.auc):
        style = report.guessability
        rows.append(
            ("By style alone", f"AUC {style.auc:.2f}, {_share(style.hits)} of pairs guessed right")
        )
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
    reference, candidate = report.pair
    tally = report.tally
    return [
        (f"{candidate} better", str(tally.wins)),
        (f"{reference} better", str(tally.losses)),
        ("both good", str(tally.ties_good)),
        ("both bad", str(tally.ties_bad)),
        ("cannot judge", str(tally.skips)),
        ("identical (items)", str(report.main.identical)),
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
    ties = _rate(found.answers.same, found.answers.pairs)
    decided = _rate(found.answers.same_decisive, found.answers.pairs_decisive)
    return [
        ("Items with 2+ raters", str(found.items)),
        ("Krippendorff's alpha", f"{_spread(found.alpha_ordinal, found.ordinal_interval)} ordinal"),
        ("", f"{_spread(found.alpha_nominal, found.nominal_interval)} nominal"),
        ("Gwet's AC1", f"{_spread(found.ac1, found.ac1_interval)}; kappa {_number(found.kappa)}"),
        ("Same answer", f"{ties} of pairs with ties (MT-Bench humans: 63%)"),
        ("Same, without ties", f"{decided} of pairs (MT-Bench humans: 81%)"),
    ]


def _spread(value: float, interval: Interval) -> str:
    return f"{_number(value)} [{_number(interval.low)}, {_number(interval.high)}]"


def _pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    lines = []
    for label, value in rows:
        start = f"  {_fit(label, 24)} "
        rest = " " * len(start)
        lines += textwrap.wrap(value, WIDTH, initial_indent=start, subsequent_indent=rest)
    return lines


def unsealed(report: Report) -> str:
    """When the session was sealed, and who opened it when and why."""
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
