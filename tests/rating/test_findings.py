"""What is found before the sealing: names in answers, style that tells, and what is left out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from rating_cases import CANDIDATE, REFERENCE, make_items, make_session

from finetui.errors import UserError
from finetui.rating.drafts import Draft, draft_file, drop_draft, hold, list_drafts, seal_draft
from finetui.rating.findings import inspect
from finetui.rating.identity import scan, telling
from finetui.rating.registration import Registration
from finetui.rating.session import Item, list_sessions
from finetui.rating.unseal import unseal

SYSTEMS = (REFERENCE, CANDIDATE)


def said(text: str, other: str = "nothing of the kind", prompt: str = "hello") -> list[str]:
    turns = {"i": [{"role": "user", "content": prompt}]}
    found = scan({"i": {"a": text, "b": other}}, turns, ["night-owl-7b"])
    return [word for mention in found for word in mention.words]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("I am Qwen2.5, made by a team.", "qwen2.5"),
        ("As an AI language model, I cannot.", "as an ai language model"),
        ("I was trained by OpenAI.", "openai"),
        ("Ask ChatGPT instead", "chatgpt"),
        ("Meta AI wrote it on llama-3", "meta ai"),
        ("This is GPT-4o.", "gpt-4o"),
        ("Traceback (most recent call last):", "traceback (most recent call last"),
        ("CUDA out of memory", "cuda out of memory"),
        ("The NIGHT_OWL 7b says so", "night_owl 7b"),
    ],
)
def test_names_personas_and_failures_are_found(text: str, word: str) -> None:
    assert word in said(text)


@pytest.mark.parametrize(
    "text",
    [
        "The bloom of the meta level",
        "phi is a letter",
        "command the falcon",
        "a base case",
        "yi er san",
    ],
)
def test_plain_words_are_no_names(text: str) -> None:
    assert said(text) == []


def test_what_the_prompt_or_both_answers_say_tells_nothing() -> None:
    assert said("Qwen is a model", prompt="What is Qwen?") == []
    assert said("I am Qwen", other="qwen here") == []
    assert said("I am Qwen", other="Qwen and Claude") == ["claude"]


def test_only_names_that_are_long_enough_are_looked_for() -> None:
    assert telling(["base", "tuned", "v2", "triage-lora", "qwen2-sft"]) == [
        "qwen2-sft",
        "triage-lora",
    ]


def named_items(count: int, named: tuple[int, ...] = ()) -> list[Item]:
    items = make_items(count)
    for n in named:
        items[n].outputs[CANDIDATE] += " says Claude"
    return items


def test_items_that_name_a_model_are_left_out_counted_and_kept_on_record(tmp_path: Path) -> None:
    session = make_session(tmp_path, items=named_items(8, (2, 5)))
    assert (session.manifest.items, session.manifest.excluded) == (6, {"identity": 2})
    mapping = unseal(session, "done")
    assert mapping.findings.excluded == {"row-2": "identity", "row-5": "identity"}
    lines = (session.sealed / "excluded.jsonl").read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Item).id for line in lines] == ["row-2", "row-5"]
    assert not any(b"Claude" in file.read_bytes() for file in (session.path / "packets").iterdir())


def test_a_person_can_keep_them_all_or_one_or_leave_others_out(tmp_path: Path) -> None:
    items = named_items(8, (2, 5))
    kept = make_session(tmp_path / "a", items=items, identity="keep")
    assert kept.manifest.items == 8
    assert unseal(kept, "x").findings.flags() == {"row-2": ("identity",), "row-5": ("identity",)}
    one = make_session(tmp_path / "b", items=items, kept=("row-2",), excluded=("row-0",))
    assert one.manifest.excluded == {"chosen": 1, "identity": 1}
    with pytest.raises(UserError, match="every item was left out"):
        make_session(tmp_path / "c", items=named_items(2, (0, 1)))


def test_answers_cut_at_the_token_limit_are_flagged_not_left_out(tmp_path: Path) -> None:
    items = make_items(6)
    items[1].finish[REFERENCE] = "length"
    session = make_session(tmp_path, items=items)
    assert session.manifest.items == 6
    assert unseal(session, "x").findings.flags() == {"row-1": ("cut",)}


def test_style_that_tells_the_systems_apart_is_said_without_naming_a_side() -> None:
    items = make_items(30)
    for n, item in enumerate(items):
        item.outputs[REFERENCE] = f"word {n} " * 40
    found = inspect(items, SYSTEMS, Registration())
    (audit,) = found.guessability
    assert audit.level == "high"
    text = " ".join(found.sentences)
    assert "Raters will learn to recognise it" in text
    assert REFERENCE not in text and CANDIDATE not in text


def test_findings_are_part_of_what_the_seal_protects(tmp_path: Path) -> None:
    session = make_session(tmp_path, items=named_items(8, (2,)))
    file = session.sealed / "findings.json"
    file.write_bytes(file.read_bytes().replace(b"claude", b"nobody"))
    with pytest.raises(UserError, match="changed after it was sealed"):
        unseal(session, "try")


def draft(**changes: object) -> Draft:
    made = {
        "name": "waiting",
        "created": 1.0,
        "systems": SYSTEMS,
        "items": named_items(8, (2, 5)),
        "registration": Registration(raters=("ann",)),
        "special_tokens": ["[EOT]"],
    }
    return Draft(**{**made, **changes})  # type: ignore[arg-type]


def test_a_draft_waits_for_the_persons_choice_and_is_gone_once_sealed(tmp_path: Path) -> None:
    hold(tmp_path, draft())
    assert list_sessions(tmp_path) == []
    (waiting,) = list_drafts(tmp_path)
    assert waiting.findings().named == ["row-2", "row-5"]
    assert draft_file(tmp_path, "waiting").stat().st_mode & 0o077 == 0
    chosen = msgspec.structs.replace(waiting.registration, kept=("row-5",), question="Which?")
    session = seal_draft(tmp_path, "waiting", chosen)
    assert (session.manifest.items, session.question) == (7, "Which?")
    assert session.manifest.special_tokens == ["[EOT]"]
    assert list_drafts(tmp_path) == [] and not draft_file(tmp_path, "waiting").exists()


def test_a_draft_can_be_thrown_away_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    hold(tmp_path, draft())
    drop_draft(tmp_path, "waiting")
    drop_draft(tmp_path, "waiting")
    with pytest.raises(UserError, match="waits to be sealed"):
        seal_draft(tmp_path, "waiting")
    with pytest.raises(UserError, match="cannot be a file name"):
        hold(tmp_path, draft(name="../out"))
    draft_file(tmp_path, "waiting").write_text("{")
    with pytest.raises(UserError, match="does not read"):
        seal_draft(tmp_path, "waiting")
    assert list_drafts(tmp_path) == []
