"""The promises sample_data/README.md makes about its files. Needs no torch."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SAMPLE_DATA = Path(__file__).parents[2] / "sample_data"
DATASETS = SAMPLE_DATA / "datasets"
SCRIPTS = SAMPLE_DATA / "scripts"
MODEL = SAMPLE_DATA / "model"

CHAT_COUNTS = {
    "tickets.jsonl": 750,
    "tickets_heldout.jsonl": 150,
    "general.jsonl": 300,
    "general_check.jsonl": 117,
}
URGENCIES = {"low", "normal", "high", "critical"}
Row = dict[str, Any]


@pytest.fixture(scope="module")
def world() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import world as module
    finally:
        sys.path.remove(str(SCRIPTS))
        sys.modules.pop("world", None)
    return module


def read_rows(name: str) -> list[Row]:
    return [json.loads(line) for line in (DATASETS / name).read_bytes().splitlines()]


def user_texts(name: str) -> list[str]:
    return [
        turn["content"]
        for row in read_rows(name)
        for turn in row["messages"]
        if turn["role"] == "user"
    ]


def dirty_lines() -> list[bytes]:
    return (DATASETS / "tickets_dirty.jsonl").read_bytes().split(b"\n")


def read_faults() -> list[Row]:
    return json.loads((DATASETS / "tickets_dirty.faults.json").read_bytes())


def is_clean(line: bytes) -> bool:
    """Whether `line` is a plain row of the triage task in printable ASCII."""
    row = json.loads(line.decode("ascii"))
    system, user, assistant = row["messages"]
    answer = json.loads(assistant["content"])
    return (
        [system["role"], user["role"], assistant["role"]] == ["system", "user", "assistant"]
        and user["content"].isprintable()
        and set(answer) == {"urgency", "product"}
        and answer["urgency"] in URGENCIES
    )


# ---------------------------------------------------------------- clean sets


@pytest.mark.parametrize(("name", "count"), CHAT_COUNTS.items())
def test_chat_sets_hold_whole_chats_under_unique_ids(name: str, count: int) -> None:
    rows = read_rows(name)
    assert len({row["id"] for row in rows}) == len(rows) == count
    for row in rows:
        roles = [turn["role"] for turn in row["messages"]]
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert turns
        assert all(turn["content"].strip() for turn in row["messages"])


@pytest.mark.parametrize("name", ["tickets.jsonl", "tickets_heldout.jsonl"])
def test_every_ticket_is_answered_with_urgency_and_product(name: str) -> None:
    assert all(is_clean(line) for line in (DATASETS / name).read_bytes().splitlines())


@pytest.mark.parametrize("name", CHAT_COUNTS)
def test_no_user_text_comes_twice(name: str) -> None:
    texts = user_texts(name)
    assert len(set(texts)) == len(texts)


def test_sets_share_no_user_text() -> None:
    texts = [text for name in CHAT_COUNTS for text in user_texts(name)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", ["tickets.jsonl", "general.jsonl", "preferences.jsonl"])
def test_heldout_products_are_absent_from_what_is_trained_on(name: str, world: ModuleType) -> None:
    text = (DATASETS / name).read_text()
    assert len(world.HELDOUT_PRODUCTS) == 2
    assert not [product for product in world.HELDOUT_PRODUCTS if product in text]


@pytest.mark.parametrize("name", ["tickets.jsonl", "general.jsonl", "preferences.jsonl"])
def test_heldout_issues_are_absent_from_what_is_trained_on(name: str, world: ModuleType) -> None:
    text = (DATASETS / name).read_text().casefold()
    assert len(world.HELDOUT_ISSUES) == 10
    for issue in world.HELDOUT_ISSUES:
        for phrasing in issue.phrasings:
            for product in world.PRODUCTS:
                assert phrasing.format(p=product).casefold() not in text


def test_heldout_set_has_only_heldout_issues_and_products(world: ModuleType) -> None:
    for row in read_rows("tickets_heldout.jsonl"):
        text = row["messages"][1]["content"].casefold()
        product = json.loads(row["messages"][2]["content"])["product"]
        assert product in world.HELDOUT_PRODUCTS
        assert any(
            phrasing.format(p=product).casefold() in text
            for issue in world.HELDOUT_ISSUES
            for phrasing in issue.phrasings
        )


def test_checks_cover_every_exact_skill_equally(world: ModuleType) -> None:
    counts = Counter(row["skill"] for row in read_rows("general_check.jsonl"))
    assert counts == dict.fromkeys(world.EXACT_SKILLS, 9)


def test_only_rejected_replies_sign_off(world: ModuleType) -> None:
    rows = read_rows("preferences.jsonl")
    assert len(rows) == 60
    for row in rows:
        assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
        assert row["rejected"][0]["content"].endswith(world.SIGN_OFFS)
        assert not row["chosen"][0]["content"].endswith(world.SIGN_OFFS)


def test_remaking_gives_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPTS / "make_datasets.py", "--out", tmp_path]
    subprocess.run(command, check=True, timeout=60)
    remade = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert remade == {file.name: file.read_bytes() for file in DATASETS.iterdir()}


# ---------------------------------------------------------------- the dirty set


def parses(line: bytes) -> bool:
    try:
        json.loads(line.decode())
    except ValueError:
        return False
    return True


def says(*parts: str) -> Callable[[bytes], bool]:
    """Whether the parsed row holds any of `parts` in a text."""

    def check(line: bytes) -> bool:
        turns = json.loads(line)["messages"]
        return any(part in turn["content"] for turn in turns for part in parts)

    return check


def holds(*parts: bytes) -> Callable[[bytes], bool]:
    """Whether the line parses and holds any of `parts` as bytes."""
    return lambda line: parses(line) and any(part in line for part in parts)


def breaks_json(line: bytes) -> bool:
    return bool(line.strip()) and not parses(line) and line.decode() is not None


def answer_of(line: bytes) -> str:
    return json.loads(line)["messages"][2]["content"]


def roles_of(line: bytes) -> list[str]:
    return [turn["role"] for turn in json.loads(line)["messages"]]


def contents_of(line: bytes) -> list[Any]:
    return [turn["content"] for turn in json.loads(line)["messages"]]


def is_invalid_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False


def has_duplicate_key(line: bytes) -> bool:
    repeated: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> None:
        counts = Counter(key for key, _ in pairs)
        repeated.extend(key for key, count in counts.items() if count > 1)

    json.loads(line, object_pairs_hook=collect)
    return bool(repeated)


def lacks_messages(line: bytes) -> bool:
    return "messages" not in json.loads(line)


SIGNS: dict[str, Callable[[bytes], bool]] = {
    "malformed_trailing_comma": breaks_json,
    "malformed_cut_line": breaks_json,
    "malformed_single_quotes": breaks_json,
    "malformed_two_objects": breaks_json,
    "malformed_raw_control": breaks_json,
    "malformed_no_json": breaks_json,
    "invalid_utf8": is_invalid_utf8,
    "lone_surrogate": holds(rb"\ud83d "),
    "duplicate_keys": has_duplicate_key,
    "lone_carriage_return": holds(b"\r"),
    "crlf": lambda line: parses(line) and line.endswith(b"\r"),
    "blank_line": lambda line: not line.strip(),
    "missing_messages": lacks_messages,
    "messages_not_a_list": lambda line: (
        not isinstance((json.loads(line)["messages"] or [0])[0], dict)
    ),
    "row_not_an_object": lambda line: not isinstance(json.loads(line), dict),
    "unknown_role": lambda line: not {"system", "user", "assistant"}.issuperset(roles_of(line)),
    "wrong_order": lambda line: roles_of(line) != ["system", "user", "assistant"],
    "missing_assistant": lambda line: "assistant" not in roles_of(line),
    "empty_user_turn": lambda line: not contents_of(line)[1].strip("\u200b\u00a0 \t"),
    "content_null": lambda line: None in contents_of(line),
    "content_number": lambda line: any(isinstance(c, int | float) for c in contents_of(line)),
    "missing_content": lambda line: any("content" not in t for t in json.loads(line)["messages"]),
    "exact_duplicate": parses,
    "reserialized_duplicate": parses,
    "conflicting_answers": parses,
    "leak": parses,
    "mojibake": says("â€", "Ã©", "â‚¬"),
    "control_characters": says("\x1b", "\x07", "\x00", "\x9b"),
    "bidi_override": says("\u202e", "\u2067"),
    "zero_width": says("\u200b", "\u2060", "\u00ad"),
    "osc52": says("\x1b]52;c;"),
    "rich_markup": says("[/b]", "[@click=app.quit]", "[bold red]", "[link="),
    "email_address": says("@"),
    "phone_number": says("+1 202 555", "(202) 555", "+44 20"),
    "aws_key": says("AKIA"),
    "private_key": says("-----BEGIN "),
    "card_number": says("4111"),
    "template_token": says("<|im_end|>", "<|endoftext|>"),
    "line_separator": holds("\u2028".encode(), "\u2029".encode(), "\x85".encode()),
    "answer_with_prose": lambda line: '"urgency"' in answer_of(line) and not parses_text(line),
    "answer_not_json": lambda line: not parses_text(line),
    "answer_other_fields": lambda line: not is_clean(line),
    "refusal": says("I cannot", "As an AI"),
    "placeholder": lambda line: answer_of(line) in {"N/A", "TODO", "-"},
    "empty_answer": lambda line: not answer_of(line).strip(),
    "too_long": lambda line: len(line) > 3000,
    "other_language": lambda line: not json.loads(line)["messages"][1]["content"].isascii(),
}


def parses_text(line: bytes) -> bool:
    return parses(answer_of(line).encode())


def test_every_fault_is_where_the_list_says() -> None:
    data = (DATASETS / "tickets_dirty.jsonl").read_bytes()
    for fault in read_faults():
        offset = fault["offset"]
        assert data[:offset].count(b"\n") == fault["line"] - 1
        assert offset == 0 or data[offset - 1 : offset] == b"\n"


def test_every_fault_shows_its_kind() -> None:
    lines = dirty_lines()
    for fault in read_faults():
        assert SIGNS[fault["kind"]](lines[fault["line"] - 1]), fault


def test_every_kind_of_fault_is_planted() -> None:
    counts = Counter(fault["kind"] for fault in read_faults())
    assert set(counts) == set(SIGNS)
    assert [kind for kind, count in counts.items() if count < 2] == ["lone_surrogate"]


def test_lines_off_the_list_are_clean_and_come_once() -> None:
    listed = {fault["line"] for fault in read_faults()}
    clean = [line for n, line in enumerate(dirty_lines(), start=1) if n not in listed]
    assert len(clean) > 250
    assert all(is_clean(line) for line in clean)
    assert len({json.loads(line)["messages"][1]["content"] for line in clean}) == len(clean)


def test_repeats_point_back_to_their_original() -> None:
    lines = dirty_lines()
    for fault in read_faults():
        if "original_line" not in fault:
            continue
        assert fault["original_line"] < fault["line"]
        line, original = lines[fault["line"] - 1], lines[fault["original_line"] - 1]
        row, first = json.loads(line), json.loads(original)
        match fault["kind"]:
            case "exact_duplicate":
                assert line == original
            case "reserialized_duplicate":
                assert line != original
                assert row == first
            case "conflicting_answers":
                assert row["messages"][:2] == first["messages"][:2]
                assert row["messages"][2] != first["messages"][2]


def test_leaked_lines_are_the_heldout_rows_verbatim() -> None:
    heldout = set((DATASETS / "tickets_heldout.jsonl").read_bytes().splitlines())
    lines = dirty_lines()
    leaks = {fault["line"] for fault in read_faults() if fault["kind"] == "leak"}
    assert leaks == {n for n, line in enumerate(lines, start=1) if line in heldout}
    assert len(leaks) == 6


# ---------------------------------------------------------------- the model's files


def test_model_weights_are_bf16_and_whole() -> None:
    data = (MODEL / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tensors = json.loads(data[8 : 8 + size])
    tensors.pop("__metadata__", None)
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}
    assert max(tensor["data_offsets"][1] for tensor in tensors.values()) == 3_451_136 * 2
    assert len(data) == 8 + size + 3_451_136 * 2


def test_config_and_tokenizer_agree_on_special_tokens() -> None:
    tokens = json.loads((MODEL / "tokenizer.json").read_bytes())
    ids = {token["content"]: token["id"] for token in tokens["added_tokens"]}
    assert ids == {"<|pad|>": 0, "<|endoftext|>": 1, "<|im_start|>": 2, "<|im_end|>": 3}
    for name in ("config.json", "generation_config.json"):
        config = json.loads((MODEL / name).read_bytes())
        assert (config["eos_token_id"], config["pad_token_id"]) == (3, 0)
    settings = json.loads((MODEL / "tokenizer_config.json").read_bytes())
    assert (settings["eos_token"], settings["pad_token"]) == ("<|im_end|>", "<|pad|>")
    assert (
        len(tokens["model"]["vocab"])
        <= json.loads((MODEL / "config.json").read_bytes())["vocab_size"]
    )


def test_chat_template_marks_the_assistant_turns() -> None:
    template = (MODEL / "chat_template.jinja").read_text()
    marked = template.partition("{%- generation -%}")[2].partition("{%- endgeneration -%}")[0]
    assert "message['content'] + '<|im_end|>'" in marked
