"""The commands.

Standard output is data, standard error is narration. Exit codes: 0 good, 1 findings or failed,
2 cannot run, 70 an error of finetui itself. A command's module is imported only when it is
called, so that ``--help`` is instant.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from finetui import __version__, readonly
from finetui.errors import UserError

GOOD, FOUND, CANNOT, BROKEN = 0, 1, 2, 70

COMMANDS: dict[str, str] = {
    "init": "make a workspace here or at PATH",
    "fetch": "bring a data set of the Hugging Face hub into the workspace",
    "check": "look for faults in data sets",
    "duplicates": "find rows that say nearly the same, and keep one of each",
    "query": "find rows by a filter, by SQL, in another order",
    "fix": "repair all rows that a check finds, as one step",
    "edits": "list what was done to a data set; undo, redo, switch off",
    "ready": "say whether a set is ready to train on, and what it costs",
    "prices": "list and enter what providers charge per million tokens",
    "convert": "write data sets in another shape",
    "feedback": "import failures from production and correct them",
    "suggest": "ask a model for candidate rows, into the review queue",
    "review": "accept or dismiss feedback and candidate rows",
    "drift": "compare new data with a training set, and name the rows that differ",
    "split": "write a version split into train, validation and test",
    "mix": "write a version with general data mixed in",
    "versions": "list, compare and verify versions, with the runs that used them",
    "leaks": "list the training rows that give held-out rows away",
    "accept-leak": "let a leak stand, with the reason in writing",
    "recipe": "check, import, compare and start recipes from presets",
    "forecast": "say what a recipe needs: memory, disk, time",
    "rehearse": "try the longest batch, one update, one save, and report peak and pace",
    "train": "start a training run from a recipe",
    "sweep": "run a grid or list of values one after another, compared in a table",
    "jobs": "list the jobs with their states",
    "queue": "say who has the GPUs of this machine and who waits for them",
    "watch": "follow a job line by line, as JSON or on screen",
    "stop": "ask a job to save and stop",
    "resume": "go on with a training run that ended early",
    "stack": "say where a run stands, for one that gives no sign of life",
    "tokens": "show which tokens of a row are trained, masked and cut",
    "control": "save, evaluate, pause, change or stop a run while it trains",
    "export": "write a run's result for use elsewhere: adapter, merged model, GGUF",
    "evaluate": "measure base against tuned on held-out rows and suites, and report",
    "generate": "answer the prompts of a data set with a model or a job's adapter",
    "rate": "prepare, vote, unseal and report blind ratings",
    "demo": "run the whole loop on the sample workspace",
    "trust": "allow the Python code that comes with a model, for exactly that code",
    "doctor": "say what this machine has and what is missing",
    "keys": "print the key table of the screens",
}

_USAGE = """\
usage: finetui [PATH]              open the workstation on a workspace
       finetui --readonly [PATH]   watch one, or one run, and change nothing
       finetui COMMAND [--help]    one action, for scripts and plain terminals
       finetui --version | --help

commands:
"""


def usage() -> str:
    """The text of ``finetui --help``."""
    return _USAGE + "".join(f"  {name:<11} {line}\n" for name, line in COMMANDS.items())


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; a UserError becomes one clear line."""
    os.umask(0o077)  # GPU servers are shared: nothing we write is for others
    readonly.heed()
    _guard_terminals()
    try:
        return _dispatch(list(argv))
    except UserError as error:
        from finetui.display import brief, clean

        print(f"finetui: {clean(brief(str(error)))}", file=sys.stderr)
        return CANNOT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return GOOD
    except Exception as error:
        from finetui.crash import told

        print(f"finetui: {told(error)}", file=sys.stderr)
        return BROKEN


def _guard_terminals() -> None:
    """What a terminal shows goes through the wall of ``display``; pipes get bytes as they are."""
    from finetui.display import PlainStream

    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream.isatty() and not isinstance(stream, PlainStream):
            setattr(sys, name, PlainStream(stream))


def _dispatch(argv: list[str]) -> int:
    first = argv[0] if argv else ""
    if first in ("-h", "--help", "help"):
        print(usage(), end="")
        return GOOD
    if first == "--version":
        print(f"finetui {__version__}")
        return GOOD
    if first not in COMMANDS:
        _refuse_a_near_miss(first)
        from finetui.commands import tui

        return tui.run(argv)
    module = importlib.import_module(f"finetui.commands.{first.replace('-', '_')}")
    parser = module.parser()
    parser.prog = f"finetui {first}"
    return int(module.run(parser.parse_args(argv[1:])))


def _refuse_a_near_miss(word: str) -> None:
    """``finetui tarin`` is a slip, not a folder to make."""
    import difflib
    from pathlib import Path

    near = difflib.get_close_matches(word, COMMANDS, 1, 0.7)
    if near and not Path(word).exists():
        raise UserError(f"no command {word!r}.", fix=f"Did you mean: finetui {near[0]}?")
