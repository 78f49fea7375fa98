"""Recipe files: comments survive, errors name the line, nothing is written that differs."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import tomli

from finetui.errors import UserError
from finetui.recipe import files
from finetui.recipe.files import (
    RecipeError,
    dumps,
    from_spec,
    load,
    loads,
    resolve,
    revised,
    save,
    to_spec,
)
from finetui.recipe.schema import FIELDS, Recipe, defaults, get, replace, with_value
from finetui.recipe.toml_text import key_lines

WRITTEN = """\
# my run
# second line

# the model
[model]
path = "model"  # tiny

# about data
[data]
train = [  # many
  "a.jsonl",
]
[training]
batch_size = 4
learning_rate   =   2e-4   # usual
"""


def set_all(recipe: Recipe, **values: str) -> Recipe:
    for id, text in values.items():
        recipe = with_value(recipe, id.replace("__", "."), text)
    return recipe


def test_a_new_file_says_everything_and_reads_back() -> None:
    recipe = set_all(
        defaults(),
        name="x",
        notes='a\n"b" """',
        data__train="a.jsonl, b.jsonl",
        learning_rate="2e-4",
    )
    text = dumps(recipe)
    assert loads(text) == recipe
    assert text.startswith("# x: one run's settings.\n")
    assert "learning_rate = 2e-4\n" in text and "epochs = 3.0\n" in text
    assert {key for key in key_lines(text) if "." in key} == {f.id for f in FIELDS if "." in f.id}
    # The top of the file and each table have a comment of their own.
    tables = [line for line in text.splitlines() if line.startswith("[")]
    assert text.count("\n# ") >= len(tables)


def test_a_save_changes_only_the_changed_values() -> None:
    recipe = set_all(loads(WRITTEN), learning_rate="4e-3", data__packing="on")
    expected = WRITTEN.replace("2e-4", "0.004").replace(
        "]\n[training]", "]\npacking = true\n[training]"
    )
    assert revised(WRITTEN, recipe) == expected


def test_a_save_without_changes_keeps_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    for text in (WRITTEN, dumps(defaults()), "", "# only a comment\n", "[model]\r\npath = 'a'\r\n"):
        path.write_bytes(text.encode())
        save(path, load(path))
        assert path.read_bytes().decode() == text


def test_a_saved_default_is_not_added_but_a_written_value_goes_back_to_it() -> None:
    recipe = with_value(loads(WRITTEN), "batch_size", "8")
    text = revised(WRITTEN, recipe)
    assert "batch_size = 8\n" in text
    assert "rank" not in text


def test_new_keys_go_to_the_end_of_their_table_and_comments_stay_with_theirs() -> None:
    text = revised(
        WRITTEN, set_all(loads(WRITTEN), name="n", model__revision="abc", evaluation__every="7")
    )
    assert 'path = "model"  # tiny\nrevision = "abc"\n\n# about data\n[data]' in text
    assert text.startswith('# my run\n# second line\n\nname = "n"\n\n# the model\n[model]')
    assert text.endswith("# usual\n\n[evaluation]\nevery = 7\n")


@pytest.mark.parametrize(
    "text",
    [
        'model.path = "x" # c\ndata = {train=["a"], eval="q"} # k\n',
        '"model".path = "x"\n',
        "notes = '''\n[data]\nrank = 3\n'''\n[method]\nrank = 8",
        "[training]\nseed = 1\n\n[method]\n\n[data]\r\ntrain = []\r\n",
        "# head\n[model]\n",
        "",
    ],
)
def test_every_way_of_writing_takes_every_change(text: str) -> None:
    changes = {
        "name": "n", "notes": "a\nb", "model.path": "p", "model.precision": "bf16",
        "data.packing": "yes", "data.train": "b, c", "training.learning_rate": "1e-5",
        "method.rank": "4", "checkpoints.every": "9",
    }  # fmt: skip
    for pair in itertools.permutations(changes, 2):
        recipe = loads(text)
        for id in pair:
            recipe = with_value(recipe, id, changes[id])
        assert loads(revised(text, recipe)) == recipe


PROBLEMS = '''\
learning_rate = 1
[model]
path = 3
[trianing]
x = 1
[training]
learing_rate = 2
rank = 4
notes = """
[data]
"""
batch_size = true
num_train_epochs = 2
learning_rate = nan
warmup = "a"
[data]
train = "x"
eval = ["a"]
'''


def test_all_problems_are_listed_with_line_and_nearest_key() -> None:
    with pytest.raises(RecipeError) as raised:
        loads(PROBLEMS, "r.toml")
    assert raised.value.lines == [
        "r.toml:1: unknown key 'learning_rate'. It belongs in [training].",
        "r.toml:3: model.path: base model must be a path, not 3.",
        "r.toml:4: unknown table [trianing]. Did you mean [training]?",
        "r.toml:7: unknown key 'learing_rate' in [training]. Did you mean 'learning_rate'?",
        "r.toml:8: unknown key 'rank' in [training]. It belongs in [method].",
        "r.toml:9: unknown key 'notes' in [training]. It belongs at the top of the file.",
        "r.toml:12: training.batch_size: batch size must be a whole number between 1 and 4096, "
        "not true.",
        "r.toml:13: unknown key 'num_train_epochs' in [training]. Did you mean 'epochs'?",
        "r.toml:14: training.learning_rate: learning rate must be a number between 1e-7 and 1, "
        "not nan.",
        "r.toml:15: training.warmup: warm-up must be a number between 0 and 100,000, "
        "not the text 'a'.",
        "r.toml:17: data.train: training data must be a list of paths, not the text 'x'.",
        "r.toml:18: data.eval: held-out data must be a path, not a list.",
    ]
    assert str(raised.value) == " ".join(raised.value.lines)


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[model]\npath = = 2\n")
    with pytest.raises(RecipeError, match=r"r\.toml:2: invalid value"):
        load(path)


def test_what_is_no_text_or_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    with pytest.raises(UserError, match="cannot be read"):
        load(path)
    path.write_bytes(b"name = 'a'\nnotes = '\xff'\n")
    with pytest.raises(RecipeError, match=r"r\.toml:2: is not UTF-8"):
        load(path)


def test_a_broken_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[model\n")
    with pytest.raises(RecipeError):
        save(path, defaults())
    assert path.read_text() == "[model\n"


def test_unknown_keys_of_a_file_are_kept_by_a_save() -> None:
    text = "[model]\npath = 'a'\nfuture = 1 # soon\n"
    assert revised(text, with_value(defaults(), "model.path", "b")) == text.replace("'a'", '"b"')


def test_keys_inside_strings_are_no_keys() -> None:
    text = "notes = '''\nrank = 1\n[data]\n'''\n[method]\nrank = 2 # rank = 3\nalpha=4\n"
    assert key_lines(text) == {"notes": 1, "method": 5, "method.rank": 6, "method.alpha": 7}


def test_a_spec_is_plain_and_complete() -> None:
    recipe = with_value(defaults(), "data.train", "a, b")
    spec = to_spec(recipe)
    assert spec["data"]["train"] == ["a", "b"] and spec["name"] == ""
    assert {f"{t}.{k}" for t, v in spec.items() if isinstance(v, dict) for k in v} <= {
        found.id for found in FIELDS
    }
    assert from_spec(spec) == recipe
    assert from_spec(tomli.loads(dumps(recipe))) == recipe
    with pytest.raises(RecipeError, match="unknown key 'rnk'"):
        from_spec({"method": {"rnk": 1}})


def test_resolve_makes_paths_absolute_and_leaves_hub_ids(tmp_path: Path) -> None:
    recipe = set_all(
        defaults(), model__path="model", data__train="a.jsonl, /b.jsonl", data__eval="sub/c.jsonl"
    )
    found = resolve(recipe, tmp_path)
    assert found.model.path == str(tmp_path / "model")
    assert found.data.train == (str(tmp_path / "a.jsonl"), "/b.jsonl")
    assert found.data.eval == str(tmp_path / "sub/c.jsonl")
    assert found.data.general == ""

    hub = replace(recipe, "model.path", "some-org/some-model")
    assert get(resolve(hub, tmp_path), "model.path") == "some-org/some-model"
    (tmp_path / "some-org").mkdir()
    assert get(resolve(hub, tmp_path), "model.path") == str(tmp_path / "some-org/some-model")


def test_the_words_of_other_trainers_lead_to_fields_that_are_there() -> None:
    ids = {found.id for found in FIELDS}
    assert set(files._ELSEWHERE.values()) <= ids
    for word, id in files._ELSEWHERE.items():
        with pytest.raises(RecipeError, match=repr(id.rpartition(".")[2])):
            loads(f"[data]\n{word} = 1\n")
