"""A look into files and packages: shapes by their columns, also of broken files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetui.data.shapes import shape_of as authority
from finetui.recipe.datafacts import FileLook, installed, look, look_at, shape_of
from finetui.recipe.facts import gather
from finetui.recipe.files import resolve
from finetui.recipe.schema import Recipe, defaults, with_value

CHAT = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
SEVERAL = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}] * 2}
ROWS: list[tuple[object, str]] = [
    (CHAT, "chat"),
    (SEVERAL, "chat"),
    ({"prompt": "q", "completion": "a"}, "answer"),
    ({"instruction": "q", "input": "", "output": "a"}, "answer"),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "pair"),
    ({"prompt": "q", "completion": "a", "label": True}, "labelled"),
    (CHAT | {"kto_tag": "false"}, "labelled"),
    ({"text": "words"}, "text"),
    ("words", "text"),
    ({"a": 1}, ""),
    (3, ""),
    (None, ""),
]
# What the data room, which reads every row, calls the shapes.
NAMES = {"chat": {"chat", "sharegpt"}, "answer": {"prompt-completion", "alpaca"},
         "pair": {"preference"}, "labelled": {"unpaired-preference"}, "text": {"text"},
         "": {"unknown"}}  # fmt: skip


@pytest.mark.parametrize(("row", "shape"), ROWS)
def test_a_shape_is_told_as_the_data_room_tells_it(row: object, shape: str) -> None:
    assert shape_of(row) == shape
    assert str(authority(row)[0]) in NAMES[shape]


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_counted_by_what_the_rules_ask(tmp_path: Path) -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "a"}
    found = look_at(write(tmp_path / "a.jsonl", CHAT, SEVERAL, CHAT | {"tools": [{}]}, pair))
    assert found == FileLook("chat", ("pair",), 4, several_turns=1, tools=1, same_sides=1)
    judged = [{"prompt": "q", "completion": text, "label": good}
              for text, good in (("a", True), ("b", False), (" ", 1))]  # fmt: skip
    found = look_at(write(tmp_path / "b.jsonl", *judged))
    assert found == FileLook("labelled", (), 3, good=2, bad=1, empty=1)


def test_tables_and_arrays_are_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,completion\n"q, too",a\n,\n')
    (tmp_path / "b.json").write_text(json.dumps([{"text": "a"}] * 3))
    (tmp_path / "c.tsv").write_text("text\nwords\n")
    looks = [look_at(tmp_path / name) for name in ("a.csv", "b.json", "c.tsv")]
    assert [found and (found.shape, found.rows) for found in looks] == [
        ("answer", 2), ("text", 3), ("text", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"{broken\n", b"\xff\xfe\x00", b"[" * 5000, b'{"a":' * 5000 + b"\n"]
)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_broken_file_is_no_error_here(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    found = look_at(path)
    assert found is None or found.shape == ""


def test_what_cannot_be_read_here_is_unknown(tmp_path: Path) -> None:
    assert look_at(tmp_path / "none.jsonl") is None
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert look_at(tmp_path / "a.parquet") is None


def test_a_file_is_looked_at_again_when_it_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", CHAT)
    assert (found := look_at(path)) and found.shape == "chat"
    write(path, {"text": "other"})
    assert (found := look_at(path)) and found.shape == "text"


def recipe(**values: str) -> Recipe:
    made = defaults()
    for id, text in values.items():
        made = with_value(made, id.replace("__", "."), text)
    return made


def test_the_start_adapter_is_found_in_its_folder_or_in_a_job(tmp_path: Path) -> None:
    folder = tmp_path / "job" / "adapter"
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_dora": True}
    names = {"target_modules": ["model.q_proj", "v_proj"], "base_model_name_or_path": "/m"}
    (folder / "adapter_config.json").write_text(json.dumps(config | names))
    for name in ("job", "job/adapter"):
        found = gather(recipe(model__adapter=name), tmp_path).details
        assert found and found.adapter_found and found.adapter
        assert (found.adapter.rank, found.adapter.alpha, found.adapter.dora) == (8, 16.0, True)
        assert found.adapter.targets == ("q_proj", "v_proj") and found.adapter.base == "/m"
    missing = gather(recipe(model__adapter="nothing"), tmp_path).details
    assert missing and missing.adapter_found is False and missing.adapter is None
    (folder / "adapter_config.json").write_text("{broken")
    broken = gather(recipe(model__adapter="job"), tmp_path).details
    assert broken and broken.adapter and broken.adapter.rank is None


def test_a_model_folder_says_whether_it_is_quantised_or_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    assert look(defaults(), defaults(), tmp_path).quantised == "gptq"
    (tmp_path / "config.json").unlink()
    (tmp_path / "adapter_config.json").write_text("{}")
    assert look(defaults(), defaults(), tmp_path).model_is_adapter


def test_a_template_file_is_looked_for_from_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("x")
    for name, there in (("own.jinja", True), ("no.jinja", False), ("chatml", None)):
        chosen = recipe(model__chat_template=name)
        assert look(chosen, resolve(chosen, tmp_path), None).template_found is there
    assert resolve(recipe(model__chat_template="chatml"), tmp_path).model.chat_template == "chatml"


def test_packages_are_told_without_importing_them() -> None:
    code = (
        "import sys; from finetui.recipe.datafacts import installed; found = installed();"
        "assert not found & set(sys.modules), found; print(*found)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == installed()
