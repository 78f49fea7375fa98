"""Rows under a model's tokenizer and template: counts are exact where they matter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from whole_workshop import WORDS, chat, sentence, write

from finetui import workspace
from finetui.data.checks.look import read_example
from finetui.data.checks.model import CheckOptions, Finding
from finetui.data.checks.run import check_files
from finetui.data.checks.window import TooLong, WordTokens
from finetui.data.formats.source import open_source
from finetui.data.records import Shape
from finetui.data.tokens import load_chat_tokenizer

MODEL = workspace.sample_data() / "model"
CHECKS = frozenset({"too-long", "nothing-trained", "end-not-trained"})


def found(path: Path, rows: list[Any], model: Path = MODEL, limit: int = 128) -> list[Finding]:
    file = write(path / "rows.jsonl", rows)
    options = CheckOptions(model_dir=model, max_length=limit, only=CHECKS)
    return list(check_files([file], options))


def other_template(path: Path, template: str) -> Path:
    """The sample model's tokenizer under another chat template."""
    folder = path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, folder / name)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_exactly_the_rows_over_the_window_are_told_with_their_exact_counts(tmp_path: Path) -> None:
    texts = [sentence(n, length=4 + n) for n in range(120)]
    texts += ["你好世界" * n for n in range(40)] + ["a1b2c3" * n for n in range(40)]
    rows = [chat(text, "Yes.\n\nIndeed.") for text in texts]
    tokenizer = load_chat_tokenizer(MODEL)
    counts = [len(tokenizer.encode(row["messages"]).ids) for row in rows]
    told = {f.line: f.message for f in found(tmp_path, rows) if f.check == "too-long"}
    assert sorted(told) == [n + 1 for n, count in enumerate(counts) if count > 128]
    for line, message in told.items():
        assert message.startswith(f"{counts[line - 1]} tokens of at most 128")


def test_words_are_counted_as_the_tokenizer_counts_them_or_a_little_over() -> None:
    tokenizer = load_chat_tokenizer(MODEL)
    words = WordTokens(tokenizer)
    for text in ("How are you? 1,000 times.\n\n- one\n- two", "Привет, мир", "x = {'a': 1}  # y",
                 *(" ".join(WORDS[:n]) for n in range(1, 9))):  # fmt: skip
        exact = len(tokenizer.tokenizer.encode(" " + text, add_special_tokens=False).ids)
        assert exact <= words.count(text) <= exact + 2


def test_a_prompt_that_fills_the_window_is_said_to_leave_no_answer(tmp_path: Path) -> None:
    (finding,) = found(tmp_path, [chat(sentence(1, length=300), "Yes.")])
    assert finding.check == "too-long" and "the prompt alone fills the window" in finding.message
    (finding,) = found(tmp_path, [chat("Why?", sentence(1, length=300))])
    assert "would be lost" in finding.message


def test_a_row_that_the_template_refuses_is_told_however_short(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rows = [chat(f"q{n}", "a") for n in range(20)]
    rows[13]["messages"].insert(0, {"role": "system", "content": "s"})
    (finding,) = found(tmp_path, rows, other_template(tmp_path, template))
    assert (finding.check, finding.line) == ("nothing-trained", 14)
    assert "no system" in finding.message


def test_a_template_that_leaves_answers_out_trains_nothing(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'user' %}{{ m.content }}"
        "{% else %}{% generation %}{% if 'x' in m.content %}{{ m.content }}<|im_end|>{% endif %}"
        "{% endgeneration %}{% endif %}{% endfor %}"
    )
    rows = [chat("q", "x"), chat("q", ""), chat("q", "x")]
    rows[1]["messages"][1]["content"] = " "
    told = found(tmp_path, rows, other_template(tmp_path, template))
    assert ("nothing-trained", 2) in [(f.check, f.line) for f in told]
    assert 1 not in [f.line for f in told if f.check == "nothing-trained"]


def test_a_template_without_an_end_is_told_once_a_file(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rows = [chat(f"q{n}", "a") for n in range(5)]
    (finding,) = found(tmp_path, rows, other_template(tmp_path, template))
    assert (finding.check, finding.line) == ("end-not-trained", 1)
    assert "not trained on" in finding.message
    assert found(tmp_path, rows) == []


def test_plain_text_is_counted_as_it_is_trained_on(tmp_path: Path) -> None:
    text = sentence(2, length=70)
    tokenizer = load_chat_tokenizer(MODEL)
    count = len(tokenizer.encode_text(text).ids)
    assert found(tmp_path, [{"text": text}], limit=count) == []
    (finding,) = found(tmp_path, [{"text": text}], limit=count - 1)
    assert finding.message.startswith(f"{count} tokens")


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_without_a_model_nothing_is_judged(tmp_path: Path, check: str) -> None:
    file = write(tmp_path / "rows.jsonl", [chat(sentence(1, length=3000), "a")])
    assert list(check_files([file], CheckOptions(only=frozenset({check})))) == []


def test_tools_count(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "find", "description": sentence(3)}}]
    template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>"
        "{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    rows = [chat(f"q{n}", "a") for n in range(8)] + [chat("q", "a", tools=tools)]
    rows.append(chat("q", "a", tools=json.dumps(tools)))
    told = found(tmp_path, rows, other_template(tmp_path, template), limit=40)
    assert [(f.check, f.line) for f in told] == [("too-long", 9), ("too-long", 10)]


def test_what_clears_a_plain_row_never_hides_a_finding(tmp_path: Path) -> None:
    rows = [chat(sentence(n, length=4 + 2 * n), sentence(n + 1)) for n in range(90)]
    rows[50]["tools"] = [{"name": sentence(4, length=300)}]
    file = write(tmp_path / "rows.jsonl", rows)
    options = CheckOptions(model_dir=MODEL, max_length=256)
    told = {f.line - 1 for f in found(tmp_path, rows, limit=256)}
    state = TooLong(options)
    with open_source(file) as source:
        state.begin(source, True)
        cleared = set()
        for raw in source.iterate():
            list(state.see(read_example(raw, source.decode, Shape.CHAT)))
            turns = rows[raw.row]["messages"]
            plain = tuple(t["role"] for t in turns), [t["content"] for t in turns]
            if state.clears(raw.row, raw.raw, *plain):
                cleared.add(raw.row)
    assert told and len(cleared) > 10 and not cleared & told and 50 not in cleared
