"""Live frames wait for a slow terminal, and not for one that never answers."""

from finetui.tui.pacing import ASK, FIRST_PATIENCE, PATIENCE, STRIKES, Pacer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_next_frame_waits_until_the_terminal_has_answered():
    written: list[str] = []
    pacer = Pacer(written.append, Clock())
    assert pacer.ready
    pacer.sent()
    assert written == [ASK]
    assert not pacer.ready
    pacer.answered()
    assert pacer.ready


def test_a_terminal_that_never_answers_is_not_asked_for_ever():
    written: list[str] = []
    clock = Clock()
    pacer = Pacer(written.append, clock)
    for _ in range(STRIKES + 2):
        pacer.sent()
        clock.now += FIRST_PATIENCE
        assert pacer.ready
    assert written == [ASK] * STRIKES


def test_a_slow_terminal_that_has_answered_before_gets_more_time():
    clock = Clock()
    pacer = Pacer(lambda _: None, clock)
    pacer.sent()
    pacer.answered()
    pacer.sent()
    clock.now += FIRST_PATIENCE
    assert not pacer.ready
    clock.now += PATIENCE
    assert pacer.ready
