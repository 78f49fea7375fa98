"""The process of a scorer: loads one function and answers for it, a JSON line for a JSON line.

Run as a script: file, function, number of the descriptor to answer on, bytes of memory allowed.
It imports nothing of finetui, so that a scorer meets a plain Python.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import resource
import sys
from collections.abc import Callable
from typing import Any


def main(file: str, function: str, descriptor: str, memory: str) -> None:
    limit = int(memory)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    questions, answers = os.dup(0), int(descriptor)
    os.set_inheritable(answers, False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the function may not eat the questions
    try:
        score = load(file, function)
    except BaseException as error:
        tell(answers, {"error": described(error)})
        return
    tell(answers, {"ready": True})
    with os.fdopen(questions, "rb") as lines:
        for line in lines:
            tell(answers, asked(score, json.loads(line)))


def load(file: str, function: str) -> Callable[..., Any]:
    sys.path.insert(0, os.path.dirname(file))
    spec = importlib.util.spec_from_file_location("finetui_scorer", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["finetui_scorer"] = module
    spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise LookupError(f"has no function {function}")
    return found  # type: ignore[no-any-return]


def asked(score: Callable[..., Any], question: dict[str, Any]) -> dict[str, Any]:
    try:
        found = score(**question)
        return {"value": plain(found)}
    except MemoryError:
        return {"error": "out of memory"}
    except Exception as error:
        return {"error": described(error)}


def plain(value: Any, deep: bool = True) -> Any:
    """A result as JSON can carry it. Raises TypeError or ValueError for anything else."""
    if value is None or isinstance(value, bool | str):
        return value[:1000] if isinstance(value, str) else value
    if isinstance(value, dict) and deep:
        return {str(name)[:60]: plain(part, deep=False) for name, part in value.items()}
    if not hasattr(value, "__float__"):
        raise TypeError(f"returned a {type(value).__name__}, not a bool, number, str, None or dict")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"returned {number}")
    return number


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def tell(descriptor: int, value: dict[str, Any]) -> None:
    data = json.dumps(value).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main(*sys.argv[1:5])
