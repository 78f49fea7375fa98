"""Job folders: names, permissions, no secrets, and finding them again."""

import time

import pytest

from finetui.errors import UserError
from finetui.jobs import folder
from finetui.jobs.folder import Job, create, find_job, list_jobs


def test_two_jobs_of_one_second_get_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(folder.time, "time", lambda: 1_790_000_000.0)
    jobs = [create(tmp_path / "jobs", "train", "My Run!", {}, {}) for _ in range(3)]
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(1_790_000_000))
    names = [f"{stamp}-train-my-run{end}" for end in ("", "-2", "-3")]
    assert [job.id for job in jobs] == names
    assert [(job.kind, job.slug) for job in jobs[:2]] == [
        ("train", "my-run"),
        ("train", "my-run-2"),
    ]


def test_only_the_owner_can_read_a_job(tmp_path):
    job = create(tmp_path / "jobs", "train", "x", {"a": 1}, {})
    for path in (job.path, *job.path.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert (tmp_path / "jobs").stat().st_mode & 0o077 == 0


def test_files_that_the_processes_make_are_the_owners_alone(workshop):
    from job_workshop import ended, until

    job = workshop.start("steps", 2, 0.0)
    ended(job)
    until(job.exit)
    names = {path.name for path in job.path.iterdir()}
    assert {"events-a1.jsonl", "log-a1.txt", "proc.json", "outcome.json", "heartbeat"} <= names
    for path in job.path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_keys_and_passwords_are_not_written_and_other_tokens_are(tmp_path):
    spec = {
        "model": {"hf_token": "abc", "pad_token": "<pad>", "max_new_tokens": 64, "revision": None},
        "api_key": "k",
        "notes": "use hf_abcdefghijklmnopqrstuvwxyz and https://me:pw@host/x",
        "data": {"train": [tmp_path / "a.jsonl"]},
    }
    job = create(tmp_path / "jobs", "train", "x", spec, {"env": {"WANDB_API_KEY": "w"}})
    assert job.spec() == {
        "model": {"hf_token": "(removed)", "pad_token": "<pad>", "max_new_tokens": 64},
        "api_key": "(removed)",
        "notes": "use (removed) and https://(removed)@host/x",
        "data": {"train": [str(tmp_path / "a.jsonl")]},
    }
    assert job.manifest()["env"] == {"WANDB_API_KEY": "(removed)"}


def test_the_manifest_remembers_machine_versions_and_the_callers_hashes(tmp_path):
    job = create(tmp_path / "jobs", "train", "x", {}, {"data": {"a.jsonl": "sha256:1"}})
    manifest = job.manifest()
    assert manifest["data"] == {"a.jsonl": "sha256:1"}
    assert manifest["packages"]["msgspec"] and manifest["python"] and manifest["machine"]["cores"]


def test_jobs_are_listed_newest_first_and_half_made_ones_are_not(tmp_path, monkeypatch):
    jobs = []
    for t, slug in ((1_790_000_000.0, "b"), (1_790_000_000.5, "a"), (1_790_000_060.0, "c")):
        monkeypatch.setattr(folder.time, "time", lambda t=t: t)
        jobs.append(create(tmp_path, "train", slug, {}, {}))
    (tmp_path / ".new-half").mkdir()
    (tmp_path / "notes").mkdir()
    assert list_jobs(tmp_path) == jobs[::-1]
    assert list_jobs(tmp_path / "nowhere") == []


def test_a_job_is_found_by_what_people_type(tmp_path):
    one = create(tmp_path, "train", "support", {}, {})
    two = create(tmp_path, "generate", "other", {}, {})
    assert find_job(tmp_path, "support") == one
    assert find_job(tmp_path, two.id) == two
    assert find_job(tmp_path, str(one.path)) == one
    assert find_job(tmp_path, "last") == two
    with pytest.raises(UserError, match="fits 2 jobs"):
        find_job(tmp_path, "-")
    with pytest.raises(UserError, match="no job is called"):
        find_job(tmp_path, "nothing")


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="Choose one of train"):
        create(tmp_path, "nonsense", "x", {}, {})


def test_a_broken_spec_is_said_and_broken_records_read_as_absent(tmp_path):
    job = create(tmp_path, "train", "x", {}, {})
    (job.path / "spec.toml").write_text("a = ")
    for name in ("proc.json", "exit.json", "outcome.json"):
        (job.path / name).write_text('{"pid": ')
    with pytest.raises(UserError, match="spec cannot be read"):
        job.spec()
    assert job.proc() is job.exit() is job.outcome() is None


def test_attempts_sort_by_number_and_the_next_one_is_free(tmp_path):
    job = Job(tmp_path)
    for attempt in (10, 2, 1):
        job.events_path(attempt).touch()
    job.log_path(11).touch()
    assert [path.name for path in job.events_files()] == [
        "events-a1.jsonl",
        "events-a2.jsonl",
        "events-a10.jsonl",
    ]
    assert job.next_attempt() == 12
