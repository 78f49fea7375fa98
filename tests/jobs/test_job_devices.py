"""Devices without a GPU: the reason in words, and the machine's own figures."""

import pytest

from finetui.jobs import devices, procfs
from finetui.jobs.devices import DeviceReader


@pytest.fixture
def no_driver(monkeypatch):
    """The real pynvml on a machine whose loader finds no NVML library."""
    import pynvml

    def cannot_load(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", cannot_load)


def test_a_machine_without_a_driver_says_so_and_still_shows_its_memory(no_driver):
    reader = DeviceReader()
    for _ in range(2):
        seen = reader.sample()
        assert seen.gpus == () and seen.driver is None
        assert seen.problem == "no NVIDIA driver found"
        assert 0 < seen.host_memory_used < seen.host_memory_total
    reader.close()


def test_the_load_of_the_cores_is_what_was_busy_between_two_looks(tmp_path, monkeypatch, no_driver):
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 400 kB\n")
    (tmp_path / "stat").write_text("cpu 100 0 0 800 100 0 0 0 50 0\n")
    reader = DeviceReader()
    first = reader.sample()
    assert first.cpu_percent is None
    assert (first.host_memory_used, first.host_memory_total) == (600 * 1024, 1000 * 1024)
    (tmp_path / "stat").write_text("cpu 120 0 10 860 110 0 0 0 50 0\n")
    assert reader.sample().cpu_percent == pytest.approx(30.0)


def test_a_system_that_hides_its_figures_is_no_error(tmp_path, monkeypatch, no_driver):
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    seen = DeviceReader().sample()
    assert seen.host_memory_total is seen.host_memory_used is seen.cpu_percent is None
    assert devices.cpu_ticks() is None
