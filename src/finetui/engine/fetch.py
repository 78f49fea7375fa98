"""Bring a data set of the hub, or a folder in its layout, into the workspace as JSON Lines."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from finetui.engine.attention import attend
from finetui.errors import UserError
from finetui.jobs.worker import WorkerSession
from finetui.workspace import sync_folder

_TELL_EVERY, _WRITE_EVERY = 1000, 100  # rows


def fetch(session: WorkerSession, spec: Mapping[str, Any]) -> None:
    """Write the rows of one split to ``target``, at most ``limit`` (0: all), as they come.

    The rows are streamed, so a part of a large set costs no more than that part. Raises UserError
    for a set, configuration, split or revision that is not there, and for rows that JSON cannot
    hold (pictures, sound).
    """
    source, split = str(spec["source"]), str(spec.get("split") or "train")
    target, limit = Path(str(spec["target"])), int(spec.get("limit", 0))
    session.events.write("stage", text=f"opening {source}")
    rows, facts = _opened(source, str(spec.get("config") or ""), split, str(spec.get("revision")))
    session.events.write("stage", text=f"reading {split}")
    session.require_newest()
    count, size = _written(session, rows, target, limit)
    if not count:
        target.unlink()
        raise UserError("has no rows.", f"{source}, {split}")
    session.outcome(
        "finished",
        metrics={"rows": count, "bytes": size, **facts},
        file=str(target),
        sentence=f"{count:,} rows of {source} ({split}) in {target.name}",
    )


def _opened(
    source: str, config: str, split: str, revision: str
) -> tuple[Iterable[Any], dict[str, Any]]:
    """The rows of a split, and what is known of the set: revision and licence."""
    from datasets import load_dataset

    try:
        found = load_dataset(
            source, config or None, split=split, revision=revision or None, streaming=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        told = str(error).strip().splitlines()
        raise UserError(
            f"cannot be opened: {told[0] if told else type(error).__name__}",
            source,
            "Check the name, --config, --split and the connection.",
        ) from error
    return found, {"revision": revision or "main", "licence": str(found.info.license or "")}


def _written(
    session: WorkerSession, rows: Iterable[Any], target: Path, limit: int
) -> tuple[int, int]:
    """Rows and bytes written; the file is there whole or not at all."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    count = size = 0
    waiting: list[bytes] = []
    try:
        try:
            for line in _lines(rows):
                waiting.append(line)
                size += len(line)
                count += 1
                if len(waiting) == _WRITE_EVERY:
                    session.append(handle, b"".join(waiting), target.name)
                    waiting.clear()
                if count % _TELL_EVERY == 0:
                    session.events.write("progress", done=count, total=limit, text="reading rows")
                    attend(session)
                if count == limit:
                    break
            session.append(handle, b"".join(waiting), target.name)
            os.fsync(handle)
        finally:
            os.close(handle)
        Path(draft).replace(target)
    finally:
        Path(draft).unlink(missing_ok=True)
    sync_folder(target.parent)
    return count, size


def _lines(rows: Iterable[Any]) -> Iterator[bytes]:
    for number, row in enumerate(rows, 1):
        try:
            yield msgspec.json.encode(dict(row), enc_hook=_plain) + b"\n"
        except (TypeError, ValueError) as error:
            raise UserError(
                f"row {number:,} holds what JSON cannot: {error}.",
                fix="Only text, numbers and lists of them can be trained on here.",
            ) from error


def _plain(value: object) -> object:
    """Numbers of array libraries; anything else is refused."""
    if callable(getattr(value, "tolist", None)):
        return value.tolist()  # type: ignore[attr-defined]
    raise TypeError(f"a {type(value).__name__}")
