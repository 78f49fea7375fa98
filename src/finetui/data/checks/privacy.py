"""Checks for what should not be learnt by heart: addresses, numbers, keys.

Messages never repeat a whole secret: they end up in logs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from finetui.data.checks.model import Check, Hit

EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"
)
_CLONE_ADDRESS = re.compile(r"git@[\w.-]+:")
# Cheap gates: nearly every text is let through without its slow pattern being tried.
_LIKE_PHONE = re.compile(r"\d[\d ().-]{5,}\d")
_LIKE_CARD = re.compile(r"\d[\d -]{11,}\d")
PHONE = re.compile(
    r"(?:(?<![\w+.])\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?!\w)"
    r"|(?<![\w.+-])(?:\+?1[ .-])?"
    r"(?:\(\d{3}\)[ -]?\d{3}[-. ]\d{4}|\d{3}([-. ])\d{3}\1\d{4})(?![\w-])"
    r"|(?i:\b(?:phone|tel|telephone|mobile|cell|whatsapp|fax|call me(?: at| on)?)\b[^\d\n]{0,16})"
    r"(?:\d[ ().-]{0,2}){7,14}\d?(?!\w))"
)
CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_CARD_GROUPS = re.compile(r"\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{5}")
_ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6(?:011|5|4[4-9])|35|30[0-5]|3[68]")
KEY = re.compile(
    r"(?P<aws>\b(?:AKIA|ASIA)[0-9A-Z]{16}\b)"
    r"|(?P<private>-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----)"
    r"|(?P<jwt>\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
    r"|(?P<github>\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{40,}))"
    r"|(?P<gitlab>\bglpat-[\w-]{20,})"
    r"|(?P<slack>\bxox[abprs]-[\w-]{10,})"
    r"|(?P<google>\bAIza[\w-]{35})"
    r"|(?P<hugging>\bhf_[A-Za-z0-9]{30,})"
    r"|(?P<stripe>\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,})"
    r"|(?P<npm>\bnpm_[A-Za-z0-9]{36})"
    r"|(?P<api>\bsk-(?:ant-|proj-|or-)?[A-Za-z0-9_-]{20,})"
)
_KEY_NAMES = {
    "aws": "an AWS key", "private": "a private key", "jwt": "a signed web token (JWT)",
    "github": "a GitHub token", "gitlab": "a GitLab token", "slack": "a Slack token",
    "google": "a Google API key", "hugging": "a Hugging Face token", "stripe": "a Stripe key",
    "npm": "an npm token", "api": "an API key (sk-…)",
}  # fmt: skip
_KEY_HINTS = (
    "AKIA", "ASIA", "PRIVATE KEY", "eyJ", "ghp_", "gho_", "ghu_", "ghs_", "ghr_",
    "github_pat_", "glpat-", "xox", "AIza", "hf_", "k_live_",
    "k_test_", "npm_", "sk-",
)  # fmt: skip
_SAID_WORDS = ("key", "secret", "token", "passw", "bearer", "credential")
SAID_KEY = re.compile(
    r"(?i:api[_ -]?key|access[_ -]?key|secret(?:[_ -]?key)?|auth[_ -]?token|access[_ -]?token"
    r"|token|password|passwd|bearer|credentials?)[\"']?(?:\s*(?:is|[:=])+\s*|\s+)[\"'`]?"
    r"([A-Za-z0-9+/_=.~-]{16,200})"
)
_MIN_ENTROPY = 3.5  # bits a character: random base64 of 16+ characters has more, words less
_KEEP = 4


def find_emails(text: str) -> list[re.Match[str]]:
    if "@" not in text:
        return []
    return [hit for hit in EMAIL.finditer(text) if not _CLONE_ADDRESS.match(text, hit.start())]


def find_phones(text: str) -> list[re.Match[str]]:
    if not _LIKE_PHONE.search(text):
        return []
    found = [hit for hit in PHONE.finditer(text) if 7 <= _digits(hit[0]) <= 15]
    return [hit for hit in found if not hit[0].startswith("+") or _digits(hit[0]) >= 8]


def find_cards(text: str) -> list[re.Match[str]]:
    if not _LIKE_CARD.search(text):
        return []
    return [hit for hit in CARD.finditer(text) if _is_card(hit[0])]


def said_keys(text: str) -> list[re.Match[str]]:
    """Random-looking words beside a word like key or password; group 1 is the word."""
    lowered = text.lower()
    if not any(word in lowered for word in _SAID_WORDS):
        return []
    return [hit for hit in SAID_KEY.finditer(text) if _looks_random(hit[1])]


def emails(text: str) -> Iterator[Hit]:
    found = find_emails(text)
    if found:
        name, _, domain = found[0][0].partition("@")
        yield _hit(found, f"an e-mail address ({name[:1]}…@{domain})")


def phones(text: str) -> Iterator[Hit]:
    found = find_phones(text)
    if found:
        last = "".join(filter(str.isdigit, found[0][0]))[-2:]
        yield _hit(found, f"a phone number (…{last})")


def cards(text: str) -> Iterator[Hit]:
    found = find_cards(text)
    if found:
        yield _hit(found, f"a payment card number (…{found[0][0][-4:]}, check digit right)")


def secrets(text: str) -> Iterator[Hit]:
    short = "_" in text or "-" in text or "A" in text or "eyJ" in text  # every hint has one
    if short and any(hint in text for hint in _KEY_HINTS):
        found = list(KEY.finditer(text))
        if found:
            kind = found[0].lastgroup or "api"
            shown = "" if kind == "private" else f" ({found[0][0][:_KEEP]}…)"
            yield _hit(found, _KEY_NAMES[kind] + shown)
            return
    said = said_keys(text)
    if said:
        first = said[0]
        message = f"what looks like a key ({first[1][:_KEEP]}…, {len(first[1])} characters)"
        yield Hit(message, None, first.start(1), first.end(1))


def _hit(found: list[re.Match[str]], message: str) -> Hit:
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return Hit(message + more, None, found[0].start(), found[0].end())


def _digits(text: str) -> int:
    return sum(character.isdigit() for character in text)


def _is_card(text: str) -> bool:
    digits = [int(character) for character in text if character.isdigit()]
    if not _CARD_GROUPS.fullmatch(text) or not _ISSUER.match("".join(map(str, digits))):
        return False
    return luhn(digits) and len(set(digits)) > 1


def luhn(digits: list[int]) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1, annex B)."""
    doubled = (2 * digit - 9 * (digit > 4) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def entropy(text: str) -> float:
    """Shannon entropy in bits a character."""
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in Counter(text).values())


def _looks_random(text: str) -> bool:
    digit = any(character.isdigit() for character in text)
    letter = any(character.isalpha() for character in text)
    return digit and letter and entropy(text) >= _MIN_ENTROPY


CHECKS = (
    Check(
        "email",
        "E-mail address",
        "warning",
        "A tuned model repeats what it has seen; a person's address must not come out of it.",
        "Repair (f) puts [EMAIL] in its place.",
        text=emails,
    ),
    Check(
        "phone",
        "Phone number",
        "warning",
        "A tuned model repeats what it has seen; a person's number must not come out of it.",
        "Repair (f) puts [PHONE] in its place.",
        text=phones,
    ),
    Check(
        "card",
        "Payment card number",
        "error",
        "Card numbers may not be stored, let alone trained on.",
        "Repair (f) puts [CARD] in its place.",
        text=cards,
    ),
    Check(
        "secret",
        "Key or password",
        "error",
        "Whoever gets the adapter can get the key out of it. Revoke it as well.",
        "Repair (f) puts [SECRET] in its place; then revoke the key.",
        text=secrets,
    ),
)
