"""Log tails: what a terminal would show, as plain lines."""

import subprocess
import sys

import pytest
from job_workshop import until
from small_disk import small_disk

from finetui.jobs.logs import plain, tail


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("  0%|   | 0/9\r 50%|#  | 4/9\r100%|###| 9/9", "100%|###| 9/9"),
        ("long text\rab", "abng text"),
        ("done\r", "done"),
        ("\x1b[31mred\x1b[0m and \x1b[1;38;5;9mbold\x1b[m", "red and bold"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]52;c;ZXZpbA==\x1b\\text", "text"),
        ("a\x1b[2Kb\x1b[Ac", "abc"),
        ("\x1b(Bplain", "plain"),
    ],
)
def test_progress_bars_and_colours_are_played_out(raw, shown):
    assert plain(raw) == shown


def test_the_tail_of_a_long_log_is_its_last_whole_lines(tmp_path):
    path = tmp_path / "log"
    path.write_text("".join(f"line {number} é\n" for number in range(20_000)) + "half")
    assert tail(path, 3) == ["line 19998 é", "line 19999 é", "half"]
    assert len(tail(path, 10_000)) < 10_000 and tail(path, 10_000)[0].startswith("line ")
    assert tail(tmp_path / "none", 3) == []


def test_bytes_that_are_no_text_are_shown_as_such(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"\xff\xfeabc\n")
    assert tail(path, 5) == ["\ufffd\ufffdabc"]


def test_a_full_disk_costs_lines_of_the_log_and_no_print_fails(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        log = disk.path / "log.txt"
        program = (
            "import sys\n"
            "from finetui.jobs.logs import forgive_full_disk\n"
            "forgive_full_disk()\n"
            "print('first')\n"
            "input()\n"
            "for number in range(2000): print('x' * 80, file=sys.stderr, flush=True)\n"
            "print('é' * 50_000)\n"
        )
        with log.open("ab") as file:
            worker = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=file, stderr=file
            )
            until(lambda: log.read_text() == "first\n")
            disk.fill()
            worker.communicate(b"\n", timeout=60)
        assert worker.returncode == 0
        assert log.stat().st_size < 100_000
