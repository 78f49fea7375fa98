"""What a model is asked for when a set needs more rows: variations of a row, rows for a thin class.

Only the columns of a row's shape are put into a request, as JSON on one line: ids and metadata stay
here, and no text of a row can end the place where it is quoted. The words around it are templates
in the workspace (``prompts/``) that the person edits.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from finetui.data.dataset import DataSet
from finetui.data.formats.source import Stop
from finetui.data.keys import answer_text, normalise
from finetui.data.prices import Price, cost, find_price
from finetui.data.records import Record, RecordError, Shape, parse_record
from finetui.data.strict import JsonFault, RowError, decode, dumps
from finetui.errors import UserError

if TYPE_CHECKING:
    from finetui.workspace import Workspace

Report = Callable[[int, int], None]

VARIATION, CLASS = "variation", "class"
EXAMPLES = 5  # rows of a class that are shown to the model
AT_ONCE = 10  # rows asked for in one request
_PLACES = re.compile(r"\{(rows|count|label|instruction)\}")
_LINE_WANTED = "(to be written)"


class Request(msgspec.Struct, frozen=True):
    """One question to the model.

    ``rows`` are the examples it shows (0-based), ``seed`` names the first (file:line), ``quoted``
    their texts as sent; ``left_out`` the columns that are not sent. ``label`` and ``field`` say
    which class is wanted; ``round`` tells equal questions apart.
    """

    messages: list[dict[str, str]]
    rows: list[int]
    seed: str
    quoted: list[str]
    shape: str
    count: int
    left_out: list[str] = []
    label: str = ""
    field: str = ""
    instruction: str = ""
    round: int = 0


class Forecast(msgspec.Struct, frozen=True):
    """What sending would take. Tokens are estimates from the texts' bytes; amounts are None where
    the table has no price; ``most`` is with every answer at its limit."""

    requests: int
    rows: int
    bytes: int
    prompt_tokens: int
    answer_tokens: int
    most_tokens: int
    amount: float | None
    most: float | None
    currency: str
    sample: bool


# ---------------------------------------------------------------- what is asked


def variations(
    dataset: DataSet,
    rows: Sequence[int],
    count: int,
    workspace: Workspace,
    instruction: str = "",
) -> list[Request]:
    """One request a row, for ``count`` variations of it. Raises UserError for an unusable row."""
    words = template(workspace, VARIATION)
    found = []
    for row in rows:
        value = _value(dataset, row)
        for turn, size in enumerate(_portions(count)):
            found.append(_request(dataset, words, [(row, value)], size, instruction, round_=turn))
    return found


def for_class(
    dataset: DataSet,
    label: str,
    count: int,
    workspace: Workspace,
    instruction: str = "",
    field: str = "",
    seed: int = 0,
    progress: Report | None = None,
    stop: Stop | None = None,
) -> list[Request]:
    """Requests for ``count`` rows of a class; each shows some rows of it, drawn by ``seed``.

    The class is the answer itself, or with ``field`` a column or a field of a JSON answer. Raises
    UserError when no row has it.
    """
    members = [
        (row, value)
        for row, value, record in readable(dataset, progress, stop)
        if _same_label(label_of(value, record, field), label)
    ]
    if not members:
        where = f"no row has {label!r} as its {field or 'answer'}."
        raise UserError(where, str(dataset.path), "Name the column or JSON field: --field NAME")
    words, draw = template(workspace, CLASS), random.Random(seed)
    return [
        _request(
            dataset, words, sorted(draw.sample(members, min(EXAMPLES, len(members))),
                                   key=lambda member: member[0]),
            size, instruction, label, field, turn,
        )
        for turn, size in enumerate(_portions(count))
    ]  # fmt: skip


def label_of(value: object, record: Record, field: str = "") -> str:
    """The class of a row: its answer, or with ``field`` a column or a field of a JSON answer."""
    if not field:
        return answer_text(record).strip()
    if isinstance(value, dict) and field in value:
        found = value[field]
    else:
        found = _in_answer(record, field)
    return found if isinstance(found, str) else "" if found is None else dumps(found)


def readable(
    dataset: DataSet, progress: Report | None = None, stop: Stop | None = None
) -> Iterator[tuple[int, Any, Record]]:
    """(row, value, record) of every kept row that can be read, edits included."""
    source, shape = dataset.source, dataset.shape
    dataset.build_index()
    for raw in source.iterate():
        if raw.row % 1000 == 0:
            if stop and stop():
                return
            if progress:
                progress(raw.offset, source.size)
        state = dataset.state(raw.row)
        if not state.kept:
            continue
        try:
            text = state.text
            value = source.decode(raw.raw) if text is None else decode(text.encode())
            yield raw.row, value, parse_record(value, shape)
        except (JsonFault, RecordError):
            continue


def template(workspace: Workspace, name: str) -> str:
    """The words of a request; the workspace gets its own copy on first use, to be edited."""
    from finetui.workspace import write_atomic

    path = workspace.root / "prompts" / f"{name}.txt"
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, (Path(__file__).parent / "templates" / f"{name}.txt").read_text("utf-8"))
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}.", str(path), "Delete it to begin anew."
        ) from None
    while lines and (lines[0].startswith("#") or not lines[0].strip()):
        del lines[0]
    words = "\n".join(lines)
    if "{rows}" not in words:
        raise UserError("has no {rows}.", str(path), "Put {rows} where the rows shall stand.")
    return words


def _request(
    dataset: DataSet,
    words: str,
    examples: Sequence[tuple[int, Any]],
    count: int,
    instruction: str,
    label: str = "",
    field: str = "",
    round_: int = 0,
) -> Request:
    quoted, left_out = [], set()
    for _, value in examples:
        sent, extra = _sendable(value, dataset.shape, field)
        quoted.append(dumps(sent))
        left_out |= extra
    filled = {"rows": "\n".join(quoted), "count": str(count), "label": dumps(label),
              "instruction": instruction}  # fmt: skip
    text = _PLACES.sub(lambda place: filled[place[1]], words)  # one pass: rows may hold {count}
    first = examples[0][0]
    return Request(
        messages=[{"role": "user", "content": re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"}],
        rows=[row for row, _ in examples],
        seed=f"{dataset.path.name}:{dataset.source.line(first)}",
        quoted=quoted,
        shape=dataset.shape.value,
        count=count,
        left_out=sorted(left_out),
        label=label,
        field=field,
        instruction=instruction,
        round=round_,
    )


def _value(dataset: DataSet, row: int) -> Any:
    """A row that can be shown to a model; raises UserError."""
    where = f"{dataset.path}:{dataset.source.line(row)}"
    try:
        value = dataset.value(row)
        parse_record(value, dataset.shape)
    except (RowError, RecordError) as error:
        raise UserError(f"cannot be used: {error}.", where, "Mend the row first.") from None
    return value


def _sendable(value: Any, shape: Shape, field: str) -> tuple[Any, set[str]]:
    """The row without columns that are no text of it, and the names of those columns."""
    extra = set(parse_record(value, shape).extra) - {field, "tools"}
    if not isinstance(value, dict) or not extra:
        return value, set()
    return {key: part for key, part in value.items() if key not in extra}, extra


def _portions(count: int) -> list[int]:
    whole, rest = divmod(count, AT_ONCE)
    return [AT_ONCE] * whole + ([rest] if rest else [])


def _in_answer(record: Record, field: str) -> Any:
    try:
        part = decode(answer_text(record).encode())
    except (JsonFault, UnicodeEncodeError):
        return None
    for key in field.split("."):
        part = part.get(key) if isinstance(part, dict) else None
    return part


def _same_label(found: str, wanted: str) -> bool:
    return bool(found) and normalise(found) == normalise(wanted)


# ---------------------------------------------------------------- what it takes


def estimate_tokens(text: str) -> int:
    """About how many tokens a text is for a tokenizer that is not known.

    A token is about four bytes of English or of Cyrillic, and a Chinese character is about one.
    """
    wide = sum(1 for letter in text if letter >= "\u2e80")
    return wide + (len(text.encode("utf-8", "replace")) - 3 * wide + 3) // 4


def forecast(
    requests: Sequence[Request], model: str, max_tokens: int, prices: list[Price]
) -> Forecast:
    """Tokens and money that the requests would take; nothing is sent."""
    texts = [message["content"] for request in requests for message in request.messages]
    asked = sum(map(estimate_tokens, texts))
    answered = sum(
        min(max_tokens, request.count * (sum(map(estimate_tokens, request.quoted)) + 1)
            // max(1, len(request.quoted)))
        for request in requests
    )  # fmt: skip
    most = max_tokens * len(requests)
    into, out = find_price(prices, model, "input"), find_price(prices, model, "output")
    known = into is not None and out is not None and into.currency == out.currency
    return Forecast(
        requests=len(requests),
        rows=len({row for request in requests for row in request.rows}),
        bytes=sum(len(text.encode("utf-8", "replace")) for text in texts),
        prompt_tokens=asked,
        answer_tokens=answered,
        most_tokens=most,
        amount=_amount(asked, answered, into, out) if known else None,
        most=_amount(asked, most, into, out) if known else None,
        currency=into.currency if into else "",
        sample=bool(into and into.sample) or bool(out and out.sample),
    )


def _amount(asked: int, answered: int, into: Price | None, out: Price | None) -> float:
    assert into is not None and out is not None
    return cost(asked, into) + cost(answered, out)


# ---------------------------------------------------------------- for a local job


def write_prompts(workspace: Workspace, requests: Sequence[Request], name: str) -> Path:
    """The requests as a data set that a generation job can answer; its path."""
    from finetui.workspace import write_atomic

    folder = workspace.root / "queue" / "requests"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    rows = [
        {
            "messages": [*request.messages, {"role": "assistant", "content": _LINE_WANTED}],
            "request": msgspec.to_builtins(request),
        }
        for request in requests
    ]
    write_atomic(path, "".join(dumps(row) + "\n" for row in rows))
    return path


def read_prompts(path: Path) -> dict[str, Request]:
    """The requests of such a data set by the id (file:line) that a job gives its answers."""
    found = {}
    try:
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if line:
                request = msgspec.json.decode(line)["request"]
                found[f"{path.name}:{number}"] = msgspec.convert(request, Request)
    except (OSError, msgspec.MsgspecError, KeyError, TypeError) as error:
        raise UserError(f"is not a list of requests: {error}.", str(path)) from None
    return found
