"""What a workspace can hold broken, family by family, and all that reads it."""

# ruff: noqa: E402, E501  (paths first; tables)

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.extend(str(TESTS / name) for name in ("", "tui", "rating"))

from evaluations import evaluation
from hostile_bench import Family, Reader, command, saying
from look import finished_job, write_outputs
from rating_cases import make_session, vote_by

from finetui import settings
from finetui.data import findings
from finetui.data.dataset import open_dataset
from finetui.data.formats.source import open_source
from finetui.jobs import (
    checkpoints,
    devices,
    digest,
    leases,
    locks,
    procfs,
    rowlosses,
    slurm_queue,
)
from finetui.jobs.calibration import runs as past_runs
from finetui.jobs.control import ControlInbox
from finetui.jobs.events import EventWriter
from finetui.jobs.folder import Job, create
from finetui.jobs.monitor import JobReader
from finetui.jobs.reading import Reading
from finetui.jobs.rowlosses import RowLossWriter
from finetui.jobs.sweep import create_sweep
from finetui.rating.ballot import Ballot
from finetui.rating.drafts import list_drafts
from finetui.rating.session import list_sessions, open_session
from finetui.recipe import files as recipe_files
from finetui.recipe.compare import recipe_of_run
from finetui.tui import lookout, themes
from finetui.tui.screens import (
    evaluate,
    evaluate_view,
    lines,
    train,
    train_batch,
    train_charts,
    train_control,
    train_view,
)
from finetui.tui.screens.data_findings import Findings
from finetui.tui.screens.data_view import DataRows, blocks_of, turns_of
from finetui.tui.screens.evaluate_rows import Look, read_view
from finetui.tui.screens.rate_view import session_line, session_page
from finetui.workspace import MARKER, Workspace, create_sample

ROWS = "".join(
    json.dumps({"messages": [{"role": "system", "content": "Be short."},
                             {"role": "user", "content": f"question {n % 9} {'é' * (n % 3)}"},
                             {"role": "assistant", "content": f"answer {n}"}], "tag": n % 2}) + "\n"
    for n in range(14)
)  # fmt: skip
PAIRS = "".join(
    json.dumps({"prompt": f"p {n}", "chosen": f"c {n}", "rejected": f"r {n}"}) + "\n"
    for n in range(9)
)
CSV = "prompt,completion\n" + "".join(f'"question {n}, so",answer {n}\n' for n in range(9))
YAML = """\
base_model: {model}
datasets:
  - path: {data}
    type: chat_template
adapter: lora
lora_r: 8
lora_alpha: 16
learning_rate: 2e-4
num_epochs: 2
micro_batch_size: 4
sequence_len: 512
output_dir: ./out
"""
LLAMA_FACTORY = """\
model_name_or_path: {model}
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
dataset: small
template: qwen
cutoff_len: 512
learning_rate: 1.0e-4
num_train_epochs: 3.0
"""
THEME = Path(__file__).parents[2] / "themes" / "finetui-dark.toml"
SETTINGS = """\
theme = "finetui-dark"
ascii = false
refresh = 0.2
[suggest]
url = "http://localhost:8000/v1"
model = "some-model"
key_file = "/nonexistent"
timeout = 12.0
"""


class Place:
    """One workspace with one of everything in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workspace = create_sample(root)
        self.config = root / "person" / "finetui" / "settings.toml"
        self.config.parent.mkdir(parents=True)
        self.config.write_text(SETTINGS)
        self._data()
        self._recipes()
        self._jobs()
        self._ratings()
        self._journals()

    def close(self) -> None:
        """Let go of the locks and of the place in the queue."""
        self.waiter.leave()
        for lock in self.locks:
            if lock is not None:
                os.close(lock)

    @property
    def where(self) -> tuple[str, str]:
        return "-w", str(self.root)

    def _data(self) -> None:
        data = self.workspace.datasets
        for name in ("tickets.jsonl", "tickets_dirty.jsonl", "tickets_dirty.faults.json", "general.jsonl",
                     "preferences.jsonl", "general_check.jsonl"):  # fmt: skip
            (data / name).unlink()
        held = (data / "tickets_heldout.jsonl").read_text().splitlines(keepends=True)
        (data / "tickets_heldout.jsonl").write_text("".join(held[:12]))
        (data / "chat.jsonl").write_text(ROWS)
        (data / "pairs.jsonl").write_text(PAIRS)
        (data / "whole.json").write_text("[" + ",".join(ROWS.splitlines()) + "]")
        (data / "columns.csv").write_text(CSV)
        (data / "columns.tsv").write_text(CSV.replace(",", "\t"))
        import gzip

        (data / "packed.jsonl.gz").write_bytes(gzip.compress(ROWS.encode(), mtime=0))
        import duckdb

        for kind in ("parquet",):
            duckdb.execute(
                f"copy (select * from read_csv('{data / 'columns.csv'}')) to '{data / f'columns.{kind}'}'"
            )
        for name in ("themes", "suites"):
            (self.root / name).mkdir(exist_ok=True)
        shutil.copy(THEME, self.root / "themes" / "mine.toml")

    def _recipes(self) -> None:
        data, model = self.workspace.datasets / "chat.jsonl", self.root / "model"
        found = recipe_files.load(self.workspace.recipes / "triage-lora.toml")
        text = recipe_files.dumps(found).replace("datasets/tickets.jsonl", "datasets/chat.jsonl")
        (self.workspace.recipes / "triage-lora.toml").write_text(text)
        brought = self.root / "brought"
        brought.mkdir()
        (brought / "axolotl.yaml").write_text(YAML.format(model=model, data=data))
        (brought / "factory.yaml").write_text(LLAMA_FACTORY.format(model=model))
        (brought / "arguments.json").write_text(
            json.dumps({"learning_rate": 1e-4, "num_train_epochs": 3, "output_dir": "x", "bf16": True,
                        "per_device_train_batch_size": 2, "model_name_or_path": str(model)})
        )  # fmt: skip

    def _jobs(self) -> None:
        recipe = recipe_files.to_spec(
            recipe_files.load(self.workspace.recipes / "triage-lora.toml")
        )
        self.job = finished_job(self.workspace, recipe=recipe)
        job, held = self.job, self.workspace.datasets / "tickets_heldout.jsonl"
        job.write_json(
            "exit.json", {"attempt": 1, "rc": -9, "t": 1.7e9, "signal": 9, "oom_kills": 1}
        )
        process = {"pid": 1, "start": 5}
        job.write_json("proc.json", {"boot_id": "b", "host": "h", "supervisor": process, "worker": process,
                                     "attempt": 1, "t": 1.7e9})  # fmt: skip
        job.write_json("killed.json", {"attempt": 1, "user": "ann"})
        job.write_json(
            "metrics.json", {"before": {"held-out": {"accuracy": 0.5}}, "train_loss": 1.0}
        )
        job.heartbeat.write_text(f"{time.time():.3f} 1 running 20 60.0".ljust(63) + "\n")
        (job.control / "stop.json").write_text('{"who": "ann", "t": 1.0}')
        (job.control / "set-1-2.json").write_text(
            '{"who": "ann", "t": 1.0, "fields": {"learning_rate": 1e-4}}'
        )
        write_outputs(job, held, {"before": [False, True, False], "after": [True, True, False]})
        losses = RowLossWriter(job, 1)
        for step in range(1, 21):
            losses.append(step, [(0, step % 12 + 1), (0, step % 5 + 1)], [2.0 / step, 1.0], [3, 4])
        losses.close()
        kept = job.path / "checkpoints" / "step-20"
        kept.mkdir(parents=True)
        (kept / "adapter_config.json").write_text('{"r": 8}')
        (kept / "MANIFEST.json").write_text(json.dumps({"step": 20, "attempt": 1, "t": 1.7e9,
                                                        "files": {"adapter_config.json": 8}}))  # fmt: skip
        with job.events_path(1).open("a") as events:
            for event in (
                {
                    "t": 1.7e9,
                    "kind": "guard",
                    "guard": "spike",
                    "action": "warn",
                    "text": "loss",
                    "step": 3,
                    "rows": [[0, 1]],
                    "value": 3.0,
                },
                {
                    "t": 1.7e9,
                    "kind": "sample",
                    "step": 3,
                    "prompt": "p",
                    "answer": "a",
                    "reference": "r",
                },
                {
                    "t": 1.7e9,
                    "kind": "control",
                    "verb": "save",
                    "who": "ann",
                    "fields": {},
                    "step": 4,
                },
                {"t": 1.7e9, "kind": "checkpoint", "step": 20},
                {
                    "t": 1.7e9,
                    "kind": "data",
                    "rows": 12,
                    "tokens": 100,
                    "trained_tokens": 30,
                    "files": ["a"],
                },
                {"t": 1.7e9, "kind": "stage", "text": "scoring"},
                {"t": 1.7e9, "kind": "progress", "done": 2, "total": 9, "text": "scoring"},
            ):
                events.write(json.dumps(event) + "\n")
        self.evaluation = evaluation(self.workspace)
        self._unfinished(recipe)
        waiting = create(self.workspace.jobs, "train", "waits", {"kind": "train"}, {})
        self.sweep = create_sweep(
            self.workspace.sweeps, "rates", [("lr=1", [("optimiser.learning_rate", "1")], waiting)]
        )
        reading = Reading(job)
        while reading.advance():
            pass
        digest.save(reading, self.workspace.cache)

    def _unfinished(self, recipe: dict[str, dict[str, object]]) -> None:
        """A run to resume, one that pauses, one that waits for a GPU, one handed in to Slurm."""
        jobs = self.workspace.jobs
        spec = {"kind": "train", "workspace": str(self.root), "recipe": recipe}
        self.broken, self.paused, self.waits, self.away = (
            create(jobs, "train", slug, spec, {}) for slug in ("broken", "paused", "waits", "away")
        )
        boot, host = procfs.boot_id(), procfs.host()
        gone = {"pid": 2**22 - 1, "start": 7}
        proc = {
            "boot_id": boot,
            "host": host,
            "supervisor": gone,
            "worker": gone,
            "attempt": 1,
            "t": 1.7e9,
        }
        for job in (self.broken, self.paused):
            job.write_json("proc.json", proc)
            events = EventWriter(job, 1)
            for step in range(1, 7):
                events.write("step", step=step, loss=1.0, lr=1e-4, tokens=step * 9, total_steps=40)
            events.close()
        folder = checkpoints.folder_of(self.broken)
        for step in (2, 4):
            draft = checkpoints.draft_folder(folder)
            (draft / "adapter_config.json").write_text('{"r": 8}')
            (draft / "run.json").write_text('{"step": 4}')
            checkpoints.publish(draft, folder / f"step-{step}", step=step, attempt=1, total_steps=40, recipe=recipe,
                                position={"epoch": 0, "consumed": 8}, rows={"count": 12, "hash": "a"},
                                versions={"torch": "2"}, data={"a": "b"}, world=1, devices=["CPU"],
                                curve={"peak": 1e-4})  # fmt: skip
        self.broken.write_json("resume-a2.json", {"attempt": 2, "t": 1.7e9, "changes": {"training.epochs": "3"},
                                                  "recipe": {"training": {"epochs": 3}}, "accepted": []})  # fmt: skip
        self.paused.heartbeat.write_text(
            f"{time.time() + 9e5:.3f} 1 paused 4 60.0".ljust(63) + "\n"
        )
        self.paused.write_json("waiting.json", {"attempt": 1, "sentence": "the disk is full"})
        self.waits.write_json("queue.json", {"attempt": 1, "host": host, "t": 1.7e9, "sentence": "for a GPU",
                                             "wants": 1, "among": [0], "ahead": 1})  # fmt: skip
        self.waits.log_path(1).write_text("")
        self.away.write_json("slurm.json", {"id": "12", "cluster": "c", "profile": "p", "t": 1.7e9, "attempt": 1,
                                            "name": "n", "token": "t", "user": "u"})  # fmt: skip
        self.away.write_json("slurm-attempt.json", {"attempt": 1, "id": "12", "t": 1.7e9})
        (self.away.path / "slurm.sh").write_text("#!/bin/sh\n")
        held = (self.paused.worker_lock, self.paused.supervisor_lock, self.waits.supervisor_lock)
        self.locks = [locks.hold(path) for path in held]
        self.leases = self.root / "leases"
        self.bin = self.root / "bin"
        self.bin.mkdir()
        (self.bin / "answer.txt").write_text(
            "12|RUNNING|None|main|5|2026-01-01T00:00:00|n1|n\n" * 2
        )
        (self.bin / "squeue").write_text(f"#!/bin/sh\n/bin/cat '{self.bin}/answer.txt'\n")
        (self.bin / "squeue").chmod(0o700)
        os.environ.update(FINETUI_LEASES=str(self.leases), PATH=f"{self.bin}:{os.environ['PATH']}")
        waiter = leases.Request(self.leases, self.waits.id, 1, ["0"])
        waiter.enter()
        self.waiter = waiter

    def _ratings(self) -> None:
        self.open = make_session(self.workspace.ratings / "apart", 4, raters=("ann", "root"))
        shutil.move(self.open.path, self.workspace.ratings / "open")
        self.open = open_session(self.workspace.ratings / "open")
        self.session = make_session(self.workspace.ratings, 6, raters=("ann", "root"))
        for rater in ("ann", "root"):
            vote_by(self.session, rater, lambda item: "L")
        told = command("rate", "unseal", "trial", "--reason", "because", *self.where)
        assert told.code == 0, told
        shutil.rmtree(self.workspace.ratings / "apart", ignore_errors=True)

    def _journals(self) -> None:
        data = self.workspace.datasets / "chat.jsonl"
        with open_dataset(data, self.workspace) as rows:
            rows.drop([3], "not good", "no")
            rows.mark([4])
            rows.label([5], "odd")
        failures = self.root / "failures.jsonl"
        failures.write_text('{"input": "a question", "output": "bad answer", "id": 1, "note": "x"}\n'
                            '{"input": "b question", "output": "bad answer", "id": 2}\n')  # fmt: skip
        for words in (
            ("feedback", "import", failures), ("prices", "gpt", "3"),
            ("split", data, "--name", "one"), ("split", data, "--name", "two", "--seed", "3"),
            ("check", data), ("ready", data, "--answer", "base=yes"),
            ("query", data, "--where", "tag = 1"), ("query", self.workspace.datasets / "packed.jsonl.gz", "answer"),
            ("leaks", data, "--held-out", self.workspace.datasets / "tickets_heldout.jsonl", "--near"),
        ):  # fmt: skip
            command(*words, *self.where)


# -- readers -------------------------------------------------------------------------------------


def families(place: Place) -> list[Family]:
    """All families of a place."""
    workspace, where = place.workspace, place.where
    job, record = place.job, place.evaluation
    data = workspace.datasets

    def below(folder: Path, pattern: str = "*") -> Callable[[], list[Path]]:
        files = sorted(path for path in folder.rglob(pattern) if path.is_file())
        assert files, (folder, pattern)
        return lambda: files

    def these(*files: Path) -> Callable[[], list[Path]]:
        for file in files:
            assert file.exists(), file
        return lambda: list(files)

    return [
        Family("data", below(data, "*.*"), [
            read_rows(workspace), look_at_rows(workspace),
            saying("query", "FILE", "question", "--rows", *where),
            saying("query", "FILE", "length>3 tag=1", *where),
            saying("edits", "FILE", *where),
            saying("convert", "FILE", "--to", "prompt", "-o", place.root / "out" / "made.jsonl", *where),
            saying("tokens", "triage-lora", "FILE", "2", *where),
            saying("feedback", "import", "FILE", *where),
            saying("review", *where),
        ], each=3),
        Family("data, whole checks", below(data, "*.jsonl"), [
            saying("check", "FILE", *where), saying("fix", "FILE", "--check", "duplicate", "--dry-run", *where),
            saying("split", "FILE", "--name", "new", *where), saying("ready", "FILE", *where),
            saying("duplicates", "FILE", *where), saying("query", "FILE", "--where", "tag = 1", *where),
        ], each=1),
        Family("recipes", below(workspace.recipes, "*.toml"), [
            saying("recipe", "check", "FILE", *where), saying("recipe", "diff", "FILE", "defaults", *where),
            saying("sweep", "FILE", "learning_rate=1e-4,2e-4", "--dry-run", *where),
            load_recipe,
        ]),
        Family("other trainers", below(place.root / "brought"), [
            saying("recipe", "import", "FILE", "--dry-run", *where),
        ]),
        Family("themes", below(place.root / "themes"), [read_themes]),
        Family("settings", these(place.config, workspace.root / MARKER), [
            read_settings(place), saying("doctor", *where), saying("jobs", *where),
        ]),
        Family("job folders", below(job.path), readers_of_job(place, job), each=6),
        Family("prices and answers", lambda: [
            file for file in place.root.glob("*.toml") if file.name != MARKER
        ], [
            saying("prices", *where), saying("prices", "other", "5", *where),
            saying("ready", data / "chat.jsonl", *where),
        ]),
        Family("models", below(place.root / "model"), [
            saying("recipe", "check", "triage-lora", *where),
            saying("tokens", "triage-lora", data / "chat.jsonl", "2", *where),
            saying("query", data / "chat.jsonl", "tokens>3", "--model", place.root / "model", *where),
            saying("ready", data / "chat.jsonl", "--recipe", workspace.recipes / "triage-lora.toml", *where),
        ], each=2),
        Family("rating, votes", below(place.session.path), readers_of_session(place, "trial"), each=4),
        Family("rating, open", below(place.open.path), readers_of_session(place, "open"), each=4),
        Family("versions", below(workspace.versions), [
            saying("versions", *where), saying("versions", "verify", *where),
            saying("versions", "diff", "one", "two", *where), saying("versions", "show", "one", *where),
            saying("versions", "--json", *where), read_rows(workspace),
        ]),
        Family("journals", lambda: [*place.root.rglob("*.sqlite"), *workspace.cache.rglob("*.db")], [
            saying("edits", data / "chat.jsonl", *where), saying("query", data / "chat.jsonl", "question", *where),
            saying("review", *where), saying("review", "log", *where), saying("review", "show", "1", *where),
            saying("feedback", "list", *where), look_at(workspace, data / "chat.jsonl"),
            saying("edits", data / "chat.jsonl", "--undo", *where),
        ]),
        Family("digests", below(workspace.cache / "digests", "*.digest"), [read_job(job, workspace)]),
        Family("evaluations", below(record.path), [
            saying("evaluate", "list", *where), saying("evaluate", "show", record.id, *where),
            saying("evaluate", "show", record.id, "--worst", "5", *where),
            saying("evaluate", "report", record.id, *where),
            saying("evaluate", "report", record.id, "--format", "html", *where),
            saying("jobs", *where),
            see_evaluation(record, workspace), read_job(record, workspace),
        ], each=4),
        Family("checkpoints", below(place.broken.path), [
            saying("jobs", *where), saying("resume", place.broken.id, "--dry-run", *where),
            saying("resume", place.broken.id, "--dry-run", "--set", "training.epochs=4", *where),
            saying("resume", place.broken.id, "--dry-run", "--json", *where),
            read_job(place.broken, workspace), read_checkpoints(place.broken), look_out(workspace),
        ], each=5),
        Family("living jobs", lambda: [
            path for job in (place.paused, place.waits, place.away) for path in job.path.iterdir()
            if path.is_file() and path.suffix != ".lock"
        ], [
            saying("jobs", *where), saying("jobs", "--json", *where), saying("jobs", "--compare", *where),
            saying("watch", place.paused.id, "--once", *where), saying("watch", place.waits.id, "--once", *where),
            saying("watch", place.away.id, "--once", *where), saying("resume", place.away.id, "--dry-run", *where),
            read_job(place.paused, workspace), read_job(place.waits, workspace),
            read_job(place.away, workspace), look_out(workspace),
        ], held=True, each=6),
        Family("leases", lambda: sorted(path for path in place.leases.iterdir() if "ticket" in path.name), [
            read_leases(place.leases), saying("queue"), saying("queue", "--json"),
        ], held=True),
        Family("Slurm's answers", these(place.bin / "answer.txt"), [ask_slurm]),
        Family("sweeps", below(place.sweep.path), [
            saying("sweep", "--list", *where), saying("sweep", "--show", "last", *where),
            saying("sweep", "--stop", "last", *where),
        ]),
        Family("caches", lambda: [
            path for path in workspace.cache.rglob("*") if path.is_file() and path.suffix not in (".digest", ".lock")
        ], [
            saying("ready", data / "chat.jsonl", *where), saying("edits", data / "chat.jsonl", *where),
            saying("recipe", "check", "triage-lora", *where), look_at(workspace, data / "chat.jsonl"),
            saying("versions", *where), past,
        ]),
    ]  # fmt: skip


def readers_of_job(place: Place, job: Job) -> list[Reader]:
    where, workspace = place.where, place.workspace
    return [
        saying("jobs", *where), saying("jobs", "--compare", "--diff", *where),
        saying("watch", job.id, "--once", *where), saying("watch", job.id, "--once", "--json", *where),
        saying("watch", job.id, "--chart", *where), saying("jobs", "--json", *where),
        saying("stop", job.id, *where), saying("recipe", "diff", job.id, "defaults", *where),
        saying("evaluate", "start", job.id, "--manifest-only", *where),
        saying("control", job.id, "save", *where),
        read_job(job, workspace), see_evaluation(job, workspace), poll_requests(job), look_out(workspace),
        see_rows(job, workspace),
    ]  # fmt: skip


def readers_of_session(place: Place, name: str) -> list[Reader]:
    where = place.where
    return [
        saying("rate", "list", *where), saying("rate", "list", "--json", *where),
        saying("rate", "verify", name, *where), saying("rate", "report", name, *where),
        saying("rate", "report", name, "--html", *where), saying("rate", "report", name, "--json", *where),
        saying("rate", "look", name, *where), saying("rate", "export", name, "--to", place.root / "rated", *where),
        list_ratings(place.workspace), open_ballot(place.workspace.ratings / name), look_out(place.workspace),
    ]  # fmt: skip


def read_rows(workspace: Workspace) -> Reader:
    def read_rows(file: Path) -> None:
        with open_source(file, workspace.cache) as source:
            source.build_index()
            for row in range(source.rows):
                source.raw(row)
            source.shape  # noqa: B018
            str(source.file_faults())

    return read_rows


def look_at_rows(workspace: Workspace) -> Reader:
    def look_at_rows(file: Path) -> None:
        look_at(workspace, file)(file)

    return look_at_rows


def look_at(workspace: Workspace, path: Path) -> Reader:
    """What the data screen draws of a file."""

    def look_at(_: Path) -> None:
        with open_dataset(path, workspace) as data:
            data.build_index()
            store = findings.open_findings(data.source, workspace)
            found = Findings(store)
            rows = DataRows(data, found)
            for index in range(min(rows.row_count, 40)):
                rows.row(index)
                blocks_of(data, index, ())
                turns_of(data, index)
            found.kinds()
            data.counts()
            data.steps()
            str(data.unplaced)
            data.history()

    return look_at


def load_recipe(file: Path) -> None:
    recipe_files.dumps(recipe_files.load(file))


def read_themes(file: Path) -> None:
    found, problems = themes.load_all([file.parent])
    from finetui.errors import UserError

    for theme in found:
        check_theme(theme)
    if problems:
        raise UserError(" ".join(problems))


def check_theme(theme: object) -> None:
    """What Textual makes of a theme: its colours and the style sheet that names them."""
    from textual.css.stylesheet import Stylesheet

    from finetui.tui import app

    colours = theme.to_color_system().generate()  # type: ignore[attr-defined]
    sheet = Stylesheet(variables={**themes.own_variables(theme), **colours})  # type: ignore[arg-type]
    sheet.read(Path(app.__file__).with_name("styles.tcss"))
    sheet.parse()


def read_settings(place: Place) -> Reader:
    def read_settings(_: Path) -> None:
        environ = {"XDG_CONFIG_HOME": str(place.root / "person")}
        found = settings.load(place.root / MARKER, {}, environ)
        assert isinstance(found.theme, str)

    return read_settings


def read_job(job: Job, workspace: Workspace) -> Reader:
    """What the Train screen shows of a job."""

    def read_job(_: Path) -> None:
        reader = JobReader(job, cache=workspace.cache)
        snapshot = reader.poll()
        assert snapshot is not None
        train_view.run_panel(snapshot, 60)
        train_view.run_panel(snapshot, 60, brief=True)
        train_view.run_panel(snapshot, 60, steps=False)
        train_view.scores_panel(snapshot.scores)
        train_view.log_lines(snapshot.log_tail(50))
        train_charts.marks_of(snapshot)
        for event in snapshot.events:
            train_view.event_row(event)
        for curve in snapshot.series.values():
            curve.range()
            if len(curve):
                curve.parts(curve.step(0), 1.0, 20)
        reader.poll()

    return read_job


def read_checkpoints(job: Job) -> Reader:
    def read_checkpoints(_: Path) -> None:
        folder = checkpoints.folder_of(job)
        for _, path in checkpoints.valid_checkpoints(folder):
            manifest = checkpoints.manifest_of(path)
            assert manifest is not None
            checkpoints.size_of(manifest)
        found = checkpoints.newest(job)
        if found is not None:
            checkpoints.damage(found)
            f"{found.t} {found.attempt}"
        checkpoints.best_result(folder)
        checkpoints.spec_of_attempt(job)

    return read_checkpoints


def ask_slurm(file: Path) -> None:
    if file.is_file():
        answer = slurm_queue.look("12", name="n")
        str(answer)


def read_leases(folder: Path) -> Reader:
    def read_leases(_: Path) -> None:
        gpu = devices.Gpu(0, "a GPU", "GPU-0", 1.0, 2**30, 2**34, 50.0, 90.0, 300.0)
        sample = devices.DeviceSample((gpu,), "1", "", 2**30, 2**34, 1.0)
        str(leases.overview(sample, folder))

    return read_leases


def see_rows(job: Job, workspace: Workspace) -> Reader:
    def see_rows(_: Path) -> None:
        losses = rowlosses.RowLosses(job)
        losses.last_step  # noqa: B018
        losses.rows_at(3)
        losses.history(0, 3)
        losses.stubborn(3)
        snapshot = JobReader(job).poll()
        assert snapshot is not None
        files = train._files(snapshot)
        train_batch.rows_of_steps(job, files, 3, 3, workspace)
        train_batch.stubborn_rows(job, files, workspace)
        train_control.settings_of(job, snapshot)
        evaluate._recipe_files(job)
        recipe_of_run(job.spec())

    return see_rows


def see_evaluation(job: Job, workspace: Workspace) -> Reader:
    def see_evaluation(_: Path) -> None:
        for wanted in (Look(), Look("task", "step-10")):
            view = read_view(job.path, workspace.root, wanted)
            if view.figures is not None:
                evaluate_view.record_scores(view, 90, False)
            elif view.comparisons:
                evaluate_view.run_scores(view, 90, False)
            for row in view.rows:
                lines.chat(row.prompt)
                evaluate_view.row(row, False)
                evaluate_view.answer_text(row.reference, "")
                for answer, told in zip(row.answers, row.told, strict=True):
                    evaluate_view.answer_text(answer, told)

    return see_evaluation


def poll_requests(job: Job) -> Reader:
    def poll_requests(file: Path) -> None:
        held = {path: path.read_bytes() for path in job.control.iterdir() if path.is_file()}
        try:
            ControlInbox(job.control).poll()
        finally:
            for path, content in held.items():
                path.write_bytes(content)

    return poll_requests


def look_out(workspace: Workspace) -> Reader:
    def look_out(_: Path) -> None:
        seen = lookout.look(workspace)
        for line in seen.jobs:
            train_view.job_row(line)

    return look_out


def list_ratings(workspace: Workspace) -> Reader:
    def list_ratings(_: Path) -> None:
        list_drafts(workspace.ratings)
        for session in list_sessions(workspace.ratings):
            session_page(session_line(session, "root"))

    return list_ratings


def open_ballot(path: Path) -> Reader:
    def open_ballot(_: Path) -> None:
        with Ballot(open_session(path), "root") as ballot:
            if ballot.current is not None:
                str(ballot.current)
        for file in (path / "ratings" / "root").glob(f"*-{os.getpid()}-*"):
            file.unlink()

    return open_ballot


def past(_: Path) -> None:
    past_runs()


SHARES = {
    "data": 1200, "data, whole checks": 150, "recipes": 600, "other trainers": 600, "themes": 400,
    "settings": 700, "job folders": 1700, "checkpoints": 500, "living jobs": 500, "leases": 200,
    "Slurm's answers": 150, "prices and answers": 400, "models": 300, "rating, votes": 400,
    "rating, open": 400, "versions": 400, "journals": 300, "digests": 200, "evaluations": 600,
    "sweeps": 250, "caches": 50,
}  # fmt: skip
"""How many of 10,000 inputs each family gets."""
