"""The pages a rater sees instead of a pair: before, between and after."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from finetui.display import clean, plural
from finetui.tui.screens import lines

ENTER = "enter"
_KEYS = (
    ("1 2", "the left, the right answer is better"),
    ("3 4", "both are good, both are bad"),
    ("0", "I cannot judge this"),
    ("backspace", "takes the last answer back"),
    ("↑ ↓", "read on; ← → move one answer alone, tab both again"),
    ("p v", "the whole prompt; one answer at a time on the whole screen"),
    ("z d", "scroll in step; underline where the answers differ"),
    ("5 6 7", "unsure, fairly sure, sure: before the answer, if you like"),
    ("g c", "mark what is wrong; write a remark"),
    ("f", "I believe to know which model wrote one of them"),
    ("o", "answers wait for enter, or count at once"),
    ("b q", "a break; leave, and go on here another time"),
)


def _keys(*pairs: tuple[str, str]) -> Content:
    """Keys with their words in one line."""
    parts = [Content.assemble((key, "bold $key"), f" {words}") for key, words in pairs]
    return Content("   ").join(parts)


def guide(begun: bool, practice: int, criteria: Sequence[str], blind: str) -> Content:
    """What a rater must know, on one page of 80x24; ``blind`` says which wall holds."""
    told = (
        "Read both answers to their ends, then say which is better. Sides change from pair to "
        "pair. A pair may come twice: answer it as if it were new. There is no score to see, on "
        "purpose. Every answer is on disk at once."
    )
    if criteria:
        told += f" Each pair asks {len(criteria) + 1} questions in turn, with the same keys."
    if practice:
        told += f" The first {plural(practice, 'pair')} are practice and count for nothing."
    rows = [Content.assemble((f"{keys:>9}  ", "bold $key"), words) for keys, words in _KEYS]
    return lines.join(
        [
            Content.styled("Two answers, no names", "bold $accent"),
            Content(told),
            Content(""),
            *rows,
            Content(""),
            Content.styled(clean(blind), "$muted"),
            _keys((ENTER, "goes on" if begun else "begins")),
        ]
    )


def pause() -> Content:
    """During a break."""
    return lines.join(
        [
            Content.styled("A break", "bold $accent"),
            Content(""),
            Content("Every answer so far is on disk. The time of a break is not counted."),
            Content(""),
            _keys(("b", "goes on"), ("q", "leaves")),
        ]
    )


def practice_over() -> Content:
    """Between practice and rating."""
    return lines.join(
        [
            Content.styled("That was the practice", "bold $accent"),
            Content(""),
            Content("From here on each answer counts. Backspace still takes one back."),
            Content(""),
            _keys((ENTER, "begins"), ("q", "leaves")),
        ]
    )


def last_question(question: str, showings: int) -> Content:
    """Before the end question, which tells whether the blinding held."""
    return lines.join(
        [
            Content.styled("One question more", "bold $accent"),
            Content(""),
            Content(f"{plural(showings, 'pair')} come again, and now the question is:"),
            Content.styled(clean(question), "bold"),
            Content(""),
            Content("Quality does not matter here. A guess is welcome; 0 says that you have none."),
            Content(""),
            _keys((ENTER, "goes on"), ("q", "leaves")),
        ]
    )


def end(answered: int, total: int, closed: bool, receipt: str, blind: str) -> Content:
    """When every item has an answer: hand in, go back, or leave; then the receipt."""
    done = f"{answered} of {plural(total, 'item')} answered, all on disk."
    if closed:
        return lines.join([*_thanks(done, receipt), Content(""), _keys(("q", "leaves"))])
    return lines.join(
        [
            Content.styled("That was the last one.", "bold $accent"),
            Content(""),
            Content(done),
            Content.styled(clean(blind), "$muted"),
            Content(""),
            _keys(
                ("H", "hands in for good"),
                ("backspace", "back to the last answer"),
                ("q", "leaves, to look again later"),
            ),
        ]
    )


def _thanks(done: str, receipt: str) -> Sequence[Content]:
    told = [Content.styled("Handed in. Thank you.", "bold $success"), Content(""), Content(done)]
    if receipt:
        told += [
            Content.assemble("Receipt  ", (clean(receipt[:16]), "bold")),
            Content.styled("It proves later that nothing was changed. Note it down.", "$muted"),
        ]
    return told
