"""Keys, tokens and passwords: well-known formats, and random words beside a word like password.

Messages never repeat a whole secret: they end up in logs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from finetui.data.checks.gates import SLASH, folded, gate
from finetui.data.checks.model import Check, Hit

_KEEP = 4
_MIN_ENTROPY = 3.5  # bits a character: random base64 of 16+ characters has more, words less
_HEX_ENTROPY = 2.7  # the same for hexadecimal digits, of which there are only 16


@dataclass(frozen=True)
class Rule:
    """A well-known format: what it is, its pattern, and what it cannot do without.

    ``hint`` is a pattern for the gate; ``words`` are texts, one of which a secret holds (the
    hint itself when empty), which spare nearly every text the pattern.
    """

    name: str
    pattern: str
    hint: str
    words: str = ""

    @cached_property
    def found(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.ASCII)

    @cached_property
    def literals(self) -> tuple[str, ...]:
        return tuple((self.words or self.hint).split("|"))


# Hints are patterns themselves: plain enough for a gate, and never with a word boundary.
RULES = (
    Rule("an AWS key", r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b",
         "(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{4}",
         "AKIA|ASIA|ABIA|ACCA"),
    Rule("a private key", r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----",
         "PRIVATE KEY"),
    Rule("a PuTTY private key", r"PuTTY-User-Key-File-\d: \S+", "PuTTY-User-Key-File-"),
    Rule("an age secret key", r"\bAGE-SECRET-KEY-1[0-9A-Z]{58}\b", "AGE-SECRET-KEY-1"),
    Rule("a signed web token (JWT)", r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",
         "eyJ[a-zA-Z0-9_-]{4}",
         "eyJ"),
    Rule("a GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{40,})",
         "gh[pousr]_[A-Za-z0-9]{4}|github_pat_",
         "ghp_|gho_|ghu_|ghs_|ghr_|github_pat_"),
    Rule("a GitLab token", r"\bgl(?:pat|dt|rt|ptt|cbt|agent|soat)-[\w-]{20,}",
         "gl(?:pat|dt|rt|ptt|cbt|agent|soat)-",
         "glpat-|gldt-|glrt-|glptt-|glcbt-|glagent-|glsoat-"),
    Rule("a Slack token", r"\b(?:xox[abeoprs]|xapp)-[\w-]{10,}", "xox[abeoprs]-|xapp-",
         "xox|xapp-"),
    Rule("a Slack webhook", r"hooks\.slack\.com/(?:services|workflows)/[\w/-]{20,}",
         r"hooks\.slack\.com",
         "hooks.slack.com"),
    Rule("a Discord webhook", r"discord(?:app)?\.com/api/webhooks/\d{15,}/[\w-]{40,}",
         r"discord(?:app)?\.com",
         "/webhooks/"),
    Rule("a Discord token", r"\b[MNO][A-Za-z0-9_-]{23,27}\.[\w-]{6}\.[\w-]{27,40}",
         r"\.[a-zA-Z0-9_-]{6}\.[a-zA-Z0-9_-]{16}",
         "."),
    Rule("a Telegram bot token", r"\b\d{8,10}:AA[\w-]{33}\b", "[0-9]:AA",
         ":AA"),
    Rule("a Google API key", r"\bAIza[\w-]{35}", "AIza"),
    Rule("a Google client secret", r"\bGOCSPX-[\w-]{28}", "GOCSPX-"),
    Rule("a Google access token", r"\bya29\.[\w-]{30,}", r"ya29\.",
         "ya29."),
    Rule("an Azure storage key", r"AccountKey=[A-Za-z0-9+/]{40,}={0,2}", "AccountKey="),
    Rule("an Azure client secret", r"\b[\w~.]{3}\dQ~[\w~.-]{31,34}", "[0-9]Q~",
         "Q~"),
    Rule("an Alibaba Cloud key", r"\bLTAI[A-Za-z0-9]{16,24}\b", "LTAI[A-Za-z0-9]{4}",
         "LTAI"),
    Rule("a Tencent Cloud key", r"\bAKID[A-Za-z0-9]{32}\b", "AKID[A-Za-z0-9]{4}",
         "AKID"),
    Rule("a DigitalOcean token", r"\bdo[opr]_v1_[a-f0-9]{64}", "do[opr]_v1_",
         "_v1_"),
    Rule("a Cloudflare key", r"\bv1\.0-[a-f0-9]{24}-[a-f0-9]{140,}", r"v1\.0-[a-f0-9]{4}",
         "v1.0-"),
    Rule("a Hugging Face token", r"\bhf_[A-Za-z0-9]{30,}", "hf_[A-Za-z0-9]{4}",
         "hf_"),
    Rule("an OpenAI key", r"\bsk-(?:proj|svcacct|admin)-[\w-]{20,}", "sk-(?:proj|svcacct|admin)-",
         "sk-"),
    Rule("an Anthropic key", r"\bsk-ant-[\w-]{20,}", "sk-ant-"),
    Rule("an API key (sk-…)", r"\bsk-(?:or-v1-)?(?=[\w-]*\d)[A-Za-z0-9_-]{20,}",
         "sk-[A-Za-z0-9_-]{16}",
         "sk-"),
    Rule("a Groq key", r"\bgsk_[A-Za-z0-9]{40,}", "gsk_"),
    Rule("an xAI key", r"\bxai-[A-Za-z0-9]{60,}", "xai-[A-Za-z0-9]{8}",
         "xai-"),
    Rule("a Perplexity key", r"\bpplx-[A-Za-z0-9]{40,}", "pplx-"),
    Rule("a Replicate token", r"\br8_[A-Za-z0-9]{37}\b", "r8_[A-Za-z0-9]{8}",
         "r8_"),
    Rule("a Stripe key", r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|\bwhsec_[A-Za-z0-9+/=]{24,}",
         "k_(?:live|test)_|whsec_",
         "k_live_|k_test_|whsec_"),
    Rule("a Square key", r"\bsq0(?:atp|csp|idp)-[\w-]{22,}", "sq0(?:atp|csp|idp)-",
         "sq0"),
    Rule("a PayPal access token", r"access_token\$production\$[0-9a-z]{16}\$[0-9a-f]{32}",
         r"access_token\$production",
         "access_token$"),
    Rule("a Shopify token", r"\bshp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}", "shp(?:at|ca|pa|ss)_",
         "shpat_|shpca_|shppa_|shpss_"),
    Rule("an npm token", r"\bnpm_[A-Za-z0-9]{36}", "npm_[A-Za-z0-9]{16}",
         "npm_"),
    Rule("a PyPI token", r"\bpypi-[\w-]{50,}", "pypi-[a-zA-Z0-9_-]{16}",
         "pypi-"),
    Rule("a RubyGems key", r"\brubygems_[a-f0-9]{48}", "rubygems_[a-f0-9]{4}",
         "rubygems_"),
    Rule("a Docker token", r"\bdckr_[po]at_[\w-]{20,}", "dckr_[po]at_",
         "dckr_"),
    Rule("a Databricks token", r"\bdapi[a-f0-9]{32}(?:-\d)?", "dapi[a-f0-9]{4}",
         "dapi"),
    Rule("a SendGrid key", r"\bSG\.[\w-]{16,32}\.[\w-]{16,64}", r"SG\.[a-zA-Z0-9_-]{8}",
         "SG."),
    Rule("a Twilio key", r"\bSK[0-9a-f]{32}\b", "SK[0-9a-f]{8}",
         "SK"),
    Rule("a Mailgun key", r"\bkey-[0-9a-f]{32}\b", "key-[0-9a-f]{8}",
         "key-"),
    Rule("a Mailchimp key", r"\b[0-9a-f]{32}-us\d{1,2}\b", "[0-9a-f]-us[0-9]",
         "-us"),
    Rule("a New Relic key", r"\bNR(?:AK|JS|II|RA)-[A-Za-z0-9]{19,}", "NR(?:AK|JS|II|RA)-",
         "NRAK-|NRJS-|NRII-|NRRA-"),
    Rule("a Grafana token", r"\bgl(?:c_[A-Za-z0-9+/]{32,}={0,2}|sa_[A-Za-z0-9]{32}_[0-9a-f]{8})",
         "glc_[A-Za-z0-9]|glsa_",
         "glc_|glsa_"),
    Rule("a Sentry token", r"\bsntrys_eyJ[\w=/+-]{40,}|\bsntryu_[a-f0-9]{64}", "sntry[su]_",
         "sntry"),
    Rule("a Linear key", r"\blin_(?:api|oauth)_[A-Za-z0-9]{40,}", "lin_(?:api|oauth)_",
         "lin_"),
    Rule("a Notion token", r"\bntn_[0-9]{11}[A-Za-z0-9]{35}|\bsecret_[A-Za-z0-9]{43}\b",
         "ntn_[0-9]{4}|secret_[A-Za-z0-9]{16}",
         "ntn_|secret_"),
    Rule("a Figma token", r"\bfigd_[\w-]{40,}", "figd_"),
    Rule("an Atlassian token", r"\bATATT3[\w=-]{40,}", "ATATT3"),
    Rule("an Airtable token", r"\bpat[A-Za-z0-9]{14}\.[a-f0-9]{64}",
         r"[A-Za-z0-9]\.[a-f0-9]{16}",
         "pat"),
    Rule("a Postman key", r"\bPMAK-[a-f0-9]{24}-[a-f0-9]{34}", "PMAK-"),
    Rule("a Pulumi token", r"\bpul-[a-f0-9]{40}\b", "pul-[a-f0-9]{8}",
         "pul-"),
    Rule("a PlanetScale key", r"\bpscale_(?:tkn|pw|oauth)_[\w=.-]{32,}",
         "pscale_(?:tkn|pw|oauth)_",
         "pscale_"),
    Rule("a Supabase key", r"\bsb(?:p_[a-f0-9]{40}|_secret_[\w-]{20,})",
         "sbp_[a-f0-9]{8}|sb_secret_",
         "sbp_|sb_secret_"),
    Rule("a Netlify token", r"\bnf[pc]_[A-Za-z0-9]{36}", "nf[pc]_[A-Za-z0-9]{16}",
         "nfp_|nfc_"),
    Rule("a Doppler token", r"\bdp\.(?:pt|st|ct|scim|audit)\.[\w.-]{40,}",
         r"dp\.(?:pt|st|ct|scim|audit)\.",
         "dp."),
    Rule("a Vault token", r"\bhv[sb]\.[\w-]{24,}", r"hv[sb]\.[a-zA-Z0-9_-]{16}",
         "hvs.|hvb."),
    Rule("a Terraform token", r"\b[A-Za-z0-9]{14}\.atlasv1\.[\w=-]{60,}", r"\.atlasv1\.",
         ".atlasv1."),
    Rule("a Facebook token", r"\bEAACEdEose0cBA[A-Za-z0-9]+", "EAACEdEose0cBA"),
)  # fmt: skip
_DOTS = "."
_DOTTED = re.compile(r"\.[\w-]{6}\.[\w-]{27}", re.ASCII)  # as a Discord token ends
_RULES_OF: dict[str, list[Rule]] = {}
for _rule in RULES:
    for _literal in _rule.literals:
        _RULES_OF.setdefault(_literal, []).append(_rule)
# The private keys of a PEM block belong to the secret: a repair must not leave them standing.
_PEM_BODY = re.compile(r"[^-]{0,20000}-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PASSWORD_URL = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>\\]{1,64}:([^\s/:@\"'<>\\]{3,128})@[\w.-]+"
)
_EXAMPLES = re.compile(
    r"(?i)x{4,}|\*{3,}|\.{3}|^(?:password|passwd|pass|pwd|secret|token|example|changeme|your\b.*"
    r"|user(?:name)?)$|^[\[<{($%].*"
)
_KEY_WORDS = (
    r"api[_ -]?key|access[_ -]?key|account[_ -]?key|secret[_ -]?key|secret|auth[_ -]?token"
    r"|access[_ -]?token|token|passwords?|passwd|passphrase|pwd|bearer|credentials?"
)
_SAID_WORDS = ("key", "secret", "token", "passw", "passphrase", "pwd", "bearer", "credential")
_SAID = re.compile(
    rf"(?i:{_KEY_WORDS})[\"'`]?(?: is|[ \t:=])+[\"'`]?([A-Za-z0-9+/_=.~-]{{16,200}})", re.ASCII
)
_SAID_HINT = (
    folded(rb"(?:key|secret|token|password|passwd|passphrase|pwd|bearer|credential)s?")
    + rb"""[\\"'`]*(?: is|[ :=]|\\t)+[\\"'`]*(?:[A-Za-z0-9+_=.~-]|\\?/){16}"""
)
_WORDS = re.compile(r"[A-Za-z]{7,}")


def spans(text: str) -> list[tuple[int, int, str]]:
    """Every secret of a text as (start, end, what it is), in order and apart."""
    found = [
        _format(text, hit, rule.name)
        for rule in _rules_for(text)
        for hit in rule.found.finditer(text)
    ]
    found += [(*hit.span(1), "a password in a URL") for hit in _urls(text)]
    for said in _said(text):
        found.append((*said.span(1), "what looks like a key"))
    return _apart(found)


def _rules_for(text: str) -> list[Rule]:
    """The formats of which a text holds a telling word, in their order."""
    present = [word for word in _RULES_OF if word in text and word != _DOTS]
    if _DOTTED.search(text):
        present.append(_DOTS)
    return sorted({rule for word in present for rule in _RULES_OF[word]}, key=RULES.index)


def secrets(text: str) -> Iterator[Hit]:
    """The first secret of a text, by a few of its characters at most."""
    found = spans(text)
    if not found:
        return
    start, end, name = found[0]
    shown = f" ({text[start : start + _KEEP]}…, {end - start} characters)"
    if "private key" in name or "password" in name:
        shown = ""
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    yield Hit(name + shown + more, None, start, end)


def _format(text: str, hit: re.Match[str], name: str) -> tuple[int, int, str]:
    end = hit.end()
    if name == "a private key":
        body = _PEM_BODY.match(text, end)
        end = body.end() if body else end
    return hit.start(), end, name


def _urls(text: str) -> list[re.Match[str]]:
    if "://" not in text or "@" not in text:
        return []
    return [hit for hit in _PASSWORD_URL.finditer(text) if not _EXAMPLES.search(hit[1])]


def _said(text: str) -> list[re.Match[str]]:
    lowered = text.lower()
    if not any(word in lowered for word in _SAID_WORDS):
        return []
    return [hit for hit in _SAID.finditer(text) if _looks_random(hit[1])]


def _apart(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """In order; of those that overlap, the one that begins first."""
    kept: list[tuple[int, int, str]] = []
    for span in sorted(found, key=lambda span: (span[0], -span[1])):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept


def entropy(text: str) -> float:
    """Shannon entropy in bits a character."""
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in Counter(text).values())


def _looks_random(text: str) -> bool:
    """Letters and digits mixed as no word or path mixes them."""
    digits = sum(character.isdigit() for character in text)
    if digits < 2 or not any(character.isalpha() for character in text):
        return False
    if text.count("/") > 2 or text.count(".") > 2 or _EXAMPLES.search(text):
        return False
    if all(character in "0123456789abcdefABCDEF" for character in text):
        return entropy(text) >= _HEX_ENTROPY
    worded = sum(len(word) for word in _WORDS.findall(text))
    return entropy(text) >= _MIN_ENTROPY and 2 * worded < len(text)


CHECKS = (
    Check(
        "secret",
        "Key or password",
        "error",
        "Whoever gets the adapter can get the key out of it. Revoke it as well.",
        "Repair (f) puts [SECRET_1] in its place; then revoke the key.",
        text=secrets,
        family="privacy",
        gate=gate(
            *(rule.hint.encode() for rule in RULES),
            _SAID_HINT,
            rb":" + SLASH + SLASH + rb"[^ \"/\n]+@",
        ),
    ),
)
