"""A random Llama of a few thousand parameters, small data, and jobs over them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_jobs import chat, events, tiny_llama, write_rows

from finetui.data.tokens import ChatTokenizer, load_chat_tokenizer
from finetui.jobs.control import ControlInbox, request
from finetui.jobs.folder import Job, create
from finetui.recipe import schema
from finetui.recipe.files import from_spec, to_spec
from finetui.workspace import Workspace, sample_data
from finetui.workspace import create as create_workspace

if not all(find_spec(name) for name in ("torch", "transformers", "peft")):
    collect_ignore_glob = ["test_*.py"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.torch)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: random weights, the sample model's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_llama().save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(sample_data() / "model" / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path) -> ChatTokenizer:
    return load_chat_tokenizer(model_dir)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = create_workspace(tmp_path / "work")
    rows = [chat(f"What is {n} plus one?", f"It is {n + 1}.") for n in range(24)]
    write_rows(made.datasets / "train.jsonl", rows[:16])
    write_rows(made.datasets / "held.jsonl", rows[16:20])
    write_rows(made.datasets / "general.jsonl", rows[20:])
    return made


Settings = dict[str, dict[str, Any]]


@pytest.fixture
def recipe(workspace: Workspace, model_dir: Path) -> Callable[..., schema.Recipe]:
    """A quick recipe: two epochs of four steps; sections can be overridden."""

    def build(**sections: dict[str, Any]) -> schema.Recipe:
        spec: dict[str, Any] = to_spec(schema.defaults())
        quick: Settings = {
            "model": {"path": str(model_dir)},
            "data": {
                "train": [str(workspace.datasets / "train.jsonl")],
                "eval": str(workspace.datasets / "held.jsonl"),
                "max_length": 128,
            },
            "method": {"rank": 4, "alpha": 8},
            "training": {"learning_rate": 5e-3, "batch_size": 4, "epochs": 2.0, "threads": 1},
            "evaluation": {"every": 4, "generate": 4, "max_new_tokens": 8},
            "logging": {"every": 1},
        }
        for name, values in quick.items():
            spec[name] |= values | sections.get(name, {})
        for name in sections.keys() - quick.keys():
            spec[name] |= sections[name]
        return from_spec(spec)

    return build


@pytest.fixture
def make_job(workspace: Workspace) -> Callable[[schema.Recipe], Job]:
    def make(made: schema.Recipe) -> Job:
        spec = {"kind": "train", "workspace": str(workspace.root), "recipe": to_spec(made)}
        return create(workspace.jobs, "train", "test", spec, {})

    return make


@pytest.fixture
def ask_at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make requests just before the worker looks for them at the edge of a step.

    A request is a verb, or a verb and its fields; steps must be logged one by one.
    """
    poll = ControlInbox.poll
    waiting: list[tuple[Job, int, Any]] = []

    def ask_then_poll(inbox: ControlInbox) -> set[str]:
        for job, step, asked in list(waiting):
            reached = [event["step"] for event in events(job, "step")]
            if reached and reached[-1] == step - 1:
                waiting.remove((job, step, asked))
                verb, fields = (asked, {}) if isinstance(asked, str) else asked
                request(job, verb, **fields)
        return poll(inbox)

    def ask(job: Job, step: int, *requests: Any) -> None:
        waiting.extend((job, step, asked) for asked in requests)

    monkeypatch.setattr(ControlInbox, "poll", ask_then_poll)
    return ask
