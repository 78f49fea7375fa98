"""tokenloss.jsonl: the loss of each token of some rows, before and after training.

Written by a job of kind tokenloss, a line a row (or a side of a pair).
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from finetui.errors import BROKEN
from finetui.jobs.folder import Job, list_jobs

FILE = "tokenloss.jsonl"


class TokenLosses(msgspec.Struct, frozen=True):
    """Losses in nats of one row's tokens, in the order of `ids`: what the model reads of it.

    None for a token that nothing comes before. `tuned` is empty where no trained model was asked.
    """

    file: str
    line: int
    side: str
    ids: list[int]
    base: list[float | None]
    tuned: list[float | None]


def read(job: Job) -> list[TokenLosses]:
    """Return what a job has measured so far; [] when that is nothing."""
    try:
        lines = (job.path / FILE).read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=TokenLosses))
        except BROKEN:
            continue
    return found


def known(jobs_dir: Path, file: str, line: int) -> list[tuple[Job, TokenLosses]]:
    """Return what earlier jobs measured of one row, the newest job first."""
    return [
        (job, losses)
        for job in list_jobs(jobs_dir)
        if job.kind == "tokenloss"
        for losses in read(job)
        if losses.file == file and losses.line == line
    ]


def fitting(
    found: Sequence[tuple[Job, TokenLosses]], side: str, ids: Sequence[int]
) -> tuple[Job, TokenLosses] | None:
    """Return the newest measurement of exactly these tokens."""
    return next((each for each in found if each[1].side == side and each[1].ids == list(ids)), None)
