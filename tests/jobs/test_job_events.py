"""Event files: every number is told truly, and a reader sees whole events only."""

import json
import math
import threading

import pytest

from finetui.jobs.events import EventTail, EventWriter, encode
from finetui.jobs.folder import Job


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def test_numbers_that_are_not_finite_become_null_and_are_named(job):
    writer = EventWriter(job, 1)
    assert writer.write("step", step=3, loss=math.nan, lr=-math.inf, scores={"a": [1.0, math.nan]})
    writer.close()
    line = job.events_path(1).read_text()
    assert "NaN" not in line and "Infinity" not in line
    [event] = EventTail(job).read()
    assert event["loss"] is event["lr"] is None and event["scores"] == {"a": [1.0, None]}
    assert event["nonfinite"] == ["loss", "lr", "scores.a.1"]


def test_scalars_of_array_libraries_and_odd_text_are_written_plainly():
    class Scalar:
        def item(self):
            return 0.5

    event = json.loads(encode({"loss": Scalar(), "text": "a\ud800b\n", "shape": (1, 2)}))
    assert event == {"loss": 0.5, "text": "a\\ud800b\n", "shape": [1, 2]}


def test_a_torn_tail_is_kept_back_until_it_is_whole(job):
    path = job.events_path(1)
    tail = EventTail(job)
    assert tail.read() == []
    whole = '{"t":1,"kind":"message","text":"è"}\n'.encode()
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        assert len(EventTail(job).read()) == 1
    path.write_bytes(whole[:-5])
    assert tail.read() == []
    path.write_bytes(whole + whole[:9])
    assert [event["text"] for event in tail.read()] == ["è"]
    path.write_bytes(whole + whole)
    assert len(tail.read()) == 1 and tail.bad == 0


def test_a_writer_that_finds_a_torn_line_starts_a_new_one(job):
    job.events_path(1).write_bytes(b'{"t":1,"kind":"step","lo')
    writer = EventWriter(job, 1)
    writer.write("message", text="after")
    writer.close()
    tail = EventTail(job)
    assert [event["text"] for event in tail.read()] == ["after"] and tail.bad == 1


@pytest.mark.parametrize("line", [b"[1]", b"{}", b'{"kind": 3}', b"\xff\xfe", b"NaN", b"{"])
def test_a_line_that_is_no_event_is_counted_and_passed_over(job, line):
    job.events_path(1).write_bytes(b'{"kind":"a"}\n' + line + b'\n\n{"kind":"b"}\n')
    tail = EventTail(job)
    assert [event["kind"] for event in tail.read()] == ["a", "b"] and tail.bad == 1


def test_attempts_are_read_in_order_and_marked(job):
    for attempt in (2, 10, 1):
        writer = EventWriter(job, attempt)
        writer.write("step", step=attempt)
        writer.close()
    events = EventTail(job).read()
    assert [(event["attempt"], event["step"]) for event in events] == [(1, 1), (2, 2), (10, 10)]


def test_a_reader_beside_the_writer_sees_every_event_once_and_in_order(job):
    writer = EventWriter(job, 1)
    count = 3000

    def write():
        for step in range(count):
            writer.write("step", step=step, note="é" * (step % 50))

    thread = threading.Thread(target=write)
    tail = EventTail(job)
    seen = []
    thread.start()
    while thread.is_alive():
        seen += tail.read()
    seen += tail.read()
    writer.close()
    assert [event["step"] for event in seen] == list(range(count)) and tail.bad == 0


def test_events_of_several_threads_do_not_mix(job):
    writer = EventWriter(job, 1)
    threads = [
        threading.Thread(target=lambda n=n: [writer.write("step", step=n) for _ in range(300)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    tail = EventTail(job)
    assert len(tail.read()) == 1200 and tail.bad == 0


def test_a_file_that_was_replaced_is_read_from_its_start(job):
    path = job.events_path(1)
    path.write_bytes(b'{"kind":"a"}\n{"kind":"b"}\n')
    tail = EventTail(job)
    tail.read()
    path.write_bytes(b'{"kind":"c"}\n')
    assert [event["kind"] for event in tail.read()] == ["c"]
