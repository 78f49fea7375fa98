"""Numbers of people and accounts that carry their own check digits: IBANs and national ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

# Lengths of IBANs by country (ISO 13616 registry).
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22,
    "BI": 27, "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27,
    "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27,
    "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28,
    "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22,
    "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24,
    "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28,
    "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ ]?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
_IBAN_GROUPS = re.compile(r"[A-Z0-9]{4}(?: [A-Z0-9]{4}){2,}(?: [A-Z0-9]{1,3})?|[A-Z0-9]+")


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Where an IBAN of a known country's length stands whose check digits are right."""
    for hit in _IBAN.finditer(text):
        length = IBAN_LENGTHS.get(hit[0][:2], 0)
        end = _end_of(hit[0], length)
        if end and _IBAN_GROUPS.fullmatch(hit[0][:end]) and _mod97(hit[0][:end]):
            yield hit.start(), hit.start() + end


def _end_of(text: str, length: int) -> int:
    """The place after the ``length``-th letter or digit, where a word ends; 0 for none."""
    count = 0
    for place, character in enumerate(text, 1):
        count += character != " "
        if count == length:
            return place if text[place : place + 1] in ("", " ") else 0
    return 0


def _mod97(iban: str) -> bool:
    """ISO 7064 MOD 97-10 over the rearranged IBAN."""
    plain = iban.replace(" ", "")
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


@dataclass(frozen=True)
class NationalId:
    """One country's number: pattern, check, and the words one of which must stand near it.

    ``near`` is empty where form and check digits say enough.
    """

    name: str
    pattern: str
    right: Callable[[str], bool]
    near: str = ""


def luhn(digits: Sequence[int]) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1, annex B)."""
    doubled = (2 * digit - 9 * (digit > 4) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def digits_of(text: str) -> list[int]:
    return [int(character) for character in text if character.isdecimal()]


def _weighted(digits: Sequence[int], weights: Sequence[int]) -> int:
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=False))


def _ssn(text: str) -> bool:
    """No check digit; areas 000, 666 and 9xx, group 00 and serial 0000 are never given out."""
    area, group, serial = re.split("[- ]", text)
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _spanish(text: str) -> bool:
    number = text.upper().replace("-", "")
    number = (
        number.translate(
            str.maketrans("XYZ", "012"),
        )
        if number[0] in "XYZ"
        else number
    )
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number[:8]) % 23] == text[-1].upper()


def _italian(text: str) -> bool:
    odd = {**dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True)),
           **dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ",
                      (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16,
                       10, 22, 25, 24, 23), strict=True))}  # fmt: skip
    total = sum(odd[char] for char in text[:15:2])
    total += sum(int(char) if char.isdigit() else ord(char) - 65 for char in text[1:15:2])
    return chr(65 + total % 26) == text[15]


def _french(text: str) -> bool:
    plain = text.replace(" ", "")
    body = plain[:13].replace("2A", "19").replace("2B", "18")
    return body.isdigit() and 97 - int(body) % 97 == int(plain[13:])


def _german(text: str) -> bool:
    """ISO 7064 MOD 11,10; one digit of the first ten occurs two or three times."""
    digits = digits_of(text)
    if digits[0] == 0 or not 7 <= len(set(digits[:10])) <= 9:
        return False
    product = 10
    for digit in digits[:10]:
        product = ((product + digit) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == digits[10]


def _brazilian(text: str) -> bool:
    digits = digits_of(text)
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        rest = _weighted(digits, range(length + 1, 1, -1)) * 10 % 11 % 10
        if rest != digits[length]:
            return False
    return True


def _chinese(text: str) -> bool:
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    total = _weighted([int(digit) for digit in text[:17]], weights)
    return "10X98765432"[total % 11] == text[17].upper() and _date(text[6:14])


def _date(text: str) -> bool:
    year, month, day = int(text[:4]), int(text[4:6]), int(text[6:8])
    return 1900 <= year <= 2100 and 1 <= month <= 12 and 1 <= day <= 31


_VERHOEFF = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 0, 6, 7, 8, 9, 5), (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7), (4, 0, 1, 2, 3, 9, 5, 6, 7, 8), (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2), (7, 6, 5, 9, 8, 2, 1, 0, 4, 3), (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)  # fmt: skip
_VERHOEFF_PLACES = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 5, 7, 6, 2, 8, 3, 0, 9, 4), (5, 8, 0, 3, 7, 9, 6, 1, 4, 2),
    (8, 9, 1, 6, 0, 4, 3, 5, 2, 7), (9, 4, 5, 3, 1, 2, 6, 8, 7, 0), (4, 2, 8, 6, 5, 7, 3, 9, 0, 1),
    (2, 7, 9, 3, 8, 0, 6, 4, 1, 5), (7, 0, 4, 6, 9, 1, 3, 2, 5, 8),
)  # fmt: skip


def _indian(text: str) -> bool:
    """Aadhaar: the Verhoeff check digit."""
    total = 0
    for place, digit in enumerate(reversed(digits_of(text))):
        total = _VERHOEFF[total][_VERHOEFF_PLACES[place % 8][digit]]
    return total == 0


def _polish(text: str) -> bool:
    digits = digits_of(text)
    total = _weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1))
    return total % 10 == 0 and 1 <= digits[2] % 2 * 10 + digits[3] <= 12


def _dutch(text: str) -> bool:
    digits = digits_of(text)
    return _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0 and any(digits)


def _luhn(text: str) -> bool:
    digits = digits_of(text)
    return luhn(digits) and len(set(digits)) > 2


def _swedish(text: str) -> bool:
    digits = digits_of(text)[-10:]
    month, day = digits[2] * 10 + digits[3], digits[4] * 10 + digits[5]
    return luhn(digits) and 1 <= month <= 12 and 1 <= day <= 31


def _finnish(text: str) -> bool:
    number = int(text[:6] + text[7:10])
    month, day = int(text[2:4]), int(text[:2])
    right = "0123456789ABCDEFHJKLMNPRSTUVWXY"[number % 31] == text[10]
    return right and 1 <= month <= 12 and 1 <= day <= 31


def _korean(text: str) -> bool:
    digits = digits_of(text)
    total = _weighted(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5))
    month = digits[2] * 10 + digits[3]
    return (11 - total % 11) % 10 == digits[12] and 1 <= month <= 12 and digits[6] in range(1, 9)


def _turkish(text: str) -> bool:
    digits = digits_of(text)
    tenth = (7 * sum(digits[0:9:2]) - sum(digits[1:8:2])) % 10
    return digits[0] > 0 and tenth == digits[9] and sum(digits[:10]) % 10 == digits[10]


def _taiwanese(text: str) -> bool:
    letter = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(text[0]) + 10
    digits = [letter // 10, letter % 10, *digits_of(text[1:])]
    return _weighted(digits, (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1)) % 10 == 0


def _singaporean(text: str) -> bool:
    total = _weighted(digits_of(text), (2, 7, 6, 5, 4, 3, 2)) + (4 if text[0] in "TG" else 0)
    letters = "JZIHGFEDCBA" if text[0] in "ST" else "XWUTRQPNMLK"
    return letters[total % 11] == text[8]


def _japanese(text: str) -> bool:
    digits = digits_of(text)
    rest = _weighted(digits[10::-1], (2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6)) % 11
    return digits[11] == (0 if rest <= 1 else 11 - rest) and len(set(digits)) > 2


def _british(text: str) -> bool:
    return text[:2].upper() not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")


def _russian(text: str) -> bool:
    """SNILS: weighted sum modulo 101."""
    digits = digits_of(text)
    rest = _weighted(digits[:9], range(9, 0, -1)) % 101 % 100
    return rest == digits[9] * 10 + digits[10] and any(digits)


NATIONAL_IDS = (
    NationalId("a US social security number", r"\d{3}-\d{2}-\d{4}", _ssn),
    NationalId("a US social security number", r"\d{3} \d{2} \d{4}", _ssn,
               r"ssn|social security"),
    NationalId("a British national insurance number",
               r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]", _british,
               r"national insurance|\bni\b|nino"),
    NationalId("a Spanish DNI or NIE", r"(?:\d{8}|[XYZ]-?\d{7})-?[A-HJ-NP-TV-Z]", _spanish),
    NationalId("an Italian tax code", r"[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]", _italian),
    NationalId("a French social security number",
               r"[12] ?\d\d ?(?:0[1-9]|1[0-2]) ?(?:\d\d|2[AB]) ?\d{3} ?\d{3} ?\d\d", _french),
    NationalId("a German tax id", r"\d{2} ?\d{3} ?\d{3} ?\d{3}", _german,
               r"steuer|tax|idnr|identifikationsnummer"),
    NationalId("a Brazilian CPF", r"\d{3}\.\d{3}\.\d{3}-\d\d", _brazilian),
    NationalId("a Chinese resident id",
               r"[1-9]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])[0-3]\d\d{3}[\dXx]", _chinese),
    NationalId("an Indian Aadhaar number", r"[2-9]\d{3}[ -]?\d{4}[ -]?\d{4}", _indian,
               r"aadha?ar|uidai|आधार"),
    NationalId("a Polish PESEL", r"\d{11}", _polish, r"pesel"),
    NationalId("a Dutch BSN", r"\d{9}", _dutch, r"\bbsn\b|burgerservice|sofi"),
    NationalId("a Canadian SIN", r"\d{3}[ -]\d{3}[ -]\d{3}", _luhn,
               r"\bsin\b|social insurance"),
    NationalId("a Swedish personal number", r"(?:19|20)?\d{6}[-+]\d{4}", _swedish,
               r"person(?:al )?(?:nummer|number|id)|samordningsnummer"),
    NationalId("a Finnish personal code", r"\d{6}[-+A]\d{3}[0-9A-FHJ-NPR-Y]", _finnish),
    NationalId("a Korean resident number", r"\d{6}-\d{7}", _korean),
    NationalId("a Turkish id number", r"[1-9]\d{10}", _turkish,
               r"t\.?c\.? ?kimlik|kimlik|tckn|turkish id"),
    NationalId("a Taiwanese id", r"[A-Z][1289]\d{8}", _taiwanese, r"身分證|身份證|taiwan"),
    NationalId("a Singaporean NRIC", r"[STFG]\d{7}[A-Z]", _singaporean),
    NationalId("a Japanese My Number", r"\d{4}[ -]?\d{4}[ -]?\d{4}", _japanese,
               r"マイナンバー|個人番号|my number"),
    NationalId("a Russian SNILS", r"\d{3}-\d{3}-\d{3}[ -]\d\d", _russian),
)  # fmt: skip
# What every such number looks like, roughly: finding these is fast, and the gate is made of them.
SHAPES = (
    r"[0-9](?:[ -]?[0-9]){8}|[0-9]{3}\.[0-9]{3}\.[0-9]{3}-|[A-Z][1289][0-9]{8}|[0-9]{8}-?[A-Z]"
    r"|[XYZ]-?[0-9]{7}|[STFG][0-9]{7}[A-Z]|[A-Z]{6}[0-9]{2}[A-Z][0-9]{2}[A-Z][0-9]{3}"
    r"|[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]|[0-9]{6}[-+A][0-9]{3}[0-9A-Y]"
    r"|[12] ?[0-9]{2} ?[0-9]{2} ?2[AB] ?[0-9]{3}"
)
_SHAPE = re.compile(SHAPES)
_BEFORE, _AFTER = 12, 24  # characters by which a number may be longer than its rough shape
# Letters and digits on either side, and decimals, make it another number. ASCII only: Chinese
# puts no space between a number and the words around it.
_ANY = re.compile(
    rf"(?<![\w.,-])(?:{'|'.join(known.pattern for known in NATIONAL_IDS)})(?![\w-])", re.ASCII
)
_EACH = [
    re.compile(rf"(?<![\w.,-])(?:{known.pattern})(?![\w-])(?![.,]\d)", re.ASCII)
    for known in NATIONAL_IDS
]
_NEAR = [re.compile(known.near, re.IGNORECASE) if known.near else None for known in NATIONAL_IDS]
_REACH = 60  # characters in which the word that names the number must stand


def national_ids(text: str) -> list[tuple[int, int, str]]:
    """National id numbers as (start, end, what it is), in order and apart."""
    found: set[tuple[int, int, str]] = set()
    for shape in _SHAPE.finditer(text):
        first, last = max(0, shape.start() - _BEFORE), shape.end() + _AFTER
        if not _ANY.search(text, first, last):
            continue
        for known, pattern, near in zip(NATIONAL_IDS, _EACH, _NEAR, strict=True):
            for hit in pattern.finditer(text, first, last):
                around = text[max(0, hit.start() - _REACH) : hit.end() + _REACH]
                if known.right(hit[0]) and (near is None or near.search(around)):
                    found.add((*hit.span(), known.name))
    ordered = sorted(found)
    return [span for n, span in enumerate(ordered) if n == 0 or span[0] >= ordered[n - 1][1]]
