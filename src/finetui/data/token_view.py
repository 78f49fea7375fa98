"""One row as tokens under a recipe: which are trained, which are masked, which are cut off.

Stands on the same `ChatTokenizer.encode` that training uses, so it shows what will be trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from finetui.data.records import Record, Shape, Turn, last_answer, messages
from finetui.data.tokens import ChatTokenizer, Encoded, LossOn, Side, kept_out
from finetui.errors import UserError

State: TypeAlias = Literal["trained", "masked", "cut"]


@dataclass(frozen=True)
class Rules:
    """The fields of a recipe that decide it; `objective` as method.objective has it."""

    objective: str = "sft"
    max_length: int | None = None
    loss_on: LossOn = "assistant"
    cut: Side = "end"
    overlong: str = "drop"


@dataclass(frozen=True)
class TokenRow:
    """A row, or one side of a preference pair (`side`: chosen or rejected), as tokens.

    `ids`, `pieces` (printable text is up to the reader) and `states` have one entry a token, those
    that are cut off included. `fate` says why the row is not trained on, "" when it is.
    """

    side: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    states: tuple[State, ...]
    fate: str = ""

    def count(self, state: State) -> int:
        return self.states.count(state)

    @property
    def seen(self) -> list[int]:
        """The positions that the model reads."""
        return [at for at, state in enumerate(self.states) if state != "cut"]


def token_rows(record: Record, tokenizer: ChatTokenizer, rules: Rules) -> list[TokenRow]:
    """Return a record as tokens: one row, or chosen and rejected where the objective takes pairs.

    Raises UserError when the template refuses the record or the objective has no use for it.
    """
    if rules.objective == "pretrain":
        return [_whole_text(record, tokenizer, rules)]
    if rules.objective in ("dpo", "orpo", "kto"):
        return _answers(record, tokenizer, rules)
    if record.shape is Shape.TEXT:
        return [_row("", tokenizer.encode_text(record.turns[0].content), tokenizer, rules)]
    tools = _tools(record)
    row = _row("", tokenizer.encode(messages(record), None, rules.loss_on, tools), tokenizer, rules)
    if record.label is False:
        return [_left_out(row, "it is labelled a bad answer")]
    return [row]


def _answers(record: Record, tokenizer: ChatTokenizer, rules: Rules) -> list[TokenRow]:
    if record.chosen is not None and record.rejected is not None:
        start = len(record.turns)
        sides = [("chosen", record.chosen), ("rejected", record.rejected)]
        rows = [
            _answer(side, [*record.turns, *turns], start, record, tokenizer, rules)
            for side, turns in sides
        ]
        if record.chosen == record.rejected:
            return [_left_out(row, "both answers are the same") for row in rows]
        return rows
    if rules.objective == "kto" and record.label is not None:
        start = max(0, last_answer(record.turns))
        side = "good answer" if record.label else "bad answer"
        return [_answer(side, record.turns, start, record, tokenizer, rules)]
    wanted = "a label or a pair" if rules.objective == "kto" else "a chosen and a rejected answer"
    raise UserError(
        f"{rules.objective} learns from rows with {wanted}; this is a {record.shape} row.",
        fix="Choose another method.objective, or other data.",
    )


def _answer(
    side: str,
    turns: Sequence[Turn],
    start: int,
    record: Record,
    tokenizer: ChatTokenizer,
    rules: Rules,
) -> TokenRow:
    """A chat of which only what follows turn ``start`` is trained."""
    chat = [turn.as_dict() for turn in turns]
    encoded = tokenizer.encode(chat, None, "assistant", _tools(record), rules.cut, start)
    return _row(side, encoded, tokenizer, rules)


def _tools(record: Record) -> list[Any] | None:
    from finetui.data.strict import JsonFault, decode

    tools = record.extra.get("tools")
    if isinstance(tools, str):
        try:
            tools = decode(tools.encode())
        except JsonFault:
            return None
    return tools if isinstance(tools, list) and tools else None


def _whole_text(record: Record, tokenizer: ChatTokenizer, rules: Rules) -> TokenRow:
    """Every token is trained but the first of each piece, which nothing comes before."""
    if record.shape is Shape.TEXT:
        encoded = tokenizer.encode_text(record.turns[0].content)
    else:
        encoded = tokenizer.encode(messages(record), None, "all", _tools(record))
    length = rules.max_length or len(encoded.ids) or 1
    states: list[State] = [
        "trained" if trained and at % length else "masked"
        for at, trained in enumerate(encoded.trained)
    ]
    pieces = _pieces(encoded, tokenizer)
    fate = "" if "trained" in states else "nothing in it is trained on"
    return TokenRow("", tuple(encoded.ids), pieces, tuple(states), fate)


def _row(side: str, encoded: Encoded, tokenizer: ChatTokenizer, rules: Rules) -> TokenRow:
    states: list[State] = ["trained" if trained else "masked" for trained in encoded.trained]
    over = len(encoded.ids) - (rules.max_length or len(encoded.ids))
    if over > 0:
        for at in kept_out(len(encoded.ids), over, rules.cut, _begins(encoded, tokenizer)):
            states[at] = "cut"
    first = next((at for at, state in enumerate(states) if state != "cut"), None)
    if first is not None:
        states[first] = "masked"  # nothing comes before it that could predict it
    fate = ""
    if over > 0 and rules.overlong == "drop":
        fate = f"it is {over:,} tokens longer than max length"
    elif "trained" not in states:
        fate = "nothing in it is trained on"
    return TokenRow(side, tuple(encoded.ids), _pieces(encoded, tokenizer), tuple(states), fate)


def _begins(encoded: Encoded, tokenizer: ChatTokenizer) -> bool:
    begin = tokenizer.special.get("bos_token")
    return bool(begin and encoded.ids and encoded.ids[0] == tokenizer.tokenizer.token_to_id(begin))


def _left_out(row: TokenRow, fate: str) -> TokenRow:
    return TokenRow(row.side, row.ids, row.pieces, row.states, fate)


def _pieces(encoded: Encoded, tokenizer: ChatTokenizer) -> tuple[str, ...]:
    """The text of each token; a token without text of its own (an added end token, the rest of a
    character that began in the token before) by its name in the vocabulary."""
    found: list[str] = []
    reached = 0
    for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
        text = encoded.text[max(start, reached) : end]
        reached = max(reached, end)
        found.append(text or f"⟨{tokenizer.tokenizer.id_to_token(token)}⟩")
    return tuple(found)
