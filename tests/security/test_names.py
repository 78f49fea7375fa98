"""Names from recipes, specs, other people's folders and the command line never leave their folder.

And what else a folder from somebody else may try when finetui looks at it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from finetui import start
from finetui.data.chat_template import ChatTemplate, TemplateRefusal
from finetui.errors import UserError
from finetui.evaluation.record import check_name, of_job
from finetui.jobs.folder import Job, create
from finetui.jobs.manifest import git_state
from finetui.jobs.sweep import create_sweep
from finetui.rating.registration import Registration
from finetui.rating.session import Item, open_session, refuse_bad_names, seal
from finetui.recipe.importers import import_file
from finetui.workspace import Workspace

ESCAPES = (
    "../../escape", "/tmp/escape", "..", ".", "a/b", "a\\..\\b", "x\0y", "~/escape", "-rf",
    "\n../x", "\uff0e\uff0e\uff0fescape", "..%2fescape", "a" * 500, "", ".hidden", "$(id)", "`id`",
    "x;id",
    "con\u202etxt",
)  # fmt: skip


def inside(folder: Path, path: Path) -> bool:
    return path.resolve().parent == folder.resolve() and path.name not in ("", ".", "..")


@pytest.mark.parametrize("name", ESCAPES)
def test_a_job_lies_in_the_jobs_folder_whatever_its_recipe_is_called(
    workspace: Workspace, name: str
) -> None:
    job = create(workspace.jobs, "train", name, {"kind": "train", "name": name}, {})
    assert inside(workspace.jobs, job.path)
    assert set(job.id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize("name", ESCAPES)
def test_what_is_fetched_lies_among_the_data_sets(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(start, "launch", lambda *_, **__: 1)
    job = start.start_fetch(workspace, f"org/{name}", split=name, name=name)
    assert inside(workspace.datasets, Path(job.spec()["target"]))


@pytest.mark.parametrize("name", ESCAPES)
def test_a_session_a_rater_a_subject_and_a_set_need_names_that_are_files(name: str) -> None:
    for refuse in (check_name, lambda one: refuse_bad_names(one, ["me"]),
                   lambda one: refuse_bad_names("session", [one])):  # fmt: skip
        with pytest.raises(UserError):
            refuse(name)


@pytest.mark.parametrize("name", ESCAPES)
def test_answers_of_a_subject_lie_in_the_record(tmp_path: Path, name: str) -> None:
    record = of_job(tmp_path)
    for path_of in (record.items_path, record.usage_path, record.harness_path):
        with pytest.raises(UserError):
            path_of(name)


@pytest.mark.parametrize("name", ESCAPES)
def test_a_sweep_lies_in_the_sweeps_folder(workspace: Workspace, name: str) -> None:
    job = create(workspace.jobs, "train", "x", {"kind": "train"}, {})
    sweep = create_sweep(workspace.sweeps, name, [("one", {}, job)])
    assert inside(workspace.sweeps, sweep.path)


def test_a_session_of_somebody_else_cannot_name_files_elsewhere(workspace: Workspace) -> None:
    outputs = {"base": "one wording", "tuned": "another wording"}
    prompt = [{"role": "user", "content": "x"}]
    items = [Item(str(n), prompt, "x", outputs, {}) for n in range(12)]
    session = seal(workspace.ratings, "mine", items, Registration(raters=("ann",)),
                   systems=("base", "tuned"))  # fmt: skip
    open_session(session.path)
    for change in ({"session": "../../../escape"}, {"raters": ["../../escape"]}):
        folder = Path(shutil.copytree(session.path, session.path.with_name("theirs")))
        manifest = msgspec.structs.replace(session.manifest, **change)
        (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        with pytest.raises(UserError, match="cannot be a file name"):
            open_session(folder)
        shutil.rmtree(folder)


def test_records_of_an_attempt_stay_in_the_job_folder(workspace: Workspace) -> None:
    job = create(workspace.jobs, "train", "x", {"kind": "train"}, {})
    job.write_json("outcome.json", {"status": "failed", "attempt": "/../../../escape"})
    Job(job.path).put_away_records()
    assert (job.path / "outcome-a0.json").is_file() and not (job.path / "outcome.json").exists()


# -- code in what is only looked at ----------------------------------------------------------------


def test_git_runs_nothing_of_a_repository_that_finetui_looks_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repository's own configuration may name programs: filters, monitors, transports."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    for name in (
        "GIT_AUTHOR_NAME",
        "GIT_AUTHOR_EMAIL",
        "GIT_COMMITTER_NAME",
        "GIT_COMMITTER_EMAIL",
    ):
        monkeypatch.setenv(name, "x")

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    marks = tmp_path / "ran"
    git("init")
    (tmp_path / "data.jsonl").write_text("{}\n")
    git("add", "data.jsonl")
    git("commit", "-m", "x")
    for key in ("core.fsmonitor", "filter.evil.clean", "filter.evil.process", "diff.external",
                "core.sshCommand", "core.pager", "alias.status"):  # fmt: skip
        git("config", key, f"touch {marks}")
    (tmp_path / ".gitattributes").write_text("* filter=evil\n")
    (tmp_path / "data.jsonl").write_text("[]\n")  # of the same size: git would ask the filter
    state = git_state(tmp_path)
    assert not marks.exists()
    assert state is not None and len(str(state["commit"])) == 40 and state["changed"] is not False


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.mkdir('%(ran)s') }}",
        "{{ lipsum.__globals__['os'].mkdir('%(ran)s') }}",
        "{{ self.__init__.__globals__.__builtins__.open('%(ran)s', 'w') }}",
        "{{ messages|attr('__class__') }}",
        "{%% include '/etc/passwd' %%}",
        "{%% import 'os' as os %%}{{ os.mkdir('%(ran)s') }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__ }}",
        "{%% for i in range(10000000000) %%}x{%% endfor %%}",
    ],
)
def test_a_chat_template_runs_in_a_cage(source: str, ran: Path) -> None:
    template = ChatTemplate(source % {"ran": ran})
    try:
        text, _ = template.render({"messages": [{"role": "user", "content": "x"}]})
    except TemplateRefusal:
        text = ""
    assert not ran.exists()
    assert not [word for word in ("<class", "root:", "function") if word in text]


@pytest.mark.parametrize(
    "line",
    ["x: !!python/object/apply:os.mkdir ['%s']", "!!python/object/new:os.mkdir ['%s']",
     "x: !!python/name:os.system", "base_model: !!python/object/apply:os.mkdir ['%s']"],
)  # fmt: skip
def test_a_config_of_another_trainer_is_parsed_and_never_constructed(
    tmp_path: Path, ran: Path, line: str
) -> None:
    file = tmp_path / "axolotl.yml"
    file.write_text("base_model: x\n" + line.replace("%s", str(ran)) + "\n")
    with contextlib.suppress(UserError):
        import_file(file)
    assert not ran.exists()
