"""What the machine did since the screen is open: samples of the devices as curves over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetui.jobs.series import Series, SeriesBuilder
from finetui.tui.screens.train_charts import COLOURS
from finetui.tui.widgets.drawing import Line

if TYPE_CHECKING:
    from finetui.jobs.devices import DeviceSample, Gpu


class DeviceCurves:
    """One curve a device and figure; x is Unix time. A figure that is not told makes a gap."""

    def __init__(self) -> None:
        self._curves: dict[tuple[str, str], SeriesBuilder] = {}
        self._last = 0.0

    def take(self, sample: DeviceSample, disk_free: int | None, now: float) -> None:
        """Add one sample; a clock that was set back is waited for."""
        if now <= self._last:
            return
        self._last = now
        for gpu in sample.gpus:
            for kind, value in _figures(gpu):
                self._add(kind, str(gpu.index), now, value)
        self._add("host-memory", "host", now, sample.host_memory_used)
        self._add("cpu", "CPU", now, sample.cpu_percent)
        self._add("disk", "disk", now, disk_free)

    def _add(self, kind: str, name: str, now: float, value: float | None) -> None:
        key = (kind, name)
        if key in self._curves or value is not None:
            self._curves.setdefault(key, SeriesBuilder()).append(now, value)

    def lines(self, kind: str) -> list[Line]:
        """The lines of one chart, a colour a device."""
        names = [name for of, name in self._curves if of == kind]
        return [Line(name, COLOURS[place % len(COLOURS)]) for place, name in enumerate(names)]

    def curves(self, kind: str) -> dict[str, Series]:
        return {name: made.view() for (of, name), made in self._curves.items() if of == kind}


def _figures(gpu: Gpu) -> list[tuple[str, float | None]]:
    return [
        ("gpu-memory", gpu.memory_used),
        ("gpu-busy", gpu.utilisation),
        ("gpu-power", gpu.power_w),
        ("gpu-heat", gpu.temperature),
    ]
