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


# What a family needs beside the common sizes.
_FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "mistral": {"sliding_window": 6},
    "gemma2": {"sliding_window": 6},
    "gemma3_text": {"sliding_window": 6, "final_logit_softcapping": 2.0},
    "granite": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
    "phi3": {"original_max_position_embeddings": 256},
    "mamba": {"state_size": 4},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 48},
}


def tiny_model(family: str, vocab_size: int = 64) -> Any:
    """Two random layers of width 32 of any family that transformers knows."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "max_position_embeddings": 256,
    }
    ids = {"vocab_size": vocab_size, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    own = _FAMILIES.get(family, {})
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **ids, **({} if family == "gpt2" else sizes), **own)
    return AutoModelForCausalLM.from_config(config).eval()


def with_adapter(model: Any, layers: str | list[str] = "all-linear") -> Any:
    """The model with a LoRA adapter that already does something."""
    import torch
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=layers, task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    for name, part in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(part, std=0.05)
    return tuned


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
