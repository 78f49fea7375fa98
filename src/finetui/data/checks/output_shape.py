"""Answers of another form than most: prose among JSON, other keys, another end, a lone value."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from finetui.data.checks.answers import Ending, beginning, ending, fenced, json_answer, last_line
from finetui.data.checks.model import Example, Hit
from finetui.data.formats.source import Source
from finetui.data.keys import answer_text
from finetui.data.records import Shape

_MOSTLY = 0.8  # answers that must be JSON before the others are called odd
_NEARLY_ALL = 0.97  # answers that must begin or end alike before the others are called odd
_FEWEST = 10
_FEWEST_PROSE = 50
_FORMS = 64  # different sets of keys, and different beginnings, that are told apart
_CHOICES = 20  # a field with at most so many values is a choice from a list
_COMMON = 5  # how often each other value must occur before a single one is odd
_SHOWN = 200  # characters of a value that are compared

_SIGNATURES = 1024  # different keys and types that are kept apart for a while
_LIST = ("[]",)
_Signature = tuple[Any, ...]

_Found = Iterator[tuple[int, Hit]]


class OutputShape:
    """An `Across` whose states of consecutive stretches of a file can be merged.

    ``see`` or ``answer`` is given each row; ``merge`` takes the state of the rows that follow.
    """

    merges = True

    def __init__(self) -> None:
        self._prose = array("I")
        self._fenced = array("I")
        self._signed: dict[_Signature, array[int]] = {}
        self._choices: dict[_Signature, list[tuple[str, _Values]]] = {}
        self._forms = _Groups()
        self._types: dict[str, _Groups] = {}
        self._values: dict[str, _Values] = {}
        self._beginnings = _Groups()
        self._last_lines = _Groups()
        self._endings = _Groups()

    def begin(self, source: Source, last: bool) -> None:
        self.__init__()  # type: ignore[misc]  # every file is judged by itself

    def see(self, example: Example) -> Iterable[Hit]:
        record = example.record
        if record is not None and record.shape is not Shape.TEXT:
            self.answer(example.row, answer_text(record))
        return ()

    def answer(self, row: int, text: str) -> None:
        """Note a row's last answer."""
        if not text.strip():
            return
        value = json_answer(text)
        if value is not None:
            self._note(row, value)
        elif "```" in text and (value := json_answer(fenced(text))) is not None:
            self._fenced.append(row)
            self._note(row, value)
        else:
            self._note_prose(row, text)

    def merge(self, later: OutputShape) -> None:
        """Take in the state of the rows that follow these."""
        self._settle()
        later._settle()
        self._prose.extend(later._prose)
        self._fenced.extend(later._fenced)
        for mine, theirs in (
            (self._forms, later._forms),
            (self._beginnings, later._beginnings),
            (self._last_lines, later._last_lines),
            (self._endings, later._endings),
        ):
            mine.merge(theirs)
        for key, types in later._types.items():
            if key in self._types or len(self._types) < _FORMS:
                self._types.setdefault(key, _Groups()).merge(types)
        for key, values in later._values.items():
            if key in self._values or len(self._values) < _FORMS:
                self._values.setdefault(key, _Values()).merge(values)

    def finish(self) -> Iterable[tuple[int, Hit]]:
        """What only the whole file shows, in the order of the rows."""
        self._settle()
        return sorted((*self._json_faults(), *self._prose_faults()), key=lambda pair: pair[0])

    # ------------------------------------------------------------ noting

    def _note(self, row: int, value: Any) -> None:
        """Note an answer under its keys and their types; most answers of a file share those."""
        signature = (*value, *map(type, value.values())) if type(value) is dict else _LIST
        rows = self._signed.get(signature)
        if rows is None:
            rows = self._sign(signature, value)
        rows.append(row)
        full = False
        for key, values in self._choices[signature]:
            full |= values.add(value[key], row)
        if full:  # no choice from a list: it need not be looked at any more
            choices = self._choices[signature]
            self._choices[signature] = [one for one in choices if not one[1].full]

    def _sign(self, signature: _Signature, value: Any) -> array[int]:
        if len(self._signed) >= _SIGNATURES:
            self._settle()
        choices = []
        for key in value if type(value) is dict else ():
            if key not in self._types:
                if len(self._types) >= _FORMS:
                    continue
                self._types[key], self._values[key] = _Groups(), _Values()
            if type(value[key]) is str and not self._values[key].full:
                choices.append((key, self._values[key]))
        self._choices[signature] = choices
        self._signed[signature] = array("I")
        return self._signed[signature]

    def _settle(self) -> None:
        """Sort what stands under signatures by keys, and by the type of each key."""
        for signature, rows in self._signed.items():
            keys = signature[: len(signature) // 2]
            self._forms.add_all(_LIST if signature == _LIST else keys, rows)
            for key, kind in zip(keys, signature[len(keys) :], strict=False):
                if key in self._types:
                    self._types[key].add_all(_TYPES.get(kind, "null"), rows)
        self._signed, self._choices = {}, {}

    def _note_prose(self, row: int, text: str) -> None:
        self._prose.append(row)
        self._beginnings.add(beginning(text), row)
        self._last_lines.add(beginning(last_line(text)), row)
        self._endings.add(ending(text), row)

    # ------------------------------------------------------------ JSON answers

    def _json_faults(self) -> _Found:
        total = self._forms.total
        if total < _FEWEST or total < _MOSTLY * (total + len(self._prose)):
            return
        percent = 100 * total / (total + len(self._prose))
        for row in self._prose:
            yield row, Hit(f"the answer is not JSON; {percent:.0f} % of the answers are")
        yield from self._fences(total)
        alike = self._forms.alike(lambda form: tuple(sorted(form)))
        form, rows = max(alike.items(), key=lambda entry: len(entry[1]))
        if len(rows) >= _MOSTLY * total:
            yield from self._other_forms(form, alike)
            yield from self._other_orders(form, len(rows))
            yield from self._odd_types(form)
            yield from self._odd_values(form)

    def _fences(self, total: int) -> _Found:
        if total - len(self._fenced) >= _MOSTLY * total:
            for row in self._fenced:
                yield row, Hit("the JSON stands in a code fence; most answers are bare JSON")
        elif len(self._fenced) >= _MOSTLY * total:
            inside = set(self._fenced)
            for row in self._forms.all_rows():
                if row not in inside:
                    yield row, Hit("the JSON is bare; in most answers it stands in a code fence")

    def _other_forms(
        self, form: tuple[str, ...], alike: dict[tuple[str, ...], array[int]]
    ) -> _Found:
        usual = ", ".join(form)
        for other, rows in alike.items():
            if other != form:
                has = ", ".join(other) or "none"
                for row in rows:
                    yield row, Hit(f"the answer has the keys {has}; most have {usual}")

    def _other_orders(self, form: tuple[str, ...], total: int) -> _Found:
        orders = {
            order: rows
            for order, rows in self._forms.groups.items()
            if order != _REST and tuple(sorted(order)) == form
        }
        usual = max(orders, key=lambda order: len(orders[order]), default=())
        if usual and len(orders[usual]) >= _NEARLY_ALL * total:
            for order, rows in orders.items():
                if order != usual:
                    sentence = f"the keys come as {', '.join(order)}; most as {', '.join(usual)}"
                    for row in rows:
                        yield row, Hit(sentence)

    def _odd_types(self, form: tuple[str, ...]) -> _Found:
        for key in form:
            types = self._types.get(key, _Groups())
            usual, count = types.most()
            if count >= _NEARLY_ALL * types.total:
                for kind, rows in types.groups.items():
                    if kind not in (usual, "null"):
                        for row in rows:
                            yield row, Hit(f"{key} is a {kind}; in most answers it is a {usual}")

    def _odd_values(self, form: tuple[str, ...]) -> _Found:
        for key in form:
            values = self._values.get(key, _Values())
            for value in values.odd():
                yield values.first[value], Hit(f"{key} is {value!r}, which no other answer has")

    # ------------------------------------------------------------ prose answers

    def _prose_faults(self) -> _Found:
        if len(self._prose) < max(_FEWEST_PROSE, _MOSTLY * (self._forms.total + len(self._prose))):
            return
        yield from self._unlike(self._beginnings, "begin")
        if self._beginnings.most()[0] != self._last_lines.most()[0]:
            yield from self._unlike(self._last_lines, "begin its last line")
        yield from self._ends()

    def _unlike(self, marks: _Groups, where: str) -> _Found:
        """Answers without the mark that nearly all have at one place."""
        usual, count = marks.most()
        if usual in ("", _REST) or count < _NEARLY_ALL * marks.total:
            return
        percent = _percent(count, marks.total)
        for mark, rows in marks.groups.items():
            if mark != usual:
                for row in rows:
                    yield row, Hit(f"the answer does not {where} with {usual!r}; {percent} do")

    def _ends(self) -> _Found:
        stops, rest = len(self._endings[Ending.STOP]), self._endings.total
        if stops >= _NEARLY_ALL * rest:
            for row in self._endings[Ending.OPEN]:
                percent = _percent(stops, rest)
                yield row, Hit(f"the answer does not end with a full stop; {percent} do: cut off?")
        elif len(self._endings[Ending.OPEN]) >= _NEARLY_ALL * rest:
            percent = _percent(len(self._endings[Ending.OPEN]), rest)
            for row in self._endings[Ending.STOP]:
                yield row, Hit(f"the answer ends with a full stop; {percent} do not")


_REST = ("…",)
_TYPES = {
    str: "text", int: "number", float: "number", bool: "true or false", list: "list",
    dict: "object",
}  # fmt: skip


def _percent(count: int, total: int) -> str:
    """A share, never rounded up to all."""
    share = 100 * count / total
    return f"{share:.0f} %" if share < 99 else f"{int(share * 10) / 10:.1f} %"


class _Groups:
    """Rows by what they have in common; at most 64 different things are told apart."""

    def __init__(self) -> None:
        self.groups: dict[Any, array[int]] = {}
        self.total = 0

    def __getitem__(self, key: Any) -> array[int]:
        return self.groups.get(key, _NO_ROWS)

    def add(self, key: Any, row: int) -> None:
        self.total += 1
        rows = self.groups.get(key)
        if rows is None:
            rows = self._new(key)
        rows.append(row)

    def add_all(self, key: Any, more: array[int]) -> None:
        self.total += len(more)
        rows = self.groups.get(key)
        (self._new(key) if rows is None else rows).extend(more)

    def _new(self, key: Any) -> array[int]:
        if len(self.groups) >= _FORMS:
            key = _REST
        return self.groups.setdefault(key, array("I"))

    def merge(self, later: _Groups) -> None:
        self.total += later.total
        for key, rows in later.groups.items():
            known = self.groups.get(key)
            (self._new(key) if known is None else known).extend(rows)

    def most(self) -> tuple[Any, int]:
        """What most rows have, and how many."""
        if not self.groups:
            return "", 0
        key = max(self.groups, key=lambda key: len(self.groups[key]))
        return key, len(self.groups[key])

    def alike(self, same: Any) -> dict[Any, array[int]]:
        """The groups joined by what ``same`` makes of their keys."""
        joined: dict[Any, array[int]] = {}
        for key, rows in self.groups.items():
            joined.setdefault(same(key), array("I")).extend(rows)
        return joined

    def all_rows(self) -> Iterator[int]:
        for rows in self.groups.values():
            yield from rows


_NO_ROWS = array("I")


class _Values:
    """The values of a field, until there are too many of them for a choice from a list."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, int] = {}

    @property
    def full(self) -> bool:
        return len(self.counts) > 2 * _CHOICES

    def add(self, value: str, row: int) -> bool:
        """Count a value; True when there are too many different ones to go on."""
        counts = self.counts
        if len(counts) > 2 * _CHOICES:
            return True
        value = value[:_SHOWN]
        known = counts.get(value)
        if known is None:
            self.first[value] = row
        counts[value] = (known or 0) + 1
        return False

    def merge(self, later: _Values) -> None:
        if self.full:
            return
        self.counts.update(later.counts)
        self.first = {**later.first, **self.first}

    def odd(self) -> list[str]:
        """Values that occur once while every other one is common."""
        usual = [value for value, count in self.counts.items() if count >= _COMMON]
        odd = [value for value, count in self.counts.items() if count == 1]
        choice = len(self.counts) <= _CHOICES and len(usual) + len(odd) == len(self.counts)
        return odd if choice and len(usual) >= 2 else []
