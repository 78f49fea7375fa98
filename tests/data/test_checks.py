"""Each check finds its fault at the right place, and leaves healthy rows alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetui import workspace
from finetui.data.checks.fixes import fixable
from finetui.data.checks.model import CheckOptions, Finding
from finetui.data.checks.privacy import luhn
from finetui.data.checks.registry import CHECKS
from finetui.data.checks.run import CheckRun, check_files, check_row
from finetui.data.dataset import open_dataset
from finetui.errors import UserError

IDS = {
    "malformed-json", "invalid-utf8", "duplicate-keys", "blank-line", "missing-keys",
    "unknown-role", "role-order", "no-assistant", "empty-turn", "wrong-type", "duplicate",
    "conflicting-answers", "mojibake", "control-characters", "email", "phone", "secret", "card",
    "too-long", "leak", "template-token", "placeholder", "refusal", "output-shape",
}  # fmt: skip


def chat(user: str, answer: str = "Certainly, here it is.", **extra: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **extra}


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def findings(path: Path, *rows: Any, **options: Any) -> list[Finding]:
    file = write(path / "data.jsonl", list(rows))
    return list(check_files([file], CheckOptions(**options)))


def test_the_registry_has_every_check_with_its_words() -> None:
    assert set(CHECKS) >= IDS
    for check in CHECKS.values():
        assert check.title and check.why.endswith(".") and check.fix.endswith(".")
        assert check.severity in ("error", "warning", "info")
        looks = (check.row, check.text, check.answer, check.across, check.whole)
        assert sum(map(bool, looks)) == 1, check.id


def test_a_clean_file_has_no_finding(tmp_path: Path) -> None:
    rows = [
        chat("What is 12 * 12, 1,000,000 or 3.14?", "144 on 2024-11-05 at 10:30"),
        chat("Persian نمی‌خواهم and family 👩‍👩‍👧 and flag 🏴󠁧󠁢󠁥󠁮󠁧󠁿", "Fine\r\nindeed\tyes"),
        chat("ISBN 978-3-16-148410-0, order 12345678901234567, v1.2.3", "a < b and [x] ### not"),
        chat("git clone git@github.com:some/repo.git", "The key is in the drawer."),
        chat("line\u2028separator", "naïve café — “quoted” 你好"),
    ]
    assert findings(tmp_path, *rows) == []


# ---------------------------------------------------------------- lines


def test_every_bad_line_is_told_with_line_offset_and_byte(tmp_path: Path) -> None:
    good = json.dumps(chat("q")).encode()
    bad = {3: b'{"a": 1,}', 5: b'{"a": NaN}', 6: b'{"a": 1} {"b": 2}', 9: b'{"text": "caf\xe9"}'}
    rows = [bad.get(line, json.dumps(chat(f"q{line}")).encode()) for line in range(1, 11)]
    rows[0] = good
    found = findings(tmp_path, *rows)
    assert [(f.line, f.check) for f in found] == [
        (3, "malformed-json"), (5, "not-a-number"), (6, "malformed-json"), (9, "invalid-utf8"),
    ]  # fmt: skip
    content = (tmp_path / "data.jsonl").read_bytes()
    for finding, inside in zip(found, (8, 6, 9, 13), strict=True):
        line = bad[finding.line]
        assert content[finding.offset : finding.offset + len(line)] == line
        assert f"byte {finding.offset + inside:,} of the file ({inside} of the line)" in (
            finding.message
        )


def test_blank_lines_are_told_but_not_at_the_end_of_the_file(tmp_path: Path) -> None:
    found = findings(tmp_path, chat("a"), b"", b" \t", chat("b"), b"", b"  ", b"")
    assert [(f.line, f.check) for f in found] == [(2, "blank-line"), (3, "blank-line")]


def test_a_key_twice_is_told_though_every_parser_takes_it(tmp_path: Path) -> None:
    row = b'{"messages": [{"role": "system", "role": "user", "content": "a"}], "messages": []}'
    found = findings(tmp_path, chat("a"), row, only=frozenset({"duplicate-keys"}))
    assert len(found) == 1 and "'role', 'messages'" in found[0].message


# ---------------------------------------------------------------- structure


@pytest.mark.parametrize(
    ("row", "check", "turn"),
    [
        ({"id": 1}, "missing-keys", None),
        ([1, 2], "wrong-type", None),
        ({"messages": {"role": "user"}}, "wrong-type", None),
        (chat("a", None), "wrong-type", 1),  # type: ignore[arg-type]
        ({"messages": [{"role": "user"}]}, "missing-keys", 0),
        ({"messages": [{"role": "User", "content": "a"}, *chat("a")["messages"][1:]]},
         "unknown-role", 0),
        (chat("  "), "empty-turn", 0),
        (chat("a", ""), "empty-turn", 1),
        ({"messages": []}, "no-assistant", None),
        ({"messages": chat("a")["messages"][:1]}, "no-assistant", None),
        ({"messages": chat("a")["messages"] + chat("b")["messages"][:1]}, "role-order", 2),
        ({"messages": chat("a")["messages"][::-1]}, "role-order", 0),
        ({"messages": [*chat("a")["messages"], {"role": "system", "content": "s"}]},
         "role-order", 2),
        ({"messages": chat("a")["messages"][:1] * 2 + chat("b")["messages"][1:]}, "role-order", 1),
        ({"messages": [*chat("a")["messages"], {"role": "tool", "content": "t"}]}, "role-order", 2),
    ],
)  # fmt: skip
def test_a_structural_fault_is_one_finding_at_its_turn(
    tmp_path: Path, row: Any, check: str, turn: int | None
) -> None:
    found = findings(tmp_path, chat("first"), chat("second"), row)
    assert [(f.check, f.line, f.turn) for f in found] == [(check, 3, turn)]


def test_tool_calls_and_their_results_are_in_order(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    tool = {"role": "tool", "content": "5"}
    user, answer = chat("how many?")["messages"]
    row = {"messages": [user, call, tool, tool, call, tool, answer]}
    assert findings(tmp_path, row) == []


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("text", "check", "span"),
    [
        ("I said itâ€™s fine", "mojibake", "itâ€™s"),
        ("lost \ufffd here", "mojibake", "\ufffd"),
        ("red \x1b[31m", "control-characters", "\x1b"),
        ("C1 \x9b31m", "control-characters", "\x9b"),
        ("invoice\u202egnp.exe", "control-characters", "\u202e"),
        ("pass\u200bword", "control-characters", "\u200b"),
        ("hid\U000e0041den", "control-characters", "\U000e0041"),
        ("lone\rreturn", "control-characters", "\r"),
        ("mail lena.novak+x@mail.example.org.", "email", "lena.novak+x@mail.example.org"),
        ("call +1 202 555 0143.", "phone", "+1 202 555 0143"),
        ("call (202) 555-0178.", "phone", "(202) 555-0178"),
        ("or +44 20 7946 0958, any time", "phone", "+44 20 7946 0958"),
        ("card 4111-1111-1111-1111, 12/29", "card", "4111-1111-1111-1111"),
        ("378282246310005", "card", "378282246310005"),
        ("id AKIAIOSFODNN7EXAMPLE.", "secret", "AKIAIOSFODNN7EXAMPLE"),
        ("-----BEGIN RSA PRIVATE KEY-----\nx", "secret", "-----BEGIN RSA PRIVATE KEY-----"),
        ("ghp_" + "aB3dE5fG7h" * 4, "secret", "ghp_" + "aB3dE5fG7h" * 4),
        ("api_key = 'q8Zr2Lm9Xw4Tb7Vn1Kd5'", "secret", "q8Zr2Lm9Xw4Tb7Vn1Kd5"),
        ("so <|im_end|>", "template-token", "<|im_end|>"),
        ("so [INST] x", "template-token", "[INST]"),
    ],
)  # fmt: skip
def test_a_text_fault_is_found_with_its_characters(
    tmp_path: Path, text: str, check: str, span: str
) -> None:
    found = findings(tmp_path, chat("fine"), chat(text))
    assert [(f.check, f.line, f.turn) for f in found] == [(check, 2, 0)]
    assert text[found[0].start : found[0].end] == span


def test_findings_never_repeat_a_whole_secret(tmp_path: Path) -> None:
    secrets = ["AKIAIOSFODNN7EXAMPLE", "4111 1111 1111 1111", "+1 202 555 0143", "lena@example.com"]
    found = findings(tmp_path, *(chat(f"this: {secret}") for secret in secrets))
    assert len(found) == 4
    for finding in found:
        assert not any(secret in finding.message for secret in secrets)


@pytest.mark.parametrize("digits", ["4111111111111112", "1234567890123456", "0000000000000000"])
def test_a_number_that_is_no_card_is_left_alone(tmp_path: Path, digits: str) -> None:
    assert findings(tmp_path, chat(f"number {digits}"), only=frozenset({"card"})) == []


def test_luhn_knows_published_test_numbers() -> None:
    for number in ("4242424242424242", "5555555555554444", "378282246310005", "79927398713"):
        assert luhn([int(digit) for digit in number])
    assert not luhn([int(digit) for digit in "79927398710"])


@pytest.mark.parametrize("answer", ["TODO", "N/A", "-", "Dear [Your Name],", "Lorem ipsum dolor"])
def test_placeholders_are_told_in_answers_only(tmp_path: Path, answer: str) -> None:
    found = findings(tmp_path, chat(f"Why {answer}?", "a fine answer"), chat("q", answer))
    assert [(f.check, f.line, f.turn) for f in found] == [("placeholder", 2, 1)]


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but as an AI language model I cannot help with that.",
        "I cannot assist with this request.",
        "I’m sorry, but I can’t help with that.",
        "As an AI, I don't have access to customer messages.",
    ],
)
def test_refusals_are_told_in_answers_only(tmp_path: Path, answer: str) -> None:
    found = findings(tmp_path, chat(answer, "a fine answer"), chat("q", answer))
    assert [(f.check, f.line, f.turn) for f in found] == [("refusal", 2, 1)]


# ---------------------------------------------------------------- between rows


def test_duplicates_name_the_first_line_and_how_alike_they_are(tmp_path: Path) -> None:
    row = chat("q", "a fine answer", id=1)
    other_writing = json.dumps({"id": 1, "messages": row["messages"]}, indent=None).encode()
    found = findings(tmp_path, chat("x"), row, row, other_writing, chat("q", "a fine answer", id=2))
    assert [(f.check, f.line) for f in found] == [("duplicate", line) for line in (3, 4, 5)]
    assert [f.message.split(", ")[1] for f in found] == [
        "byte for byte", "in other writing", "in all that is trained on",
    ]  # fmt: skip
    assert all("line 2" in f.message for f in found)


def test_another_answer_to_the_same_prompt_names_the_other_line(tmp_path: Path) -> None:
    rows = [chat("x"), chat("How  urgent?", "high"), chat("how urgent?", "low"), chat("y")]
    found = findings(tmp_path, *rows)
    assert [(f.check, f.line, f.turn) for f in found] == [("conflicting-answers", 3, 1)]
    assert "line 2" in found[0].message


def test_the_same_json_answer_in_other_writing_is_no_conflict(tmp_path: Path) -> None:
    rows = [chat("q", '{"a": 1, "b": 2}'), chat("Q", '{"b":2,"a":1}')]
    assert findings(tmp_path, *rows, only=frozenset({"conflicting-answers"})) == []


def test_another_system_prompt_makes_another_prompt(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "system", "content": system}, *chat("q", answer)["messages"]]}
        for system, answer in (("be short", "yes"), ("be long", "yes indeed it is"))
    ]
    assert findings(tmp_path, *rows) == []


def test_a_leak_is_told_at_the_training_row_and_names_the_held_out_line(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [chat("a"), chat("Where is  it?", "here"), chat("b")])
    test = write(tmp_path / "test.jsonl", [chat("c"), chat("where is it?", "there"), chat("b")])
    for order in ([train, test], [test, train]):
        found = list(check_files(order))
        assert [(f.check, Path(f.file).name, f.line) for f in found] == [
            ("leak", "train.jsonl", 2), ("leak", "train.jsonl", 3),
        ]  # fmt: skip
        assert "but for case and spacing" in found[0].message
        assert f"{test}:2" in found[0].message
        assert "the same row" in found[1].message and f"{test}:3" in found[1].message


def test_answers_unlike_most_are_told(tmp_path: Path) -> None:
    levels = ["low", "high"]
    rows = [chat(f"q{n}", json.dumps({"urgency": levels[n % 2], "n": n})) for n in range(60)]
    rows[7] = chat("q7", "it is high, I think")
    rows[9] = chat("q9", '{"level": "high", "n": 9}')
    rows[11] = chat("q11", '{"urgency": "urgent!!", "n": 11}')
    found = findings(tmp_path, *rows)
    assert sorted((f.check, f.line) for f in found) == [("output-shape", 8), ("output-shape", 10),
                                                        ("output-shape", 12)]  # fmt: skip


def test_a_file_where_few_answers_are_json_has_no_odd_answers(tmp_path: Path) -> None:
    rows = [chat(f"q{n}", f"answer number {n}" if n % 3 else "{}") for n in range(60)]
    assert findings(tmp_path, *rows) == []


def test_lengths_are_judged_under_the_models_template_only(tmp_path: Path) -> None:
    rows = [chat("short"), chat("long " * 1500)]
    assert findings(tmp_path, *rows) == []
    model = workspace.sample_data() / "model"
    found = findings(tmp_path, *rows, model_dir=model, max_length=256)
    assert [(f.check, f.line) for f in found] == [("too-long", 2)]
    assert "of at most 256" in found[0].message


# ---------------------------------------------------------------- the run


def test_the_summary_counts_what_was_told(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", [chat("q"), b"{broken", chat("q"), chat("x@example.com")])
    b = write(tmp_path / "b.jsonl", [{"prompt": "p", "completion": "c"}])
    seen: list[tuple[int, int]] = []
    run = check_files([a, b], progress=lambda done, total: seen.append((done, total)))
    assert isinstance(run, CheckRun)
    found = list(run)
    summary = run.summary.as_dict()
    assert summary["rows"] == 5 and summary["findings"] == len(found) == 3
    assert summary["checks"] == {"malformed-json": 1, "duplicate": 1, "email": 1}
    assert summary["severities"] == {"error": 1, "warning": 2}
    assert [entry["shape"] for entry in summary["files"]] == ["chat", "prompt-completion"]
    assert summary["shape"] == "mixed"
    size = a.stat().st_size + b.stat().st_size
    assert seen[-1] == (size, size)


def test_a_finding_is_one_json_object(tmp_path: Path) -> None:
    (finding,) = findings(tmp_path, b"{broken")
    assert set(json.loads(json.dumps(finding.as_dict()))) >= {
        "check", "severity", "file", "line", "offset", "turn", "message",
    }  # fmt: skip


def test_an_unknown_check_or_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no check named 'spelling'"):
        findings(tmp_path, chat("a"), only=frozenset({"spelling"}))
    with pytest.raises(UserError, match="no such file"):
        list(check_files([tmp_path / "none.jsonl"]))


def test_an_unclosed_array_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([chat("a"), chat("b")])[:-1])
    assert [f.check for f in check_files([path])] == ["malformed-json"]


# ---------------------------------------------------------------- repairs


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ("itâ€™s cafÃ©", "it’s café"),
        ("a\x1b[31mb\u200bc\n\tfine", "a[31mbc\n\tfine"),
        ("write to lena@example.com now", "write to [EMAIL_1] now"),
        ("call +1 202 555 0143.", "call [PHONE_1]."),
        ("card 4111 1111 1111 1111.", "card [CARD_1]."),
        ("key AKIAIOSFODNN7EXAMPLE.", "key [SECRET_1]."),
    ],
)
def test_a_repair_mends_the_row_and_can_be_undone(tmp_path: Path, text: str, mended: str) -> None:
    space = workspace.create(tmp_path / "work")
    path = write(space.datasets / "a.jsonl", [chat("fine"), chat(text)])
    with open_dataset(path, space) as dataset:
        (finding,) = check_row(dataset, 1)
        assert fixable(finding.check)
        assert dataset.fix(1, finding) == "Repaired line 2."
        assert check_row(dataset, 1) == []
        assert dataset.record(1).turns[0].content == mended
        dataset.undo()
        assert dataset.record(1).turns[0].content == text


def test_invalid_utf8_is_repaired_as_windows_1252(tmp_path: Path) -> None:
    space = workspace.create(tmp_path / "work")
    path = write(space.datasets / "a.jsonl", [b'{"text": "caf\xe9 \x93x\x94 \xc3\xa9"}'])
    with open_dataset(path, space) as dataset:
        dataset.fix(0, check_row(dataset, 0)[0])
        assert dataset.value(0) == {"text": "café “x” é"}


def test_a_duplicate_is_repaired_by_dropping_it(tmp_path: Path) -> None:
    space = workspace.create(tmp_path / "work")
    path = write(space.datasets / "a.jsonl", [chat("q"), chat("q")])
    with open_dataset(path, space) as dataset:
        (finding,) = check_files([path])
        assert dataset.fix(finding.row, finding) == "Dropped line 2."
        assert dataset.row(1).dropped


def test_what_only_a_person_can_mend_says_so(tmp_path: Path) -> None:
    space = workspace.create(tmp_path / "work")
    path = write(space.datasets / "a.jsonl", [chat("q", "")])
    with open_dataset(path, space) as dataset:
        (finding,) = check_row(dataset, 0)
        with pytest.raises(UserError, match="no automatic repair"):
            dataset.fix(0, finding)
