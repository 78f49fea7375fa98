"""The job that tells the loss of each token of some rows, before and after training."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from finetui.data.records import RecordError
from finetui.data.strict import JsonFault, RowError
from finetui.data.token_view import Rules, TokenRow, token_rows
from finetui.data.tokens import ChatTokenizer
from finetui.engine.answer import base_model, is_tuned, machine_of, tokenizer_of, tuned_model
from finetui.engine.batches import Collator, Example, on_device
from finetui.engine.dataset import open_rows
from finetui.engine.losses import IGNORE, token_losses
from finetui.engine.machine import Machine
from finetui.errors import UserError
from finetui.jobs.tokenlosses import FILE, TokenLosses
from finetui.jobs.worker import WorkerSession
from finetui.workspace import Workspace, write_atomic

Losses = list[float | None]


def token_loss(session: WorkerSession) -> None:
    """Measure the rows of the spec into tokenloss.jsonl.

    The spec has ``rows`` [[file, line], ...], ``rules`` (see data.token_view), the model's fields
    and, where a trained one is asked too, ``adapter`` or ``tuned``. Raises UserError when a row is
    not there or cannot be tokenised.
    """
    spec = session.job.spec()
    session.events.write("stage", text="loading the model")
    tokenizer, machine = tokenizer_of(session, spec), machine_of(spec)
    rows = list(rows_of(spec, tokenizer))
    model = base_model(spec, machine)
    base = _measured(session, model, rows, machine, tokenizer, "base")
    tuned: list[Losses] = [[] for _ in rows]
    if is_tuned(spec):
        model = tuned_model(spec, machine, model)
        tuned = _measured(session, model, rows, machine, tokenizer, "tuned")
    _write(session, rows, base, tuned)
    session.outcome("finished", metrics=_metrics(base, tuned), sentence=_sentence(base, tuned))


def rows_of(
    spec: Mapping[str, Any], tokenizer: ChatTokenizer
) -> Iterator[tuple[str, int, TokenRow]]:
    """(file, line, tokens) of each wanted row, edited where the workspace's journal says so."""
    rules = msgspec.convert(dict(spec.get("rules") or {}), Rules)
    root = Path(str(spec.get("workspace") or "/nonexistent"))
    workspace = Workspace(root) if root.is_dir() else None
    for file, line in spec["rows"]:
        where = f"{file}:{line}"
        with open_rows(file, workspace) as data:
            row = next((at for at in range(data.rows) if data.source.line(at) == line), None)
            if row is None:
                raise UserError("there is no such row.", where)
            try:
                record = data.record(row)
            except (RowError, JsonFault, RecordError) as error:
                raise UserError(f"cannot be read: {error}", where) from error
            for tokens in token_rows(record, tokenizer, rules):
                yield file, line, tokens


def _measured(
    session: WorkerSession,
    model: Any,
    rows: Sequence[tuple[str, int, TokenRow]],
    machine: Machine,
    tokenizer: ChatTokenizer,
    which: str,
) -> list[Losses]:
    model.eval()
    found = []
    for place, (_, _, tokens) in enumerate(rows):
        session.events.write("progress", done=place, total=len(rows), text=f"{which} model")
        session.beat()
        ids = [tokens.ids[at] for at in tokens.seen]
        found.append(losses_of(model, ids, machine, tokenizer.pad_id))
    return found


@torch.no_grad()
def losses_of(model: Any, ids: Sequence[int], machine: Machine, pad_id: int) -> Losses:
    """The loss in nats of each token given those before it; None for the first.

    The head runs in chunks, so a long row does not need all its logits at once.
    """
    if len(ids) < 2:
        return [None] * len(ids)
    labels = array("i", ids)
    labels[0] = IGNORE
    batch = Collator(pad_id).tensors([(Example(array("i", ids), labels, 0, 0),)])
    with machine.autocast():
        losses = token_losses(model, on_device(batch, machine.device))
    return [None, *losses.float().cpu().tolist()]


def _write(
    session: WorkerSession,
    rows: Sequence[tuple[str, int, TokenRow]],
    base: Sequence[Losses],
    tuned: Sequence[Losses],
) -> None:
    session.require_newest()
    lines = []
    for (path, line, tokens), before, after in zip(rows, base, tuned, strict=True):
        ids = [tokens.ids[at] for at in tokens.seen]
        told = TokenLosses(path, line, tokens.side, ids, _finite(before), _finite(after))
        lines.append(msgspec.json.encode(told) + b"\n")
    file, content = session.job.path / FILE, b"".join(lines)
    session.until_saved(
        "the file of losses", file.parent, len(content), lambda: write_atomic(file, content)
    )


def _finite(losses: Losses) -> Losses:
    """JSON has no NaN; a token without a finite loss has none."""
    return [None if loss is None or not math.isfinite(loss) else loss for loss in losses]


def _metrics(base: Sequence[Losses], tuned: Sequence[Losses]) -> dict[str, float]:
    means = {"base": _mean(base), "tuned": _mean(tuned)}
    return {name: mean for name, mean in means.items() if mean is not None}


def _mean(found: Sequence[Losses]) -> float | None:
    values = [loss for losses in found for loss in losses if loss is not None]
    return sum(values) / len(values) if values else None


def _sentence(base: Sequence[Losses], tuned: Sequence[Losses]) -> str:
    told = " -> ".join(f"{mean:.3f}" for mean in (_mean(base), _mean(tuned)) if mean is not None)
    return f"{sum(map(len, base)):,} tokens, mean loss {told or 'unknown'}"
