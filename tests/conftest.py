"""What all tests share: no colour or telemetry from outside, one torch thread."""

from __future__ import annotations

import os

os.environ.pop("NO_COLOR", None)
os.environ.update(
    OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false",
)  # fmt: skip
