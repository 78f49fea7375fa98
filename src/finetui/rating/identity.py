"""Find what would name a model inside an answer: families, vendors, personas, error messages.

What the prompt says already, or every answer to it, tells nobody which side is which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

_FAMILIES = r"""
    chat\s?gpt | gpt[-\s]?(?:[2-5]|neo|j)\S* | openai | anthropic | claude | qwen\S* | tongyi
  | alibaba | llama[-\s]?\d\S* | llama | meta\s+ai | vicuna | alpaca | mi[sx]tral\S* | gemma\S*
  | gemini | google\s+(?:ai|deepmind|research) | deepmind | deepseek\S* | phi[-\s]?\d\S*
  | falcon[-\s]?\d+b | cohere | command[-\s]?r | granite[-\s]?\d\S* | smollm\S* | olmo\S*
  | yi[-\s]?\d+b | baichuan\S* | chatglm\S* | glm[-\s]?\d\S* | zhipu | internlm\S*
  | moonshot\s+ai | kimi | minimax | grok | hunyuan | ernie\s+bot | stablelm\S* | bloomz
  | bloom[-\s]?\d+b | pythia[-\s]?\d\S* | nemotron\S* | hugging\s?face
"""
_PERSONAS = r"""
    as\s+an?\s+(?:ai|artificial\s+intelligence|(?:large\s+)?language)\s+(?:language\s+)?(?:model|assistant)
  | i(?:\s+a|')m\s+(?:an?\s+)?(?:ai|(?:large\s+)?language)\s+(?:language\s+)?(?:model|assistant)
  | (?:trained|developed|created|made)\s+by\s+[A-Z]\w+
  | my\s+(?:training\s+data|knowledge\s+cutoff)
"""
_ERRORS = r"""
    traceback\s+\(most\s+recent\s+call\s+last\) | cuda\s+out\s+of\s+memory
  | internal\s+server\s+error | rate\s+limit\s+exceeded | \[error\] | \$\$?error\b
  | request\s+timed\s+out | <\s*no\s+output\s*>
"""
_FLAGS = re.VERBOSE | re.IGNORECASE
_KNOWN = tuple(
    re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", _FLAGS)
    for pattern in (_FAMILIES, _PERSONAS, _ERRORS)
)
_TELLING = 6  # letters of a name that is looked for; "base" and "tuned" are plain words


class Mention(msgspec.Struct, frozen=True):
    """What one system's answer to one item says that names a model or betrays a failure."""

    item: str
    system: str
    words: list[str]


def telling(names: Iterable[str]) -> list[str]:
    """The names of systems, runs and models that would give one away, each whole.

    A short one is as likely a word of the answer.
    """
    return sorted({name for name in names if len(re.sub(r"[\W_]", "", name)) >= _TELLING})


def scan(
    texts: Mapping[str, Mapping[str, str]],
    prompts: Mapping[str, Sequence[Mapping[str, Any]]],
    words: Iterable[str] = (),
) -> list[Mention]:
    """The mentions that tell one answer from another, by item; ``words`` are looked for besides."""
    patterns = list(_KNOWN)
    own = sorted({word for word in words if re.search(r"\w", word)}, key=len, reverse=True)
    if own:
        patterns.append(re.compile(rf"(?<!\w)(?:{'|'.join(map(_spelt, own))})(?!\w)", _FLAGS))
    found = []
    for item, sides in texts.items():
        said = {system: _said(text, patterns) for system, text in sides.items()}
        common = set.intersection(*said.values()) if said else set()
        common |= _said(_plain(prompts.get(item, ())), patterns)
        found += [
            Mention(item, system, sorted(heard - common))
            for system, heard in said.items()
            if heard - common
        ]
    return found


def _spelt(name: str) -> str:
    """A pattern for a name however its parts are joined."""
    return r"[\W_]{0,3}".join(map(re.escape, filter(None, re.split(r"[\W_]+", name))))


def _said(text: str, patterns: Iterable[re.Pattern[str]]) -> set[str]:
    return {
        " ".join(match.group().lower().split()).rstrip(".,;:!?)\"'")
        for pattern in patterns
        for match in pattern.finditer(text)
    }


def _plain(prompt: Sequence[Mapping[str, Any]]) -> str:
    contents = (turn.get("content") for turn in prompt)
    return "\n".join(text for text in contents if isinstance(text, str))
