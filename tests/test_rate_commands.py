"""``finetui rate`` without a screen: options, drafts, looks, checks; and who is compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetui import start
from finetui.commands import rate
from finetui.contenders import systems_of
from finetui.errors import UserError
from finetui.jobs.folder import Job
from finetui.jobs.folder import create as create_job
from finetui.rating.ballot import Ballot
from finetui.rating.burned import burn
from finetui.rating.drafts import Draft, hold
from finetui.rating.registration import Registration, recommended
from finetui.rating.sequential import StopRule
from finetui.rating.session import Item, default_rater, open_session
from finetui.workspace import Workspace, create_sample


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return create_sample(tmp_path / "place")


@pytest.fixture
def trained(workspace: Workspace) -> Job:
    """A run that left an adapter and a checkpoint."""
    files = {"train": ["/t.jsonl"], "eval": str(workspace.datasets / "tickets_heldout.jsonl")}
    recipe = {"model": {"path": str(workspace.root / "model")}, "data": files}
    job = create_job(workspace.jobs, "train", "try", {"kind": "train", "recipe": recipe}, {})
    for folder in (job.adapter, job.path / "checkpoints" / "step-120"):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "MANIFEST.json").write_text("{}")
    return job


def command(workspace: Workspace, *words: str) -> int:
    return rate.run(rate.parser().parse_args([*words, "-w", str(workspace.root)]))


def test_options_become_the_registration_and_silence_what_suits_the_size() -> None:
    parse = rate.parser().parse_args
    assert rate.registration_of(parse(["prepare", "s", "--items", "40"])) == recommended(40)
    words = (
        "prepare s --items 40 --rater ann --rater bob --interested ann --criterion safer? "
        "--stop looks --look-at 20,40 --catches 0 --practice 2 --alpha 0.01 --identity keep "
        "--word owl --pairing each --repeats 0.2"
    )
    assert rate.registration_of(parse(words.split())) == Registration(
        criteria=("safer?",), raters=("ann", "bob"), interested=("ann",), alpha=0.01,
        stop=StopRule(kind="looks", looks=(20, 40)), pairing="each", repeats=0.2, practice=2,
        catches=0, guesses=10, identity="keep", words=("owl",),
    )  # fmt: skip
    with pytest.raises(UserError, match="no list of numbers"):
        rate.registration_of(parse(["prepare", "s", "--stop", "looks", "--look-at", "20,x"]))


def test_systems_are_named_in_a_few_words(workspace: Workspace, trained: Job) -> None:
    theirs = workspace.root / "theirs.jsonl"
    theirs.write_text('{"answer": "x"}\n')
    words = ["base", "new=tuned", "checkpoint:120", f"few-shot:2@{theirs}", f"outputs:{theirs}"]
    found = systems_of(workspace, [*words, f"base:{trained.id}"])
    assert [(one.name, one.kind) for one in found] == [
        ("base", "base"), ("new", "adapter"), ("step-120", "checkpoint"),
        ("base-2-shot", "few-shot"), ("theirs", "outputs"), ("base-2", "base"),
    ]  # fmt: skip
    assert [one.name for one in systems_of(workspace)] == ["base", "tuned"]
    for word, says in {
        "best": "names no system",
        "checkpoint:7": "There are: 120",
        "few-shot:many": "no number of examples",
        "few-shot:2@nowhere.jsonl": "is not there",
        "outputs:nowhere.jsonl": "is not there",
    }.items():
        with pytest.raises(UserError, match=says):
            systems_of(workspace, [word])


def test_a_registration_that_cannot_be_sealed_is_refused_before_any_model_answers(
    workspace: Workspace, trained: Job
) -> None:
    systems = systems_of(workspace)
    for chosen, says in {
        Registration(interested=("eve",)): "no rater of this session",
        Registration(raters=("../x",)): "cannot be a file name",
        Registration(margin=0.1, stop=StopRule(kind="e-process")): "tested once",
    }.items():
        with pytest.raises(UserError, match=says):
            start.start_prepare(workspace, systems, "s", registration=chosen)
    waiting(workspace)
    with pytest.raises(UserError, match="of this name exists"):
        start.start_prepare(workspace, systems, "waiting")
    assert [job.kind for job in start.list_jobs(workspace.jobs)] == ["train"]


def waiting(workspace: Workspace, stop: StopRule | None = None) -> None:
    items = [
        Item(f"row-{n}", [{"role": "user", "content": f"q{n}"}],
             outputs={"oldfish": f"one {n}", "newfish": f"two {n}" + " says Qwen" * (n == 3)})
        for n in range(12)
    ]  # fmt: skip
    chosen = Registration(stop=stop or StopRule())
    hold(
        workspace.ratings,
        Draft(name="waiting", created=1.0, systems=("oldfish", "newfish"), items=items,
              registration=chosen),
    )  # fmt: skip


def test_findings_are_read_then_the_session_is_sealed_by_choice(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting(workspace)
    assert command(workspace, "findings") == 0
    told = capsys.readouterr()
    assert "row-3" in told.out and '"qwen"' in told.out
    assert "oldfish" not in told.out and "newfish" not in told.out
    assert command(workspace, "seal", "waiting", "--exclude", "row-0", "--keep", "row-3") == 0
    manifest = open_session(workspace.ratings / "waiting").manifest
    assert (manifest.items, manifest.excluded) == (11, {"chosen": 1})
    waiting_again = command(workspace, "list", "--json")
    assert waiting_again == 0 and json.loads(capsys.readouterr().out)["shown"] == 11
    with pytest.raises(UserError, match="no session waits"):
        command(workspace, "findings")


def test_answers_that_wait_can_be_thrown_away(workspace: Workspace) -> None:
    waiting(workspace)
    assert command(workspace, "seal", "waiting", "--drop") == 0
    with pytest.raises(UserError, match="waits to be sealed"):
        command(workspace, "seal", "waiting")


def test_look_verify_unseal_report_and_export_in_turn(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting(workspace, StopRule(kind="e-process"))
    command(workspace, "seal", "waiting")
    session = open_session(workspace.ratings / "waiting")
    with Ballot(session, default_rater()) as ballot:
        while ballot.current is not None:
            ballot.vote("L")
    capsys.readouterr()
    assert command(workspace, "look") == 0
    assert capsys.readouterr().out == "Continue: the registered rule is not met.\n"
    assert command(workspace, "verify") == 0
    assert command(workspace, "unseal", "--reason", "done") == 0
    assert command(workspace, "report", "--html") == 0
    assert capsys.readouterr().out.startswith("<!")
    assert command(workspace, "export") == 0
    files = capsys.readouterr().out.split()
    assert [Path(file).name for file in files] == [
        "preferences.jsonl", "unpaired.jsonl", "provenance.json",
    ]  # fmt: skip
    (vote_file,) = (session.ratings / default_rater()).glob("*.jsonl")
    vote_file.write_bytes(vote_file.read_bytes().replace(b'"choice":"L"', b'"choice":"R"', 1))
    assert command(workspace, "verify") == 1
    assert "was changed after it was written" in capsys.readouterr().out


def test_burned_lines_of_a_data_set_are_told(workspace: Workspace) -> None:
    file = workspace.datasets / "asked.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]}
        for n in range(4)
    ]
    file.write_text("not json\n" + "".join(json.dumps(row) + "\n" for row in rows))
    assert start.burned_lines(workspace, file) == []
    burn(workspace.ratings, "earlier", {"x": rows[1]["messages"][:1], "y": rows[3]["messages"][:1]})
    assert start.burned_lines(workspace, file) == [3, 5]
