"""``finetui trust``: allow the Python code of one model, as it is now; list and withdraw that."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from finetui.commands import console
from finetui.consent import COMMIT, CONFIGS, Code, Consents, code_in, of_file
from finetui.display import clean, plural
from finetui.errors import UserError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def parser() -> argparse.ArgumentParser:
    made = console.parser(
        "Allow the Python code that comes with a model, or a scorer of an evaluation, to run: "
        "exactly this code, for you. Without a model, list what is allowed.",
        json=True,
        workspace=False,
    )
    made.add_argument(
        "model", nargs="?", default="", help="a model folder, a hub id org/name, a scorer.py"
    )
    made.add_argument("--revision", default="", help="commit, branch or tag of a hub model")
    made.add_argument("--withdraw", action="store_true", help="allow it no longer")
    made.add_argument("--yes", action="store_true", help="allow without asking")
    return made


def run(arguments: argparse.Namespace) -> int:
    consents = Consents()
    if not arguments.model:
        return _list(consents, arguments.json)
    if arguments.withdraw:
        return _withdraw(consents, arguments.model)
    source, commit, folder, code = _found(arguments.model, arguments.revision)
    _show(source, commit, folder, code)
    if not (arguments.yes or _agreed()):
        console.say("nothing was allowed")
        return 1
    given = consents.give(source, commit, code)
    console.say(f"allowed for {source}" + (f": set model.revision to {commit}" if commit else ""))
    if arguments.json:
        console.emit(given)
    return 0


def _list(consents: Consents, json: bool) -> int:
    found = consents.all()
    if json:
        for one in found:
            console.emit(one)
    elif found:
        rows = [(one.source, one.commit or "-", plural(len(one.files), "file")) for one in found]
        console.table(rows, ("model", "commit", "code"))
    else:
        console.say("no model's own code is allowed to run")
    return 0


def _withdraw(consents: Consents, named: str) -> int:
    place = Path(named).expanduser()
    gone = consents.withdraw(str(place.resolve()) if place.exists() else named)
    if not gone:
        raise UserError("was not allowed.", named, "See: finetui trust")
    console.say(f"allowed no longer: {', '.join(one.name for one in gone)}")
    return 0


def _found(named: str, revision: str) -> tuple[str, str, Path, Code]:
    """Source, commit ("" for what lies here), the folder of the code, and the code itself."""
    place = Path(named).expanduser().resolve()
    if place.is_dir():
        return str(place), "", place, code_in(place)
    if place.suffix == ".py" and place.is_file():
        return str(place), "", place.parent, of_file(place)
    if not _HUB_ID.fullmatch(named):
        raise UserError("is no folder and no hub id.", named, "Write a hub id as org/name.")
    snapshot = _fetched(named, revision)
    if not COMMIT.fullmatch(snapshot.name):
        raise UserError("did not say which commit this is.", named, "Name one: --revision COMMIT")
    return named, snapshot.name, snapshot, code_in(snapshot, named)


def _fetched(named: str, revision: str) -> Path:
    """The code and the configurations of a hub model, in the hub's cache; nothing is run."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            "needs the huggingface_hub package.", named, "pip install 'finetui[train]'"
        ) from error
    try:
        patterns = ["*.py", *CONFIGS]
        return Path(snapshot_download(named, revision=revision or None, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        told = str(error).strip().splitlines()
        raise UserError(
            f"the hub did not give it: {told[0] if told else type(error).__name__}",
            named,
            "Check the name, the revision and the connection.",
        ) from error


def _show(source: str, commit: str, folder: Path, code: Code) -> None:
    if code.elsewhere:
        raise UserError(
            f"takes its code from another repository ({', '.join(code.elsewhere)}).",
            source,
            "Put that code into the model's own folder and name it in auto_map.",
        )
    if not code.wanted or not code.files:
        raise UserError(
            "brings no code of its own.", source, "Set model.trust_remote_code to false."
        )
    console.say(f"{source}{f' at commit {commit}' if commit else ''} asks to run")
    for name in code.classes:
        console.say(f"  {name}")
    console.say(f"from these files in {folder}:")
    for name, digest in code.files.items():
        lines = (folder / name).read_bytes().count(b"\n")
        console.say(f"  {name}  {plural(lines, 'line')}  blake3 {digest[:16]}")
    console.say("It can do all that you can: read your files and keys, send them elsewhere.")


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError("nobody can be asked here.", fix="Read the code, then allow it with --yes.")
    print(clean("Have you read it, and may it run? [y/N] "), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
