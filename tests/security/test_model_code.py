"""A model's own Python code runs only where a person allowed exactly that code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from finetui import consent, start
from finetui.cli import run
from finetui.consent import Consents, code_in
from finetui.engine.machine import Machine
from finetui.engine.model import load_config, load_model
from finetui.errors import UserError
from finetui.recipe.schema import Model, defaults, replace
from finetui.workspace import Workspace

HOST = Machine(torch.device("cpu"), "fp32")
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Hub = Callable[[str, Path], Path]


def trusting(folder: Path | str, revision: str = "") -> Model:
    return Model(path=str(folder), trust_remote_code=True, revision=revision)


def allow(folder: Path) -> None:
    assert run(["trust", str(folder), "--yes"]) == 0


def test_code_is_refused_where_the_recipe_does_not_ask_for_it(own_model: Path, ran: Path) -> None:
    allow(own_model)
    with pytest.raises(UserError, match=r"Python code of its own"):
        load_model(Model(path=str(own_model)), HOST)
    assert not ran.exists()


def test_a_recipe_alone_allows_nothing(own_model: Path, ran: Path) -> None:
    with pytest.raises(UserError, match="you have not allowed this code") as caught:
        load_model(trusting(own_model), HOST)
    assert f"finetui trust {own_model}" in str(caught.value)
    assert not ran.exists()


def test_allowed_code_runs_and_a_changed_file_stops_it_again(own_model: Path, ran: Path) -> None:
    allow(own_model)
    assert type(load_model(trusting(own_model), HOST)).__name__ == "OwnForCausalLM"
    assert ran.exists()
    ran.unlink()
    with (own_model / "modeling_own.py").open("a") as code:
        code.write("# changed\n")
    with pytest.raises(UserError, match="not allowed"):
        load_model(trusting(own_model), HOST)
    assert not ran.exists()


def test_a_further_file_of_code_needs_a_new_word(own_model: Path, ran: Path) -> None:
    allow(own_model)
    (own_model / "custom_generate").mkdir()
    (own_model / "custom_generate" / "generate.py").write_text("raise SystemExit\n")
    with pytest.raises(UserError, match="not allowed"):
        load_model(trusting(own_model), HOST)
    assert not ran.exists()


def test_consent_follows_the_code_into_a_result_of_full_tuning(own_model: Path, ran: Path) -> None:
    (own_model / "convert.py").write_text("# not needed to load\n")
    allow(own_model)
    result = own_model.with_name("result")
    load_model(trusting(own_model), HOST).save_pretrained(result)
    assert not (result / "convert.py").exists() and (result / "modeling_own.py").is_file()
    assert type(load_model(trusting(result), HOST)).__name__ == "OwnForCausalLM"


def test_code_from_another_repository_is_refused(own_model: Path, ran: Path) -> None:
    config = json.loads((own_model / "config.json").read_text())
    config["auto_map"]["AutoConfig"] = "evil/other--modeling_own.OwnConfig"
    (own_model / "config.json").write_text(json.dumps(config))
    Consents().give(str(own_model), "", code_in(own_model))
    for load in (load_config, lambda settings: load_model(settings, HOST)):
        with pytest.raises(UserError, match=r"another repository \(evil/other\)"):
            load(trusting(own_model))
    assert run(["trust", str(own_model), "--yes"]) == 2
    assert not ran.exists()


def test_a_linked_folder_is_refused_because_its_code_may_change(own_model: Path) -> None:
    (own_model.parent / "outside").mkdir()
    (own_model / "custom_generate").symlink_to(own_model.parent / "outside")
    with pytest.raises(UserError, match="linked folder"):
        load_model(trusting(own_model), HOST)


def test_a_tokenizer_with_code_counts_as_code(own_model: Path, ran: Path) -> None:
    plain = json.loads((own_model / "config.json").read_text())
    plain.pop("auto_map")
    (own_model / "config.json").write_text(json.dumps({**plain, "model_type": "llama"}))
    assert not code_in(own_model).wanted
    names = json.loads((own_model / "tokenizer_config.json").read_text())
    names["auto_map"] = {"AutoTokenizer": ["modeling_own.Own", None]}
    (own_model / "tokenizer_config.json").write_text(json.dumps(names))
    assert code_in(own_model).classes == ("modeling_own.Own",)
    with pytest.raises(UserError, match="not allowed"):
        load_model(trusting(own_model), HOST)


def test_asking_for_code_where_there_is_none_runs_none(own_model: Path, ran: Path) -> None:
    config = json.loads((own_model / "config.json").read_text())
    config.pop("auto_map")
    (own_model / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    assert type(load_model(trusting(own_model), HOST)).__name__ == "LlamaForCausalLM"
    assert not ran.exists()


# -- the hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Put a folder into the hub's cache as one commit of org/own, its branch main."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))

    def put(commit: str, folder: Path) -> Path:
        kept = cache / "models--org--own"
        (kept / "refs").mkdir(parents=True, exist_ok=True)
        (kept / "refs" / "main").write_text(commit)
        return Path(shutil.copytree(folder, kept / "snapshots" / commit))

    return put


def test_a_hub_model_needs_a_commit_and_consent_for_that_commit(
    own_model: Path, hub: Hub, ran: Path
) -> None:
    hub(COMMIT, own_model)
    with pytest.raises(UserError, match="names no commit"):
        load_model(trusting("org/own"), HOST)
    with pytest.raises(UserError, match="not allowed this code"):
        load_model(trusting("org/own", COMMIT), HOST)
    assert run(["trust", "org/own", "--yes"]) == 0
    [given] = Consents().all()
    assert (given.source, given.commit) == ("org/own", COMMIT)
    assert type(load_model(trusting("org/own", COMMIT), HOST)).__name__ == "OwnForCausalLM"
    assert ran.exists()
    with pytest.raises(UserError, match="names no commit"):
        load_model(trusting("org/own"), HOST)


def test_consent_for_one_commit_is_none_for_the_next(own_model: Path, hub: Hub, ran: Path) -> None:
    hub(COMMIT, own_model)
    assert run(["trust", "org/own", "--yes"]) == 0
    newer = COMMIT[::-1]
    hub(newer, own_model)
    with pytest.raises(UserError, match="not allowed this code"):
        load_model(trusting("org/own", newer), HOST)
    assert not ran.exists()


def test_a_snapshot_changed_on_disk_is_not_what_was_allowed(
    own_model: Path, hub: Hub, ran: Path
) -> None:
    snapshot = hub(COMMIT, own_model)
    assert run(["trust", "org/own", "--yes"]) == 0
    (snapshot / "modeling_own.py").write_text("import os\n")
    with pytest.raises(UserError, match=r"have not allowed \(modeling_own.py\)"):
        load_model(trusting("org/own", COMMIT), HOST)


# -- where it is kept and told ---------------------------------------------------------------------


def test_consent_is_kept_privately_beside_the_settings_and_can_be_withdrawn(
    own_model: Path, person: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    allow(own_model)
    file = person / "trusted_code.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert run(["trust"]) == 0 and str(own_model) in capsys.readouterr().out
    assert run(["trust", str(own_model), "--withdraw"]) == 0
    with pytest.raises(UserError, match="not allowed"):
        load_model(trusting(own_model), HOST)


def test_a_consent_file_that_others_may_write_allows_nothing(own_model: Path, ran: Path) -> None:
    allow(own_model)
    consent.consent_file().chmod(0o622)
    with pytest.raises(UserError, match="may be written by others"):
        load_model(trusting(own_model), HOST)
    assert not ran.exists()


def test_without_a_terminal_nothing_is_allowed_by_accident(
    own_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null"))
    assert run(["trust", str(own_model)]) == 2
    assert Consents().all() == []


def test_the_recipe_check_says_it_before_a_run_and_the_manifest_keeps_what_was_allowed(
    own_model: Path, workspace: Workspace
) -> None:
    recipe = replace(defaults(), "model.path", str(own_model))
    recipe = replace(recipe, "model.trust_remote_code", True)

    def told() -> list[str]:
        _, advice = start.check_recipe(workspace, recipe)
        return [f"{one.message} {one.reason}" for one in advice if one.rule == "code-consent"]

    [sentence] = told()
    assert "have not allowed this code" in sentence and "finetui trust" in sentence
    allow(own_model)
    assert told() == []
    kept = start._allowed_code(workspace, recipe)["code"]
    assert kept == {"source": str(own_model), "commit": "", "files": code_in(own_model).files}
