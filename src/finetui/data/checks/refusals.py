"""Answers that decline, and answers that speak of themselves as someone else's model."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetui.data.checks.gates import APOSTROPHE, folded, gate, phrase
from finetui.data.checks.model import Check, Example, Hit

_LOOK = 400  # characters from the start: a refusal comes first
_CANNOT = r"(?:can't|cannot|can not|unable|not able|don't have|do not have|not capable|won't)"
_REFUSAL = re.compile(
    rf"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b[^.\n]{{0,60}}{_CANNOT}"
    rf"|\bi(?:'m| am) (?:just |only )?an? (?:ai|(?:large )?language model)\b[^.\n]{{0,60}}{_CANNOT}"
    rf"|\bi(?:'m| am) (?:very |so |really )?sorry,? (?:but )?(?:i|as)\b[^.\n]{{0,40}}{_CANNOT}"
    r"|\bi (?:can't|cannot|can not|am unable to|won't) "
    r"(?:assist|help|comply|fulfill|provide|answer)\b[^.\n]{0,20}(?:with )?(?:that|this|your)"
    r"|\bi(?:'m| am) (?:unable|not able) to (?:assist|help|comply|fulfill|answer)"
    r"|\bi (?:must|have to) (?:respectfully |politely )?(?:decline|refuse)\b"
    r"|\bagainst my (?:guidelines|programming|principles|ethical)",
    re.IGNORECASE | re.ASCII,
)
# Of each language the first words of a refusal, and what must follow in the same sentence.
_ELSEWHERE = {
    "抱歉": "无法|不能|没办法|無法|不可以",
    "对不起": "无法|不能|没办法",
    "作为一个人工智能": "无法|不能|没有",
    "作为一个AI": "无法|不能|没有",
    "作为人工智能": "无法|不能|没有",
    "作为AI": "无法|不能|没有",
    "申し訳ありません": "できません|お答え|いたしかね",
    "申し訳ございません": "できません|お答え|いたしかね",
    "звините": "не могу|не имею",
    "К сожалению": "я не могу|я не имею",
    "ак языковая модель": "не могу|не имею|нет",
    "죄송": "없습니다|어렵습니다",
    "o siento": "no puedo",
    "omo modelo de lenguaje": "no",
    "e suis désolé": "ne peux pas|ne suis pas",
    "n tant qu'IA": "ne peux|n'ai pas",
    "ut mir leid": "ich kann|kann ich",
    "ls KI": "kann ich|habe ich",
    "ls Sprachmodell": "kann ich|habe ich",
    "into muito": "não posso",
    "esculpe": "não posso",
    "i dispiace": "non posso",
}
_OTHER_REFUSAL = re.compile(
    "|".join(rf"{first}[^.。\n]{{0,60}}?(?:{then})" for first, then in _ELSEWHERE.items())
)
_BOILERPLATE = re.compile(
    r"\bas an? (?:ai|artificial intelligence)(?: language)? ?(?:model|assistant|system)?\b,"
    r"|\bas an? (?:large )?language model\b"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language)"
    r" (?:language )?(?:model|assistant)\b"
    r"|\bmy (?:knowledge cutoff|training data|knowledge was last updated|last knowledge update)"
    r"|\bas of my (?:last|latest|most recent) (?:knowledge )?(?:update|training)"
    r"|\bopenai'?s? (?:use[- ]case |content |usage )?(?:policy|policies|guidelines)"
    r"|\bi (?:don't|do not) have (?:personal (?:opinions|beliefs|experiences|feelings)|feelings"
    r"|emotions|real-time (?:data|information|access)|access to real-time)",
    re.IGNORECASE | re.ASCII,
)
_MODELS = (
    "chatgpt|gpt-?[345]|claude|gemini|bard|llama|qwen|tongyi|deepseek|grok|copilot|mistral|kimi"
    "|ernie|vicuna|alpaca|bing chat|open assistant|openassistant|koala|dolly"
)
_MAKERS = (
    "openai|anthropic|google|meta|alibaba|deepseek|mistral|xai|microsoft|baidu|moonshot|zhipu"
    "|cohere|lmsys"
)
_IDENTITY = re.compile(
    rf"\b(?:i am|i'm|my name is|call me) (?:an? (?:ai )?(?:assistant|model) (?:called|named) )?"
    rf"(?P<model>{_MODELS})\b"
    rf"|\bi(?:'m| am| was|'ve been| have been)\b[^.\n]{{0,80}}\b"
    rf"(?:made|created|developed|trained|built|designed) by (?P<maker>{_MAKERS})\b",
    re.IGNORECASE | re.ASCII,
)
_IDENTITY_ZH = re.compile(
    r"我是(?P<model>ChatGPT|GPT|Claude|通义千问|文心一言|DeepSeek|Kimi|Qwen|豆包)"
)


def refusal(text: str) -> Iterator[Hit]:
    """An answer that declines; often another model's words that were collected by mistake."""
    opening = text[:_LOOK].replace("’", "'")
    found = _REFUSAL.search(opening) if _declines(opening) else None
    found = found or _OTHER_REFUSAL.search(opening)
    if found:
        yield Hit(f"the answer declines: {found[0]!r}", None, found.start(), found.end())


_HINTS = ("as a", "n ai", "language model", "sorry", "cannot", "can't", "can not", "unable",
          "not able", "won't", "i must", "i have to", "against my")  # fmt: skip


def _declines(opening: str) -> bool:
    lowered = opening.lower()
    return any(hint in lowered for hint in _HINTS)


def boilerplate(text: str) -> Iterator[Hit]:
    """Phrases by which a model speaks of itself as a model."""
    found = _BOILERPLATE.search(text.replace("’", "'"))
    if found and not any(refusal(text)):
        yield Hit(f"a model speaks of itself: {found[0]!r}", None, found.start(), found.end())


def borrowed_identity(example: Example) -> Iterator[Hit]:
    """An answer that says it is another maker's model, though no prompt says so."""
    record = example.record
    if record is None:
        return
    asked = "\n".join(turn.content for turn in record.turns if turn.role != "assistant").lower()
    for number, turn in enumerate(record.all_turns()):
        if turn.role != "assistant":
            continue
        text = turn.content.replace("’", "'")
        found = _IDENTITY.search(text) or _IDENTITY_ZH.search(text)
        if found and not any(name and name.lower() in asked for name in found.groups()):
            words = f"the answer says it is another model: {found[0]!r}"
            yield Hit(words, number, found.start(), found.end())


CHECKS = (
    Check(
        "refusal",
        "Refusal",
        "info",
        "A few refusals teach a model to decline what it should do.",
        "Keep it if it is meant; otherwise write the answer (e) or drop the row (d).",
        answer=refusal,
        family="refusals",
        gate=gate(
            folded(
                rb"an? (?:ai|artificial intelligence|language model|large language model)[^a-z]",
                rb"sorry,? (?:but )?(?:i|as)[^a-z]",
                rb"i (?:can"
                + APOSTROPHE
                + rb"t|cannot|can not|am unable to|won"
                + APOSTROPHE
                + rb"t) (?:assist|help|comply|fulfill|provide|answer)",
                rb"(?:unable|not able) to (?:assist|help|comply|fulfill|answer)",
                rb"i (?:must|have to) (?:respectfully |politely )?(?:decline|refuse)",
                rb"against my (?:guidelines|programming|principles|ethical)",
            ),
            *map(phrase, _ELSEWHERE),
        ),
    ),
    Check(
        "ai-boilerplate",
        "Words of a model about itself",
        "info",
        "The tuned model takes over what another model says of itself, its data and its limits.",
        "Reword the answer (e) unless it is meant.",
        answer=boilerplate,
        family="refusals",
        gate=gate(
            folded(
                rb"as an? (?:ai|artificial intelligence|language model|large language model)[^a-z]",
                rb"an? (?:ai|artificial intelligence|large|language)"
                rb" (?:large |language )?(?:model|assistant)",
                rb"my (?:knowledge cutoff|training data|knowledge was last|last knowledge)",
                rb"as of my (?:last|latest|most recent)",
                rb"openai(?:" + APOSTROPHE + rb")?s? (?:use|content|usage|polic|guidelines)",
                rb"i do(?:n" + APOSTROPHE + rb"t| not) have (?:personal|feelings|emotions|real-time"
                rb"|access to real)",
            ),
        ),
    ),
    Check(
        "borrowed-identity",
        "Another model's name",
        "warning",
        "The tuned model will say that it is that model, made by that company.",
        "Put your own name there (e) or drop the row (d).",
        row=borrowed_identity,
        family="refusals",
        gate=gate(
            folded(
                rb"(?:i am|i"
                + APOSTROPHE
                + rb"m|my name is|call me|called|named) (?:"
                + _MODELS.encode()
                + rb")[^a-z]",
                rb"(?:made|created|developed|trained|built|designed) by (?:"
                + _MAKERS.encode()
                + rb")[^a-z]",
            ),
            phrase("我是"),
        ),
    ),
)
