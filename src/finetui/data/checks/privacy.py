"""Checks for what should not be learnt by heart: addresses, numbers, accounts.

Messages never repeat a whole one: they end up in logs.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

from finetui.data.checks import identity
from finetui.data.checks.gates import BEGINS, folded, gate
from finetui.data.checks.identity import luhn
from finetui.data.checks.model import Check, Hit

Spans = list[tuple[int, int]]

EMAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}[A-Za-z]{2,24}\b",
    re.ASCII,
)
_CLONE_ADDRESS = re.compile(r"git@[\w.-]+:")
_FILE_ENDING = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|pdf|py|js|ts|css|html|json|ya?ml|md)$", re.I
)
# Cheap conditions: nearly every text is let through without its slow pattern being tried.
_LIKE_PHONE = re.compile(r"[0-9][0-9 ().-]{5,}[0-9]")
_LIKE_CARD = re.compile(r"[0-9][0-9 -]{11,}[0-9]")
_SAYS_PHONE = (
    r"phone|tel|telephone|mobile|cell|whatsapp|fax|call me(?: at| on)?|text me(?: at| on)?"
)
_GAP = r"(?:[ .:=#(-]|number|no|nr|is|at|on|us|me)*"  # between the word and the number
# ASCII throughout: Chinese puts no space between a number and the words around it.
PHONE = re.compile(
    r"(?:(?<![\w+.,/])\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?!\w)(?![.,]\d)"
    r"|(?<![\w.+-])(?:\+?1[ .-])?"
    r"(?:\(\d{3}\)[ -]?\d{3}[-. ]\d{4}|\d{3}([-. ])\d{3}\1\d{4})(?![\w-])(?!\.\d)"
    rf"|(?i:\b(?:{_SAYS_PHONE})\b{_GAP})(?<!\d)"
    r"(?P<said>(?:\d[ ().-]{0,2}){6,13}\d)(?!\w))",
    re.ASCII,
)
# Numbers as they are written within a country; a word in one of its languages must stand near.
_HOME = re.compile(
    r"(?<![\w.+-])(?:1[3-9]\d[ -]?\d{4}[ -]?\d{4}|0\d{1,4}[ /-]\d{2,4}(?:[ -]\d{2,4}){1,3}"
    r"|0\d{9,10}|8[ -]?\(?\d{3}\)?[ -]?\d{3}[ -]?\d\d[ -]?\d\d|01\d[ -]\d{3,4}[ -]\d{4})(?![\w-])",
    re.ASCII,
)
_NEAR_HOME = re.compile(
    rf"\b(?:{_SAYS_PHONE}|telefon|handy|mobil|t[ée]l[ée]phone|t[ée]l|m[óo]vil|tel[ée]fono|telefone"
    r"|celular|cellulare|call|whatsapp|телефон|тел|звоните|номер)\b|[电電]话|電話|手机|手機|联系|聯絡|携帯"
    r"|微信|전화|휴대폰|连絡|連絡",
    re.IGNORECASE,
)
_REACH = 24
_DECIMAL = re.compile(r"\+[0-9]+\.[0-9]+")
CARD = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])", re.ASCII)
_CARD_GROUPS = re.compile(r"\d{14,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{5}")
_ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6(?:011|5|4[4-9])|35|30[0-5]|3[68]")
_IPV4 = re.compile(
    r"(?<![\w.-])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w-]|\.\d)",
    re.ASCII,
)
_IPV6 = re.compile(
    r"(?<![\w:.-])(?:[23][0-9a-f]{3}|f[cd][0-9a-f]{2}|fe80):(?:[0-9a-f]{0,4}:){1,6}[0-9a-f]{0,4}"
    r"(?![\w:])",
    re.ASCII | re.IGNORECASE,
)
_SAYS_ADDRESS = re.compile(
    r"\bip\b|ipv[46]|address|host|server|ping|ssh|http|port\b|subnet|gateway|\bdns|client|login"
    r"|router|network|traffic|\blog|адрес|地址|服务器|адреса",
    re.IGNORECASE,
)
_SAYS_VERSION = re.compile(r"(?:version|ver\.?|release|\bv|section|chapter|§|step)\s*$", re.I)
_ZERO_FIRST = re.compile(r"\b0[0-9]")  # such a part may be octal: a number of another kind
# Name servers that everyone names, and addresses that are examples by standard (RFC 5737, 3849).
_NO_ONES = {"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9"}


def find_emails(text: str) -> Spans:
    if "@" not in text:
        return []
    return [
        hit.span()
        for hit in EMAIL.finditer(text)
        if not _CLONE_ADDRESS.match(text, hit.start()) and not _FILE_ENDING.search(hit[0])
    ]


def find_phones(text: str) -> Spans:
    if not _LIKE_PHONE.search(text):
        return []
    found = [hit.span("said" if hit["said"] else 0) for hit in PHONE.finditer(text)]
    spans = [span for span in found if _is_phone(text[slice(*span)])]
    spans += [hit.span() for hit in _HOME.finditer(text) if _named(text, hit)]
    return _apart(spans)


def find_cards(text: str) -> Spans:
    if not _LIKE_CARD.search(text):
        return []
    return [hit.span() for hit in CARD.finditer(text) if _is_card(hit[0])]


def find_ibans(text: str) -> Spans:
    return list(identity.ibans(text))


def find_ids(text: str) -> Spans:
    return [(start, end) for start, end, _ in identity.national_ids(text)]


def find_public_ips(text: str) -> Spans:
    return [hit.span() for hit in _ips(text) if _address(hit).is_global]


def find_private_ips(text: str) -> Spans:
    return [hit.span() for hit in _ips(text) if not _address(hit).is_global]


def emails(text: str) -> Iterator[Hit]:
    found = find_emails(text)
    if found:
        name, _, domain = _first(text, found).partition("@")
        yield _hit(found, f"an e-mail address ({name[:1]}…@{domain})")


def phones(text: str) -> Iterator[Hit]:
    found = find_phones(text)
    if found:
        last = "".join(filter(str.isdigit, _first(text, found)))[-2:]
        yield _hit(found, f"a phone number (…{last})")


def cards(text: str) -> Iterator[Hit]:
    found = find_cards(text)
    if found:
        last = _first(text, found)[-4:]
        yield _hit(found, f"a payment card number (…{last}, check digit right)")


def bank_accounts(text: str) -> Iterator[Hit]:
    found = find_ibans(text)
    if found:
        yield _hit(found, f"an IBAN ({_first(text, found)[:2]}…, check digits right)")


def national_ids(text: str) -> Iterator[Hit]:
    found = identity.national_ids(text)
    if found:
        start, end, name = found[0]
        spans = [(first, last) for first, last, _ in found]
        yield _hit(spans, f"the form of {name} (…{text[start:end][-2:]})")


def public_ips(text: str) -> Iterator[Hit]:
    found = find_public_ips(text)
    if found:
        yield _hit(found, f"a public IP address ({_shown_ip(_first(text, found))})")


def private_ips(text: str) -> Iterator[Hit]:
    found = find_private_ips(text)
    if found:
        yield _hit(found, f"an IP address of a private network ({_shown_ip(_first(text, found))})")


def _first(text: str, found: Spans) -> str:
    start, end = found[0]
    return text[start:end]


def _hit(found: Spans, message: str) -> Hit:
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return Hit(message + more, None, *found[0])


def _apart(spans: Spans) -> Spans:
    kept: Spans = []
    for span in sorted(spans):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept


def _digits(text: str) -> int:
    return sum(character.isdigit() for character in text)


def _is_phone(written: str) -> bool:
    count = _digits(written)
    if not written.startswith("+"):
        return 7 <= count <= 15
    if written[1:].isdecimal():  # a sum that begins with a plus sign may be longer, or shorter
        return 10 <= count <= 13
    return 8 <= count <= 15 and not _DECIMAL.fullmatch(written)


def _named(text: str, hit: re.Match[str]) -> bool:
    return bool(_NEAR_HOME.search(text[max(0, hit.start() - _REACH) : hit.start()]))


def _is_card(text: str) -> bool:
    digits = identity.digits_of(text)
    if not _CARD_GROUPS.fullmatch(text) or not _ISSUER.match("".join(map(str, digits))):
        return False
    return luhn(digits) and len(set(digits)) > 1


def _ips(text: str) -> list[re.Match[str]]:
    found = [hit for hit in _IPV4.finditer(text) if _is_ipv4(text, hit)]
    if ":" in text:
        found += [hit for hit in _IPV6.finditer(text) if _is_ipv6(hit[0])]
    return found


def _address(hit: re.Match[str]) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(hit[0])


def _is_ipv4(text: str, hit: re.Match[str]) -> bool:
    """Whether it is someone's address: no version, mask, loopback, example or name server."""
    written = hit[0]
    if written in _NO_ONES or _SAYS_VERSION.search(text[max(0, hit.start() - 12) : hit.start()]):
        return False
    if _ZERO_FIRST.search(written) or not _is_someones(ipaddress.IPv4Address(written)):
        return False
    if written.startswith("192.168.") or sum(len(n) >= 2 for n in written.split(".")) >= 3:
        return True
    return bool(_SAYS_ADDRESS.search(text[max(0, hit.start() - 60) : hit.end() + 30]))


def _is_ipv6(written: str) -> bool:
    try:
        return _is_someones(ipaddress.IPv6Address(written))
    except ValueError:
        return False


def _is_someones(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_reserved:
        return False
    if address.is_global:
        return True
    within = _PRIVATE_4 if address.version == 4 else _PRIVATE_6
    return any(address in network for network in within)


_PRIVATE_4 = [ipaddress.ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]
_PRIVATE_6 = [ipaddress.ip_network(n) for n in ("fc00::/7", "fe80::/10")]


def _shown_ip(written: str) -> str:
    sign = ":" if ":" in written else "."
    return written.split(sign)[0] + sign + "…"


FINDERS: dict[str, tuple[str, Callable[[str], Spans]]] = {
    "email": ("EMAIL", find_emails),
    "phone": ("PHONE", find_phones),
    "card": ("CARD", find_cards),
    "iban": ("IBAN", find_ibans),
    "national-id": ("ID", find_ids),
    "ip-address": ("IP", find_public_ips),
    "private-ip": ("IP", find_private_ips),
}
"""What a repair puts a placeholder for: the check, the placeholder's word, and where it stands."""

_IP_GATE = gate(
    rb"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
    folded(rb"(?:[23][0-9a-f]{3}|f[cd][0-9a-f]{2}|fe80):[0-9a-f]{0,4}:"),
)
_LEARNT = "A tuned model repeats what it has seen; "

CHECKS = (
    Check(
        "email",
        "E-mail address",
        "warning",
        _LEARNT + "a person's address must not come out of it.",
        "Repair (f) puts [EMAIL_1] in its place.",
        text=emails,
        family="privacy",
        gate=gate(rb"[A-Za-z0-9._%+-]@[A-Za-z0-9-]+\.[A-Za-z0-9]"),
    ),
    Check(
        "phone",
        "Phone number",
        "warning",
        _LEARNT + "a person's number must not come out of it.",
        "Repair (f) puts [PHONE_1] in its place.",
        text=phones,
        family="privacy",
        gate=gate(
            rb"\+[0-9][0-9 ().-]{6}",
            rb"[0-9]{3}\)?[ .-]?[0-9]{3}[-. ][0-9]{4}",
            folded(
                rb"(?:phone|tel|telephone|mobile|cell|whatsapp|fax|(?:call|text) me(?: at| on)?)"
            )
            + folded(_GAP.encode())
            + rb"[0-9](?:[ ().-]{0,2}[0-9]){6}",
            BEGINS + rb"(?:1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4}"
            rb"|0[0-9]{9}|0[0-9]{1,4}(?:[ -]|\\?/)[0-9]{2,4}[ -][0-9]{2}"
            rb"|8[ -]?\(?[0-9]{3}\)?[ -]?[0-9]{3}[ -]?[0-9]{2}[ -]?[0-9]{2})",
        ),
    ),
    Check(
        "card",
        "Payment card number",
        "error",
        "Card numbers may not be stored, let alone trained on.",
        "Repair (f) puts [CARD_1] in its place.",
        text=cards,
        family="privacy",
        gate=gate(rb"[0-9](?:[ -]?[0-9]){12}"),
    ),
    Check(
        "iban",
        "Bank account number",
        "error",
        _LEARNT + "an account is someone's.",
        "Repair (f) puts [IBAN_1] in its place.",
        text=bank_accounts,
        family="privacy",
        gate=gate(rb"[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4} ?[A-Z0-9]{4} ?[A-Z0-9]"),
    ),
    Check(
        "national-id",
        "National id number",
        "error",
        _LEARNT + "such a number names one person.",
        "Repair (f) puts [ID_1] in its place.",
        text=national_ids,
        family="privacy",
        gate=gate(identity.SHAPES.encode()),
    ),
    Check(
        "ip-address",
        "Public IP address",
        "warning",
        _LEARNT + "a public address can lead to a person or a machine.",
        "Repair (f) puts [IP_1] in its place.",
        text=public_ips,
        family="privacy",
        gate=_IP_GATE,
    ),
    Check(
        "private-ip",
        "Address inside a private network",
        "info",
        "It names no person, but tells how a network is laid out inside.",
        "Keep it in an example; otherwise repair (f) puts [IP_1] in its place.",
        text=private_ips,
        family="privacy",
        gate=_IP_GATE,
    ),
)
