"""Rows whose length, or tokens to the character, is far from that of all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetui.data.whole.facts import Cell, Facts, write
from finetui.data.whole.model import WholeHit, WholeSet
from finetui.data.whole.profile import Profile, profile_of
from finetui.data.whole.said import said

_FEWEST = 50
_SPREADS = 6.0  # robust standard deviations of the logarithm
_LEAST_SPREAD = 0.25
_FACTOR = 8.0  # and at least so many times longer or shorter than the middle row
_TYPICAL = 200  # middle lengths below this have no "too short"
_MOST_SHARE = 0.01  # more than this share are no outliers but a second kind of row
_DENSE = 1.8  # tokens a byte against rows of the same script
_FEWEST_BYTES = 200
_PROBE = 2_000


def lengths(whole: WholeSet) -> Iterator[WholeHit]:
    """Prompts and answers far longer, and answers far shorter, than nearly all others."""
    for source in range(len(whole.sources)):
        profile = profile_of(whole, source)
        if len(profile) >= _FEWEST:
            yield from _odd_lengths(profile, source)
    profile = profile_of(whole)
    if len(profile):
        write(whole, "length-outlier", _facts(profile))


def _odd_lengths(profile: Profile, source: int) -> Iterator[WholeHit]:
    for name, chars in (("prompt", profile.prompt_chars), ("answer", profile.answer_chars)):
        used = np.flatnonzero(chars > 0)
        if len(used) < _FEWEST:
            continue
        middle = float(np.median(chars[used]))
        for place in used[_far(chars[used], short=name == "answer")]:
            size = int(chars[place])
            ratio = size / middle if size > middle else middle / max(1, size)
            word = "longer" if size > middle else "shorter"
            yield WholeHit(
                source,
                int(profile.rows[place]),
                f"the {name} has {size:,} characters, {ratio:,.0f} times {word} than the middle "
                f"one ({middle:,.0f})",
            )


def _far(chars: NDArray[Any], short: bool) -> NDArray[np.int64]:
    """Places of the lengths that are far out on the long side, and on the short one."""
    logs = np.log(chars.astype(np.float64))
    middle = float(np.median(logs))
    spread = max(_LEAST_SPREAD, 1.4826 * float(np.median(np.abs(logs - middle))))
    reach = max(_SPREADS * spread, float(np.log(_FACTOR)))
    far = logs > middle + reach
    if short and middle > np.log(_TYPICAL):
        far |= logs < middle - reach
    places = np.flatnonzero(far)
    return places if len(places) <= max(3, _MOST_SHARE * len(chars)) else places[:0]


def _facts(profile: Profile) -> Facts:
    rows = []
    for name, chars in (("prompt", profile.prompt_chars), ("answer", profile.answer_chars)):
        marks = np.percentile(chars, (0, 5, 50, 95, 100)).astype(np.int64).tolist()
        rows.append([name, *marks, int(chars.sum(dtype=np.int64))])
    header = ("characters", "least", "5 %", "middle", "95 %", "most", "in all")
    return Facts("Lengths", header, rows)


def tokens(whole: WholeSet) -> Iterator[WholeHit]:
    """Rows with far more tokens to the byte than others of their script: blobs, broken text.

    Needs a model folder. Counts are those of words (right but for one here and there).
    """
    if whole.options.model_dir is None:
        return
    from finetui.data.checks.window import WordTokens
    from finetui.data.tokens import load_chat_tokenizer

    count = WordTokens(load_chat_tokenizer(whole.options.model_dir)).count
    last = len(whole.sources) - 1
    rows, sizes, found, plain = _counted(whole, count)
    told: list[list[Cell]] = []
    for script, members in (("ASCII", plain), ("other", ~plain)):
        used = np.flatnonzero(members & (sizes >= _FEWEST_BYTES))
        if members.any():
            told.append([script, int(members.sum()), int(found[members].sum())])
        if len(used) < _FEWEST:
            continue
        density = found[used] / sizes[used]
        middle = float(np.median(density))
        spread = max(0.05 * middle, 1.4826 * float(np.median(np.abs(density - middle))))
        far = used[(density > middle + _SPREADS * spread) & (density > _DENSE * middle)]
        for place in far if len(far) <= max(3, _MOST_SHARE * len(used)) else ():
            yield WholeHit(
                last,
                int(rows[place]),
                f"{found[place]:,} tokens for {sizes[place]:,} bytes, "
                f"{found[place] / sizes[place] / middle:.1f} times as many as is usual here",
            )
    write(
        whole,
        "token-outlier",
        Facts("Tokens of the texts, without the template", ("text", "rows", "tokens"), told),
    )


def _counted(whole: WholeSet, count: Any) -> tuple[NDArray[Any], ...]:
    """Row numbers, bytes and tokens of prompt and answer, and whether all is ASCII."""
    rows, sizes, found, plain = [], [], [], []
    expected = whole.sources[-1].estimated_rows
    for row, prompt, answer, _ in said(whole.sources[-1], whole.shape, whole.stop):
        texts = (prompt, answer)
        ascii_only = texts[0].isascii() and texts[1].isascii()
        size = sum(len(t) if ascii_only else len(t.encode(errors="replace")) for t in texts)
        rows.append(row)
        sizes.append(size)
        found.append(sum(map(count, texts)))
        plain.append(ascii_only)
        if len(rows) % 10_000 == 0:
            whole.progress(len(rows), expected)
    return np.array(rows), np.array(sizes), np.array(found), np.array(plain, bool)
