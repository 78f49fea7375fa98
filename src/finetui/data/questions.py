"""Is tuning the right tool at all? The questions of the practice guides, answered and kept.

The answers lie in ``tuning.toml`` of the workspace, so that a later reader sees why it was done.
"""

from __future__ import annotations

import getpass
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tomli

from finetui.errors import BROKEN, UserError

if TYPE_CHECKING:
    from finetui.workspace import Workspace

Answer = Literal["yes", "no", "unsure", ""]
FILE = "tuning.toml"


@dataclass(frozen=True)
class Question:
    """One question; ``wanted`` speaks for tuning, ``otherwise`` is what to do instead."""

    id: str
    text: str
    wanted: Literal["yes", "no"]
    why: str
    otherwise: str
    decisive: bool = False


QUESTIONS: tuple[Question, ...] = (
    Question(
        "prompting",
        "Has a good prompt with examples been tried, and measured where it fails?",
        "yes",
        "A prompt costs minutes, and its failures are the test set of the tuning.",
        "Write a prompt with 5 to 20 examples first and keep what it gets wrong.",
        decisive=True,
    ),
    Question(
        "behaviour",
        "Is the aim a behaviour: a format, a tone, a narrow task, a lower price per answer?",
        "yes",
        "Tuning teaches how to answer far better than it teaches facts.",
        "Say what the tuned model should do differently before collecting rows.",
        decisive=True,
    ),
    Question(
        "knowledge",
        "Is what is missing knowledge that changes (prices, documents, news)?",
        "no",
        "Facts put into weights age, cannot be cited and invite invention.",
        "Use retrieval: give the model the document with the question.",
        decisive=True,
    ),
    Question(
        "measure",
        "Is there a held-out set and a figure by which success would be seen?",
        "yes",
        "Without one, a run that made the model worse looks like one that worked.",
        "Split off a test set (`finetui split`) and name the figure.",
        decisive=True,
    ),
    Question(
        "base",
        "Does the base model get the task right at least now and then?",
        "yes",
        "Tuning sharpens what a model can nearly do; it seldom makes a new ability.",
        "Try a larger or a newer base model.",
    ),
    Question(
        "examples",
        "Are the answers in the data ones that somebody who knows the task would sign?",
        "yes",
        "The model becomes what the rows are: fifty good ones beat a thousand doubtful ones.",
        "Have an expert read and repair a sample of 50 rows.",
    ),
    Question(
        "stable",
        "Will the task stay as it is for months?",
        "yes",
        "Each change of the task needs new rows and a new run.",
        "Stay with a prompt until it has settled.",
    ),
    Question(
        "rights",
        "May these rows be trained on (licence, consent, personal data)?",
        "yes",
        "Rows cannot be taken out of weights again.",
        "Ask before the run; redact personal data (`finetui fix`).",
        decisive=True,
    ),
    Question(
        "upkeep",
        "Will somebody measure it again when the base model or the data change?",
        "yes",
        "A tuned model is a product with an owner, or it rots.",
        "Name the owner.",
    ),
)


@dataclass(frozen=True)
class Reply:
    """What a person answered, when, and who."""

    answer: Answer = ""
    note: str = ""
    who: str = ""
    when: str = ""


@dataclass(frozen=True)
class Verdict:
    """What the answers add up to: ``state`` is good, warn, bad or unknown."""

    state: Literal["good", "warn", "bad", "unknown"]
    sentence: str
    advice: tuple[str, ...] = ()


def replies(workspace: Workspace) -> dict[str, Reply]:
    """The answers so far by question id; raises UserError when the file cannot be read."""
    path = workspace.root / FILE
    try:
        found = tomli.loads(path.read_text("utf-8")) if path.is_file() else {}
    except (OSError, *BROKEN) as error:
        raise UserError(f"cannot be read: {error}.", str(path), "Mend it or delete it.") from error
    known = {question.id for question in QUESTIONS}
    return {
        name: Reply(*(str(entry.get(key, "")) for key in ("answer", "note", "who", "when")))  # type: ignore[arg-type]
        for name, entry in found.items()
        if name in known and isinstance(entry, dict)
    }


def answer(workspace: Workspace, question: str, said: str, note: str = "") -> Verdict:
    """Keep one answer (``yes``, ``no``, ``unsure``, or ``""`` to take it back).

    Raises UserError for an unknown question or answer.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    from finetui.workspace import write_atomic

    known = [entry.id for entry in QUESTIONS]
    if question not in known:
        raise UserError(f"there is no question {question!r}.", fix=f"Known: {', '.join(known)}.")
    if said not in ("yes", "no", "unsure", ""):
        raise UserError(f"{said!r} is no answer.", fix="Say yes, no or unsure.")
    replies(workspace)  # refuse to write over a file that cannot be read
    path = workspace.root / FILE
    try:
        document = tomlkit.parse(path.read_text("utf-8") if path.is_file() else "")
    except (TOMLKitError, *BROKEN) as error:
        raise UserError(
            f"cannot be added to: {error}.", str(path), "Mend it or delete it."
        ) from error
    if said:
        entry = {"answer": said, "note": note, "who": getpass.getuser()}
        document[question] = entry | {"when": time.strftime("%Y-%m-%d")}
    else:
        document.pop(question, None)
    write_atomic(path, tomlkit.dumps(document))
    return verdict(replies(workspace))


def verdict(given: dict[str, Reply]) -> Verdict:
    """Whether tuning is the right tool, from the answers given."""
    against = [
        entry
        for entry in QUESTIONS
        if (said := given.get(entry.id, Reply()).answer) in ("yes", "no") and said != entry.wanted
    ]
    open_ones = [
        entry for entry in QUESTIONS if given.get(entry.id, Reply()).answer in ("", "unsure")
    ]
    advice = tuple(entry.otherwise for entry in against)
    if any(entry.decisive for entry in against):
        return Verdict("bad", "Something else than tuning should come first.", advice)
    if open_ones:
        count = len(open_ones)
        words = "1 question is" if count == 1 else f"{count} questions are"
        return Verdict("unknown", f"{words} still open.", advice)
    if against:
        return Verdict("warn", "Tuning can work, with a doubt to clear.", advice)
    return Verdict("good", "The answers speak for tuning.")
