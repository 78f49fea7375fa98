"""All gates of all checks as one automaton that runs over blocks of raw rows.

A row that no gate lets through costs a few nanoseconds a byte and no Python at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from finetui.data.checks.model import Gate

try:
    import re2
except ImportError:  # no wheel for this platform: the same results, more slowly
    re2 = None

_MEMORY = 32 << 20  # bytes an automaton may take


class Sieve:
    """The rows that gates let through; gate k is bit k of a mask.

    Gates that are no patterns, literals or callables (`NOT_PLAIN`) are the caller's business.
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        patterns: list[bytes] = []
        self._bits: list[int] = []
        self._calls: list[tuple[int, Callable[[bytes], bool]]] = []
        for place, gate in enumerate(gates):
            if isinstance(gate, re.Pattern):
                patterns.append(_source(gate))
            elif isinstance(gate, tuple):
                patterns.append(b"(?i:" + b"|".join(map(re.escape, gate)) + b")")
            else:
                if callable(gate):
                    self._calls.append((1 << place, gate))
                continue
            self._bits.append(1 << place)
        self._all = sum(self._bits)
        self._search, self._which = _automata(patterns)

    @property
    def calls(self) -> bool:
        """Whether there are gates that must be asked about every row."""
        return bool(self._calls)

    def starts(self, block: bytes) -> Iterator[int]:
        """Where the rows of a block begin that some pattern is in; a superset, in order."""
        if not self._bits:
            return
        search, place = self._search, 0
        while (found := search(block, place)) is not None:
            start = found.start()
            yield block.rfind(b"\n", 0, start) + 1
            place = block.find(b"\n", start) + 1  # matches over two rows are the first row's
            if not place:
                return

    def patterns(self, raw: bytes) -> int:
        """The mask of the patterns and literals that a row has."""
        bits, mask = self._bits, 0
        for place in self._which(raw):
            mask |= bits[place]
        return mask

    def asked(self, raw: bytes) -> int:
        """The mask of the callables that let a row through."""
        mask = 0
        for bit, gate in self._calls:
            if gate(raw):
                mask |= bit
        return mask

    def mask(self, raw: bytes) -> int:
        """The mask of every gate that lets a row through."""
        return self.patterns(raw) | self.asked(raw)


def _source(gate: re.Pattern[bytes]) -> bytes:
    """A pattern with its flags written inside."""
    names = ((re.IGNORECASE, b"i"), (re.DOTALL, b"s"), (re.MULTILINE, b"m"))
    flags = b"".join(name for flag, name in names if gate.flags & flag)
    if gate.flags & re.VERBOSE:
        raise ValueError("a gate cannot be a verbose pattern")
    return b"(?" + flags + b":" + gate.pattern + b")" if flags else b"(?:" + gate.pattern + b")"


def _automata(
    patterns: Sequence[bytes],
) -> tuple[Callable[[bytes, int], Any], Callable[[bytes], Sequence[int]]]:
    """(find the next match of any pattern, the numbers of the patterns that a row has)."""
    if re2 is None:
        compiled = [re.compile(pattern) for pattern in patterns]
        union = re.compile(b"|".join(patterns))
        return union.search, lambda raw: [k for k, one in enumerate(compiled) if one.search(raw)]
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = _MEMORY
    options.log_errors = False
    options.never_capture = True
    union = re2.compile(b"|".join(patterns), options)
    every = re2.Set.SearchSet(options)
    for pattern in patterns:
        every.Add(pattern)
    if patterns:
        every.Compile()
    return union.search, lambda raw: every.Match(raw) or ()
