"""The samples page: what the model answered to the same prompts, side by side over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content

from finetui.display import clean, clean_block
from finetui.tui.actions import Action, register
from finetui.tui.screens import lines
from finetui.tui.screens.page import Page
from finetui.tui.widgets.panel import entitle
from finetui.tui.widgets.table import Column, ListSource, TableRow, VirtualTable
from finetui.tui.widgets.textpanel import TextPanel

if TYPE_CHECKING:
    from finetui.jobs.monitor import Sample

_MOST = 4
"""Answers beside each other on the widest screens."""
_WIDTH = 34


class SamplesPage(Page[None]):
    """Prompts on top, below them the answers: the first one taken stays at the left, the others
    follow the time. ``show`` takes newer ones while it is open."""

    PARTS = ("prompts", "answers")
    KEYS = "↑↓ prompt · ← → earlier, later · tab scroll the answers · esc close"
    BINDINGS: ClassVar = register(
        Action("samples.earlier", "left,h", "earlier", "Answers of earlier steps."),
        Action("samples.later", "right,l", "later", "Answers of later steps."),
    )
    DEFAULT_CSS = """
    SamplesPage #prompts { height: 7; }
    SamplesPage #asked { height: auto; max-height: 9; color: $foreground; }
    SamplesPage #answers { height: 1fr; }
    SamplesPage #answers Horizontal { height: auto; min-height: 100%; }
    SamplesPage .answer { width: 1fr; height: auto; min-height: 100%; }
    SamplesPage .answer.-off { display: none; }
    """

    def __init__(self, title: str, samples: Sequence[Sample]) -> None:
        super().__init__(title)
        self._take(samples)
        self._back = 0
        """How many answers the newest one on screen is behind the newest there is."""

    def _take(self, samples: Sequence[Sample]) -> None:
        self.samples = tuple(samples)
        self.prompts: dict[tuple[str, str], dict[int, Sample]] = {}
        for sample in samples:
            of_prompt = self.prompts.setdefault((sample.set, sample.id or sample.prompt), {})
            of_prompt[sample.step] = sample

    def body(self) -> ComposeResult:
        columns = [Column("set", 10), Column("prompt", weight=2), Column("newest answer", weight=2)]
        yield VirtualTable(columns, id="prompts", classes="panel", empty="no samples yet")
        yield TextPanel(wrap=True, id="asked")
        with VerticalScroll(id="answers", can_focus=True), Horizontal():
            for _ in range(_MOST):
                yield TextPanel(wrap=True, classes="panel answer")

    def on_mount(self) -> None:
        entitle(self.query_one("#prompts"), "prompts")
        self._list()

    def on_resize(self, event: events.Resize) -> None:
        self.call_after_refresh(self._tell)

    def show(self, samples: Sequence[Sample]) -> None:
        """Take newer samples; the prompt and the answers on screen stay."""
        if len(samples) != len(self.samples):
            self._take(samples)
            self._list()

    def _list(self) -> None:
        rows = []
        for (where, _), answers in self.prompts.items():
            newest = answers[max(answers)]
            rows.append(TableRow((where, newest.prompt, newest.answer)))
        self.table("prompts").show(ListSource(rows))
        self._tell()

    @property
    def answers(self) -> list[Sample]:
        """The answers to the prompt at the cursor, by step."""
        place = self.table("prompts").cursor
        found = list(self.prompts.values())
        return [of for _, of in sorted(found[place].items())] if place < len(found) else []

    @on(VirtualTable.RowHighlighted, "#prompts")
    def _tell(self) -> None:
        answers, panels = self.answers, list(self.query(".answer").results(TextPanel))
        asked = self.query_one("#asked", TextPanel)
        asked.show(_asked(answers[-1]) if answers else Content(""))
        shown = self._beside(answers)
        for place, panel in enumerate(panels):
            panel.set_class(place >= len(shown), "-off")
            if place < len(shown):
                self._tell_answer(panel, shown[place])

    def _beside(self, answers: list[Sample]) -> list[Sample]:
        """The answers that have room: the first, and the newest that are wanted."""
        room = max(1, min(_MOST, self.query_one("#answers").size.width // _WIDTH))
        if len(answers) <= room:
            return answers
        self._back = min(self._back, len(answers) - room)
        end = len(answers) - self._back
        if room == 1:
            return answers[end - 1 : end]
        return [answers[0], *answers[end - room + 1 : end]]

    def _tell_answer(self, panel: TextPanel, sample: Sample) -> None:
        panel.show(lines.answer(sample.answer))
        same = bool(sample.reference) and sample.answer.strip() == sample.reference.strip()
        entitle(panel, f"step {sample.step:,}", "✓ as the reference" if same else "")

    def action_earlier(self) -> None:
        self._back += 1
        self._tell()

    def action_later(self) -> None:
        self._back = max(0, self._back - 1)
        self._tell()


def _asked(sample: Sample) -> Content:
    told = [Content.assemble(("prompt     ", "bold $role-user"), clean_block(sample.prompt))]
    if sample.reference:
        reference = ("reference  ", "bold $role-assistant")
        told.append(Content.assemble(reference, clean_block(sample.reference)))
    where = clean(sample.set)
    if sample.id != sample.prompt:
        where = f"{where}  {clean(sample.id)}".strip()
    return lines.join([*told, Content.styled(where, "$muted")])
