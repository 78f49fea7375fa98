"""The machine page: each GPU with who holds its memory, the host, and the disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content

from finetui.display import clean
from finetui.tui import figures
from finetui.tui.screens import lines, train_view
from finetui.tui.screens.page import Page
from finetui.tui.widgets.textpanel import TextPanel

if TYPE_CHECKING:
    from finetui.jobs.devices import DeviceSample, Gpu
    from finetui.jobs.monitor import Rank


class MachinePage(Page[None]):
    """``show`` takes newer samples while it is open."""

    PARTS: ClassVar = ("scroll",)
    KEYS = "esc close"
    DEFAULT_CSS = "MachinePage #scroll { height: 1fr; }"

    def __init__(
        self, sample: DeviceSample | None, disk_free: int | None, ranks: Sequence[Rank] = ()
    ) -> None:
        super().__init__("machine")
        self._sample, self._disk, self._ranks = sample, disk_free, ranks

    def body(self) -> ComposeResult:
        with VerticalScroll(id="scroll", can_focus=True):
            yield TextPanel(id="machine")

    def on_mount(self) -> None:
        self.call_after_refresh(self.show, self._sample, self._disk, self._ranks)

    def on_resize(self) -> None:
        self.call_after_refresh(self.show, self._sample, self._disk, self._ranks)

    def show(
        self, sample: DeviceSample | None, disk_free: int | None, ranks: Sequence[Rank] = ()
    ) -> None:
        self._sample, self._disk, self._ranks = sample, disk_free, ranks
        panel = self.query_one("#machine", TextPanel)
        panel.show(machine_text(sample, disk_free, min(72, panel.content_size.width or 60), ranks))


def machine_text(
    sample: DeviceSample | None, disk_free: int | None, width: int, ranks: Sequence[Rank] = ()
) -> Content:
    """Everything the machine tells, and every rank of the run on screen, also on other hosts."""
    if sample is None:
        return Content.styled("reading the devices…", "$muted")
    told: list[Content] = []
    if sample.driver:
        told += [lines.pair("driver", clean(sample.driver)), Content("")]
    for gpu in sample.gpus:
        told += [*_gpu(gpu, width), Content("")]
    if len(ranks) > 1:
        told += [*train_view.rank_lines(ranks, sample), Content("")]
    told += train_view.host_lines(sample, disk_free, width)
    return lines.join(told)


def _gpu(gpu: Gpu, width: int) -> list[Content]:
    told = [Content.assemble((f"GPU{gpu.index} ", "bold"), clean(gpu.name or ""),
                             (f"  {clean(gpu.uuid or '')}", "$muted"))]  # fmt: skip
    if gpu.problem:
        return [*told, Content.styled(clean(gpu.problem), "$error")]
    limit = "" if gpu.power_limit_w is None else f" of {gpu.power_limit_w:.0f} W"
    told += [
        train_view.meter("memory", gpu.memory_used, gpu.memory_total, width),
        lines.pair("free", figures.size(gpu.memory_free), 6),
        lines.pair("busy", _told(gpu.utilisation, " %"), 6),
        lines.pair("heat", _told(gpu.temperature, " °C"), 6),
        lines.pair("power", _told(gpu.power_w, " W") + limit, 6),
    ]
    rows = [["process", "held", "name"]]
    for process in gpu.processes:
        name = f"{clean(process.user or '?')}  {clean(process.name or 'in another container')}"
        rows.append([str(process.pid), figures.size(process.memory), name])
    if len(rows) == 1:
        return [*told, Content.styled("no process holds memory here", "$muted")]
    head, *rest = lines.columns(rows)
    return [*told, head.stylize("$muted"), *rest]


def _told(value: float | None, unit: str) -> str:
    return figures.UNKNOWN if value is None else f"{value:.0f}{unit}"
