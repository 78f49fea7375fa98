"""What `data.trainers` says TRL does with a row is what TRL does."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetui import workspace
from finetui.data.records import Shape, messages, parse_record
from finetui.data.tokens import load_chat_tokenizer
from finetui.data.trainers import Measured, trl_fate

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")

from tiny_jobs import tiny_llama  # noqa: E402

pytestmark = pytest.mark.torch
LIMIT = 40


def rows() -> list[list[dict[str, str]]]:
    lengths = [(1, 1), (2, 30), (30, 2), (60, 3), (8, 8), (3, 60), (25, 25)]
    return [
        [
            {"role": "user", "content": "word " * asked},
            {"role": "assistant", "content": "word " * answered},
        ]
        for asked, answered in lengths
    ]


def test_trl_drops_and_cuts_the_rows_that_it_is_said_to(tmp_path: Path) -> None:
    model_dir = workspace.sample_data() / "model"
    tokenizer = load_chat_tokenizer(model_dir)
    fates = []
    for chat in rows():
        record = parse_record({"messages": chat}, Shape.CHAT)
        found = tokenizer.encode(messages(record))
        kept = sum(found.trained[:LIMIT])
        fates.append(trl_fate(Measured(record, len(found.ids), found.trained_tokens, kept, LIMIT)))
    trainer = trl.SFTTrainer(
        model=tiny_llama(),
        args=trl.SFTConfig(
            output_dir=str(tmp_path), max_length=LIMIT, assistant_only_loss=True, use_cpu=True,
            bf16=False, report_to="none", disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_dict({"messages": rows()}),
        processing_class=transformers.AutoTokenizer.from_pretrained(model_dir),
    )  # fmt: skip
    theirs = [len(row["input_ids"]) for row in trainer.train_dataset]
    assert {fate.kind for fate in fates} == {"trained", "cut", "dropped"}
    assert len(theirs) == sum(fate.kind != "dropped" for fate in fates)
    assert theirs.count(LIMIT) == sum(fate.kind == "cut" for fate in fates)
