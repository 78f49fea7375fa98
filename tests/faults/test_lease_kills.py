"""40 processes ask for 4 leases and 8 of them are killed: nobody shares, nothing is lost."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from finetui.jobs import leases
from finetui.jobs.leases import QueueBusyError, Request

ASKING, KILLS = 40, 8
KEYS = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]


def test_40_processes_4_leases_8_kills_and_no_double_hold(tmp_path):
    done = subprocess.run(
        [sys.executable, __file__, tmp_path / "leases", tmp_path / "log"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    print(f"{ASKING} processes, {len(KEYS)} leases, {len(told['killed'])} kills: {told}")
    assert len(told["killed"]) == KILLS and told["killed_holders"] >= 1
    assert told["double_holds"] == []
    assert told["unserved"] == [], done.stderr
    assert told["lost_leases"] == [] and told["left_tickets"] == []


def one_of_many(folder, log, seed, enough):
    """Ask, hold for a moment, give back, until there were enough kills; a line in the log each."""
    chance = random.Random(seed)
    while True:
        last = enough.exists()
        wants = chance.choice([1, 1, 1, 2, 4])
        request = Request(Path(folder), f"job {seed}", wants, KEYS)
        until(lambda request=request: request.enter() is None)
        until(lambda request=request: request.take(KEYS))
        write(log, "got", *request.holds)
        time.sleep(chance.uniform(0.01, 0.05))
        write(log, "left", *request.holds)
        request.leave()
        if last:
            return


def until(step):
    """Do a step of a waiter until it succeeds, as a supervisor does."""
    while True:
        with contextlib.suppress(QueueBusyError):  # 40 of them, on a machine that does much else
            if step():
                return
        time.sleep(0.04)


def write(log, what, *keys):
    line = json.dumps([time.monotonic(), os.getpid(), what, keys])
    os.write(log, line.encode() + b"\n")


def main(folder, log_path):
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    pids, enough = [], Path(f"{log_path}.enough")
    for seed in range(ASKING):
        pid = os.fork()
        if pid == 0:
            try:
                one_of_many(folder, log, seed, enough)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    killed = kill_some(Path(log_path), pids)
    enough.touch()
    codes = {pid: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids}
    print(json.dumps(judge(Path(folder), lines(log_path), killed, codes)))


def kill_some(log, pids):
    """Kill by turns one that holds leases and any one; returns {pid: time before its kill}."""
    chance, killed = random.Random(7), {}
    while len(killed) < KILLS:
        time.sleep(0.03)
        last_word = {pid: what for _, pid, what, _ in lines(log) if pid not in killed}
        holding = [pid for pid, what in last_word.items() if what == "got"]
        living = [pid for pid in pids if pid not in killed]
        choice = holding if len(killed) % 2 == 0 else living
        if choice:
            pid = chance.choice(choice)
            killed[pid] = time.monotonic()
            os.kill(pid, signal.SIGKILL)
    return killed


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def judge(folder, seen, killed, codes):
    spans, open_spans = [], {}
    for t, pid, what, keys in seen:
        for key in keys:
            if what == "got":
                open_spans[pid, key] = t
            else:
                spans.append((key, open_spans.pop((pid, key)), t))
    held_at_death = {pid for pid, _ in open_spans}
    spans += [(key, t, killed[pid]) for (pid, key), t in open_spans.items()]
    spans.sort()
    pairs = itertools.pairwise(spans)
    after = Request(folder, "after", len(KEYS), KEYS)
    after.enter()
    served = after.take(KEYS)
    after.leave()
    names = os.listdir(folder)
    return {
        "killed": list(killed),
        "killed_holders": len(held_at_death),
        "double_holds": [(one, two) for one, two in pairs if one[0] == two[0] and two[1] < one[2]],
        "unserved": [pid for pid, code in codes.items() if code != 0 and pid not in killed],
        "lost_leases": [] if served else KEYS,
        "left_tickets": [one for one in names if one.startswith(("ticket", leases._DRAFT))],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
