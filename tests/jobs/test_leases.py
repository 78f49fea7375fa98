"""Leases and tickets by themselves: who gets which GPU, in which order, and what a death leaves."""

import fcntl
import os
import stat
import subprocess
import sys
import time

import pytest

from finetui.errors import UserError
from finetui.jobs import leases, locks
from finetui.jobs.devices import DeviceSample, Gpu, GpuProcess, visible_gpus
from finetui.jobs.leases import Request

FOUR = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]


def gpu(index, key=None, **changes):
    plain = dict.fromkeys(("utilisation", "temperature", "power_w", "power_limit_w"))
    facts = {"name": "Fake", "memory_used": 0, "memory_total": 80 << 30, **plain, **changes}
    return Gpu(index=index, uuid=key or FOUR[index], **facts)


def sample(*gpus, problem=""):
    return DeviceSample(tuple(gpus), None, problem, None, None, None)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "leases"


@pytest.fixture
def ask(folder):
    """A function that draws a ticket: ask(job, wants, among)."""
    made = []

    def request(job, wants=1, among=FOUR):
        made.append(Request(folder, job, wants, among))
        made[-1].enter()
        return made[-1]

    yield request
    for one in made:
        one.leave()


def test_each_gets_one_until_none_is_left_and_a_leaving_one_frees_it(ask):
    first, second, third = ask("one", among=FOUR[:2]), ask("two", among=FOUR[:2]), ask("three")
    assert first.take(FOUR[:2]) and second.take(FOUR[:2])
    assert {*first.holds, *second.holds} == {"GPU-a", "GPU-b"}
    assert not third.take(["GPU-a", "GPU-b"])
    second.leave()
    assert third.take(["GPU-a", "GPU-b"]) and third.holds == ("GPU-b",)


def test_all_or_nothing(ask):
    one = ask("one")
    assert one.take(["GPU-c"])
    four = ask("four", wants=4)
    assert not four.take(FOUR) and four.holds == ()
    assert leases.overview(sample(*map(gpu, range(4))), one.folder).leases[0].held is False
    one.leave()
    assert four.take(FOUR) and four.holds == tuple(FOUR)


def test_who_came_first_is_first_also_when_it_wants_more(ask):
    holder, big, small = ask("holder"), ask("big", wants=2, among=FOUR[:2]), ask("small")
    assert holder.take(["GPU-a"])
    assert not big.take(FOUR[:2])
    assert not small.take(["GPU-b"]), "GPU-b is kept for the one that waits for two"
    assert small.take(["GPU-b", "GPU-c"]) and small.holds == ("GPU-c",)
    holder.leave()
    assert big.take(FOUR[:2])


def test_who_waits_for_a_stranger_to_leave_keeps_nobody_from_the_rest(ask):
    big, small = ask("big", wants=4), ask("small")
    assert not big.take(FOUR[:3], blocked=["GPU-d"])
    assert small.take(FOUR[:3], blocked=["GPU-d"])


def test_a_waiter_that_stopped_looking_is_passed_over(ask, monkeypatch):
    stopped, other = ask("stopped"), ask("other")
    assert not other.take(FOUR)
    monkeypatch.setattr(leases, "_SILENT_S", -1.0)
    assert other.take(FOUR)
    assert stopped.take(FOUR)


def test_a_dead_ones_ticket_is_removed_and_its_lease_is_free(ask, folder):
    program = (
        "import sys, time; from pathlib import Path; from finetui.jobs.leases import Request\n"
        "one = Request(Path(sys.argv[1]), 'dead', 1, ['GPU-a']); one.enter()\n"
        "print(one.take(['GPU-a']), flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"True\n"
    heir = ask("heir", among=["GPU-a"])
    assert not heir.take(["GPU-a"])
    held = leases.overview(sample(gpu(0)), folder).leases[0]
    assert held.held and held.holder.job == "dead" and held.holder.pid == child.pid
    child.kill()
    child.communicate()
    assert heir.take(["GPU-a"])
    assert len([name for name in os.listdir(folder) if name.startswith("ticket")]) == 1


def test_what_is_inherited_is_held_by_the_worker_too_but_not_by_its_forks(ask, tmp_path):
    """The supervisor's death must free nothing; a data loader that is left must keep nothing."""
    one = ask("one")
    assert one.take(["GPU-a"])
    program = (
        "import os, sys, time; from pathlib import Path; from finetui.jobs import locks\n"
        "lock = locks.WorkerLock(Path(sys.argv[1]), 0)\n"
        "if os.fork() == 0: os.setsid(); print('fork', flush=True); time.sleep(60)\n"
        "time.sleep(60)"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "worker.lock"],
        stdout=subprocess.PIPE,
        pass_fds=one.descriptors,
        env={**os.environ, locks.INHERITED_VARIABLE: locks.described(one.descriptors)},
    )
    assert worker.stdout.readline() == b"fork\n"
    [left] = [int(word) for word in _children(worker.pid)]
    try:
        folder = one.folder
        for descriptor in one.descriptors:
            os.close(descriptor)  # as a kill of the supervisor does
        one._leases, one._ticket, one._kept = {}, -1, -1
        seen = leases.overview(sample(gpu(0)), folder).leases[0]
        assert seen.held and seen.holder.job == "one"
        other = ask("other", among=["GPU-a"])
        assert not other.take(["GPU-a"])
        worker.kill()
        worker.wait()
        assert os.path.exists(f"/proc/{left}")
        assert other.take(["GPU-a"])
    finally:
        os.kill(left, 9)
        worker.stdout.close()


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_told_descriptors_that_are_other_files_by_now_are_left_alone(tmp_path):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    told = locks.described([descriptor]).replace(f"{descriptor}:", f"{descriptor}:9", 1)
    os.environ[locks.INHERITED_VARIABLE] = f"{told},nonsense,,999999:1:1"
    try:
        os.set_inheritable(descriptor, True)
        locks.WorkerLock(tmp_path / "lock", 0).release()
        assert os.get_inheritable(descriptor)
    finally:
        del os.environ[locks.INHERITED_VARIABLE]
        os.close(descriptor)


def test_sharing_takes_the_free_leases_and_goes_beside_the_others(ask):
    first = ask("first")
    assert first.take(["GPU-a"])
    waiting = ask("waiting")
    second = ask("second", wants=2)
    assert second.share(["GPU-a", "GPU-b", "GPU-c"]) == ("GPU-a", "GPU-b")
    assert second.holds == ("GPU-b",)
    seen = leases.overview(sample(gpu(0), gpu(1)), first.folder)
    assert [one.job for one in seen.leases[0].sharers] == ["second"]
    assert seen.leases[1].holder.job == "second" and not seen.leases[0].free
    assert [one.job for one in seen.waiters] == ["waiting"]
    del waiting


def test_all_users_can_use_what_one_of_them_made(ask, folder):
    one = ask("one")
    assert one.take(["GPU-a"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert len(modes) == 3 and set(modes.values()) == {0o644}, modes


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the place of another user, so it needs root")
def test_another_user_gets_a_lease_in_the_files_of_the_first(ask, tmp_path, folder):
    mine = ask("mine", among=["GPU-a"])
    assert mine.take(["GPU-a"])
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and path != tmp_path.anchor and "pytest" in str(path):
            path.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            os.setuid(65534)
            theirs = Request(folder, "theirs", 1, FOUR)
            theirs.enter()
            code = int(theirs.take(["GPU-a"])) + 2 * int(theirs.take(["GPU-a", "GPU-b"]))
            dead = [name for name in os.listdir(folder) if name.startswith("ticket")]
            code += 4 * (len(dead) == 2)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 2 + 4
    # Its ticket died with it, and root may remove it.
    assert ask("next").take(["GPU-b"])
    assert sorted(one.job for one in _tickets(folder)) == ["mine", "next"]


def _tickets(folder):
    with leases._opened(folder) as place:
        return leases._living(place)


def test_a_folder_that_is_a_link_or_open_to_removal_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="cannot be opened"):
        Request(tmp_path / "link", "job", 1, FOUR).enter()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UserError, match="anybody may remove"):
        Request(tmp_path / "open", "job", 1, FOUR).enter()
    with pytest.raises(UserError, match="cannot be made"):
        Request(tmp_path / "not" / "there", "job", 1, FOUR).enter()
    assert "cannot be read" in leases.overview(sample(gpu(0)), tmp_path / "link").problem


def test_links_pipes_and_nonsense_in_the_folder_are_no_tickets(ask, folder, tmp_path):
    one = ask("one\x1b]52;c;x\x07" + "x" * 500)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / "gpu-GPU-a.lock").symlink_to(victim)
    (folder / "ticket-00000001-aaaaaaaa").symlink_to(victim)
    os.mkfifo(folder / "ticket-00000002-bbbbbbbb")
    (folder / "ticket-00000003-cccccccc").write_text("{" * 5000)
    (folder / "ticket-99999999999999999-dddddddd").write_text("{}")
    held = os.open(folder / "ticket-00000003-cccccccc", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    [ticket] = _tickets(folder)
    assert "\x1b" not in ticket.job and len(ticket.job) < 200
    with pytest.raises(OSError, match=r"gpu-GPU-a\.lock|symbolic"):
        one.take(["GPU-a"])
    assert one.take(["GPU-b"])
    assert victim.read_text() == "precious"
    os.close(held)


def test_a_lease_whose_file_was_replaced_is_locked_anew(ask, folder):
    one = ask("one")
    assert one.take(["GPU-a"])
    (folder / "gpu-GPU-a.lock").unlink()
    two = ask("two")
    assert two.take(["GPU-a"])  # the file that all others see by now
    assert not ask("three", among=["GPU-a"]).take(["GPU-a"])


def test_a_queue_that_a_stopped_process_holds_is_said_and_sharing_goes_past_it(
    ask, folder, monkeypatch
):
    one = ask("one")
    monkeypatch.setattr(leases, "_MUTEX_S", 0.05)
    held = locks.hold(folder / "queue.lock")
    try:
        with pytest.raises(leases.QueueBusyError):
            one.take(["GPU-a"])
        assert one.share(["GPU-a"]) == ("GPU-a",)
    finally:
        os.close(held)


def test_the_folder_is_the_same_for_all_users_of_a_machine(monkeypatch, tmp_path):
    assert leases.leases_folder({"FINETUI_LEASES": "off"}) is None
    assert leases.leases_folder({"FINETUI_LEASES": str(tmp_path)}) == tmp_path
    monkeypatch.setattr(leases, "_BASES", (tmp_path / "none", tmp_path))
    assert leases.leases_folder({"HOME": "/a"}) == tmp_path / "finetui-gpus"


def test_strangers_are_who_holds_memory_and_belongs_to_no_ticket(ask):
    own = GpuProcess(os.getpid(), 40 << 30, "me", "python")
    idle = GpuProcess(1, 100 << 20, "root", "Xorg")
    other = GpuProcess(1, 9 << 30, "bob", "python")
    one = ask("one")
    assert one.take(["GPU-a"])
    busy = gpu(0, memory_used=40 << 30, processes=(own, idle))
    beside = gpu(1, memory_used=9 << 30, processes=(other,))
    hidden = gpu(2, memory_used=30 << 30)
    driver = gpu(3, memory_used=1 << 30)
    seen = leases.overview(sample(busy, beside, hidden, driver), one.folder).leases
    assert [one.strangers for one in seen] == [
        (), (other,), (GpuProcess(0, 30 << 30, None, None),), (),
    ]  # fmt: skip
    assert [one.free for one in seen] == [False, False, False, True]


def test_a_run_may_use_what_cuda_would_show_it():
    seen = sample(gpu(0), gpu(1), gpu(2))

    def shown(value):
        return [one.uuid for one in visible_gpus(seen, {"CUDA_VISIBLE_DEVICES": value})]

    assert [one.index for one in visible_gpus(seen, {})] == [0, 1, 2]
    assert shown("2,0") == ["GPU-c", "GPU-a"]
    assert shown("GPU-b") == ["GPU-b"] and shown("") == [] and shown("-1") == []
    assert shown("1,7,0") == ["GPU-b"], "CUDA stops at the first name of none"
    assert shown("1,1") == ["GPU-b"]
    assert shown("MIG-1234/0/1") == ["MIG-1234/0/1"]


def test_who_clears_old_files_finds_the_folder_locked_while_a_lease_is_held(ask, folder):
    one = ask("one")
    cleaner = os.open(folder, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(cleaner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    one.leave()
    fcntl.flock(cleaner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(cleaner)


def test_an_overview_of_what_nobody_has_used_yet_makes_nothing(folder):
    seen = leases.overview(sample(gpu(0)), folder)
    assert seen.leases[0].free and seen.waiters == () and seen.problem == ""
    assert not folder.exists()


def test_looking_does_not_disturb_who_waits(ask, folder):
    one = ask("one")
    before = time.monotonic()
    for _ in range(50):
        leases.overview(sample(gpu(0)), folder)
    assert time.monotonic() - before < 5
    assert one.take(["GPU-a"])
