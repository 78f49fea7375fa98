"""What all tests share: no colour or telemetry from outside, one torch thread."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Nobody's own settings count, and what runs leave for later forecasts is left in no home.
_HOME = tempfile.mkdtemp(prefix="finetui-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

os.environ.pop("NO_COLOR", None)
os.environ.update(
    XDG_CONFIG_HOME=_HOME, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false",
    FINETUI_LEASES="off",  # no test waits for, or takes, a GPU of this machine
)  # fmt: skip
