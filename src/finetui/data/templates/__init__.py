"""Chat templates of our own, one .jinja file each; what the assistant writes is marked in them.

They write the forms that models were taught in, without anybody's default system message, and the
same way in training as before an answer. A form without a place for tools or reasoning refuses
such chats: leaving them out silently would teach something else.
"""

from __future__ import annotations

from pathlib import Path

from finetui.errors import UserError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The templates we ship, in alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.jinja"))


def template_source(chosen: str) -> str:
    """A template by its name here or by the path of its file; empty for an empty choice.

    Raises UserError when there is no such template.
    """
    if not chosen:
        return ""
    path = _FOLDER / f"{chosen}.jinja" if chosen in names() else Path(chosen)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(
            "there is no such chat template.",
            chosen,
            f"Choose {', '.join(names())}, or the path of a .jinja file.",
        ) from error
