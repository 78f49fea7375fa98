"""Keep keys and passwords out of everything a job writes down."""

import re
from collections.abc import Mapping
from pathlib import Path

REMOVED = "(removed)"

# "token" alone or after these words is a credential; "pad_token" and "max_new_tokens" are not.
_NAMES = re.compile(
    r"(^|[_-])(secret|password|passwd|passphrase|credentials?|api[_-]?key|access[_-]?key"
    r"|private[_-]?key|(hf|hub|auth|access|api|bearer|session|wandb)[_-]?token)$|^token$",
    re.IGNORECASE,
)
_VALUES = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bgh[opsur]_[A-Za-z0-9]{30,}|\bglpat-[A-Za-z0-9_-]{20,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


def scrub(value: object, name: str = "") -> object:
    """Return a plain copy without secrets: None dropped from tables, paths as text.

    The copy holds only dicts, lists, strings, numbers and booleans, as TOML and JSON want.
    """
    if name and isinstance(value, str) and value and _NAMES.search(name):
        return REMOVED
    if isinstance(value, Mapping):
        return {str(k): scrub(v, str(k)) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub(item, name) for item in value if item is not None]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return _VALUES.sub(REMOVED, str(value))
    return value
