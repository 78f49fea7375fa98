"""What the GPUs and the machine are doing, through NVML (module pynvml) and /proc.

Every figure may be missing: drivers, MIG slices, containers and laptops each lack some. A missing
figure is None, and `problem` says in words why there is no GPU to see.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from finetui.jobs import procfs

_Value = TypeVar("_Value")
_UNSEEN = 64 * 2**20  # bytes of GPU memory without an owner that are worth a word


@dataclass(frozen=True)
class GpuProcess:
    """A process on a GPU; name and user are None when it is in another container."""

    pid: int
    memory: int | None
    user: str | None
    name: str | None


@dataclass(frozen=True)
class Gpu:
    """One device: percent, bytes, degrees Celsius, watts. `problem` is "" when it answers.

    `capability` is CUDA's number of the architecture, such as (9, 0).
    """

    index: int
    name: str | None
    uuid: str | None
    utilisation: float | None
    memory_used: int | None
    memory_total: int | None
    temperature: float | None
    power_w: float | None
    power_limit_w: float | None
    processes: tuple[GpuProcess, ...] = ()
    problem: str = ""
    capability: tuple[int, int] | None = None

    @property
    def memory_free(self) -> int | None:
        if self.memory_total is None or self.memory_used is None:
            return None
        return self.memory_total - self.memory_used


@dataclass(frozen=True)
class DeviceSample:
    """One look at the machine. `cpu_percent` is of all cores since the look before, 0 to 100."""

    gpus: tuple[Gpu, ...]
    driver: str | None
    problem: str
    host_memory_used: int | None
    host_memory_total: int | None
    cpu_percent: float | None


class DeviceReader:
    """Looks at the machine whenever asked; a GPU or driver that comes or goes is no error."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._ready = False
        self._cpu_before: tuple[int, int] | None = None

    def sample(self) -> DeviceSample:
        """Return the state of all devices now (some 0.1 ms a GPU)."""
        gpus, driver, problem = self._gpu_side()
        used, total = host_memory()
        return DeviceSample(gpus, driver, problem, used, total, self._cpu_percent())

    def close(self) -> None:
        """Let the driver go."""
        if self._ready:
            self._ready = False
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _gpu_side(self) -> tuple[tuple[Gpu, ...], str | None, str]:
        if problem := self._connect():
            return (), None, problem
        nvml = self._nvml
        driver = _text(self._ask(nvml.nvmlSystemGetDriverVersion))
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            # The driver may have been reloaded: connect anew next time.
            self.close()
            return (), driver, _driver_problem(nvml, error)
        gpus = tuple(self._gpu(index) for index in range(count))
        return gpus, driver, "" if gpus else "the NVIDIA driver sees no GPU"

    def _connect(self) -> str:
        """Load the library and open it once; returns what is wrong, "" when nothing is."""
        if self._ready:
            return ""
        if self._nvml is None:
            try:
                import pynvml
            except ImportError:
                return "GPUs cannot be read: the package nvidia-ml-py is not installed"
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            return _driver_problem(self._nvml, error)
        self._ready = True
        return ""

    def _gpu(self, index: int) -> Gpu:
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            problem = ""
        except nvml.NVMLError as error:
            return _silent_gpu(index, _gpu_problem(nvml, error))
        try:
            name = _text(nvml.nvmlDeviceGetName(handle))
        except nvml.NVMLError as error:
            name, problem = None, _gpu_problem(nvml, error)
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        load = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        return Gpu(
            index=index,
            name=name,
            uuid=_text(self._ask(nvml.nvmlDeviceGetUUID, handle)),
            utilisation=None if load is None else float(load.gpu),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            temperature=self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            power_w=_watts(self._ask(nvml.nvmlDeviceGetPowerUsage, handle)),
            power_limit_w=_watts(self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
            processes=self._processes(handle),
            problem=problem,
            capability=self._ask(nvml.nvmlDeviceGetCudaComputeCapability, handle),
        )

    def _processes(self, handle: Any) -> tuple[GpuProcess, ...]:
        nvml = self._nvml
        memory: dict[int, int | None] = {}
        # By version: the names without one raise a foreign error on drivers that lack the newest.
        for newest, older in (
            (
                nvml.nvmlDeviceGetComputeRunningProcesses_v3,
                nvml.nvmlDeviceGetComputeRunningProcesses_v2,
            ),
            (
                nvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
                nvml.nvmlDeviceGetGraphicsRunningProcesses_v2,
            ),
        ):
            found = self._ask(newest, handle)
            if found is None:
                found = self._ask(older, handle)
            for process in found or ():
                memory[process.pid] = process.usedGpuMemory
        processes = (
            GpuProcess(pid, used, procfs.process_user(pid), procfs.process_name(pid))
            for pid, used in memory.items()
        )
        return tuple(sorted(processes, key=lambda process: (-(process.memory or 0), process.pid)))

    def _ask(self, function: Callable[..., _Value], *arguments: Any) -> _Value | None:
        """Call the driver; None for whatever it does not tell."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None

    def _cpu_percent(self) -> float | None:
        now = cpu_ticks()
        before, self._cpu_before = self._cpu_before, now
        if now is None or before is None or now[1] <= before[1]:
            return None
        return 100.0 * (now[0] - before[0]) / (now[1] - before[1])


def training_gpu(sample: DeviceSample, environ: Mapping[str, str] = os.environ) -> Gpu | None:
    """The GPU that a run started now would take: the first that CUDA_VISIBLE_DEVICES shows it.

    None where it shows none, or names one that is not there.
    """
    gpus = visible_gpus(sample, environ)
    return gpus[0] if gpus and gpus[0] in sample.gpus else None


def visible_gpus(sample: DeviceSample, environ: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES shows a run, in its order; all where it says nothing.

    As in CUDA, the list ends at the first name of none. A slice of a GPU (MIG) comes with its
    name as uuid and the index -1, for NVML lists whole GPUs.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return sample.gpus
    found: list[Gpu] = []
    for name in visible.split(","):
        gpu = _named(sample, name.strip())
        if gpu is None or gpu in found:
            break
        found.append(gpu)
    return tuple(found)


def _named(sample: DeviceSample, name: str) -> Gpu | None:
    if name.startswith("MIG-"):
        return replace(_silent_gpu(-1, ""), name="MIG slice", uuid=name) if sample.gpus else None
    for gpu in sample.gpus:
        named = name.startswith("GPU-") and (gpu.uuid or "").startswith(name)
        if named or name == str(gpu.index):
            return gpu
    return None


def held_memory(gpu: Gpu) -> tuple[GpuProcess, ...]:
    """Who holds the memory of a GPU, most first; what no process answers for has pid 0.

    That is the driver, and processes that another container hides.
    """
    known = [one for one in gpu.processes if one.memory]
    rest = (gpu.memory_used or 0) - sum(one.memory or 0 for one in known)
    if rest >= _UNSEEN:
        known.append(GpuProcess(0, rest, None, None))
    return tuple(sorted(known, key=lambda one: -(one.memory or 0)))


def host_memory() -> tuple[int | None, int | None]:
    """Return used and total bytes of main memory; what caches could give back is not used."""
    values: dict[str, int] = {}
    for line in _proc_file("meminfo").splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            values[words[0].rstrip(":")] = int(words[1]) * 1024
    total, available = values.get("MemTotal"), values.get("MemAvailable")
    if total is None or available is None:
        return None, total
    return total - available, total


def cpu_ticks() -> tuple[int, int] | None:
    """Return (busy, all) clock ticks of all cores since boot."""
    words = _proc_file("stat").partition("\n")[0].split()
    if len(words) < 6 or words[0] != "cpu":
        return None
    # user nice system idle iowait irq softirq steal; guest time is within user already.
    ticks = [int(word) for word in words[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _proc_file(name: str) -> str:
    try:
        return Path(procfs.PROC / name).read_text()
    except OSError:
        return ""


def _driver_problem(nvml: Any, error: Exception) -> str:
    words = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver found",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "the NVIDIA driver was updated under the running one; the machine needs a restart"
        ),
        nvml.NVML_ERROR_NO_PERMISSION: "no permission to ask the NVIDIA driver",
    }
    return words.get(_code(error), f"the NVIDIA driver answers: {error}")


def _gpu_problem(nvml: Any, error: Exception) -> str:
    if _code(error) == nvml.NVML_ERROR_GPU_IS_LOST:
        return "the GPU is lost: it fell off the bus and needs a restart of the machine"
    return f"the GPU does not answer: {error}"


def _code(error: Exception) -> int | None:
    return getattr(error, "value", None)


def _silent_gpu(index: int, problem: str) -> Gpu:
    return Gpu(index, None, None, None, None, None, None, None, None, (), problem)


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
