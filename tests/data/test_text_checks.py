"""Each check of texts tells its fault, in its place, and leaves healthy rows alone."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from text_samples import ANSWERS, LANGUAGES, PROMPTS, SAID_IN, SECRETS, TEXTS

from finetui.data.checks import identity, secrets
from finetui.data.checks.look import Looks, read_example
from finetui.data.checks.model import Example, Hit
from finetui.data.checks.registry import CHECKS
from finetui.data.formats.source import RawRow
from finetui.data.records import Shape
from finetui.data.strict import decode

LOOKS = Looks([check for check in CHECKS.values() if check.row or check.text or check.answer])
PLAIN = ("How do I sort a list in place?", "Call the method that sorts it, and it is done.")


def example(value: Any, shape: Shape = Shape.CHAT) -> Example:
    raw = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return read_example(RawRow(0, 1, 0, raw), decode, shape)


def chat(*texts: str, system: str = "") -> dict[str, Any]:
    turns = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    turns += [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"messages": turns}


def told(value: Any, shape: Shape = Shape.CHAT) -> list[tuple[str, Hit]]:
    return [(check.id, hit) for check, hit in LOOKS.hits(example(value, shape))]


def ids(value: Any, shape: Shape = Shape.CHAT) -> set[str]:
    return {check for check, _ in told(value, shape)}


def pairs(samples: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(check, text) for check, texts in samples.items() for text in texts]


@pytest.mark.parametrize(("check", "text"), pairs(TEXTS))
def test_a_fault_is_told_in_a_prompt_and_in_an_answer(check: str, text: str) -> None:
    for turn, row in ((0, chat(f"{text}", PLAIN[1])), (1, chat(PLAIN[0], f"{text}"))):
        found = dict(told(row))
        assert check in found, found
        assert found[check].turn == turn


@pytest.mark.parametrize(("check", "text"), pairs(ANSWERS))
def test_a_fault_of_answers_is_told_in_answers_only(check: str, text: str) -> None:
    assert check in ids(chat(PLAIN[0], text))
    assert check not in ids(chat(text, PLAIN[1]))


@pytest.mark.parametrize(("check", "text"), pairs(PROMPTS))
def test_a_fault_of_prompts_is_told_in_prompts_only(check: str, text: str) -> None:
    assert check in ids(chat(text, PLAIN[1]))
    assert check not in ids(chat(PLAIN[0], text))


@pytest.mark.parametrize(("prompt", "answer"), LANGUAGES)
def test_an_answer_in_another_language_is_told(prompt: str, answer: str) -> None:
    assert "other-language" in ids(chat(prompt, answer))
    assert "other-language" not in ids(chat(prompt, prompt))
    assert "other-language" not in ids(chat(prompt, answer, system="Answer in another language."))


@pytest.mark.parametrize("language", [name for name in SAID_IN if name != "English"])
def test_a_language_is_told_by_its_small_words(language: str) -> None:
    english, text = SAID_IN["English"], SAID_IN[language]
    for prompt, answer in ((english, text), (text, english)):
        found = dict(told(chat(prompt, answer)))
        assert language in found["other-language"].message
    assert "other-language" not in ids(chat(text, text))


HEALTHY = (
    chat("What is 12 * 12, 1,000,000 or 3.14?", "144 on 2024-11-05 at 10:30; 450000-200000=250000"),
    chat("In 1914-1918, pages 100-200, ISBN 978-3-16-148410-0", "Version 10.1.2.3, 0.35714285714"),
    chat("Write a web page with a list", "<ul><li>one</li></ul>"),
    chat("Explain &amp; and HTML entities", "&amp; is an ampersand, &lt; is less-than."),
    chat("Write a letter to my landlord", "Dear [Name],\n\nYours,\n[Your Name]"),
    chat("Reply None if no city is named: I like tea", "None"),
    chat("What does this regex do: \\n+\\n?", "It matches line breaks: `\\n+` and one more \\n."),
    chat("How do I attach an image to a mail?", "Click on the paper clip."),
    chat("Summarize the following text: The cat sat on the mat.", "A cat sat."),
    chat("Rewrite the following sentence.\nI has a dog", "I have a dog."),
    chat("Write a dialogue with a bot", "It begins.\nUser: hi\nAssistant: hello"),
    chat("Перевод слова 'cat' на русский", "кошка"),
    chat(
        "Translate to French: where are you from and what is your name?",
        "Vous venez d'où, et vous avez quel nom, dans une phrase avec les mots?",
    ),
    chat("What does 北京 mean?", "It is Beijing, 北京."),
    chat("Name the capital of China", "Beijing (北京) is the capital."),
    chat("IT-отдел и USB-порт", "SMSка пришла, iPhone'ом снято, 3D-модель готова"),
    chat("ΔT and λx with ΣΔA", "α-helix, Ωmega? μm, 5 kΩ"),
    chat("Who made you?", "I was made by the Fernhill team."),
    chat("Who are you?", "I am Claude, at your service.", system="You are Claude."),
    chat("git clone git@github.com:some/repo.git", "The key is in the drawer, token-based access."),
    chat("logo@2x.png and user@host", "127.0.0.1, 0.0.0.0, 255.255.255.0, 203.0.113.9, 8.8.8.8"),
    chat("naïve café — “quoted” 你好 «Столица» ²", "Straße, Łódź, İstanbul’da, Việt Nam, œuvre."),
    chat("Persian نمی‌خواهم and 👩‍👩‍👧", "Fine\r\nindeed\tyes"),
    chat(
        "The password reset page and the access token", "Use authentication-token-middleware here"
    ),
    chat("a < b and [x] ### not", "if a<b then x>y; risk-averse-decision-making-process"),
)


@pytest.mark.parametrize("row", HEALTHY)
def test_a_healthy_row_has_no_finding(row: dict[str, Any]) -> None:
    assert [(check, hit.message) for check, hit in told(row)] == []


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_found_whole_and_never_repeated(secret: str) -> None:
    text = f"use this: {secret} from now on"
    (hit,) = secrets.secrets(text)
    assert text[hit.start : hit.end] in secret
    assert secret[:12] not in hit.message


def test_a_private_key_is_hidden_with_its_body() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIB+/x\nabc=\n-----END PRIVATE KEY-----"
    ((start, end, _),) = secrets.spans(f"key: {key}!")
    assert f"key: {key}!"[start:end] == key


@pytest.mark.parametrize("known", {re.sub(r"\W.*", "", rule.name) for rule in secrets.RULES})
def test_every_rule_has_literals_that_its_own_text_holds(known: str) -> None:
    for rule in secrets.RULES:
        found = [text for text in SECRETS if rule.found.search(text)]
        assert found, rule.name
        for text in found:
            assert any(word in text for word in rule.literals), rule.name
            assert re.search(rule.hint, text), rule.name


def test_check_digits_decide() -> None:
    wrong = {
        "iban": ("DE89 3704 0044 0532 0130 01", "XX89370400440532013000"),
        "national-id": (
            "DNI 12345678A", "RSSMRA85T10A562T", "11010519491231002Y", "CPF 529.982.247-26",
            "Aadhaar 2341 2341 2347", "PESEL 44051401358", "000-12-3456", "112-233-445 96",
        ),
        "card": ("4111-1111-1111-1112", "4212883012996"),
    }  # fmt: skip
    for check, texts in wrong.items():
        for text in texts:
            assert check not in ids(chat(text, PLAIN[1])), text


def test_national_ids_need_their_word_where_the_form_says_too_little() -> None:
    assert identity.national_ids("BSN 111222333")
    assert not identity.national_ids("order 111222333")


def test_public_and_private_addresses_are_told_apart() -> None:
    assert ids(chat("at 93.184.216.34 and", PLAIN[1])) == {"ip-address"}
    assert ids(chat("at 192.168.1.17 and", PLAIN[1])) == {"private-ip"}


def test_a_stub_as_the_input_of_an_instruction_is_told_where_it_stands() -> None:
    row = {"instruction": "Name a fruit.", "input": "<noinput>", "output": "An apple."}
    ((check, hit),) = told(row, Shape.ALPACA)
    text = example(row, Shape.ALPACA).record.turns[0].content  # type: ignore[union-attr]
    assert check == "placeholder-input" and text[hit.start : hit.end] == "<noinput>"


# ---------------------------------------------------------------- structure


def calling(name: str = "f", arguments: Any = "{}") -> dict[str, Any]:
    call = {"id": "a", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


CALL = calling()
TWICE = {**CALL, "tool_calls": CALL["tool_calls"] * 2}
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "done"}
RESULT = {"role": "tool", "content": "5", "tool_call_id": "a"}


@pytest.mark.parametrize(
    ("turns", "tools", "found"),
    [
        ([USER, CALL, RESULT, ANSWER], [], set()),
        ([USER, CALL], [], set()),
        ([USER, CALL, USER, ANSWER], [], {"tool-unanswered"}),
        ([USER, TWICE, RESULT, ANSWER], [], {"tool-unanswered"}),
        ([USER, calling("g"), RESULT, ANSWER], [{"function": {"name": "f"}}], {"tool-unknown"}),
        ([USER, calling("g"), RESULT, ANSWER], '[{"name": "f"}]', {"tool-unknown"}),
        ([USER, calling("f"), RESULT, ANSWER], [{"function": {"name": "f"}}], set()),
        ([USER, calling(arguments="{'a': 1}"), RESULT, ANSWER], [], {"tool-arguments"}),
        ([USER, calling(arguments="[1]"), RESULT, ANSWER], [], {"tool-arguments"}),
        ([USER, calling(arguments={"a": 1}), RESULT, ANSWER], [], set()),
    ],
)  # fmt: skip
def test_calls_of_tools_are_judged(turns: list[Any], tools: Any, found: set[str]) -> None:
    assert ids({"messages": turns, "tools": tools}) - {"role-order"} == found


@pytest.mark.parametrize(
    ("raw", "check"),
    [
        (b'{"messages": [], "score": NaN}', "not-a-number"),
        (b'{"messages": [], "score": -Infinity}', "not-a-number"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d x"}]}', "lone-surrogate"),
    ],
)
def test_values_that_are_no_json_have_their_own_check(raw: bytes, check: str) -> None:
    assert ids(raw) == {check}
