"""Measure the sample model: general skills by exact match, and the triage task by field.

    python measure.py --model ../model [--adapter FOLDER]

Answers are greedy. `format` is the share of triage answers that are JSON with exactly the two
fields and a known urgency; the other shares count only such answers as right.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from world import URGENCIES

BATCH = 64
DATASETS = Path(__file__).parents[1] / "datasets"
TRAINED_ON = 600  # tickets.jsonl's first rows; the rest was never trained on


def read_chats(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATASETS / name).read_bytes().splitlines()]


def prompt_of(row: dict[str, Any]) -> list[dict[str, str]]:
    return row["messages"][:-1]


def reference_of(row: dict[str, Any]) -> str:
    return row["messages"][-1]["content"]


@torch.inference_mode()
def answer_all(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[dict[str, Any]]
) -> list[str]:
    """Greedy answers in the order of `rows`; like lengths go together to save padding."""
    order = sorted(range(len(rows)), key=lambda i: len(str(prompt_of(rows[i]))))
    answers = [""] * len(rows)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        inputs = tokenizer.apply_chat_template(
            [prompt_of(rows[i]) for i in chosen],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
        )
        outputs = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        new = outputs[:, inputs["input_ids"].size(1) :]
        for i, tokens in zip(chosen, new, strict=True):
            answers[i] = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return answers


def measure_skills(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Share of exact answers for each skill, and `all`, the mean over the skills."""
    rows = read_chats("general_check.jsonl")
    right: dict[str, list[bool]] = {}
    for row, answer in zip(rows, answer_all(model, tokenizer, rows), strict=True):
        right.setdefault(row["skill"], []).append(answer == reference_of(row))
    shares = {skill: sum(hits) / len(hits) for skill, hits in right.items()}
    return {**shares, "all": sum(shares.values()) / len(shares)}


def parse_triage(answer: str) -> dict[str, str] | None:
    """The two fields, or None if the format is broken."""
    try:
        fields = json.loads(answer)
    except ValueError:
        return None
    if not isinstance(fields, dict) or set(fields) != {"urgency", "product"}:
        return None
    return fields if fields["urgency"] in URGENCIES else None


def measure_triage(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, rows: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Shares of `rows` answered in the right format, and right in each field and in both."""
    hits = dict.fromkeys(("format", "urgency", "product", "both"), 0)
    for row, answer in zip(rows, answer_all(model, tokenizer, rows), strict=True):
        fields, truth = parse_triage(answer), json.loads(reference_of(row))
        if fields:
            hits["format"] += 1
            hits["urgency"] += fields["urgency"] == truth["urgency"]
            hits["product"] += fields["product"] == truth["product"]
            hits["both"] += fields == truth
    return {name: count / len(rows) for name, count in hits.items()}


def show(title: str, shares: dict[str, float]) -> None:
    print(f"{title:<20}" + "  ".join(f"{name} {share:.3f}" for name, share in shares.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, help="a LoRA adapter to put on the model")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(
        args.model,
        local_files_only=True,
        padding_side="left",  # generation goes on from the last column
    )
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, local_files_only=True
    )
    if args.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, args.adapter).merge_and_unload()
    model.eval()
    show("general skills", measure_skills(model, tokenizer))
    show(
        "tickets, unused",
        measure_triage(model, tokenizer, read_chats("tickets.jsonl")[TRAINED_ON:]),
    )
    show("tickets, held out", measure_triage(model, tokenizer, read_chats("tickets_heldout.jsonl")))


if __name__ == "__main__":
    main()
