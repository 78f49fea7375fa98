"""Training speed and losses: finetui, transformers' Trainer, TRL and a hand loop, on a CPU.

    python benchmarks/train_speed.py [--rounds 3] [--short 12] [--long 60] [--packed]

A random Llama (4 layers, width 256, vocabulary 8,192) with LoRA on all linear layers learns the
sample tickets, in file order, in one thread. Every engine is a process of its own that runs twice,
for few steps and for many: the difference is the cost of a step, and what is left of the short run
is the way to the first step. The engines take turns; CPU seconds are medians over the rounds.

finetui's run is the real worker (``python -m finetui.engine JOB``) with its events, row losses
and control; the others do nothing but train. Goals: 1.2 x the Trainer's speed, 2 x TRL's, first
step within 1.1 x of the hand loop's, and losses equal to 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from finetui.workspace import create, sample_data

LENGTH, BATCH, RATE, SEED = 256, 8, 1e-3, 0
GOALS = {"trainer": 1.2, "trl": 2.0}
START_GOAL = 1.1
EXACT = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", type=int, default=12)
    parser.add_argument("--long", type=int, default=60)
    parser.add_argument("--packed", action="store_true", help="several rows in one sequence")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        losses = CHILDREN[options.child](options.folder, options.steps, options.packed)
        print(json.dumps(list(losses)))
        return 0
    with tempfile.TemporaryDirectory(prefix="finetui-bench-") as name:
        folder = Path(name)
        subprocess.run([*me(), "--child", "model", "--folder", name, "--steps", "0"], check=True)
        return compare(folder, options)


def compare(folder: Path, options: argparse.Namespace) -> int:
    """Run every engine in turn, print the table; 1 when a goal is missed."""
    engines = ["finetui", "loop", "trainer", "trl"]
    cost: dict[str, list[float]] = {engine: [] for engine in engines}
    first: dict[str, list[float]] = {engine: [] for engine in engines}
    losses: dict[str, list[float]] = {}
    for turn in range(options.rounds):
        for engine in engines:
            short, _ = run(engine, folder / f"{engine}-{turn}-s", options.short, options.packed)
            long, losses[engine] = run(
                engine, folder / f"{engine}-{turn}-l", options.long, options.packed
            )
            step = (long - short) / (options.long - options.short)
            cost[engine].append(step)
            first[engine].append(short - options.short * step)
    return report(cost, first, losses, options.packed)


def report(
    cost: dict[str, list[float]], first: dict[str, list[float]], losses: dict[str, list[float]],
    packed: bool,
) -> int:  # fmt: skip
    own = losses["finetui"]
    print(f"{'engine':10}{'CPU ms a step':>15}{'finetui is':>13}{'start CPU s':>13}{'losses':>12}")
    good = True
    for engine in cost:
        ratios = [a / b for a, b in zip(cost[engine], cost["finetui"], strict=True)]
        step, ratio = statistics.median(cost[engine]), statistics.median(ratios)
        apart = max(abs(a - b) for a, b in zip(own, losses[engine], strict=True))
        print(
            f"{engine:10}{step * 1000:15.1f}{ratio:11.2f} x{statistics.median(first[engine]):13.2f}"
            f"{apart:12.1e}"
        )
        good &= ratio >= GOALS.get(engine, 0) and (apart < EXACT or (packed and engine == "trl"))
    start = statistics.median(first["finetui"]) / statistics.median(first["loop"])
    print(f"start to first step: {start:.2f} x the hand loop's (goal {START_GOAL})")
    return 0 if good and start <= START_GOAL else 1


def me() -> list[str]:
    return [sys.executable, __file__]


def run(engine: str, folder: Path, steps: int, packed: bool) -> tuple[float, list[float]]:
    """(CPU seconds of the whole process, the loss of each step)."""
    folder.mkdir()
    command = [*me(), "--child", engine, "--folder", str(folder), "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if engine == "finetui":
        command = [sys.executable, "-m", "finetui.engine", str(made_job(folder, steps, packed))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command + (["--packed"] if packed and engine != "finetui" else []),
        capture_output=True, env=environment, text=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{engine} failed:\n{done.stderr[-3000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, losses_of(folder) if engine == "finetui" else json.loads(
        done.stdout.splitlines()[-1]
    )


# ---------------------------------------------------------------- finetui


def made_job(folder: Path, steps: int, packed: bool) -> Path:
    """A job as the form would start it, without scoring before and after."""
    from finetui.jobs.folder import create as create_job
    from finetui.recipe.files import to_spec
    from finetui.recipe.schema import Recipe, defaults, replace

    space = create(folder / "work")
    recipe: Recipe = defaults()
    for field, value in {
        "model.path": str(folder.parent / "model"), "model.precision": "fp32",
        "data.train": [str(data())], "data.max_length": LENGTH, "data.packing": packed,
        "data.order": "file", "training.learning_rate": RATE, "training.schedule": "constant",
        "training.warmup": 0.0, "training.max_steps": steps, "training.batch_size": BATCH,
        "training.threads": 1, "training.beta2": 0.999, "training.seed": SEED,
        "evaluation.generate": 0, "evaluation.samples": 0, "evaluation.probe": 0,
        "evaluation.keep_best": False, "logging.every": 1,
    }.items():  # fmt: skip
        recipe = replace(recipe, field, value)
    spec = {"kind": "train", "name": "bench", "workspace": str(space.root)}
    job = create_job(space.jobs, "train", "bench", {**spec, "recipe": to_spec(recipe)}, {})
    return job.path


def losses_of(folder: Path) -> list[float]:
    (events,) = folder.glob("work/jobs/*/events-a1.jsonl")
    found = [json.loads(line) for line in events.read_text().splitlines()]
    return [event["loss"] for event in found if event["kind"] == "step"]


# ---------------------------------------------------------------- the others


def data() -> Path:
    return sample_data() / "datasets" / "tickets.jsonl"


def make_model(folder: Path, steps: int, packed: bool) -> Iterator[float]:
    """The random model, with the sample model's tokenizer beside it."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=704, max_position_embeddings=1024,
        tie_word_embeddings=True, dtype="float32",
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(sample_data() / "model" / name, folder / "model" / name)
    return iter(())


def prepared(folder: Path, packed: bool) -> tuple[Any, list[Any], Any]:
    """(model with a new adapter, rows, collator): the same tokens and masks for every engine."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM, set_seed

    from finetui.data.tokens import load_chat_tokenizer
    from finetui.engine.batches import Collator, example, pack_in_order, single

    torch.set_num_threads(1)
    tokenizer = load_chat_tokenizer(folder.parent / "model")
    with data().open() as file:
        chats = [json.loads(line)["messages"] for line in file]
    examples = [example(tokenizer.encode(chat, LENGTH), 0, n) for n, chat in enumerate(chats, 1)]
    rows = pack_in_order(examples, LENGTH) if packed else single(examples)
    model = LlamaForCausalLM.from_pretrained(folder.parent / "model", dtype=torch.float32)
    set_seed(SEED)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config), rows, Collator(tokenizer.pad_id, packed=packed)


def plain(batch: dict[str, Any]) -> dict[str, Any]:
    names = ("input_ids", "labels", "attention_mask", "position_ids")
    return {name: batch[name] for name in names if name in batch}


def loop(folder: Path, steps: int, packed: bool) -> Iterator[float]:
    """The least a training script can do: full logits, AdamW, clipping."""
    import torch

    model, rows, collate = prepared(folder, packed)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0, fused=True)
    model.train()
    for step in range(steps):
        start = step * BATCH % len(rows)
        loss = model(**plain(collate(rows[start : start + BATCH])), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss)


def settings(folder: Path, steps: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "max_steps": steps, "per_device_train_batch_size": BATCH,
        "learning_rate": RATE, "lr_scheduler_type": "constant", "optim": "adamw_torch_fused",
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "remove_unused_columns": False, "seed": SEED,
        "train_sampling_strategy": "sequential", "dataloader_pin_memory": False,
    }  # fmt: skip


def trainer(folder: Path, steps: int, packed: bool) -> Iterator[float]:
    """transformers' Trainer with the same batches and its own loss over full logits."""
    from transformers import Trainer, TrainingArguments

    model, rows, collate = prepared(folder, packed)
    made = Trainer(
        model=model, args=TrainingArguments(**settings(folder, steps)), train_dataset=rows,
        data_collator=lambda batch: plain(collate(batch)),
    )  # fmt: skip
    made.train()
    return (entry["loss"] for entry in made.state.log_history if "loss" in entry)


def trl(folder: Path, steps: int, packed: bool) -> Iterator[float]:
    """TRL's SFTTrainer on the same tokens; packed in its own way (best fit, no padding)."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model, rows, _ = prepared(folder, packed=False)
    entries = [{"input_ids": list(item.ids), "labels": list(item.labels)} for (item,) in rows]
    own = settings(folder, steps) | {"remove_unused_columns": True}
    args = SFTConfig(
        **own, max_length=LENGTH, packing=packed, bf16=False, gradient_checkpointing=False,
        shuffle_dataset=False,
    )  # fmt: skip
    made = SFTTrainer(
        model=model, args=args, train_dataset=Dataset.from_list(entries),
        processing_class=AutoTokenizer.from_pretrained(folder.parent / "model"),
    )  # fmt: skip
    made.train()
    return (entry["loss"] for entry in made.state.log_history if "loss" in entry)


CHILDREN: dict[str, Callable[[Path, int, bool], Iterator[float]]] = {
    "model": make_model, "loop": loop, "trainer": trainer, "trl": trl,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
