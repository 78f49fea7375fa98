"""The memory forecast against torch's own tracker, and on a GPU against what was measured there.

    python benchmarks/forecast.py            # eight shapes of Llama 8B, some minutes on one core
    python benchmarks/forecast.py --gpu      # the same on a CUDA GPU with random weights

Without a GPU the step runs over tensors without bytes (tests/engine/memory_oracle.py): layers 3
and 5, and from both the line to 32, as a whole model of 32 takes the tracker an hour. The goal is
5 % for every shape.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine"))

from finetui.engine import measure
from finetui.recipe import memory
from finetui.recipe.coefficients import Measured
from finetui.recipe.facts import Facts, merge, model_facts
from finetui.recipe.schema import Recipe, defaults, with_value

LLAMA_8B = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}
AGAIN = {"training.checkpointing": "on"}
SHAPES: dict[str, dict[str, str]] = {
    "LoRA, 1 x 2,048": {"training.batch_size": "1", "data.max_length": "2048"},
    "LoRA, 4 x 512": {"training.batch_size": "4", "data.max_length": "512"},
    "LoRA, 1 x 2,048, checkpointed": {
        "training.batch_size": "1", "data.max_length": "2048", **AGAIN,
    },
    "LoRA, 4 x 1,024, checkpointed": {
        "training.batch_size": "4", "data.max_length": "1024", **AGAIN,
    },
    "QLoRA, 1 x 2,048, checkpointed": {
        "method.kind": "qlora", "training.batch_size": "1", "data.max_length": "2048", **AGAIN,
    },
    "QLoRA, 2 x 1,024": {
        "method.kind": "qlora", "training.batch_size": "2", "data.max_length": "1024",
    },
    "full, 1 x 2,048, checkpointed": {
        "method.kind": "full", "training.batch_size": "1", "data.max_length": "2048", **AGAIN,
    },
    "full, 1 x 1,024": {
        "method.kind": "full", "training.batch_size": "1", "data.max_length": "1024",
    },
}  # fmt: skip
GOAL = 0.05
GIB = 2**30


def recipe_of(values: dict[str, str]) -> Recipe:
    recipe = defaults()
    for id, text in {"data.loss_on": "all", "model.attention": "sdpa", **values}.items():
        recipe = with_value(recipe, id, text)
    return recipe


def folder_with(layers: int) -> Path:
    made = Path(tempfile.mkdtemp(prefix="forecast-"))
    (made / "config.json").write_text(json.dumps(LLAMA_8B | {"num_hidden_layers": layers}))
    return made


def forecast(recipe: Recipe, layers: int, found: Any) -> float:
    """Bytes of all tensors at the peak, as the form shows them less context and slack."""
    facts = merge(model_facts(folder_with(layers)), Facts(gpus=1, gpu_bf16=True))
    key = str(memory.key(recipe, facts))
    facts = dataclasses.replace(facts, measured=Measured(found={key: found}))
    peak = memory.peak(recipe, facts)
    assert peak is not None and peak.source == "measured"
    return peak.uncorrected


def measured(recipe: Recipe) -> tuple[Any, float]:
    """Coefficients, and the CPU seconds that measuring them took."""
    folder = folder_with(32)
    facts = merge(model_facts(folder), Facts(gpus=1, gpu_bf16=True))
    began = time.process_time()
    return measure.measure(folder, memory.key(recipe, facts)), time.process_time() - began


def by_tracker(recipe: Recipe) -> float:
    import memory_oracle

    rows, length = recipe.training.batch_size, recipe.data.max_length
    low, high = (
        memory_oracle.peak(
            folder_with(layers), recipe, layers, rows, length, rows * length, memory.CHUNK["gpu"]
        )
        for layers in (3, 5)
    )
    return low + (32 - 3) * (high - low) / 2


def on_gpu(recipe: Recipe) -> float:
    """The allocator's peak over two updates of a random model on the first GPU."""
    import memory_oracle
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    from finetui.engine import adapters, losses, optimiser
    from finetui.engine.machine import choose_machine

    machine = choose_machine("bf16")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    config = AutoConfig.from_pretrained(str(folder_with(32)))
    kind = recipe.method.kind
    frozen = torch.float32 if kind == "full" else torch.bfloat16
    with torch.device(machine.device if kind != "qlora" else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=frozen, attn_implementation="sdpa")
    if kind == "qlora":
        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved)
            del model
            few = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            )  # fmt: skip
            model = AutoModelForCausalLM.from_pretrained(
                saved, dtype=torch.bfloat16, quantization_config=few, device_map={"": 0},
                attn_implementation="sdpa",
            )  # fmt: skip
    model = adapters.make_trainable(model, recipe, machine).train()
    torch.cuda.reset_peak_memory_stats()
    memory_oracle.as_accelerate(model, "cuda")
    update = optimiser.build(model, recipe)
    rows, length = recipe.training.batch_size, recipe.data.max_length
    batch = memory_oracle.batch(rows, length, rows * length, machine.device)
    for _ in range(2):
        loss, _ = losses.sft_loss(model, batch, float(rows * length))
        loss.backward()
        update.step()
        update.zero_grad(set_to_none=True)
        del loss
    return float(torch.cuda.max_memory_allocated())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gpu", action="store_true", help="measure on the first CUDA GPU")
    parser.add_argument("--only", default="", help="shapes whose name has this in it")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    missed = 0
    for name, values in SHAPES.items():
        if arguments.only not in name:
            continue
        recipe = recipe_of(values)
        found, seconds = measured(recipe)
        foreseen = forecast(recipe, 32, found)
        told = on_gpu(recipe) if arguments.gpu else by_tracker(recipe)
        error = foreseen / told - 1
        missed += abs(error) > GOAL
        print(
            f"{name:<32} forecast {foreseen / GIB:7.2f} GiB   "
            f"{'measured' if arguments.gpu else 'tracker'} {told / GIB:7.2f} GiB   "
            f"{error:+.1%}   measuring took {seconds:.2f} CPU-s",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
