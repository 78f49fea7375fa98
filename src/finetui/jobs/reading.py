"""A history, and how far into each attempt's event file it has read."""

from collections.abc import Callable, Mapping

from finetui.jobs.folder import Job, attempt_of
from finetui.jobs.history import History
from finetui.jobs.tail import READ_BYTES, LineTail

_BLOCKS = 256
_BLOCK_BYTES = 8 << 10
_END_BYTES = 128 << 10


class Reading:
    """Folds the events of a job into a history as they come, oldest attempt first.

    `bad` counts complete lines that are no event, such as a line torn by a full disk; `taken`
    the bytes read by this object.
    """

    def __init__(
        self,
        job: Job,
        history: History | None = None,
        positions: Mapping[int, int] | None = None,
        bad: int = 0,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        """`release` gives back what drawing brought into memory; it comes again when needed."""
        self.job = job
        self.history = History() if history is None else history
        self.bad, self.taken = bad, 0
        self.release = release
        self._tails: dict[int, LineTail] = {
            attempt: LineTail(job.events_path(attempt), position)
            for attempt, position in (positions or {}).items()
        }

    @property
    def positions(self) -> dict[int, int]:
        """How far each attempt's file has been read, in bytes."""
        return {attempt: tail.position for attempt, tail in self._tails.items()}

    def behind(self) -> int:
        """Return how many bytes have not been read yet."""
        return sum(tail.behind for _, tail in self._all_tails())

    def advance(self, limit: int = READ_BYTES) -> bool:
        """Read about `limit` bytes more of each file; True when there was anything."""
        found = False
        for attempt, tail in self._all_tails():
            before = tail.position
            lines = tail.read(limit)
            self.bad += self.history.take_all(lines, attempt)
            self.taken += max(0, tail.position - before)
            found = found or bool(lines)
            if lines and tail.behind:
                break  # a later attempt comes after all of this one
        return found

    def _all_tails(self) -> list[tuple[int, LineTail]]:
        for path in self.job.events_files():
            self._tails.setdefault(attempt_of(path), LineTail(path))
        return sorted(self._tails.items())

    def sample(self) -> None:
        """Read what is left in samples: evenly spread blocks, and the end whole."""
        self.skim()
        self.advance()

    def skim(self) -> None:
        """Read evenly spread blocks of what is left, and go on shortly before its end."""
        for attempt, tail in self._all_tails():
            for lines in tail.skim(_BLOCKS, _BLOCK_BYTES, _END_BYTES):
                self.bad += self.history.take_all(lines, attempt)
