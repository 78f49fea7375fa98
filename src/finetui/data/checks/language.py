"""Checks of languages and scripts: look-alike letters, stray scripts, answers in another language.

Scripts are told by their ranges of characters, languages in Latin script by their most frequent
small words: exact enough for a prompt and an answer of some length, and fifty times as fast as a
statistical guess.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from finetui.data.checks.gates import chars, gate
from finetui.data.checks.model import Check, Example, Hit
from finetui.data.records import Shape, Turn

# ---------------------------------------------------------------- look-alike letters

_LOOK_ALIKES = (
    ("aceopxyijshdABEKMHOPCTYXIJS", "асеорхуіјѕһԁАВЕКМНОРСТУХІЈЅ"),
    ("oABEZHIKMNOPTYX", "οΑΒΕΖΗΙΚΜΝΟΡΤΥΧ"),
)
_TO_LATIN = {other: latin for pair in _LOOK_ALIKES for latin, other in zip(*pair, strict=True)}
_TO_CYRILLIC = dict(zip(*_LOOK_ALIKES[0], strict=True))
_TO_GREEK = dict(zip(*_LOOK_ALIKES[1], strict=True))
_CYRILLIC, _GREEK = "\u0400-\u052f", "\u0370-\u03ff"
# After a backslash the first letter may belong to an escape that was escaped again.
_ADJACENT = re.compile(rf"(?<!\\)[A-Za-z][{_GREEK}{_CYRILLIC}]|[{_GREEK}{_CYRILLIC}][A-Za-z]")
_IN_WORD = re.compile(rf"[A-Za-z{_GREEK}{_CYRILLIC}]+")
_TO_WORD = re.compile(rf"(?<!\\)[A-Za-z{_GREEK}{_CYRILLIC}]+\Z")
_LONGEST = 64
_IS_LATIN = re.compile("[A-Za-z]")
_IS_CYRILLIC = re.compile(f"[{_CYRILLIC}]")
_SHORTEST, _SHORTEST_GREEK = 3, 5


def homoglyphs(text: str) -> Iterator[Hit]:
    """Words in which a letter of another script stands for one that looks the same."""
    if text.isascii():
        return
    for start, end in _mixed_words(text):
        word, mended = text[start:end], _one_script(text[start:end])
        if mended != word:
            strange = next(n for n, (a, b) in enumerate(zip(word, mended, strict=True)) if a != b)
            words = f"{word!r} has a look-alike from another script (U+{ord(word[strange]):04X})"
            yield Hit(words, None, start + strange, start + strange + 1)
            return


def one_script(text: str) -> str:
    """Look-alike letters put back into the script of the rest of their word."""
    pieces, position = [], 0
    for start, end in () if text.isascii() else _mixed_words(text):
        pieces += [text[position:start], _one_script(text[start:end])]
        position = end
    return "".join([*pieces, text[position:]])


def _mixed_words(text: str) -> Iterator[tuple[int, int]]:
    """Where words of letters of more than one script stand."""
    end = 0
    for hit in _ADJACENT.finditer(text):
        if hit.start() < end:
            continue
        first = max(end, hit.start() - _LONGEST)
        before = _TO_WORD.search(text, first, hit.start() + 1)
        start = before.start() if before else hit.start()
        whole = _IN_WORD.match(text, start)
        end = whole.end() if whole else hit.end()
        yield start, end


def _one_script(word: str) -> str:
    """The word in one script if the letters of the other are all look-alikes, else as it is."""
    latin = len(_IS_LATIN.findall(word))
    cyrillic = len(_IS_CYRILLIC.findall(word))
    greek = len(word) - latin - cyrillic
    if not latin or (cyrillic and greek):  # three scripts: no slip of a keyboard
        return word
    # Greek letters stand in formulas: only a word of some length is a word.
    if len(word) < (_SHORTEST if cyrillic else _SHORTEST_GREEK):
        return word
    back = _TO_CYRILLIC if cyrillic else _TO_GREEK
    table = _TO_LATIN if latin >= cyrillic + greek else back
    mended = "".join(table.get(letter, letter) for letter in word)
    return word if _ADJACENT.search(mended) else mended


# ---------------------------------------------------------------- scripts of a turn

_SCRIPTS = {
    "Han": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
    "kana": "\u3041-\u3096\u30a1-\u30fa\u30fc\uff66-\uff9f",
    "Hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3",
    "Cyrillic": _CYRILLIC,
    "Greek": _GREEK + "\u1f00-\u1fff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Hebrew": "\u0590-\u05ff",
    "Devanagari": "\u0900-\u097f",
    "Bengali": "\u0980-\u09ff",
    "Tamil": "\u0b80-\u0bff",
    "Telugu": "\u0c00-\u0c7f",
    "Thai": "\u0e00-\u0e7f",
    "Georgian": "\u10a0-\u10ff",
    "Armenian": "\u0530-\u058f",
}
_PATTERNS = {name: re.compile(f"[{ranges}]+") for name, ranges in _SCRIPTS.items()}
_LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+")
_NOT_LATIN = re.compile(
    f"[{''.join(ranges for name, ranges in _SCRIPTS.items() if name != 'Greek')}]"
    f"|[{_SCRIPTS['Greek']}]{{3}}"
)
_DENSE = ("Han", "kana", "Hangul")  # a character says as much as three letters
_LOOK = 2000  # characters of a turn that are counted


def scripts(text: str) -> Counter[str]:
    """How many letters of each script stand at the start of a text, dense scripts thrice."""
    text = text[:_LOOK]
    counts = Counter({"Latin": _letters(_LATIN, text)})
    for name in () if text.isascii() else _present(text):
        count = _letters(_PATTERNS[name], text)
        counts[name] = 3 * count if name in _DENSE else count
    return counts


def _letters(pattern: re.Pattern[str], text: str) -> int:
    return len("".join(pattern.findall(text)))


def _present(text: str) -> list[str]:
    """The scripts other than Latin of which a text has a letter: a search each, and one more."""
    found: list[str] = []
    while hit := _any_but(*found).search(text):
        found.append(next(name for name, one in _PATTERNS.items() if one.match(hit[0])))
    return found


@lru_cache(maxsize=256)
def _any_but(*names: str) -> re.Pattern[str]:
    """A letter of any script other than Latin and these."""
    return re.compile(f"[{''.join(_SCRIPTS[name] for name in _SCRIPTS if name not in names)}]")


_LANGUAGE_NAMES = re.compile(
    r"translat|languag|english|german|french|spanish|italian|portuguese|dutch|polish|swedish|danish"
    r"|norwegian|finnish|turkish|indonesian|vietnamese|czech|romanian|hungarian|chinese|mandarin"
    r"|cantonese|japanese|korean|russian|ukrainian|greek|latin\b|arabic|hebrew|hindi|sanskrit|thai"
    r"|bengali|tamil|kanji|hiragana|katakana|pinyin|cyrillic|alphabet|bilingual|multilingual"
    r"|übersetz|deutsch|englisch|auf französisch|sprache|tradui|anglais|français|langue|traduc"
    r"|traduz|inglés|inglês|español|espanhol|idioma|traduci|inglese|lingua|tłumacz|çevir|ingilizce"
    r"|terjemah|перевед|перевод|английск|русск|язык|翻译|翻譯|翻訳|英文|英语|英語|中文|汉语|日语|日本語|韩语|法语"
    r"|德语|西班牙语|俄语|语言|言語|번역|영어|한국어|ترجم|الإنجليزية",
    re.IGNORECASE,
)
_SPELT_OUT = re.compile(r"[(（\[\"“”'‘’«»「『*_`:：=/|]\s*$")


def stray_script(example: Example) -> Iterator[Hit]:
    """A few letters of a script that the prompt does not have, in the middle of an answer."""
    record = example.record
    if record is None or record.shape is Shape.TEXT:
        return
    asked = "\n".join(turn.content for turn in record.turns if turn.role != "assistant")
    for number, turn in enumerate(record.all_turns()):
        if turn.role == "assistant" and not turn.content.isascii():
            found = _stray(turn.content, asked)
            if found:
                name, start, end = found
                run = turn.content[start:end]
                yield Hit(f"{run!r} is {name} in the middle of an answer", number, start, end)


def _stray(text: str, asked: str) -> tuple[str, int, int] | None:
    strange = [
        name
        for name in _present(text[:_LOOK])
        if name != "Greek" and not _PATTERNS[name].search(asked)
    ]
    if not strange:
        return None
    counts = scripts(text)
    for name in strange:
        if counts[name] >= _FEW * counts.total() or (name == "Han" and counts["kana"]):
            continue
        runs = _PATTERNS[name].finditer(text[:_LOOK])
        bare = next((run for run in runs if not _spelt_out(text, run)), None)
        if bare and not _LANGUAGE_NAMES.search(asked) and not _LANGUAGE_NAMES.search(text):
            return name, *bare.span()
    return None


_FEW = 0.3  # of an answer's letters; more is another language


def _spelt_out(text: str, run: re.Match[str]) -> bool:
    """Whether the words are given as such: in brackets, in quotes, after a colon."""
    return bool(_SPELT_OUT.search(text[max(0, run.start() - 3) : run.start()]))


# ---------------------------------------------------------------- the language of a turn

_WORDS = {
    "German": "und nicht ist eine auch sich mit wird für das ich der die den zu auf werden kann",
    "French": "est les une avec dans pas sont nous vous des pour que qui sur le la du et ce",
    "Spanish": "los una por con para como más el la que del las se su es en y muy está pero",
    "Italian": "che della sono anche una gli il di per non con le si dei nel nelle è più come alla"
    " sulla tua viene questo essere poi puoi un",
    "Portuguese": "uma com não dos para os que do da em um as mais como são ser ou você pode seu"
    " sua é foi está nas na no e",
    "Dutch": "het een niet voor zijn ook van de en dat met op te wordt aan bij worden",
    "Polish": "nie jest oraz przez się na że do są który może jak lub dla",
    "Swedish": "och att som inte det för är på av en ett med kan till den du dig",
    "Danish": "ikke og som til det på af et med kan den at er så dig du har jeg være",
    "Turkish": "bir ve için ile bu olarak daha çok gibi olan en da de",
    "Indonesian": "yang dan untuk dengan dari adalah ini dalam pada tidak itu atau",
    "Czech": "jsou nebo které který je že na se pro být také jako pak bude ale když a v",
    "Romanian": "este pentru care sunt și să în cu din nu mai la",
    "Hungarian": "nem egy hogy az és is van ez meg vagy",
    "Finnish": "joka ovat että on ja ei se tai voi kun",
    "Vietnamese": "là và của các không một được cho trong với những có",
    "English": "the and of is to in that for with are you it this be can as not or your from",
}
_VOCABULARY = {name: frozenset(words.split()) for name, words in _WORDS.items()}
# Words that no English text has, one of which nearly every text of its language has.
_TELLING = (
    "und|nicht|ist|eine|auch|est|une|avec|dans|sont|vous|una|por|con|para|como|che"
    "|della|sono|anche|gli|uma|com|dos|het|een|niet|voor|zijn|nie|jest|oraz|przez|och|att|inte|ikke|og"
    "|bir|ile|yang|untuk|dengan|jsou|nebo|jako|pak|bude|este|pentru|sunt|nem|egy|hogy|joka|ovat"
)
_FOREIGN = re.compile(f" (?:{_TELLING}) |[\u1ea0-\u1ef9]")
_WORD = re.compile(r"[^\W\d_]+")
_FEWEST_HITS, _FEWEST_WORDS = 5, 3
_AHEAD = 1.5  # times the hits of the next language
_SHARE = 0.15  # of the prompt that is in the answer's language already: a mixed prompt
_FEWEST_LETTERS = 24


_CALLED = {
    **{name: f"{name} script" for name in ("Latin", *_SCRIPTS)},
    "Han": "Chinese", "Hangul": "Korean", "kana": "Japanese",
}  # fmt: skip


def language_of(text: str) -> str:
    """The language a text is in, or its script; "" where that cannot be told."""
    script = _script_of(scripts(text))
    return _language(_votes(text)) if script == "Latin" else _CALLED.get(script, script)


def other_language(example: Example) -> Iterator[Hit]:
    """An answer in another language than the prompt, though the prompt does not speak of any."""
    record = example.record
    if record is None or record.shape is Shape.TEXT:
        return
    turns = record.all_turns()
    heard: list[str] = []
    for number, turn in enumerate(turns):
        if turn.role != "assistant":
            heard.append(turn.content)
        elif heard and not _formal(turn):
            languages = _differ(heard[-1], turn.content)
            if languages and not _LANGUAGE_NAMES.search("\n".join(heard)):
                asked, told = (_CALLED.get(name, name) for name in languages)
                yield Hit(f"the prompt is in {asked}, the answer in {told}", number)
                return


def _formal(turn: Turn) -> bool:
    """JSON, code and calls of tools are in no language."""
    return (
        bool(turn.tool_calls)
        or turn.content.lstrip()[:1] in ("{", "[", "<")
        or ("```" in turn.content)
    )


def _differ(prompt: str, answer: str) -> tuple[str, str] | None:
    """The two languages, if both texts are long enough to tell and each is in one."""
    if prompt.isascii() and answer.isascii() and not _either(_FOREIGN, prompt, answer):
        return None
    asked, told = scripts(prompt), scripts(answer)
    if min(asked.total(), told.total()) < _FEWEST_LETTERS:
        return None
    one, other = _script_of(asked), _script_of(told)
    if not one or not other:
        return None
    if one != other:
        mixed = asked[other if other != "Japanese" else "kana"] > _SHARE * asked.total()
        return None if mixed or not _either(_NOT_LATIN, prompt, answer) else (one, other)
    if one != "Latin" or not _either(_FOREIGN, prompt, answer):
        return None
    return _words_differ(prompt, answer)


def _either(pattern: re.Pattern[str], one: str, other: str) -> bool:
    return bool(pattern.search(one) or pattern.search(other))


def _script_of(counts: Counter[str]) -> str:
    """The script of most letters; "Japanese" for kana among Han; "" for a mixture."""
    together = counts["Han"] + counts["kana"]
    if counts["kana"] > 0.2 * together:
        counts = counts.copy()
        counts["Japanese"] = together
        counts["Han"] = counts["kana"] = 0
    name, most = counts.most_common(1)[0]
    return name if most >= 0.7 * (sum(counts.values()) or 1) else ""


def _words_differ(prompt: str, answer: str) -> tuple[str, str] | None:
    asked, told = _votes(prompt), _votes(answer)
    one, other = _language(asked), _language(told)
    if not one or not other or one == other:
        return None
    if asked[other] > _SHARE * asked[one] + 1 or told[one] > 0.5 * told[other]:
        return None
    return one, other


@lru_cache(maxsize=16)
def _votes(text: str) -> Counter[str]:
    """How many small words of each language a text has, 0 where too few different ones."""
    words = Counter(_WORD.findall(text[:_LOOK].lower()))
    votes: Counter[str] = Counter()
    for name, vocabulary in _VOCABULARY.items():
        known = [words[word] for word in vocabulary if word in words]
        if len(known) >= _FEWEST_WORDS:
            votes[name] = sum(known)
    return votes


def _language(votes: Counter[str]) -> str:
    best = votes.most_common(2)
    if not best or best[0][1] < _FEWEST_HITS:
        return ""
    if len(best) > 1 and best[0][1] < _AHEAD * best[1][1]:
        return ""
    return best[0][0]


# All scripts but Latin and Greek, in few ranges: what lies between them is rare.
_FAR = chars("\u0400-\u1dff\u3041-\u318f\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f")
_ALIEN = chars(_GREEK + _CYRILLIC)

CHECKS = (
    Check(
        "homoglyph",
        "Look-alike letters",
        "warning",
        "The word looks right and is another one for the tokenizer; filters are evaded like this.",
        "Repair (f) puts the letters of the word's own script.",
        text=homoglyphs,
        family="language",
        gate=gate(rb"[^\\][A-Za-z]" + _ALIEN, _ALIEN + rb"[A-Za-z]"),
    ),
    Check(
        "stray-script",
        "Stray letters of another script",
        "warning",
        "The model learns to slip into another language in the middle of a sentence.",
        "Reword the answer (e) or drop the row (d).",
        row=stray_script,
        family="language",
        gate=gate(_FAR),
    ),
    Check(
        "other-language",
        "Answer in another language",
        "warning",
        "The model learns not to answer in the language it is asked in.",
        "Write the answer in the prompt's language (e) or drop the row (d).",
        row=other_language,
        family="language",
        gate=gate(
            _FAR,
            chars(_SCRIPTS["Greek"]) * 3,
            b" (?:" + _TELLING.encode() + b") ",
            chars("\u1ea0-\u1ef9"),
        ),
    ),
)
