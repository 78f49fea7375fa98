"""Keep keys and passwords out of everything a job writes down."""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

REMOVED = "(removed)"

# "token" alone or after these words is a credential; "pad_token" and "max_new_tokens" are not.
_NAMES = re.compile(
    r"(^|[_-])(secret|password|passwd|passphrase|credentials?|api[_-]?key|access[_-]?key"
    r"|private[_-]?key|(hf|hub|auth|access|api|bearer|session|wandb)[_-]?token)$|^token$",
    re.IGNORECASE,
)
_VALUES = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[opsur]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}|\bglpat-[A-Za-z0-9_-]{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bAIza[A-Za-z0-9_-]{35}"
    r"|(?<=[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
# A variable that ends so holds a secret, whatever it is for.
_VARIABLES = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|(^|_)(API|ACCESS|SECRET|PRIVATE|AUTH)?_?KEY"
    r"|_PASS|_PAT)$",
    re.IGNORECASE,
)
_SHORTEST = 8  # characters: a shorter value would be found in ordinary words


def secret_names(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The variables that hold a secret by their name: never to be handed on or written down."""
    return sorted(name for name in environ if _VARIABLES.search(name))


class Scrubber:
    """Takes secrets out of texts: what looks like a key, and what the environment names as one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        values = {environ[name] for name in secret_names(environ)}
        # The path of a key file is no secret, and belongs into a spec.
        kept = [one for one in values if len(one) >= _SHORTEST and not os.path.exists(one)]
        longest_first = sorted(kept, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if kept else None

    def text(self, text: str) -> str:
        if self._known is not None:
            text = self._known.sub(REMOVED, text)
        return _VALUES.sub(REMOVED, text)

    def value(self, value: object, name: str = "") -> object:
        """A plain copy: None dropped from tables, paths as text. ``name`` is the value's key."""
        if name and isinstance(value, str) and value and _NAMES.search(name):
            return REMOVED
        if isinstance(value, Mapping):
            return {str(k): self.value(v, str(k)) for k, v in value.items() if v is not None}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(item, name) for item in value if item is not None]
        return self.text(str(value)) if isinstance(value, str | Path) else value

    def texts(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A copy in which the texts at the top are scrubbed, for what is written every step."""
        return {k: self.text(v) if isinstance(v, str) else v for k, v in fields.items()}


def scrub(value: object, name: str = "") -> object:
    """Return a plain copy without secrets: None dropped from tables, paths as text.

    The copy holds only dicts, lists, strings, numbers and booleans, as TOML and JSON want.
    """
    return Scrubber().value(value, name)


def scrub_text(text: str) -> str:
    """A text without what looks like a key, and without the secrets of the environment."""
    return Scrubber().text(text)


class _Covered:
    """A text stream that writes no secret on; everything else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._scrubber = stream, Scrubber()

    def write(self, text: str) -> int:
        self._stream.write(self._scrubber.text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def cover_output() -> None:
    """From here on what this process prints, tracebacks too, goes to its log without secrets."""
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), _Covered):
            setattr(sys, name, _Covered(getattr(sys, name)))
