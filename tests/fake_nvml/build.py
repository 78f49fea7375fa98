"""Build the fake NVML library, so that the real pynvml and its struct layouts are what runs."""

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_nvml.c")
NAME = "libnvidia-ml.so.1"
NO_COMPILER = "the fake NVML needs a C compiler (gcc or cc) and there is none"


def compiler() -> str | None:
    """Return the path of a C compiler, None where there is none."""
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the library into a folder, to be named in LD_LIBRARY_PATH; returns the folder."""
    found = compiler()
    if found is None:
        raise FileNotFoundError(NO_COMPILER)
    command = [found, "-shared", "-fPIC", "-Wall", "-Werror", f"-Wl,-soname,{NAME}"]
    subprocess.run([*command, "-o", str(folder / NAME), str(SOURCE)], check=True)
    return folder


def device(
    name: str = "Fake H200",
    *,
    uuid: str = "GPU-0",
    utilisation: int = 98,
    total: int = 140 << 30,
    used: int = 61 << 30,
    temperature: int = 55,
    power: int = 512_000,
    limit: int = 700_000,
    error: int = 0,
    processes: str = "-",
) -> str:
    """Return one device's line of the state file; -1 for what it does not support."""
    numbers = (utilisation, total, used, temperature, power, limit, error)
    return ";".join([name, uuid, *map(str, numbers), processes])


def write_state(path: Path, *devices: str, error: int = 0) -> None:
    """Write the state file that $FAKE_NVML_STATE names; `error` is the driver's."""
    path.write_text("\n".join([f"{len(devices)} {error}", *devices, ""]))
