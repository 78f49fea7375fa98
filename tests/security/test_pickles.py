"""Weights are safetensors: a pickle, which runs code when it is read, is refused and not opened."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from finetui.engine.adapters import load_adapter
from finetui.engine.machine import Machine
from finetui.engine.model import load_model
from finetui.errors import UserError
from finetui.recipe.schema import Model

HOST = Machine(torch.device("cpu"), "fp32")
ADAPTER = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
}


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self._place),))


@pytest.fixture
def bomb(ran: Path) -> bytes:
    return pickle.dumps(Bomb(ran))


@pytest.fixture
def plain_model(own_model: Path) -> Path:
    """The tiny model without code of its own."""
    config = json.loads((own_model / "config.json").read_text())
    config.pop("auto_map")
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (own_model / "config.json").write_text(json.dumps(config))
    (own_model / "modeling_own.py").unlink()
    return own_model


@pytest.fixture
def base(plain_model: Path) -> Any:
    return load_model(Model(path=str(plain_model)), HOST)


@pytest.fixture
def adapter(base: Any, tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(
        str(tmp_path / "adapter")
    )
    return tmp_path / "adapter"


def test_the_bomb_is_one(bomb: bytes, ran: Path) -> None:
    pickle.loads(bomb)  # noqa: S301
    assert ran.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_a_model_of_pickles_is_refused(
    plain_model: Path, bomb: bytes, ran: Path, name: str
) -> None:
    (plain_model / "model.safetensors").unlink()
    (plain_model / name).write_bytes(bomb)
    with pytest.raises(UserError, match=f"pickled weights .{name}.") as caught:
        load_model(Model(path=str(plain_model)), HOST)
    assert "safetensors" in str(caught.value) and not ran.exists()


def test_a_pickle_beside_safetensors_is_not_opened(
    plain_model: Path, bomb: bytes, ran: Path
) -> None:
    (plain_model / "pytorch_model.bin").write_bytes(bomb)
    load_model(Model(path=str(plain_model)), HOST)
    assert not ran.exists()


def test_a_pickle_that_calls_itself_safetensors_is_an_error_in_words(
    plain_model: Path, bomb: bytes, ran: Path
) -> None:
    (plain_model / "model.safetensors").write_bytes(bomb)
    with pytest.raises(UserError):
        load_model(Model(path=str(plain_model)), HOST)
    assert not ran.exists()


def test_an_index_may_not_lead_to_pickles_or_out_of_the_folder(
    plain_model: Path, bomb: bytes, ran: Path
) -> None:
    (plain_model / "model.safetensors").rename(plain_model.parent / "outside.safetensors")
    (plain_model.parent / "evil.bin").write_bytes(bomb)
    (plain_model / "decoy.safetensors").write_bytes(b"")
    for target in ("../evil.bin", "evil.bin", "../outside.safetensors"):
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": target}}
        (plain_model / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match="no safetensors file in this folder"):
            load_model(Model(path=str(plain_model)), HOST)
    assert not ran.exists()


def test_an_adapter_of_pickles_is_refused(
    base: Any, bomb: bytes, ran: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (folder / "adapter_model.bin").write_bytes(bomb)
    with pytest.raises(UserError, match="holds no adapter_model.safetensors"):
        load_adapter(base, folder)
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        load_adapter(base, folder)
    assert not ran.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2, "prompt_tuning_init": "TEXT",
         "prompt_tuning_init_text": "x", "tokenizer_name_or_path": "evil/repository",
         "tokenizer_kwargs": {"trust_remote_code": True}},
        {"megatron_config": {"x": 1}, "megatron_core": "evil_module"},
        {"peft_type": "NO_SUCH_KIND"},
        {"peft_type": 7},
    ],
    ids=["prompt tuning with a tokenizer", "Megatron", "unknown", "a number"],
)  # fmt: skip
def test_only_plain_lora_is_loaded(base: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "strange"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**ADAPTER, **changes}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="not plain LoRA|cannot be read"):
        load_adapter(base, folder)


def test_a_checkpoint_of_pickles_is_no_adapter(adapter: Path, bomb: bytes, ran: Path) -> None:
    """What a run leaves beside its adapter (optimiser state) is not read to answer with it."""
    broken = shutil.copytree(adapter, adapter.with_name("with-bomb"))
    for name in ("optimizer.pt", "training_args.bin", "rng_state.pth"):
        (broken / name).write_bytes(bomb)
    model = load_model(Model(path=str(adapter.parent / "own")), HOST)
    assert load_adapter(model, broken).peft_config["default"].r == 4
    assert not ran.exists()


# -- data sets -------------------------------------------------------------------------------------


def test_a_data_set_with_a_script_or_pickles_is_refused(
    tmp_path: Path, bomb: bytes, ran: Path
) -> None:
    pytest.importorskip("datasets")
    from finetui.engine.fetch import _opened

    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "theirs.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n")
    with pytest.raises(UserError, match="cannot be opened"):
        _opened(str(folder), "", "train", "")
    with pytest.raises(UserError, match="cannot be opened"):
        _opened(str(folder / "theirs.py"), "", "train", "")
    for name in ("train.pkl", "train.pt", "train.bin"):
        (folder / name).write_bytes(bomb)
        with pytest.raises(UserError):
            list(_opened(str(folder), "", "train", "")[0])
    assert not ran.exists()


def test_what_a_run_resumes_through_unpickles_no_code() -> None:
    """Optimiser, schedule and random state are read by transformers: only as plain weights."""
    import ast
    import inspect

    from transformers import trainer

    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(trainer)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert calls
    for call in calls:
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert words.get("weights_only") == "True", ast.unparse(call)
