"""Long runs: samples first, then the exact history out of a digest, equal to a plain reading."""

import json
import math
import random
import time

import msgspec
import pytest

from finetui.jobs import digest, monitor, reading
from finetui.jobs.folder import create
from finetui.jobs.history import History
from finetui.jobs.monitor import JobReader
from finetui.jobs.reading import Reading


def step_event(step, dice, **more):
    event = {"t": 1000.0 + step / 10, "kind": "step", "step": step, "loss": dice.gauss(2, 0.1),
             "lr": 1e-4, "grad_norm": dice.random(), "tokens": step * 100,
             "trained_tokens": step * 40, "tokens_per_s": 900.0, "step_s": 0.1,
             "memory_bytes": 5 << 30, "rss_bytes": 1 << 30, "epoch": step / 1000,
             "rows": [[0, step]]}  # fmt: skip
    return event | more


def odd_run(count, seed=0, start=1):
    """Steps with everything among them that a run may have."""
    dice = random.Random(seed)
    yield {"t": 1000.0, "kind": "start", "total_steps": 2 * count, "device": "cpu"}
    for step in range(start, start + count):
        event = step_event(step, dice)
        if dice.random() < 0.01:
            event |= {"loss": None, "nonfinite": ["loss"]}
        if dice.random() < 0.05:
            event |= {"figures": {"kl": dice.random()}}
        if dice.random() < 0.02:
            del event["grad_norm"]
        if dice.random() < 0.01:
            event |= {"step": "x", "tokens": []}
        if dice.random() < 0.005:
            event["step"] = max(1, step - 40)  # goes back
        yield event
        if step % 100 == 0:
            yield {"t": event["t"], "kind": "eval", "step": step, "loss": 2.0 - step / 1e5,
                   "probe_loss": 1.0, "figures": {"accuracy": 0.5}}  # fmt: skip
            yield {"t": event["t"], "kind": "guard", "step": step, "guard": "spike",
                   "action": "skip", "text": "a spike", "rows": [[0, 3]], "value": 9.5}  # fmt: skip
            yield {"t": event["t"], "kind": "checkpoint", "step": step}


def lines_of(events):
    return [json.dumps(event, separators=(",", ":")).encode() for event in events]


def write(job, lines, attempt=1):
    with job.events_path(attempt).open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))


def everything(history):
    curves = {}
    for name, curve in history.curves.items():
        view = curve.view()
        curves[name] = [
            (view.step(i), view.value(i) if math.isfinite(view.value(i)) else None)
            for i in range(len(view))
        ]
    known = msgspec.json.encode({**history.now(), "spans": history.ledger.spans})
    return known, curves, history.eta()


def read_whole(job):
    found = Reading(job)
    while found.advance():
        pass
    return found


@pytest.fixture
def job(tmp_path):
    return create(tmp_path / "jobs", "train", "x", {}, {})


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def short(monkeypatch):
    """What is a long run for the reader, small enough for a test."""
    monkeypatch.setattr(monitor, "SHORT_BYTES", 20_000)
    monkeypatch.setattr(reading, "_BLOCKS", 16)
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 2_000)
    monkeypatch.setattr(reading, "_END_BYTES", 4_000)


def test_many_lines_at_once_are_as_many_one_by_one():
    lines = [*lines_of(odd_run(3000)), b"no event", b"[1]"]
    together, single = History(), History()
    bad = together.take_all(lines, 1)
    assert bad == 2 and [single.take(line, 1) for line in lines].count(False) == 2
    assert everything(together) == everything(single)


def test_a_digest_says_what_the_events_say(job, cache):
    write(job, [*lines_of(odd_run(3000)), b"torn"])
    whole = read_whole(job)
    digest.save(whole, cache)
    loaded = digest.load(cache, job)
    assert loaded.behind() == 0 and loaded.bad == 1
    assert everything(loaded.history) == everything(whole.history)
    loaded.release()  # what drawing brought into memory comes again when it is needed
    assert everything(loaded.history) == everything(whole.history)


def test_a_digest_goes_on_with_what_came_since_and_with_the_next_attempt(job, cache):
    write(job, lines_of(odd_run(2000)))
    digest.update(job, cache)
    write(job, lines_of(odd_run(300, seed=1, start=2001)))
    write(job, lines_of(odd_run(300, seed=2, start=1500)), attempt=2)
    loaded = digest.load(cache, job)
    while loaded.advance():
        pass
    assert everything(loaded.history) == everything(read_whole(job).history)
    digest.update(job, cache)
    again = digest.load(cache, job)
    assert again.behind() == 0
    assert everything(again.history) == everything(loaded.history)


@pytest.mark.parametrize("keep", [0, 5, 40, 400, -8])
def test_a_damaged_digest_counts_as_absent_and_is_made_anew(job, cache, keep):
    write(job, lines_of(odd_run(500)))
    digest.update(job, cache)
    path = digest.path_of(cache, job)
    path.write_bytes(path.read_bytes()[:keep])
    assert digest.load(cache, job) is None
    digest.update(job, cache)
    assert digest.load(cache, job).behind() == 0 or keep == 0


def test_a_digest_of_other_events_is_not_used(job, cache):
    write(job, lines_of(odd_run(200)))
    digest.update(job, cache)
    job.events_path(1).write_bytes(b"".join(x + b"\n" for x in lines_of(odd_run(200, seed=5))))
    assert digest.load(cache, job) is None
    job.events_path(1).unlink()
    assert digest.load(cache, job) is None


def poll_until_exact(reader, snapshot):
    deadline = time.monotonic() + 20
    while not snapshot.exact and time.monotonic() < deadline:
        snapshot = reader.poll() or snapshot
    return snapshot


def test_a_long_run_shows_samples_at_once_and_soon_all_of_it(job, cache, short):
    write(job, lines_of(odd_run(3000)))
    reader = JobReader(job, cache=cache)
    first = reader.poll()
    assert not first.exact and first.step == 3000 and first.total_steps == 6000
    loss = first.curve("loss")
    assert 100 < len(loss) < 1500 and loss.step(0) == 1
    assert all(part.count for part in loss.parts(0, 250, 12))  # a picture without holes
    write(job, lines_of(odd_run(5, start=3001)))
    now = poll_until_exact(reader, first)
    assert everything(reader._reading.history) == everything(read_whole(job).history)
    assert now.step == 3005 and len(now.curve("loss")) > 2000
    again = JobReader(job, cache=cache).poll()
    assert again.exact and again.step == 3005


def test_a_long_run_is_read_without_a_cache_too(job, short, tmp_path):
    write(job, lines_of(odd_run(3000)))
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    for cache in (None, nowhere / "cache"):
        reader = JobReader(job, cache=cache)
        first = reader.poll()
        assert not first.exact
        now = poll_until_exact(reader, first)
        assert now.exact and now.step == 3000
        assert everything(reader._reading.history) == everything(read_whole(job).history)


def test_watching_for_long_does_not_fill_the_memory(job, cache, short):
    write(job, lines_of(odd_run(50)))
    reader = JobReader(job, cache=cache)
    assert reader.poll().exact
    write(job, lines_of(odd_run(200, seed=1, start=51)))
    assert reader.poll().exact and reader._reading.taken > 20_000
    deadline = time.monotonic() + 20
    while reader._reading.taken > 20_000 and time.monotonic() < deadline:
        write(job, lines_of(odd_run(1, start=300)))
        assert reader.poll().exact
        time.sleep(0.01)
    assert reader._reading.taken < 20_000  # it began anew from a digest
    assert everything(reader._reading.history) == everything(read_whole(job).history)
