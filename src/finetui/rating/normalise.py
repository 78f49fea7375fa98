"""Take from an output what would tell the models apart without being part of the answer.

The same rules for both sides: template residue, escape sequences, invisible and bidirectional
controls, trailing spaces. Words are never changed, corrected, cut or re-flowed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ROLE = r"(?:system|user|assistant|model|tool)"
_ESCAPES = re.compile(
    r"""\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?      # OSC (titles, clipboard), ended by BEL or ST
      | (?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?       # CSI (colours, cursor)
      | \x1b[PX^_][^\x1b]*(?:\x1b\\)?           # DCS, SOS, PM, APC
      | \x1b[ -/]*[0-~]?                        # every other escape
    """,
    re.VERBOSE,
)
_TEMPLATE = re.compile(
    rf"""<\|(?:im_start|start_header_id|header_start)\|>\s*{_ROLE}?\s*(?:<\|(?:end_header_id|header_end)\|>)?\s*
      | <start_of_turn>\s*{_ROLE}?\s*
      | <\|[^|<>\s]{{1,48}}\|>
      | <(?:end_of_turn|bos|eos|pad|unk|mask)>
      | <｜[^｜<>\n]{{1,48}}｜>
      | \[/?INST\] | <</?SYS>> | \[(?:PAD|CLS|SEP|UNK|MASK|EOS|BOS)\]
    """,
    re.VERBOSE,
)
_EDGE_MARKS = re.compile(r"\A(?:\s*</?s>)+|(?:</?s>\s*)+\Z")
_LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029\x85]")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
# Joiners carry meaning inside Persian, Indic and emoji sequences; anywhere else they are hidden
# marks.
_STRAY_JOINERS = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?![^\x00-\x7f])")
_TRAILING = re.compile(r"[ \t\u00a0]+$", re.MULTILINE)
_SURROGATES = re.compile("[\ud800-\udfff]")


def normalise(text: str, special_tokens: Sequence[str] = ()) -> str:
    """The text as a rater sees it; doing it twice changes nothing.

    ``special_tokens`` are the tokenizer's own, removed wherever they stand.
    """
    before = None
    while before != text:  # taking one mark out can put the halves of another together
        before = text
        text = _once(text, special_tokens)
    return text


def _once(text: str, special_tokens: Sequence[str]) -> str:
    text = _LINE_ENDS.sub("\n", _ESCAPES.sub("", text))
    text = _STRAY_JOINERS.sub("", _INVISIBLE.sub("", _CONTROLS.sub("", text)))
    for token in sorted(filter(str.strip, special_tokens), key=len, reverse=True):
        text = text.replace(token, "")
    text = _EDGE_MARKS.sub("", _TEMPLATE.sub("", text))
    return _TRAILING.sub("", _SURROGATES.sub("\ufffd", text)).strip()
