"""What earlier runs took, kept for the machine; and the GPU a run would take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetui.foresight import foreseen, machine_facts
from finetui.jobs import calibration
from finetui.jobs.devices import DeviceSample, Gpu, GpuProcess, held_memory, training_gpu
from finetui.jobs.folder import Job, create
from finetui.recipe.facts import Facts, Linear
from finetui.recipe.schema import defaults

FORECAST = {
    "device": "CPU", "method": "lora", "parameters": 1000, "tensors": 5e6, "flops_per_token": 4e3,
}  # fmt: skip
METRICS = {"peak_bytes": 7e6, "tokens_per_s": 50.0, "tokens": 1000, "step_s": 0.1}


def ended(folder: Path, forecast: Any = FORECAST, metrics: Any = METRICS) -> Job:
    job = create(folder, "train", "try", {"kind": "train"}, {"forecast": forecast})
    job.write_json(
        "outcome.json", {"status": "finished", "attempt": 1, "t": 9.0, "metrics": metrics}
    )
    return job


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_a_run_is_kept_with_what_was_forecast_and_what_it_took(
    tmp_path: Path, home: dict[str, str]
) -> None:
    assert calibration.runs(home) == ()
    job = ended(tmp_path / "jobs")
    kept = calibration.keep(job, home)
    assert kept == calibration.Run(9.0, job.id, "CPU", "lora", 1000, 5e6, 7e6, 4e6, 20.0)
    second = calibration.keep(ended(tmp_path / "jobs"), home)
    assert calibration.runs(home) == (second, kept)  # newest first
    assert calibration.machine_file(home).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("forecast", "metrics"),
    [
        (None, METRICS),
        (FORECAST, None),
        (FORECAST, {}),
        ("x", [1]),
        (FORECAST, {"peak_bytes": "?"}),
    ],
)
def test_a_run_that_tells_nothing_is_not_kept(
    tmp_path: Path, home: dict[str, str], forecast: Any, metrics: Any
) -> None:
    assert calibration.keep(ended(tmp_path / "jobs", forecast, metrics), home) is None
    assert calibration.runs(home) == ()


def test_broken_lines_and_a_home_that_cannot_be_written_are_no_error(
    tmp_path: Path, home: dict[str, str]
) -> None:
    job = ended(tmp_path / "jobs")
    kept = calibration.keep(job, home)
    with calibration.machine_file(home).open("ab") as file:
        file.write(b'{"t": 1}\n\xff\n[]\n')
    assert calibration.runs(home) == (kept,)
    (tmp_path / "file").write_text("")
    assert calibration.keep(job, {"XDG_CONFIG_HOME": str(tmp_path / "file")}) is None


def test_the_manifest_keeps_the_forecast_before_any_correction(
    tmp_path: Path, home: dict[str, str]
) -> None:
    shape = Facts(
        model_parameters=10**9, model_hidden=2048, model_layers=16, vocab=32_000, gpus=0,
        linears=(Linear("q_proj", 2048, 2048, 16),),
    )  # fmt: skip
    before = foreseen(defaults(), shape)
    assert before["device"] == "CPU" and before["tensors"] > 2e9
    calibration.keep(ended(tmp_path / "jobs"), home)
    facts = machine_facts(None, home)
    assert [run.peak for run in facts.past] == [7e6]
    assert foreseen(defaults(), shape)["tensors"] == before["tensors"]


# --- the GPU of a run ----------------------------------------------------------------------------


def gpu(index: int, used: int = 0, processes: tuple[GpuProcess, ...] = ()) -> Gpu:
    return Gpu(index, f"Card {index}", f"GPU-{index}abc", 0.0, used, 100 << 30, 50.0, 90.0, 300.0,
               processes, "", (9, 0))  # fmt: skip


def sample(*gpus: Gpu) -> DeviceSample:
    return DeviceSample(gpus, "1", "", 1 << 30, 4 << 30, 5.0)


@pytest.mark.parametrize(
    ("visible", "index"),
    [(None, 0), ("1", 1), ("1,0", 1), ("GPU-1", 1), ("", None), ("-1", None), ("7", None)],
)
def test_a_run_takes_the_first_gpu_that_it_may_see(visible: str | None, index: int | None) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = training_gpu(sample(gpu(0), gpu(1)), environ)
    assert (found.index if found else None) == index


def test_memory_without_an_owner_is_told_apart() -> None:
    mine, hidden = GpuProcess(12, 10 << 30, "anna", "python"), GpuProcess(13, None, None, None)
    held = held_memory(gpu(0, 14 << 30, (mine, hidden)))
    assert held == (mine, GpuProcess(0, 4 << 30, None, None))
    assert held_memory(gpu(0, 10 << 30, (mine,))) == (mine,)
    assert held_memory(gpu(0)) == ()


def test_the_facts_are_of_the_gpu_that_the_run_would_take(home: dict[str, str]) -> None:
    other = GpuProcess(12, 60 << 30, "anna", "python")
    seen = sample(gpu(0), gpu(1, 60 << 30, (other,)))
    facts = machine_facts(seen, {**home, "CUDA_VISIBLE_DEVICES": "1"})
    assert facts.gpu_name == "Card 1" and facts.gpu_free == 40 << 30 and facts.gpus == 2
    assert facts.gpu_bf16 is True
    assert [(one.pid, one.user, one.bytes) for one in facts.gpu_holders] == [(12, "anna", 60 << 30)]
    hidden = machine_facts(seen, {**home, "CUDA_VISIBLE_DEVICES": ""})
    assert hidden.gpus == 0 and hidden.host_free == 3 << 30 and hidden.host_total == 4 << 30
