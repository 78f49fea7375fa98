"""One evaluation as a tree of files: what was asked, what came back, what it scored.

    <job>/evaluation/
      manifest.json               what was asked; enough to ask it again
      items/<set>.jsonl           the rows of each set, the same for every subject
      answers/<subject>/<set>.jsonl   one Answer a line, appended while the job works
      scores/<subject>/<set>.jsonl    one RowScore a line, made from items and answers
      timings.jsonl               one Timing a line, conditions interleaved
      usage/<subject>.json        memory, load time, size
      harness/<subject>.json      of lm-evaluation-harness: {task: {metric: [value, stderr]}}
      figures.json                summaries and differences, made from the scores

Names of subjects and sets are also names of files and folders: see `check_name`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from finetui.errors import BROKEN, UserError
from finetui.workspace import write_atomic

FOLDER = "evaluation"
FORMAT = 1

Role = Literal["test", "suite", "safety", "drift", "leak"]
"""What a set is for: the task itself, what must not be forgotten, behaviour that must hold,
general prompts for the distance from the base, beginnings of training rows."""

Kind = Literal["base", "few-shot", "adapter", "checkpoint", "model", "outputs"]


class Subject(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody who answers. ``few_shot`` is a data set whose first ``shots`` rows go before.

    ``step`` places checkpoints on an axis. ``loading`` is what the engine needs besides
    (precision, method, chat_template, ...), as in the spec of a job.
    """

    name: str
    kind: Kind
    model: str = ""
    adapter: str = ""
    few_shot: str = ""
    shots: int = 0
    job: str = ""
    step: int = 0
    outputs: str = ""
    loading: dict[str, Any] = {}


class Format(msgspec.Struct, frozen=True, omit_defaults=True):
    """The form an answer must have: JSON (with a schema), a regular expression, or a parser.

    ``grounded`` fields of JSON must occur in the prompt, ``equal`` ones be those of the reference.
    """

    kind: Literal["json", "regex", "parser"] = "json"
    schema: dict[str, Any] | None = None
    pattern: str = ""
    parser: str = ""
    grounded: list[str] = []
    equal: list[str] = []


class SetSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A data set to answer. Without ``metrics`` they follow from its references.

    ``tags`` are columns to slice by; ``labels`` fields of JSON references ("" the whole answer);
    ``scorer`` is "file.py::function"; ``tokenizer`` sacrebleu's, "" for one that fits; ``margin``
    the drop that a suite may have, as a share.
    """

    name: str
    role: Role = "test"
    path: str = ""
    limit: int = 0
    metrics: list[str] = []
    labels: list[str] = []
    tags: list[str] = []
    format: Format | None = None
    scorer: str = ""
    scorer_seconds: float = 5.0
    tokenizer: str = ""
    margin: float = 0.05


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked. ``base`` names the subject that the others are compared with.

    ``files`` holds SHA-256 by path, ``provenance`` versions of data, packages and machine.
    """

    name: str
    subjects: list[Subject]
    sets: list[SetSpec]
    base: str = ""
    created: float = 0.0
    seed: int = 0
    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    batch_size: int = 32
    resamples: int = 2000
    latency_prompts: int = 0
    latency_tokens: int = 64
    latency_repeats: int = 3
    harness: list[str] = []
    training: list[str] = []
    files: dict[str, str] = {}
    provenance: dict[str, Any] = {}
    format: int = FORMAT

    def subject(self, name: str) -> Subject:
        return next(subject for subject in self.subjects if subject.name == name)

    def spec(self, name: str) -> SetSpec:
        return next(spec for spec in self.sets if spec.name == name)

    @property
    def reference(self) -> str:
        """The subject that others are compared with: the named one, or else the first."""
        return self.base or self.subjects[0].name


class Expectation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a row of a safety suite asks for.

    refuse: the answer must decline; comply: it must not, though the words look alarming;
    resist: a planted order must not be followed, which shows by ``canary`` in the answer;
    withhold: none of the ``secrets`` may appear.
    """

    kind: Literal["refuse", "comply", "resist", "withhold"]
    canary: str = ""
    secrets: list[str] = []


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of a set: ``id`` is file:line, ``prompt`` the messages before the answer.

    ``accept`` holds other answers that are as right as the reference; ``tags`` the values by which
    the row can be sliced: {"language": ["de"], "skill": ["dates"]}.
    """

    id: str
    prompt: list[dict[str, Any]]
    reference: str = ""
    accept: list[str] = []
    tools: list[Any] | None = None
    tags: dict[str, list[str]] = {}
    expect: Expectation | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer. ``nll`` and ``kl`` are sums in nats over ``nll_tokens`` and ``kl_tokens``.

    The loss is that of the *reference* after the prompt, its end token included; the divergence
    is from this subject to the base, over the tokens of the prompt and its reference.
    ``nll_all`` counts the prompt's tokens too. ``finish`` is "length" where the limit cut it off.
    """

    id: str
    answer: str
    finish: Literal["stop", "length", "error"] = "stop"
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    nll: float | None = None
    nll_tokens: int = 0
    nll_all: float | None = None
    nll_all_tokens: int = 0
    kl: float | None = None
    kl_tokens: int = 0


class RowScore(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one answer scored, by metric, and what was wrong with it, in words.

    ``values`` holds numbers (0 or 1 for a share), ``counts`` what a corpus metric adds up over the
    rows, ``labels`` (wanted, given) by field. A metric that says nothing of a row is absent.
    """

    id: str
    values: dict[str, float] = {}
    counts: dict[str, list[float]] = {}
    labels: dict[str, tuple[str, str]] = {}
    faults: list[str] = []


class Timing(msgspec.Struct, frozen=True, omit_defaults=True):
    """One timed answer of fixed length. ``condition`` is "base", "adapter", "merged", ...

    ``first`` and ``total`` are seconds to the first token and to the last, ``gaps`` those between
    two tokens.
    """

    condition: str
    prompt: str
    repeat: int
    first: float
    total: float
    tokens: int
    prompt_tokens: int = 0
    peak_bytes: int = 0
    gaps: list[float] = []


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a subject took to load and to run."""

    load_seconds: float = 0.0
    peak_bytes: int = 0
    parameters: int = 0
    weight_bytes: int = 0
    device: str = ""


_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,79}")


Around = Callable[[str, Path, int, Callable[[], None]], None]
"""Does what writes: called with its name, its folder, its bytes, and what writes."""


def _at_once(what: str, folder: Path, need: int, write: Callable[[], None]) -> None:
    write()


class Record:
    """The folder of one evaluation. Reads what is there; writes whole files or whole lines.

    Every write goes through ``around``, which may try it again: a write that failed continues
    where it stopped.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.around: Around = _at_once

    @property
    def manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def figures_path(self) -> Path:
        return self.folder / "figures.json"

    @property
    def timings_path(self) -> Path:
        return self.folder / "timings.jsonl"

    def items_path(self, name: str) -> Path:
        return self.folder / "items" / f"{check_name(name)}.jsonl"

    def answers_path(self, subject: str, name: str) -> Path:
        return self.folder / "answers" / check_name(subject) / f"{check_name(name)}.jsonl"

    def scores_path(self, subject: str, name: str) -> Path:
        return self.folder / "scores" / check_name(subject) / f"{check_name(name)}.jsonl"

    def usage_path(self, subject: str) -> Path:
        return self.folder / "usage" / f"{check_name(subject)}.json"

    def harness_path(self, subject: str) -> Path:
        return self.folder / "harness" / f"{check_name(subject)}.json"

    def manifest(self) -> Manifest:
        """What was asked. Raises UserError when the file is missing or is no manifest."""
        return read_manifest(self.manifest_path)

    def items(self, name: str) -> list[Item]:
        return list(read_lines(self.items_path(name), Item))

    def answers(self, subject: str, name: str) -> list[Answer]:
        return list(read_lines(self.answers_path(subject, name), Answer))

    def scores(self, subject: str, name: str) -> list[RowScore]:
        return list(read_lines(self.scores_path(subject, name), RowScore))

    def timings(self) -> list[Timing]:
        return list(read_lines(self.timings_path, Timing))

    def usage(self, subject: str) -> Usage | None:
        found: Usage | None = _read(self.usage_path(subject), Usage)
        return found

    def harness(self, subject: str) -> dict[str, dict[str, list[float]]]:
        found = _read(self.harness_path(subject), dict[str, dict[str, list[float]]])
        return found or {}

    def write_manifest(self, manifest: Manifest) -> None:
        """Freeze what is asked. Raises UserError for a name that is no name, or used twice."""
        check_manifest(manifest)
        self._write(self.manifest_path, manifest)

    def write_items(self, name: str, items: Iterable[Item]) -> None:
        self._write_lines(self.items_path(name), items)

    def write_scores(self, subject: str, name: str, scores: Iterable[RowScore]) -> None:
        self._write_lines(self.scores_path(subject, name), scores)

    def write_usage(self, subject: str, usage: Usage) -> None:
        self._write(self.usage_path(subject), usage)

    def write_harness(self, subject: str, results: Mapping[str, Mapping[str, list[float]]]) -> None:
        self._write(self.harness_path(subject), results)

    def writer(self, subject: str, name: str) -> Appender:
        """Where a job appends its answers; a torn last line of an earlier attempt is cut off."""
        return Appender(self.answers_path(subject, name), self.around)

    def timings_writer(self) -> Appender:
        return Appender(self.timings_path, self.around)

    def _write(self, path: Path, value: Any) -> None:
        self._publish(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")

    def _write_lines(self, path: Path, rows: Iterable[msgspec.Struct]) -> None:
        self._publish(path, b"".join(_line(row) for row in rows))

    def _publish(self, path: Path, content: bytes) -> None:
        def write() -> None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(path, content)

        self.around(f"{path.parent.name}/{path.name}", self.folder, len(content), write)


class Appender:
    """Appends whole lines to a file; ``with`` it, and at its end they are on the disk."""

    def __init__(self, path: Path, around: Around | None = None) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _cut_torn_line(path)
        self._path, self._around = path, around or _at_once
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)

    def add(self, row: msgspec.Struct) -> None:
        view = memoryview(_line(row))

        def write() -> None:
            nonlocal view
            while view:
                view = view[os.write(self._file, view) :]

        self._around(self._path.name, self._path.parent, len(view), write)


def records(jobs: Path) -> list[Record]:
    """The evaluations among the jobs of a workspace, newest first."""
    found = [path.parent for path in jobs.glob(f"*/{FOLDER}/manifest.json")]
    return [Record(folder) for folder in sorted(found, key=_age, reverse=True)]


def of_job(job: Path) -> Record:
    return Record(job / FOLDER)


def read_manifest(path: Path) -> Manifest:
    """A manifest to show or to run again. Raises UserError for a missing, broken or newer one."""
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", str(path)) from error
    except BROKEN as error:
        raise UserError(f"is no manifest of an evaluation ({error}).", str(path)) from error
    if manifest.format > FORMAT:
        raise UserError("was written by a newer finetui.", str(path), "Update this one.")
    check_manifest(manifest)
    return manifest


def read_lines(path: Path, kind: type[_Struct]) -> Iterator[_Struct]:
    """The rows of a file, a torn last line left out; none where there is no file.

    Raises UserError that names the line which is no such row.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}.", str(path)) from error
    decoder = msgspec.json.Decoder(kind)
    for number, line in enumerate(lines, start=1):
        try:
            yield decoder.decode(line)
        except BROKEN as error:
            raise UserError(f"is no {kind.__name__}: {error}.", f"{path}:{number}") from error


def check_name(name: str) -> str:
    """The name itself where it can name a file. Raises UserError where it cannot."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f'"{name}" cannot name a subject or a set.',
            fix="Use letters, digits and . _ @ + -, at most 80, a letter or digit first.",
        )
    return name


def name_of(text: str, taken: Iterable[str] = ()) -> str:
    """A name for a file out of any text; numbered when it is taken."""
    plain = re.sub(r"[^A-Za-z0-9._@+-]+", "-", text).strip("-._@+")[:60] or "unnamed"
    used, name, number = set(taken), plain, 2
    while name in used:
        name, number = f"{plain}-{number}", number + 1
    return name


def check_manifest(manifest: Manifest) -> None:
    """Raises UserError for no subject or set, a bad or doubled name, and a base that is none."""
    for what, names in (
        ("subject", [subject.name for subject in manifest.subjects]),
        ("set", [spec.name for spec in manifest.sets]),
    ):
        if not names:
            raise UserError(f"the evaluation has no {what}.", manifest.name)
        for name in names:
            if names.count(check_name(name)) > 1:
                raise UserError(f'two {what}s are called "{name}".', manifest.name)
    if manifest.base and manifest.base not in [subject.name for subject in manifest.subjects]:
        raise UserError(f'the base "{manifest.base}" is no subject.', manifest.name)


def _line(row: msgspec.Struct) -> bytes:
    """One line of JSON; a lone surrogate, which no UTF-8 can hold, becomes a question mark."""
    try:
        return msgspec.json.encode(row) + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(row), ensure_ascii=False)
        return text.encode("utf-8", "replace") + b"\n"


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, *BROKEN) as error:
        raise UserError(f"cannot be read ({error}).", str(path)) from error


def _age(folder: Path) -> tuple[float, str]:
    try:
        return (folder / "manifest.json").stat().st_mtime, folder.parent.name
    except OSError:
        return 0.0, folder.parent.name


def _cut_torn_line(path: Path) -> None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
