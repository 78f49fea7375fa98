"""Libraries that only some recipes need: asked for when they are needed, with words when absent."""

from __future__ import annotations

import importlib
import logging
from importlib.util import find_spec
from typing import Any

from finetui.errors import UserError


def require_bitsandbytes(field: str, otherwise: str) -> Any:
    """The bitsandbytes module. Raises UserError that names the field that wants it."""
    # On a CPU with AVX-512 it complains at import about a kernel that it does well without.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise UserError(
            "needs bitsandbytes, which is not installed.",
            field,
            f"{otherwise} Or: pip install bitsandbytes",
        ) from error


def has_liger() -> bool:
    return find_spec("liger_kernel") is not None


def has_flash_attention() -> bool:
    return find_spec("flash_attn") is not None
