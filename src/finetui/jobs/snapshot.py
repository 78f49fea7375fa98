"""What is known of a job at one moment: plain frozen values for any thread.

Texts come from data and logs: they are not yet fit for a terminal.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetui.jobs.liveness import JobState
from finetui.jobs.series import EMPTY, Series

Rows = tuple[tuple[int, int], ...]
"""[file, line] pairs: files by their place in the job's list, lines from 1."""

CURVES = (
    *("loss", "eval_loss", "probe_loss", "lr", "grad_norm", "tokens_per_s", "step_s"),
    *("supervised_share", "memory", "rss"),
)
"""The curves every training run may have; figures of an objective add theirs (see Snapshot)."""


@dataclass(frozen=True)
class EventLine:
    """One thing that happened: unix time, level (info, good, warning, error), words; and the step
    and rows that it speaks of."""

    t: float
    level: str
    text: str
    step: int | None = None
    rows: Rows = ()


@dataclass(frozen=True)
class Score:
    """A held-out score: when is "before" or "after"; format and accuracy are 0 to 1."""

    when: str
    set: str
    format: float | None
    accuracy: float | None
    n: int
    seconds: float | None


@dataclass(frozen=True)
class Sample:
    """An answer that the model gave during the run. `id` names the prompt over the run: the
    sample's own id, its prompt where it has none; `set` is where the prompt comes from."""

    step: int
    prompt: str
    answer: str
    reference: str
    id: str = ""
    set: str = ""
    t: float = 0.0


@dataclass(frozen=True)
class Guard:
    """A guard that spoke: which one, what it did, and the rows of its step. `value` is the number
    it judged."""

    t: float
    step: int
    guard: str
    action: str
    text: str
    rows: Rows = ()
    value: float | None = None


@dataclass(frozen=True)
class Control:
    """A request that the worker took: the verb, its fields, who asked, at which step."""

    t: float
    step: int
    verb: str
    fields: Mapping[str, Any]
    who: str
    text: str


@dataclass(frozen=True)
class Checkpoint:
    """A state of the run that was saved."""

    t: float
    step: int


@dataclass(frozen=True)
class Rank:
    """One process of a run on several GPUs: its host, its GPU (UUID or index), and its bytes."""

    rank: int
    host: str
    gpu: str
    memory: int | None
    memory_peak: int | None


@dataclass(frozen=True)
class Progress:
    """How far a stage without steps is."""

    done: int
    total: int
    text: str


@dataclass(frozen=True)
class Snapshot:
    """All that is known of a job; None where nothing was said yet.

    Times are seconds, memory is bytes: `memory` on the device, `rss` of the process.
    `supervised_share` is trained tokens over all tokens, 0 to 1. `figures` and `eval_figures`
    are the objective's own numbers of the newest step and evaluation, by name; their curves are
    called `figures.NAME` and `eval_figures.NAME`. `ranks` are empty for a run of one process;
    `memory` is then rank 0's. `exact` is False while a long history is known
    from samples only: counts and curves are then an estimate (≈).
    """

    job_id: str
    state: JobState
    attempt: int = 0
    device: str = ""
    stage: str = ""
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    epochs: float | None = None
    parameters: int | None = None
    trainable: int | None = None
    loss: float | None = None
    eval_loss: float | None = None
    best_eval_loss: float | None = None
    best_eval_step: int | None = None
    probe_loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    tokens_per_s: float | None = None
    step_s: float | None = None
    supervised_share: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    eval_figures: Mapping[str, float] = field(default_factory=dict)
    eta_s: float | None = None
    elapsed_s: float = 0.0
    memory: int | None = None
    memory_peak: int | None = None
    rss: int | None = None
    progress: Progress | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    events: tuple[EventLine, ...] = ()
    scores: tuple[Score, ...] = ()
    samples: tuple[Sample, ...] = ()
    guards: tuple[Guard, ...] = ()
    controls: tuple[Control, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    ranks: tuple[Rank, ...] = ()
    log: tuple[str, ...] = ()
    bad_lines: int = 0
    exact: bool = True

    def log_tail(self, count: int) -> tuple[str, ...]:
        """Return the last lines of the newest attempt's log."""
        return self.log[-count:] if count > 0 else ()

    def curve(self, name: str) -> Series:
        """Return a series by name (see CURVES), empty when nothing was logged for it."""
        return self.series.get(name, EMPTY)
