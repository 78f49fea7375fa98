"""Answer a set of prompts, score the answers, and leave them in a file line by line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetui.data.tokens import ChatTokenizer
from finetui.engine.attention import attend
from finetui.engine.dataset import Prompt
from finetui.engine.generate import Answer, Settings, answers
from finetui.evaluation.compare import read_outputs
from finetui.evaluation.metrics import AnswerScore, score_answer, summarise
from finetui.jobs.worker import WorkerSession

_SAMPLES = 3


def answer_all(
    session: WorkerSession,
    model: Any,
    tokenizer: ChatTokenizer,
    prompts: Sequence[Prompt],
    settings: Settings,
    file: Path,
    text: str,
) -> None:
    """Answer ``prompts`` into ``file``, one JSON object a line; rows already there are kept.

    Writes progress events with ``text``; raises StopRequested when somebody asks.
    """
    done = _keep_whole_lines(file)
    encoded = [tokenizer.encode_prompt(prompt.messages, prompt.tools) for prompt in prompts]
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        batches = answers(
            model, tokenizer, encoded, settings, lambda index: prompts[index].id not in done
        )
        count = len(done)
        session.events.write("progress", done=count, total=len(prompts), text=text)
        for batch in batches:
            for answer in batch:
                session.append(
                    descriptor, _line(prompts[answer.index], answer), "the file of answers"
                )
            count += len(batch)
            session.events.write("progress", done=count, total=len(prompts), text=text)
            attend(session)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def score_set(
    session: WorkerSession,
    model: Any,
    tokenizer: ChatTokenizer,
    prompts: Sequence[Prompt],
    settings: Settings,
    file: Path,
    when: str,
    name: str,
    step: int = 0,
) -> dict[str, float]:
    """Answer and score a set; returns its summary and writes a score event and a few samples.

    ``when`` is "before" or "after" training, ``name`` what the set is called on screen.
    """
    began = time.perf_counter()
    answer_all(session, model, tokenizer, prompts, settings, file, f"answering {name}, {when}")
    outputs = read_outputs(file)
    summary = summarise(AnswerScore(output.format, output.correct) for output in outputs)
    for output in outputs[:_SAMPLES]:
        session.events.write(
            "sample",
            step=step,
            when=when,
            set=name,
            prompt=_last_text(output.prompt),
            answer=output.answer,
            reference=output.reference,
        )
    session.events.write(
        "score",
        when=when,
        set=name,
        seconds=round(time.perf_counter() - began, 3),
        **{key: round(value, 6) for key, value in summary.items()},
    )
    return summary


def _line(prompt: Prompt, answer: Answer) -> bytes:
    score = score_answer(answer.text, prompt.reference)
    entry = {
        "id": prompt.id,
        "prompt": prompt.messages,
        "answer": answer.text,
        "reference": prompt.reference,
        "format": score.format,
        "correct": score.correct,
        "ended": answer.ended,
    }
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _keep_whole_lines(file: Path) -> set[str]:
    """Ids of the answers an earlier attempt left; a torn last line is cut off the file."""
    if not file.is_file():
        return set()
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(file, whole)
    return {output.id for output in read_outputs(file)}


def _last_text(prompt: Sequence[dict[str, Any]]) -> str:
    return str(prompt[-1].get("content") or "") if prompt else ""
