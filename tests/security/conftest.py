"""A model with code of its own, and a person whose consents are kept apart."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from finetui.workspace import Workspace, create, sample_data

NEEDS_TORCH = ("test_model_code.py", "test_pickles.py")
if not all(find_spec(name) for name in ("torch", "transformers", "peft")):
    collect_ignore = list(NEEDS_TORCH)

CODE = """
import os
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path(os.environ["CODE_RAN"]).touch()


class OwnConfig(LlamaConfig):
    model_type = "own-llama"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once the model's own code has run."""
    monkeypatch.setenv("CODE_RAN", str(tmp_path / "ran"))
    return tmp_path / "ran"


@pytest.fixture(autouse=True)
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings folder of somebody who has allowed nothing yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "finetui"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create(tmp_path / "work")


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny Llama of a model type that only its own Python code knows."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return write_own_model(tmp_path / "own")


def write_own_model(folder: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 2048}  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own-llama",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(CODE)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(sample_data() / "model" / name, folder / name)
    return folder
