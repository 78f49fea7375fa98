"""Near-duplicates: planted copies are found in every script, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from near_cases import Kept, chat, lines_of, long_rows, replaced, text, whole_set, words, write

from finetui.data.alike import near_clusters, near_groups
from finetui.data.dataset import open_dataset
from finetui.data.formats.source import open_source
from finetui.data.whole import near
from finetui.data.whole.clusters import stars
from finetui.data.whole.pairs import Search
from finetui.data.whole.rows import Rows, SourceRows, whole_text
from finetui.data.whole.windows import cut, fold

SCRIPTS = ("latin", "cyrillic", "han", "kana")
SAMPLES = Path(__file__).parents[2] / "sample_data" / "datasets"


def search(path: Path, threshold: float = 0.5) -> near.Near:
    source = open_source(path)
    return near.search(SourceRows(source, source.shape.shape), threshold)


def rows_of(found: near.Near) -> list[list[int]]:
    return [star.numbers for star in found.stars]


def windows(said: str) -> set[int]:
    return {value for batch in cut([(0, said)]) for value in batch.hashes.tolist()}


def alike(one: str, other: str) -> float:
    left, right = windows(one), windows(other)
    return len(left & right) / len(left | right)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello,   World again!", "hello world\nAGAIN"),
        ("Привет, МИР и снова", "привет мир И СНОВА"),
        ("今天天气很好，我们去公园。", "今天天气很好 我们去公园"),
        ("Ｆｕｌｌ width １２３ text", "full WIDTH 123 text"),
        ("It’s “fine” — really", 'it s "fine" really'),
    ],
)
def test_case_width_punctuation_and_spacing_make_no_difference(one: str, other: str) -> None:
    assert windows(one) == windows(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 4?", "What is 3 - 4?"),
        ("What do you call a pear?", "What do you call a bear?"),
        ("x", "y"),
        ("把大象放进冰箱", "把大象放进冰柜"),
    ],
)
def test_the_last_letters_and_signs_of_arithmetic_count(one: str, other: str) -> None:
    assert windows(one) != windows(other)


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_changed_word_costs_about_as_much_in_any_script(script: str) -> None:
    rng = Random(3)
    drawn = words(rng, 100 if script in ("latin", "cyrillic") else 300, script)
    edited = replaced(rng, drawn, 0.05, script)
    assert 0.75 <= alike(text(drawn, script), text(edited, script)) <= 0.95


def test_windows_do_not_depend_on_the_texts_beside_them() -> None:
    rng = Random(5)
    said = [
        text(words(rng, rng.randint(0, 60), script), script)
        for script in SCRIPTS
        for _ in range(40)
    ]
    together = {
        number: set(batch.hashes[batch.starts[place] : batch.starts[place + 1]].tolist())
        for batch in cut(enumerate(said))
        for place, number in enumerate(batch.numbers.tolist())
    }
    assert together == {number: windows(each) for number, each in enumerate(said)}


def test_folding_leaves_no_byte_that_ends_a_text() -> None:
    assert b"\n" not in fold("a\nb\r\nc\u2028d\x00e\ud800") + fold("é\n\n世\n界")


# ---------------------------------------------------------------- recall and false pairs


@pytest.mark.parametrize("script", SCRIPTS)
def test_planted_copies_are_found_in_every_script_and_nothing_else(
    script: str, tmp_path: Path
) -> None:
    rng = Random(11)
    lines, planted = [], []
    for number in range(400):
        ask, reply = words(rng, 60, script), words(rng, 60, script)
        lines.append(chat(text(ask, script), text(reply, script), "You are a helpful assistant."))
        if number % 8 == 0:
            planted.append([len(lines) - 1, len(lines)])
            ask, reply = replaced(rng, ask, 0.1, script), replaced(rng, reply, 0.1, script)
            lines.append(chat(text(ask, script), text(reply, script), "Another system prompt."))
    assert rows_of(search(write(tmp_path / "data.jsonl", lines))) == planted


def test_verified_similarity_is_the_jaccard_similarity_of_all_windows(tmp_path: Path) -> None:
    rng = Random(2)
    drawn = words(rng, 200)
    texts = [text(drawn), text(replaced(rng, drawn, 0.2))]
    path = write(tmp_path / "data.jsonl", [chat(each, "the same answer") for each in texts])
    (star,) = search(path).stars
    both = [f"{each}\nthe same answer" for each in texts]
    assert star.similarity == pytest.approx(alike(*both))


def test_a_crowd_of_near_copies_is_one_cluster(tmp_path: Path) -> None:
    rng = Random(7)
    drawn = words(rng, 150)
    lines = [chat(text(words(rng, 100)), text(words(rng, 50))) for _ in range(100)]
    lines += [chat(text(replaced(rng, drawn, 0.02)), "yes it is") for _ in range(120)]
    assert rows_of(search(write(tmp_path / "data.jsonl", lines))) == [list(range(100, 220))]


def test_every_member_of_a_cluster_is_near_its_centre_and_chains_are_cut() -> None:
    asked: list[tuple[int, list[int]]] = []

    def judge(centre: int, others: list[int]) -> list[tuple[int, int, float]]:
        asked.append((centre, others))
        return []

    chain = [(1, 2, 0.6), (2, 3, 0.6), (3, 4, 0.6), (4, 5, 0.6)]
    found = stars(chain, judge)
    assert [(star.centre, star.numbers) for star in found] == [(2, [1, 2, 3]), (4, [4, 5])]
    assert asked[0] == (2, [4, 5])


def test_a_threshold_leaves_out_what_is_less_alike(tmp_path: Path) -> None:
    rng = Random(4)
    drawn = words(rng, 200)
    lines = [chat(text(drawn), "an answer"), chat(text(replaced(rng, drawn, 0.2)), "an answer")]
    path = write(tmp_path / "data.jsonl", lines)
    assert rows_of(search(path, 0.5)) == [[0, 1]]
    assert rows_of(search(path, 0.9)) == []


# ---------------------------------------------------------------- false alarms


def test_a_shared_template_makes_no_near_duplicates(tmp_path: Path) -> None:
    rng = Random(9)
    template = text(words(rng, 60))
    lines = [chat(f"{template}: {text(words(rng, 12))}", text(words(rng, 8))) for _ in range(300)]
    assert search(write(tmp_path / "data.jsonl", lines)).stars == []


def test_questions_about_one_passage_are_no_near_duplicates(tmp_path: Path) -> None:
    rng = Random(9)
    lines = []
    for _ in range(20):
        passage = text(words(rng, 200))
        asked = [text(words(rng, 6)) for _ in range(4)]
        lines += [
            chat(f"{passage} {each}?", each.split()[0] + "x" * k) for k, each in enumerate(asked)
        ]
    assert search(write(tmp_path / "data.jsonl", lines)).stars == []


def test_the_templated_sample_tickets_are_hardly_flagged() -> None:
    found = search(SAMPLES / "tickets.jsonl")
    assert len(found.stars) <= 10 and found.conflicts == []
    assert max(len(star.numbers) for star in found.stars) == 2


def test_short_rows_that_share_a_few_words_are_not_near(tmp_path: Path) -> None:
    objects = sorted(set(words(Random(1), 80)))
    lines = [chat(f"Make this polite: send the {word}.", f"Please send {word}") for word in objects]
    assert search(write(tmp_path / "data.jsonl", lines)).stars == []


# ---------------------------------------------------------------- the checks


def test_the_check_names_the_line_and_keeps_the_clusters(tmp_path: Path) -> None:
    rng = Random(6)
    drawn = words(rng, 80)
    row = chat(text(drawn), "an answer of some words")
    shout = chat(text(drawn).upper() + "!", "An answer, of some words.")
    edited = chat(text(replaced(rng, drawn, 0.1)), "an answer of some words")
    lines = [chat(text(words(rng, 50)), "no"), row, row, shout, edited]
    store = Kept()
    hits = list(near.find(whole_set(write(tmp_path / "data.jsonl", lines), store=store)))
    assert lines_of(hits) == [4, 5]  # line 3 is an exact copy: the duplicate check's
    assert hits[0].message.startswith("the same as line 2 but for case, spacing and punctuation")
    assert hits[1].message.endswith("% the same as line 2, one of 4 such rows")
    (cluster,) = store.clusters["near-duplicate"]
    assert cluster.rows == (1, 2, 3, 4) and 0.7 < cluster.similarity < 0.9


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "Please tell me which plan includes the export of invoices to our accounting",
            "Tell me which plan includes the export of invoices to our accounting, thanks",
        ),
        (
            "Which of your plans includes the export of all our invoices to the bank",
            "Which of your plans inclueds the export of all our invoices to the bank",
        ),
        ("请问哪个套餐包含导出发票的功能我们需要它", "哪个套餐包含导出发票的功能，我们需要它"),
    ],
)
def test_one_question_with_two_answers_is_a_conflict(one: str, other: str, tmp_path: Path) -> None:
    lines = [chat(one, "basic"), chat(other, "premium"), chat("What is this?", "a test")]
    (hit,) = near.find_conflicts(whole_set(write(tmp_path / "data.jsonl", lines)))
    assert hit.row == 1 and hit.turn == 1 and "line 1 asks the same" in hit.message


@pytest.mark.parametrize(
    ("other", "answers"),
    [
        ("Is the red gate by the garden of the old house open today", "yes no"),
        ("Is the red door by the garden of the old house not open today", "yes no"),
        ("Is the red door by the garden of the old house 2 open today", "yes no"),
        ("Please, is the red door by the garden of the old house open today", "yes yes"),
    ],
)
def test_other_questions_or_equal_answers_are_no_conflict(
    other: str, answers: str, tmp_path: Path
) -> None:
    one, (left, right) = (
        "Is the red door by the garden of the old house open today",
        answers.split(),
    )
    path = write(tmp_path / "data.jsonl", [chat(one, left), chat(other, right)])
    assert list(near.find_conflicts(whole_set(path))) == []


def test_both_checks_search_once(tmp_path: Path) -> None:
    rng = Random(8)
    path = write(tmp_path / "data.jsonl", [chat(text(words(rng, 20)), "yes") for _ in range(10)])
    whole = whole_set(path)
    list(near.find(whole))
    found = whole.memo["near"]
    list(near.find_conflicts(whole))
    assert whole.memo["near"] is found


def test_a_stopped_search_ends_at_once_with_what_it_has(tmp_path: Path) -> None:
    source = open_source(write(tmp_path / "data.jsonl", long_rows(1500)))
    calls: list[int] = []
    rows = Rows([SourceRows(source, source.shape.shape)], whole_text)
    with Search(rows, 0.5, lambda done, total: calls.append(done), lambda: True) as found:
        assert found.stopped and len(calls) == 1


# ---------------------------------------------------------------- edits and doors


def test_edits_and_drops_count_in_clusters_and_groups(tmp_path: Path) -> None:
    from finetui.workspace import create

    rng = Random(12)
    drawn = [words(rng, 60) for _ in range(4)]
    lines = [chat(text(each), "an answer") for each in drawn]
    lines.append(chat(text(replaced(rng, drawn[0], 0.1)), "an answer"))
    workspace = create(tmp_path / "work")
    path = write(workspace.datasets / "data.jsonl", lines)
    with open_dataset(path, workspace) as dataset:
        assert [cluster.rows for cluster in near_clusters(dataset)] == [(0, 4)]
        dataset.edit(1, chat(text(replaced(rng, drawn[2], 0.1)), "an answer"))
        dataset.drop([4])
        assert [cluster.rows for cluster in near_clusters(dataset)] == [(1, 2)]
        assert near_groups([dataset]) == [[(0, 1), (0, 2)]]


def test_groups_run_over_data_sets_and_chain(tmp_path: Path) -> None:
    rng = Random(13)
    one = words(rng, 80)
    two = replaced(rng, one, 0.2)
    three = replaced(rng, two, 0.2)
    first = write(tmp_path / "a.jsonl", [chat(text(one), "x"), chat(text(words(rng, 40)), "y")])
    second = write(tmp_path / "b.jsonl", [chat(text(two), "z"), chat(text(three), "w")])
    with open_dataset(first) as left, open_dataset(second) as right:
        assert near_groups([left, right]) == [[(0, 0), (1, 0), (1, 1)]]


def test_malformed_blank_and_huge_rows_do_no_harm(tmp_path: Path) -> None:
    rng = Random(14)
    drawn = words(rng, 60)
    huge = chat(text(words(rng, 100_000)), "an answer")
    row, copy = chat(text(drawn), "an answer"), chat(text(drawn) + "?", "an answer")
    lines = [row, "", "{broken", "[]", "null", huge, chat("", ""), copy, '{"messages": [1, 2]}']
    found = search(write(tmp_path / "data.jsonl", lines))
    assert rows_of(found) == [[0, 7]]


def test_numpy_stays_on_the_far_side_of_the_door() -> None:
    program = "import sys, finetui.data.alike, finetui.data.merge; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False"
