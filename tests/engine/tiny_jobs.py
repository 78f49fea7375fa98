"""A random Llama of a few thousand parameters, small data, and jobs done in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetui.jobs.folder import Job
from finetui.jobs.worker import WorkerSession


def tiny_llama(seed: int = 0, vocabulary: int = 2048) -> Any:
    """Two layers of width 32, random."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            intermediate_size=64,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        )
    )


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def events(job: Job, kind: str | None = None) -> list[dict[str, Any]]:
    found = [
        json.loads(line) for path in job.events_files() for line in path.read_text().splitlines()
    ]
    return [event for event in found if kind in (None, event["kind"])]


def run_inside(job: Job, before: Callable[[WorkerSession], None] | None = None) -> int:
    """Do a job in this process; ``before`` gets the session first. Returns the exit code."""
    from finetui.engine.__main__ import work

    with WorkerSession(job) as session:
        if before is not None:
            before(session)
        return work(session)
