"""A model folder and data files as small as they can be, without any weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

CONFIG = {
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 704,
    "tie_word_embeddings": True,
    "vocab_size": 1952,
    "max_position_embeddings": 1024,
}

LLAMA_8B = CONFIG | {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


def write_config(folder: Path, config: dict[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_header(path: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file whose tensors are holes: the header is all that is ever read."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def demo_shapes() -> dict[str, list[int]]:
    """The tensors of the demo model."""
    shapes = {"model.embed_tokens.weight": [1952, 256], "model.norm.weight": [256]}
    for layer in range(4):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.q_proj.weight": [256, 256],
            f"{prefix}.self_attn.k_proj.weight": [128, 256],
            f"{prefix}.self_attn.v_proj.weight": [128, 256],
            f"{prefix}.self_attn.o_proj.weight": [256, 256],
            f"{prefix}.mlp.gate_proj.weight": [704, 256],
            f"{prefix}.mlp.up_proj.weight": [704, 256],
            f"{prefix}.mlp.down_proj.weight": [256, 704],
            f"{prefix}.input_layernorm.weight": [256],
            f"{prefix}.post_attention_layernorm.weight": [256],
        }
    return shapes


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A whole model folder, shaped like the demo model."""
    folder = write_config(tmp_path / "model", CONFIG)
    write_header(folder / "model.safetensors", demo_shapes())
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{%- generation -%}x{%- endgeneration -%}")
    return folder
