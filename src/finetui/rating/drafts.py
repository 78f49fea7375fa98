"""Answers that wait to be sealed, so that a person can read the findings and choose first.

<ratings>/.drafts/<name>.json    for the coordinator alone (0600); gone once sealed
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec

from finetui.errors import BROKEN, UserError
from finetui.rating.findings import Findings, inspect
from finetui.rating.registration import Registration, checked
from finetui.rating.session import Item, Session, default_rater, refuse_bad_names, seal
from finetui.workspace import sync_folder, write_atomic

FOLDER = ".drafts"


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a sealing takes, the registration as it was proposed."""

    name: str
    created: float
    systems: tuple[str, ...]
    items: list[Item]
    registration: Registration = Registration()
    generation: dict[str, Any] = {}
    provenance: dict[str, Any] = {}
    special_tokens: list[str] = []
    group: str = ""

    def findings(self, chosen: Registration | None = None) -> Findings:
        """The findings under a registration; about a second for 300 items."""
        return inspect(self.items, self.systems, chosen or self.registration, self.special_tokens)


def draft_file(ratings_dir: Path, name: str) -> Path:
    return ratings_dir / FOLDER / f"{name}.json"


def hold(ratings_dir: Path, draft: Draft) -> Path:
    """Keep a draft; returns its file. Raises UserError for a name that cannot be sealed."""
    file = draft_file(ratings_dir, draft.name)
    refuse_bad_names(draft.name, draft.registration.raters)
    checked(_with_raters(draft.registration))
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(file, msgspec.json.encode(draft))
    except OSError as error:
        raise UserError("the draft cannot be written.", str(file), f"({error})") from error
    return file


def list_drafts(ratings_dir: Path) -> list[Draft]:
    """The drafts of a folder, newest first; files that do not read are passed over."""
    found = []
    for file in (ratings_dir / FOLDER).glob("*.json"):
        with contextlib.suppress(UserError):
            found.append(read_draft(ratings_dir, file.stem))
    return sorted(found, key=lambda draft: draft.created, reverse=True)


def read_draft(ratings_dir: Path, name: str) -> Draft:
    """Raises UserError when there is no draft of this name or it does not read."""
    file = draft_file(ratings_dir, name)
    try:
        return msgspec.json.decode(file.read_bytes(), type=Draft)
    except FileNotFoundError:
        raise UserError(
            "no session of this name waits to be sealed.",
            name,
            "See what waits: finetui rate findings",
        ) from None
    except OSError as error:
        raise UserError("the draft cannot be read.", str(file), f"({error.strerror})") from error
    except BROKEN as error:
        raise UserError(f"the draft does not read ({error}).", str(file)) from error


def seal_draft(ratings_dir: Path, name: str, chosen: Registration | None = None) -> Session:
    """Seal a draft under the registration chosen (its own by default), and drop it."""
    draft = read_draft(ratings_dir, name)
    made = seal(
        ratings_dir,
        draft.name,
        draft.items,
        chosen or draft.registration,
        systems=draft.systems,
        generation=draft.generation,
        provenance=draft.provenance,
        special_tokens=draft.special_tokens,
        group=draft.group or None,
    )
    drop_draft(ratings_dir, name)
    return made


def drop_draft(ratings_dir: Path, name: str) -> None:
    """Delete a draft and the answers in it; nothing happens when there is none."""
    file = draft_file(ratings_dir, name)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file)
        sync_folder(file.parent)


def _with_raters(chosen: Registration) -> Registration:
    return msgspec.structs.replace(chosen, raters=chosen.raters or (default_rater(),))
