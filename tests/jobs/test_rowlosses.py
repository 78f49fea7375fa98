"""Row losses are written in whole records, and a row is found again among millions."""

import math
import os
import struct

import pytest

from finetui.jobs import rowlosses
from finetui.jobs.rowlosses import RowLoss, RowLosses, RowLossWriter, Stubborn, path_of


@pytest.fixture
def job(workshop):
    return workshop.job()


@pytest.fixture
def writer(job):
    made = RowLossWriter(job, 1)
    yield made
    made.close()


def fill(writer: RowLossWriter) -> None:
    writer.append(1, [[0, 7], [1, 7]], [8.0, 3.0], [4, 3])
    writer.append(2, [[0, 9]], [2.0], [1])
    writer.append(4, [[0, 7]], [math.nan], [4], skipped=True)
    writer.append(5, [[1, 7], [0, 9]], [6.0, 1.0], [3, 1])


def test_the_rows_of_a_step_come_worst_first(job, writer):
    fill(writer)
    rows = RowLosses(job)
    assert rows.rows_at(1) == [RowLoss(1, 0, 7, 4, 8.0), RowLoss(1, 1, 7, 3, 3.0)]
    assert [row.mean for row in rows.rows_at(1)] == [2.0, 1.0]
    assert rows.rows_at(3) == rows.rows_at(99) == []
    assert rows.last_step == 5


def test_a_loss_that_is_no_number_is_kept_and_comes_first(job, writer):
    fill(writer)
    first, *others = RowLosses(job).rows_between(2, 5)
    assert math.isnan(first.loss) and first.skipped and first.step == 4
    assert [(row.step, row.file) for row in others] == [(2, 0), (5, 1), (5, 0)]


def test_the_history_of_a_row_is_its_own(job, writer):
    fill(writer)
    assert RowLosses(job).history(1, 7) == [RowLoss(1, 1, 7, 3, 3.0), RowLoss(5, 1, 7, 3, 6.0)]
    assert RowLosses(job).history(5, 5) == []


def test_bytes_that_look_like_a_row_in_the_wrong_place_are_no_row(job, writer):
    # Step 7 and items 0 are, as bytes, line 7 of file 0.
    writer.append(7, [[3, 4]], [1.0], [0])
    assert RowLosses(job).history(0, 7) == []
    assert len(RowLosses(job).history(3, 4)) == 1


def test_stubborn_rows_are_those_whose_loss_stays_high(job, writer):
    fill(writer)
    writer.append(6, [[0, 7]], [20.0], [4])
    assert RowLosses(job).stubborn(2) == [
        Stubborn(0, 7, 3, 2.0, 5.0),
        Stubborn(1, 7, 2, 1.0, 2.0),
    ]
    assert [row.line for row in RowLosses(job).stubborn(9, visits=3)] == [7]


def test_a_growing_file_is_seen_as_it_grows(job, writer):
    rows = RowLosses(job)
    assert (rows.last_step, rows.rows_at(1), rows.stubborn(3)) == (None, [], [])
    fill(writer)
    assert rows.last_step == 5
    writer.append(6, [[0, 1]], [1.0], [1])
    assert rows.last_step == 6


def test_a_later_attempt_says_how_a_repeated_step_went(job, writer):
    fill(writer)
    again = RowLossWriter(job, 2)
    again.append(5, [[0, 1]], [9.0], [1])
    again.close()
    assert RowLosses(job).rows_at(5) == [RowLoss(5, 0, 1, 1, 9.0)]
    assert len(RowLosses(job).rows_at(1)) == 2


@pytest.mark.parametrize("room", [1, 23, 24, 25, 47])
def test_a_full_disk_delays_records_and_displaces_none(job, writer, monkeypatch, room):
    writer.append(1, [[0, 1]], [1.0], [1])
    real, left = os.write, [room]

    def write(file, data):
        taken = real(file, data[: left[0]]) if left[0] else 0
        left[0] -= taken
        if not taken:
            raise OSError(28, "No space left on device")
        return taken

    monkeypatch.setattr(os, "write", write)
    assert not writer.append(2, [[0, 2], [0, 3]], [1.0, 1.0], [1, 1])
    assert not writer.append(3, [[0, 4]], [1.0], [1])
    monkeypatch.undo()
    assert writer.append(4, [[0, 5]], [1.0], [1])
    lines = [row.line for row in sorted(RowLosses(job).rows_between(1, 4), key=lambda r: r.line)]
    assert lines == [1, 2, 3, 4, 5]
    assert (path_of(job, 1).stat().st_size - 16) % 24 == 0


def test_a_torn_end_and_a_foreign_file_are_passed_over(job, writer):
    fill(writer)
    with path_of(job, 1).open("ab") as file:
        file.write(b"torn")
    path_of(job, 3).write_bytes(b"something else entirely, thirty bytes")
    assert RowLosses(job).last_step == 5
    reopened = RowLossWriter(job, 1)
    reopened.append(6, [[0, 1]], [1.0], [1])
    reopened.close()
    assert RowLosses(job).last_step == 6


def test_a_row_is_found_without_reading_the_others(job, writer, monkeypatch):
    record = struct.Struct("<IIIIfI")
    block = b"".join(record.pack(n % 50_000 + 1, 0, n // 8, 5, 1.0, 0) for n in range(100_000))
    with path_of(job, 1).open("ab") as file:
        if not file.tell():
            file.write(rowlosses._HEAD)
        file.write(block)
    seen = []
    real = rowlosses._row
    monkeypatch.setattr(rowlosses, "_row", lambda view, i: seen.append(i) or real(view, i))
    assert [row.step for row in RowLosses(job).history(0, 50)] == [6, 6256]
    assert len(RowLosses(job).rows_at(12_499)) == 8
    assert len(seen) == 10, "only the rows that are told were unpacked"


def test_steps_that_a_later_attempt_makes_again_count_once(job, writer):
    fill(writer)
    later = RowLossWriter(job, 2)
    assert RowLosses(job).last_step == 5, "nothing was made again yet"
    later.append(2, [[0, 7]], [1.0], [4])
    rows = RowLosses(job)
    assert [row.step for row in rows.history(0, 7)] == [1, 2]
    assert rows.rows_at(4) == rows.rows_at(5) == [] and rows.last_step == 2
    assert [(row.step, row.loss) for row in rows.rows_between(1, 9)] == [(1, 8.0), (1, 3.0), (2, 1)]
    later.close()
