"""Those who answer in an evaluation or a rating: loaded one after another, with their shots."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec import structs

from finetui.data.tokens import ChatTokenizer
from finetui.engine.adapters import (
    adapter_folder,
    first_line,
    is_adapter,
    load_adapter,
    parameter_counts,
)
from finetui.engine.answer import base_model, machine_of, model_settings
from finetui.engine.answer_cache import fingerprint, folder_hash, key_of
from finetui.engine.dataset import prompts
from finetui.engine.machine import Machine
from finetui.engine.model import load_tokenizer
from finetui.errors import UserError
from finetui.evaluation.record import Subject, Usage
from finetui.recipe.schema import Model
from finetui.workspace import Workspace

Messages = Sequence[Mapping[str, Any]]


def spec_of(subject: Subject) -> dict[str, Any]:
    """What loads a subject's model, as the spec of a job says it."""
    return {**subject.loading, "model": subject.model, "adapter": subject.adapter}


def base_key(subject: Subject) -> str:
    """The same for subjects that stand on the same base, loaded alike."""
    return key_of("base", subject.model, subject.loading)


@dataclass
class _Loaded:
    key: str
    model: Any
    seconds: float


class Bench:
    """The models of an evaluation, one at a time; a base that several adapters share stays.

    ``with`` it: at the end the memory is free. ``scratch`` takes converted tokenizers.
    """

    def __init__(self, scratch: Path, threads: int = 0) -> None:
        self._scratch, self._threads = scratch, threads
        self._base: _Loaded | None = None
        self._on_top: tuple[str, Any, float] | None = None
        self._tokenizers: dict[str, ChatTokenizer] = {}
        self._hashes: dict[str, str] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def machine(self, subject: Subject) -> Machine:
        return machine_of({"threads": self._threads, **subject.loading})

    def tokenizer(self, subject: Subject) -> ChatTokenizer:
        key = base_key(subject)
        if key not in self._tokenizers:
            scratch = self._scratch / f"tokenizer-{key[:8]}"
            self._tokenizers[key] = load_tokenizer(_tokenizer_settings(subject), scratch)
        return self._tokenizers[key]

    def model(self, subject: Subject) -> Any:
        """The subject's model, ready to answer. Takes the model before it away. Raises UserError.

        Not for subjects of kind outputs, which have none.
        """
        base = self._base_of(subject)
        if not subject.adapter:
            self._take_off()
            return base.model
        if self._on_top is None or self._on_top[0] != subject.adapter:
            self._take_off()
            start = time.perf_counter()
            _forget_peak()
            model = load_adapter(base.model, Path(subject.adapter))
            self._on_top = (subject.adapter, model, time.perf_counter() - start)
        return self._on_top[1]

    def usage(self, subject: Subject) -> Usage:
        """What the subject that is loaded now took."""
        model, machine = self.model(subject), self.machine(subject)
        on_top = self._on_top[2] if self._on_top is not None else 0.0
        return Usage(
            load_seconds=round(self._base_of(subject).seconds + on_top, 3),
            peak_bytes=machine.memory()[0],
            parameters=parameter_counts(model)[0],
            weight_bytes=weight_bytes(model),
            device=machine.name,
        )

    def fingerprint(self, subject: Subject) -> str:
        """What the subject's numbers depend on: weights, adapter, format, device, libraries."""
        machine = self.machine(subject)
        adapter = self._hash(str(adapter_folder(subject.adapter))) if subject.adapter else ""
        method = subject.loading.get("method") or {}
        stored = method if method.get("kind") == "qlora" else {}
        return fingerprint(
            self._weights(subject), adapter, stored, machine.precision, machine.device.type,
            bool(subject.loading.get("tf32")),
        )  # fmt: skip

    def clear(self) -> None:
        """Leave nothing loaded."""
        if self._base is None:
            return
        self._on_top = self._base = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _base_of(self, subject: Subject) -> _Loaded:
        key = base_key(subject)
        if self._base is None or self._base.key != key:
            self.clear()
            _forget_peak()
            start = time.perf_counter()
            model = base_model(spec_of(subject), self.machine(subject))
            self._base = _Loaded(key, model, time.perf_counter() - start)
        return self._base

    def _take_off(self) -> None:
        if self._on_top is not None and self._base is not None:
            assert is_adapter(self._on_top[1])
            _forget_peak()
            self._base.model = self._on_top[1].unload().eval()
            self._on_top = None

    def _weights(self, subject: Subject) -> str:
        folder = Path(subject.model)
        return self._hash(str(folder)) if folder.is_dir() else _hub_commit(subject)

    def _hash(self, folder: str) -> str:
        if folder not in self._hashes:
            self._hashes[folder] = folder_hash(Path(folder))
        return self._hashes[folder]


def _forget_peak() -> None:
    """From here on the peak of memory is that of the next subject."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _tokenizer_settings(subject: Subject) -> Model:
    """The model's own folder, or another one where a checkpoint has no tokenizer."""
    settings = model_settings(spec_of(subject))
    return structs.replace(settings, path=subject.loading.get("tokenizer") or settings.path)


def weight_bytes(model: Any) -> int:
    return sum(part.nbytes for part in model.parameters())


def shots_of(
    subject: Subject, workspace: Workspace | None, asked: Iterable[Messages]
) -> list[list[dict[str, Any]]]:
    """The first rows of the subject's data set as chats, none of which is one of ``asked``.

    Raises UserError when there are fewer than were asked for.
    """
    if not subject.shots:
        return []
    taken = {_words(prompt) for prompt in asked}
    found = [
        [*row.messages, {"role": "assistant", "content": row.reference}]
        for row in prompts(subject.few_shot, 1 << 30, 0, workspace)
        if _words(row.messages) not in taken
    ][: subject.shots]
    if len(found) < subject.shots:
        raise UserError(
            f"has {len(found)} rows that are not asked themselves, and {subject.shots} were "
            "wanted as examples.",
            subject.few_shot,
            "Take fewer, or name another file.",
        )
    return found


def with_shots(prompt: Messages, shots: Sequence[Messages]) -> list[dict[str, Any]]:
    """A prompt with worked examples between its system turn and its first question.

    The examples' own system turns are left out: the prompt's one speaks for all.
    """
    messages = [dict(turn) for turn in prompt]
    start = next((at for at, turn in enumerate(messages) if turn["role"] != "system"), 0)
    examples = [dict(turn) for shot in shots for turn in shot if turn["role"] != "system"]
    return [*messages[:start], *examples, *messages[start:]]


def _words(prompt: Messages) -> str:
    """What is asked, the system turn aside."""
    return key_of("asked", [
        (turn["role"], turn.get("content")) for turn in prompt if turn["role"] != "system"
    ])  # fmt: skip


def _hub_commit(subject: Subject) -> str:
    """The commit that a hub id stands for now."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    revision = str(subject.loading.get("revision") or "main")
    try:
        file = cached_file(subject.model, "config.json", revision=revision)
    except (OSError, ValueError) as error:
        raise UserError(first_line(error), subject.model, "Choose another model.") from error
    return f"{subject.model}@{extract_commit_hash(file, None) or revision}"
