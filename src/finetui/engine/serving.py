"""Ready lines for vLLM and Ollama, and whether what is served is what was trained on."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetui.data.tokens import ChatTokenizer, Messages
from finetui.engine.adapters import first_line
from finetui.errors import UserError

# The ranks that vLLM reserves room for (--max-lora-rank).
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_MARKERS = re.compile(r"\{%(-?)\s*(generation|endgeneration)\s*(-?)%\}")
_SYSTEM, _USER, _NEXT, _ANSWER = "FIRSTSYSTEM", "FIRSTUSER", "NEXTUSER", "FIRSTANSWER"

PROBES: tuple[Messages, ...] = (
    [{"role": "user", "content": "What is 2 + 2?"}],
    [
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": "The capital of France?  "},
    ],
    [
        {"role": "user", "content": "Say hello.\n\nIn German."},
        {"role": "assistant", "content": "Hallo."},
        {"role": "user", "content": 'And in "Español"? 你好 🙂'},
    ],
)


# -- the same tokens in serving as in training ---------------------------------------------------


def without_markers(template: str) -> str:
    """A template without {% generation %}, which servers other than transformers cannot read.

    A comment with the same dashes takes its place, so that white space stays as it was.
    """
    return _MARKERS.sub(r"{#\1 \3#}", template)


def parity_faults(tokenizer: ChatTokenizer, folder: Path) -> list[str]:
    """Where transformers, with the files in ``folder``, does not give the tokens trained on.

    Compares prompts and whole chats token by token, and the tokens that end an answer.
    """
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError) as error:
        return [f"transformers cannot read the tokenizer: {first_line(error)}"]
    faults = []
    for messages in PROBES:
        try:
            ours = tokenizer.encode_prompt(messages)
        except UserError:  # a template may refuse a system turn, and so will the server's
            continue
        faults += _difference("prompt", ours, _their_prompt(theirs, tokenizer, messages))
    return faults + _end_faults(tokenizer, folder)


def _their_prompt(theirs: Any, tokenizer: ChatTokenizer, messages: Messages) -> list[int]:
    if not tokenizer.has_template:
        return list(theirs("".join(str(turn["content"]) for turn in messages))["input_ids"])
    found = theirs.apply_chat_template(
        [dict(turn) for turn in messages], add_generation_prompt=True, return_dict=True
    )
    return list(found["input_ids"])


def _difference(what: str, ours: Sequence[int], theirs: Sequence[int]) -> list[str]:
    if list(ours) == list(theirs):
        return []
    place = next(
        (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    return [
        f"a {what} differs at token {place + 1}: trained on {list(ours[place : place + 4])}, "
        f"served {list(theirs[place : place + 4])}"
    ]


def _end_faults(tokenizer: ChatTokenizer, folder: Path) -> list[str]:
    config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    listed = config.get("eos_token_id")
    served = set(listed if isinstance(listed, list) else [listed])
    missing = [stop for stop in tokenizer.stop_ids if stop not in served]
    faults = [f"token {stop} ends an answer in training, not in serving" for stop in missing]
    if not tokenizer.stop_ids:
        faults.append("no token ends an answer: it will not end by itself")
    elif tokenizer.has_template and not tokenizer.end_trained:
        faults.append("the end of a turn was not trained: answers may not end by themselves")
    return faults


def write_generation_config(tokenizer: ChatTokenizer, folder: Path) -> None:
    """generation_config.json with every token that ends an answer; other settings stay."""
    file = folder / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    listed = config.get("eos_token_id")
    known = listed if isinstance(listed, list) else [] if listed is None else [listed]
    config["eos_token_id"] = list(dict.fromkeys([*known, *tokenizer.stop_ids]))
    config.setdefault("pad_token_id", tokenizer.pad_id)
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# -- vLLM ----------------------------------------------------------------------------------------


def vllm_line(name: str, folder: str) -> str:
    return f"vllm serve {shlex.quote(folder)} --served-model-name {shlex.quote(name)}"


def vllm_adapter_line(name: str, base: str, folder: str, config: Mapping[str, Any]) -> str:
    """The line that serves an adapter over its base; empty where vLLM cannot."""
    rank = int(config.get("r") or 0)
    room = next((size for size in _VLLM_RANKS if size >= rank), None)
    if config.get("use_dora") or room is None:
        return ""
    return (
        f"vllm serve {shlex.quote(base)} --enable-lora --max-lora-rank {room} "
        f"--lora-modules {shlex.quote(f'{name}={folder}')}"
    )


# -- Ollama --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TurnTexts:
    """What a chat template writes around its turns, where that is all that it does.

    ``start`` comes before the first turn of a chat without a system turn.
    """

    start: str
    system: tuple[str, str]
    user: tuple[str, str]
    answer: tuple[str, str]

    def fill(self, messages: Messages) -> str:
        """The chat up to where the answer begins."""
        around = {"system": self.system, "user": self.user, "assistant": self.answer}
        first = "" if messages and messages[0]["role"] == "system" else self.start
        parts = (
            around[turn["role"]][0] + turn["content"] + around[turn["role"]][1] for turn in messages
        )
        return first + "".join(parts)

    def go_template(self) -> str:
        """The same for Ollama, which reads Go templates and not Jinja."""
        loop = "".join(
            f'{{{{ {word} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
            for word, role, (before, after) in (
                ("if", "system", self.system),
                ("else if", "user", self.user),
                ("else if", "assistant", self.answer),
            )
        )
        start = f"{{{{ if not .System }}}}{self.start}{{{{ end }}}}" if self.start else ""
        return f"{start}{{{{ range .Messages }}}}{loop}{{{{ end }}}}{{{{ end }}}}"


def turn_texts(tokenizer: ChatTokenizer) -> TurnTexts | None:
    """What the chat template writes around turns; None where it does more than that.

    Found by rendering chats of known words, and held against the template on other chats.
    """
    if not tokenizer.has_template:
        return None
    try:
        texts = _taken_apart(tokenizer)
        plain = [_trimmed(messages) for messages in PROBES]
        same = all(
            texts.fill(messages) == _rendered(tokenizer, messages, answer_follows=True)
            for messages in plain
        )
    except (UserError, ValueError):
        return None
    return texts if same else None


def _trimmed(messages: Messages) -> Messages:
    """Many templates trim what they write; Ollama does not, and servers send it trimmed."""
    return [{**turn, "content": str(turn["content"]).strip()} for turn in messages]


def _taken_apart(tokenizer: ChatTokenizer) -> TurnTexts:
    """Raises ValueError when a word is not found where it should be."""
    user, answer = {"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}
    more = {"role": "user", "content": _NEXT}
    first, behind = _rendered(tokenizer, [user]).split(_USER)
    between = _between(_rendered(tokenizer, [user, answer, more]), _ANSWER, _NEXT)
    before_user = _common_end(first, between)
    system = {"role": "system", "content": _SYSTEM}
    whole = _rendered(tokenizer, [system, user])
    to_user = _between(whole, _SYSTEM, _USER)
    if not to_user.endswith(before_user):
        raise ValueError("the system turn runs into the user's")
    return TurnTexts(
        start=first.removesuffix(before_user),
        system=(whole.split(_SYSTEM)[0], to_user.removesuffix(before_user)),
        user=(before_user, behind),
        answer=("", between.removesuffix(before_user)),
    )


def _rendered(tokenizer: ChatTokenizer, messages: Messages, answer_follows: bool = True) -> str:
    """The chat without the token that begins it: servers put that there themselves."""
    text = tokenizer.render(messages, answer_follows=answer_follows)
    return text.removeprefix(tokenizer.special.get("bos_token", ""))


def _between(text: str, left: str, right: str) -> str:
    start = text.index(left) + len(left)
    return text[start : text.index(right, start)]


def _common_end(left: str, right: str) -> str:
    size = 0
    while size < min(len(left), len(right)) and left[-size - 1] == right[-size - 1]:
        size += 1
    return left[len(left) - size :]


def modelfile(tokenizer: ChatTokenizer, source: str, adapter: str = "") -> str:
    """A Modelfile for ``ollama create``; without TEMPLATE where Go cannot say what Jinja does."""
    lines = [f"FROM {source}"]
    if adapter:
        lines.append(f"ADAPTER {adapter}")
    texts = turn_texts(tokenizer)
    template = texts.go_template() if texts else ""
    if template and '"""' not in template and not _has_braces(texts):
        lines.append(f'TEMPLATE """{template}"""')
    for stop in tokenizer.stop_ids:
        token = tokenizer.tokenizer.id_to_token(stop)
        if token:
            lines.append(f"PARAMETER stop {json.dumps(token, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _has_braces(texts: TurnTexts | None) -> bool:
    """Whether what is written around turns would itself be read as a template."""
    return texts is None or "{{" in texts.start + "".join(
        [*texts.system, *texts.user, *texts.answer]
    )
