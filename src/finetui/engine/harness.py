"""lm-evaluation-harness, through its own library, on a model that is loaded already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finetui.data.tokens import ChatTokenizer
from finetui.engine.adapters import first_line
from finetui.errors import UserError

TASKS = "harness"
"""A workspace's folder of task files of its own."""

_SEPARATOR = "_stderr,"


def require_harness() -> None:
    """Raises UserError where the library is not installed."""
    if find_spec("lm_eval") is None:
        raise UserError(
            "lm-evaluation-harness is not installed.",
            "harness",
            "pip install 'finetui[harness]', or leave the tasks away.",
        )


def run_tasks(
    model: Any,
    tokenizer: ChatTokenizer,
    tasks: Sequence[str],
    *,
    own: Path | None = None,
    batch_size: int = 8,
    limit: int = 0,
    seed: int = 0,
) -> dict[str, dict[str, list[float]]]:
    """{task: {metric: [value, standard error]}}, as the harness takes them.

    ``tasks`` are its own names, or those of task files in ``own``; their data must be at hand, or
    the hub reachable. Raises UserError for a task that is not known or cannot be loaded.
    """
    require_harness()
    lm_eval = import_module("lm_eval")
    wrapped = import_module("lm_eval.models.huggingface").HFLM(
        pretrained=model, tokenizer=_their_tokenizer(tokenizer), batch_size=batch_size
    )
    manager = import_module("lm_eval.tasks").TaskManager(
        include_path=str(own) if own is not None and own.is_dir() else None
    )
    unknown = [task for task in tasks if not manager.match_tasks([task])]
    if unknown:
        raise UserError(
            f"the harness knows no task {', '.join(unknown)}.", "harness", "See: lm_eval ls tasks"
        )
    try:
        found = lm_eval.simple_evaluate(
            model=wrapped, tasks=list(tasks), task_manager=manager, limit=limit or None,
            random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed,
            fewshot_random_seed=seed, log_samples=False,
        )  # fmt: skip
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"the harness could not run {', '.join(tasks)}: {first_line(error)}", "harness"
        ) from error
    return read_results(found["results"])


def read_results(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """The harness's table by task and metric: "acc,none" becomes acc, other filters keep theirs."""
    return {task: dict(_metrics(row)) for task, row in results.items() if dict(_metrics(row))}


def _metrics(row: Mapping[str, Any]) -> list[tuple[str, list[float]]]:
    found = []
    for key, value in row.items():
        metric, separator, kind = key.partition(",")
        if not separator or _SEPARATOR in key or not isinstance(value, int | float):
            continue
        error = row.get(f"{metric}{_SEPARATOR}{kind}")
        name = metric if kind == "none" else f"{metric} ({kind})"
        errors = [float(error)] if isinstance(error, int | float) else []
        found.append((name, [float(value), *errors]))
    return found


def _their_tokenizer(tokenizer: ChatTokenizer) -> Any:
    """transformers' tokenizer of the same folder, with the template that we use."""
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(tokenizer.origin, trust_remote_code=False)
    if tokenizer.has_template:
        found.chat_template = tokenizer.template
    return found
