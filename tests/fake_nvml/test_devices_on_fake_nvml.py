"""The device reader on the real pynvml over a fake driver."""

import os


def test_every_figure_of_a_device_arrives_with_its_unit(sample, nvml):
    one = nvml.device()
    two = nvml.device("Fake L4", uuid="GPU-1", utilisation=3, used=0, total=24 << 30)
    [seen] = sample(lambda path: nvml.write_state(path, one, two))
    assert seen["problem"] == "" and seen["driver"] == "999.0-fake"
    first, second = seen["gpus"]
    assert (first["index"], first["name"], first["uuid"]) == (0, "Fake H200", "GPU-0")
    assert first["utilisation"] == 98.0 and first["temperature"] == 55
    assert (first["memory_used"], first["memory_total"]) == (61 << 30, 140 << 30)
    assert (first["power_w"], first["power_limit_w"]) == (512.0, 700.0)
    assert second["name"] == "Fake L4" and second["processes"] == []


def test_processes_are_named_where_they_can_be_seen_and_numbered_elsewhere(sample, nvml):
    line = nvml.device(processes=f"{os.getpid()}:1024,999999999:4096")
    [seen] = sample(lambda path: nvml.write_state(path, line))
    stranger, own = seen["gpus"][0]["processes"]
    assert stranger == {"pid": 999999999, "memory": 4096, "user": None, "name": None}
    assert own["pid"] == os.getpid() and own["memory"] == 1024
    assert own["user"] and own["name"]


def test_what_a_device_does_not_support_is_none_and_the_rest_still_comes(sample, nvml):
    line = nvml.device("Fake MIG", utilisation=-1, temperature=-1, power=-1, limit=-1)
    [seen] = sample(lambda path: nvml.write_state(path, line))
    gpu = seen["gpus"][0]
    assert gpu["utilisation"] is gpu["temperature"] is gpu["power_w"] is None
    assert gpu["memory_used"] == 61 << 30 and gpu["problem"] == ""


def test_a_lost_gpu_is_said_in_words_and_its_neighbour_is_still_read(sample, nvml):
    good, lost = nvml.device(), nvml.device(uuid="GPU-1", error=15)
    [seen] = sample(lambda path: nvml.write_state(path, good, lost))
    assert seen["gpus"][0]["problem"] == "" and seen["gpus"][0]["utilisation"] == 98.0
    assert "lost" in seen["gpus"][1]["problem"]
    assert seen["gpus"][1]["memory_used"] is None


def test_a_driver_that_goes_and_comes_back_is_followed(sample, nvml):
    line = nvml.device()
    before, gone, after = sample(
        lambda path: nvml.write_state(path, line),
        lambda path: nvml.write_state(path, error=9),
        lambda path: nvml.write_state(path, line),
    )
    assert len(before["gpus"]) == len(after["gpus"]) == 1
    assert gone["gpus"] == [] and "not loaded" in gone["problem"]
    assert gone["host_memory_total"] > gone["host_memory_used"] > 0


def test_a_driver_without_a_gpu_says_so(sample, nvml):
    [seen] = sample(lambda path: nvml.write_state(path))
    assert seen["problem"] == "the NVIDIA driver sees no GPU"


def test_who_holds_the_memory_comes_from_the_driver_as_the_forecast_names_it(sample, nvml):
    line = nvml.device(used=8 << 30, processes=f"{os.getpid()}:{3 << 30},999999999:{4 << 30}")
    [seen] = sample(lambda path: nvml.write_state(path, line))
    stranger, own, rest = seen["held"]
    assert (stranger["pid"], stranger["memory"], stranger["name"]) == (999999999, 4 << 30, None)
    assert own["pid"] == os.getpid() and own["user"] and own["name"]
    assert (rest["pid"], rest["memory"]) == (0, 1 << 30)
