"""Redact personal data consistently: the same value gets the same placeholder everywhere.

The numbers are kept in the journal, beside a keyed hash of each value and never the value, so a
redaction of next month goes on where this one stopped. A placeholder that stands in the file
already is never given to another value.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterable, Sequence

from finetui.data.checks.fixes import PRIVATE
from finetui.data.dataset import DataSet
from finetui.data.formats.source import JsonlSource, Stop

_PLACEHOLDER = re.compile(rb"\[([A-Z][A-Z_]{0,30})_(\d{1,9})\]")
_SEPARATORS = re.compile(r"[\s().-]+")
_DIGEST_BYTES = 16
_SALT_BYTES = 32


def folded(kind: str, value: str) -> str:
    """What makes two writings one value: digits without their spacing, names without case."""
    if kind == "SECRET":
        return value
    if kind == "PHONE":
        return "".join(filter(str.isdigit, value))
    if kind in ("CARD", "IBAN", "ID"):
        value = _SEPARATORS.sub("", value)
    return value.strip().casefold()


class Redactor:
    """Placeholders by value: called with a kind and a value, gives ``[EMAIL_1]``.

    ``fresh`` grows by each new value (kind, keyed hash, number): what is to be kept.
    """

    def __init__(
        self,
        salt: bytes,
        known: Iterable[tuple[str, bytes, int]] = (),
        standing: dict[str, int] | None = None,
    ) -> None:
        self.salt, self.standing = salt, dict(standing or {})
        self.fresh: list[tuple[str, bytes, int]] = []
        self._numbers = {(kind, bytes(digest)): number for kind, digest, number in known}
        self._highest = dict(self.standing)
        for (kind, _), number in self._numbers.items():
            self._highest[kind] = max(self._highest.get(kind, 0), number)

    def __call__(self, kind: str, value: str) -> str:
        words = folded(kind, value).encode(errors="surrogatepass")
        digest = hashlib.blake2b(words, digest_size=_DIGEST_BYTES, key=self.salt).digest()
        number = self._numbers.get((kind, digest))
        if number is None:
            number = self._highest[kind] = self._highest.get(kind, 0) + 1
            self._numbers[kind, digest] = number
            self.fresh.append((kind, digest, number))
        return f"[{kind}_{number}]"


def redactor_of(dataset: DataSet, stop: Stop | None = None) -> Redactor:
    """The redactor of a data set: what was redacted before keeps its number.

    The first time it looks through the whole file for placeholders that stand in it; what it
    found is kept with the next redaction.
    """
    journal = dataset.journal
    salt = bytes.fromhex(journal.meta("salt")) if journal else b""
    known = journal.placeholders() if journal else []
    highest = standing(dataset, stop)
    for state in list(journal.overlay.values()) if journal else ():
        if state.text is not None:
            _note(highest, state.text.encode(errors="surrogatepass"))
    return Redactor(salt or secrets.token_bytes(_SALT_BYTES), known, highest)


def facts(dataset: DataSet, redactor: Redactor) -> list[tuple[str, str]]:
    """What is to be kept with a redaction, so that the next one goes on from it."""
    found = json.dumps([dataset.source.identity(), redactor.standing])
    return [("salt", redactor.salt.hex()), ("standing", found)]


def standing(dataset: DataSet, stop: Stop | None = None) -> dict[str, int]:
    """The highest number of each kind of placeholder that stands in the file itself."""
    kept = dataset.journal.meta("standing") if dataset.journal else ""
    if kept:
        identity, known = json.loads(kept)
        if identity == dataset.source.identity():
            return dict(known)
    highest: dict[str, int] = {}
    source = dataset.source
    if isinstance(source, JsonlSource):
        for _, _, block in source.blocks():
            if stop and stop():
                break
            _note(highest, block)
    else:
        for raw in source.iterate():
            _note(highest, raw.raw)
    return highest


def _note(highest: dict[str, int], raw: bytes) -> None:
    for kind, number in _PLACEHOLDER.findall(raw):
        name = kind.decode()
        highest[name] = max(highest.get(name, 0), int(number))


Progress = Callable[[int, int], None]


def kinds() -> list[str]:
    """The checks whose findings are redacted; keys first, for they may hold an address."""
    from finetui.data.checks.registry import CHECKS

    found = [each.id for each in CHECKS.values() if each.id in PRIVATE and each.severity != "info"]
    return sorted(found, key=lambda check: check != "secret")


def redact(
    dataset: DataSet,
    checks: Sequence[str] = (),
    rows: Iterable[int] | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> int:
    """Put placeholders in the place of personal data, as one step; how many rows were changed.

    ``checks`` are ids such as ``email`` (all of `kinds` by default), ``rows`` all kept rows.
    """
    from finetui.data.edits import bulk

    chosen = tuple(checks) or tuple(kinds())
    found = bulk.rows_with(dataset, chosen, progress) if rows is None else rows
    note = "redact: " + ", ".join(chosen)
    done = bulk.apply(
        dataset, chosen, found, note=note, progress=progress, stop=stop, kind="redact"
    )
    return done.count
