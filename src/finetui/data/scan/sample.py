"""How many findings there will be, from a random sample of a large file.

Blocks of the file are drawn, not rows, so that nothing needs an index: a row belongs to the block
it begins in. Faults come in clusters, so the intervals are those of a sample of clusters.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

from finetui.data.findings import Estimate
from finetui.data.formats.source import JsonlSource
from finetui.data.scan.rows import RowScan

BLOCK = 1 << 16
SHARE = 0.02
_FEWEST = 40  # blocks: fewer say little about rare findings
_WIDE = 1.96  # standard errors that hold 95 of 100 samples


def estimated(
    source: JsonlSource, scan: RowScan, stop: Callable[[], bool] | None = None
) -> dict[str, Estimate]:
    """Estimates for every check of ``scan`` with a finding in a sample of 2 % of the file."""
    blocks = -(-source.size // BLOCK)
    count = min(blocks, max(_FEWEST, round(SHARE * blocks)))
    drawn = sorted(Random(source.size).sample(range(blocks), count))
    found: list[Counter[str]] = []
    for block in drawn:
        if stop and stop():
            return {}
        scan.renew([])
        for place, lines in _rows_of(source, block):
            scan.block(0, place, lines)
        found.append(Counter(one.check for one in scan.spots))
    checks = {check for counter in found for check in counter}
    return {check: _estimate([one[check] for one in found], blocks) for check in sorted(checks)}


def _rows_of(source: JsonlSource, block: int) -> Iterator[tuple[int, bytes]]:
    """(byte offset, whole lines) of the rows that begin in a block."""
    start, end = block * BLOCK, min((block + 1) * BLOCK, source.size)
    if block == 0:
        start = source.offset(0)  # after a byte-order mark
    else:
        before = os.pread(source.descriptor, end - start + 1, start - 1)
        start += before.find(b"\n") if b"\n" in before else len(before)
    if start >= end:
        return
    text = os.pread(source.descriptor, end - start, start)
    place = end
    while not text.endswith(b"\n"):
        more = os.pread(source.descriptor, BLOCK, place)
        cut = more.find(b"\n") + 1
        text += more[:cut] if cut else more
        place += len(more)
        if not more:
            break
    yield start, text


def _estimate(counts: list[int], blocks: int) -> Estimate:
    """From the findings in each drawn block, for all blocks."""
    drawn, seen = len(counts), sum(counts)
    scale, mean = blocks / drawn, seen / drawn
    variance = sum((count - mean) ** 2 for count in counts) / max(1, drawn - 1)
    error = _WIDE * blocks * math.sqrt((1 - drawn / blocks) * variance / drawn)
    # Few findings: the interval of a Poisson count, which is never as narrow as the normal one.
    open_share = math.sqrt(1 - drawn / blocks)
    least = scale * max(0.0, math.sqrt(seen) - _WIDE / 2 * open_share) ** 2
    most = scale * (math.sqrt(seen + open_share) + _WIDE / 2 * open_share) ** 2
    total = seen * scale
    low = max(seen, math.floor(min(total - error, least)))
    return Estimate(round(total), low, math.ceil(max(total + error, most)))
