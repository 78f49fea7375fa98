"""An evaluation asks every subject every set, says the right figures, and asks nothing twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import structs
from tiny_jobs import chat, events, run_inside, tiny_llama, with_adapter, write_rows

from finetui import consent
from finetui.data.tokens import ChatTokenizer
from finetui.engine import answer_cache, evaluate, generate, harness, items, subjects
from finetui.engine.__main__ import needed_libraries
from finetui.engine.answer_cache import Cache, Generated
from finetui.engine.generate import Draws, Settings, answers
from finetui.engine.items import read
from finetui.engine.machine import Machine
from finetui.engine.outside import outputs_of
from finetui.errors import UserError
from finetui.evaluation import figures
from finetui.evaluation.record import Appender, Item, Manifest, Record, SetSpec, Subject, of_job
from finetui.jobs.control import request
from finetui.jobs.folder import Job, create
from finetui.rating.burned import burn
from finetui.workspace import Workspace
from finetui.workspace import create as create_workspace

CPU = Machine(torch.device("cpu"), "fp32")
LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
SCORER = "def score(answer, reference, prompt, row):\n    return len(prompt) == 1\n"


@pytest.fixture(scope="module")
def adapter(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    with_adapter(tiny_llama()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def full(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the same tokens."""
    folder = tmp_path_factory.mktemp("full") / "model"
    shutil.copytree(model_dir, folder)
    tiny_llama(seed=5).save_pretrained(folder)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    made = create_workspace(tmp_path / "work")
    asked = [chat(f"What is {n} plus one?", f"It is {n + 1}.") for n in range(20)]
    write_rows(made.datasets / "train.jsonl", [*asked[10:], chat("Count", LONG * 2)])
    write_rows(made.datasets / "test.jsonl", asked[:6])
    write_rows(made.datasets / "safe.jsonl", [{**chat("Say PLUM", "No."), "expect": "refuse"}])
    (made.root / "mine.py").write_text(SCORER)
    consent.allow_file(made.root / "mine.py")
    return made


def settled(manifest: Manifest, **changes: Any) -> Manifest:
    return structs.replace(manifest, **changes)


@pytest.fixture
def manifest(work: Workspace, model_dir: Path, adapter: Path) -> Manifest:
    base = Subject("base", "base", model=str(model_dir))
    test = str(work.datasets / "test.jsonl")
    return Manifest(
        name="e",
        subjects=[base, Subject("tuned", "adapter", model=str(model_dir), adapter=str(adapter))],
        sets=[SetSpec("test", path=test), SetSpec("drift", "drift", path=test, limit=3)],
        max_new_tokens=5,
        batch_size=4,
        resamples=50,
    )


@pytest.fixture
def start(work: Workspace) -> Callable[[Manifest], Job]:
    def begin(manifest: Manifest) -> Job:
        spec = {"kind": "evaluate", "workspace": str(work.root), "threads": 1}
        job = create(work.jobs, "evaluate", manifest.name, spec, {})
        of_job(job.path).write_manifest(manifest)
        return job

    return begin


Start = Callable[[Manifest], Job]


def done(job: Job) -> Record:
    assert run_inside(job) == 0, job.outcome()
    return of_job(job.path)


def texts(record: Record, subject: str, name: str = "test") -> dict[str, str]:
    return {answer.id: answer.answer for answer in record.answers(subject, name)}


# -- what is measured ----------------------------------------------------------------------------


def test_the_figures_of_a_row_are_those_of_transformers(
    manifest: Manifest, start: Start, tokenizer: ChatTokenizer, adapter: Path, model_dir: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    record = done(start(manifest))
    base = AutoModelForCausalLM.from_pretrained(model_dir).eval()
    tuned = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_dir), str(adapter)
    ).eval()
    for item, found in zip(
        record.items("drift"),
        sorted(record.answers("tuned", "drift"), key=lambda answer: answer.id),
        strict=True,
    ):
        whole = tokenizer.encode(
            [*item.prompt, {"role": "assistant", "content": item.reference}], loss_on="last"
        )
        ids = torch.tensor([whole.ids])
        with torch.no_grad():
            now, then = (model(ids).logits[0, :-1].log_softmax(-1) for model in (tuned, base))
        nats = -now.gather(1, ids[0, 1:, None])[:, 0]
        asked = torch.tensor(whole.trained[1:])
        assert found.nll == pytest.approx(float(nats[asked].sum()), rel=1e-4)
        assert (found.nll_tokens, found.kl_tokens) == (int(asked.sum()), len(nats))
        assert found.nll_all == pytest.approx(float(nats.sum()), rel=1e-4)
        assert found.kl == pytest.approx(float((now.exp() * (now - then)).sum()), rel=1e-3)
        assert found.answer == ""
    assert all(answer.kl is None for answer in record.answers("base", "drift"))


def test_the_drift_of_another_model_is_taken_with_both_loaded(
    manifest: Manifest, start: Start, model_dir: Path, full: Path
) -> None:
    same = Subject("same", "model", model=str(model_dir), loading={"chat_template": ""})
    other = Subject("other", "model", model=str(full))
    asked = settled(
        manifest, subjects=[manifest.subjects[0], same, other], sets=manifest.sets[1:], base="base"
    )
    record = done(start(asked))
    assert all(
        answer.kl == pytest.approx(0, abs=1e-6) for answer in record.answers("same", "drift")
    )
    assert all((answer.kl or 0) > 0.01 for answer in record.answers("other", "drift"))


def test_a_model_with_other_tokens_has_no_drift(
    manifest: Manifest, start: Start, full: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(full, strange)
    file = strange / "tokenizer.json"
    content = json.loads(file.read_text())
    content["added_tokens"][-1]["content"] = "<|other|>"
    file.write_text(json.dumps(content))
    subject = Subject("strange", "model", model=str(strange))
    asked = settled(manifest, subjects=[manifest.subjects[0], subject], sets=manifest.sets[1:])
    job = start(asked)
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None and "other tokens than base" in outcome["sentence"]


def test_every_kind_of_set_and_subject_in_one_evaluation(
    work: Workspace, manifest: Manifest, start: Start
) -> None:
    base = manifest.subjects[0]
    few = structs.replace(
        base, name="shots", kind="few-shot", few_shot=str(work.datasets / "train.jsonl"), shots=2
    )
    write_rows(
        work.root / "other.jsonl", [{"id": f"test.jsonl:{n}", "answer": "It is 1."} for n in (1, 2)]
    )
    outside = Subject("outside", "outputs", outputs=str(work.root / "other.jsonl"))
    sets = [
        structs.replace(manifest.sets[0], scorer="mine.py::score"),
        SetSpec("safe", "safety", path=str(work.datasets / "safe.jsonl")),
        manifest.sets[1],
        SetSpec("leak", "leak"),
    ]
    asked = settled(
        manifest, subjects=[*manifest.subjects, few, outside], sets=sets,
        training=[str(work.datasets / "train.jsonl")], latency_prompts=2, latency_tokens=4,
        latency_repeats=2,
    )  # fmt: skip
    job = start(asked)
    record = done(job)
    assert len(texts(record, "base")) == len(texts(record, "tuned")) == 6
    assert len(texts(record, "shots")) == 6 and not record.answers("shots", "safe")
    assert texts(record, "outside") == {"test.jsonl:1": "It is 1.", "test.jsonl:2": "It is 1."}
    (leak,) = record.items("leak")
    assert leak.prompt[-1]["role"] == "assistant" and LONG.startswith(
        leak.prompt[-1]["content"][:20]
    )
    assert leak.prompt[-1]["content"] + " " + leak.reference == LONG * 2
    # The shots stand before the question, so the model reads more.
    alone, behind = (
        {answer.id: answer.prompt_tokens for answer in record.answers(name, "test")}
        for name in ("base", "shots")
    )
    assert all(behind[id] > alone[id] + 20 for id in alone)
    first = record.scores("outside", "test")[0]
    assert first.values["accuracy"] == 1.0 and first.values["passed"] == 1.0
    found = figures.read(record)
    assert found is not None and "held" in found.summaries["tuned"]["safe"]
    assert [row.condition for row in found.latency] == ["base", "adapter", "merged"]
    timings = record.timings()
    assert len(timings) == 2 * 2 * 3 and {timing.tokens for timing in timings} == {4}
    assert all(len(timing.gaps) == 3 and timing.total > timing.first > 0 for timing in timings)
    assert [timing.condition for timing in timings[3:6]] == ["adapter", "merged", "base"]
    usage = record.usage("tuned")
    assert usage is not None and usage.parameters > 0 and usage.weight_bytes > 0
    outcome = job.outcome()
    assert outcome is not None and outcome["metrics"]["summaries"]["tuned"]["loss"] > 0


# -- nothing is asked twice ----------------------------------------------------------------------


def forbid_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(subjects, "base_model", refuse)


def test_a_second_evaluation_loads_no_model(
    manifest: Manifest, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = done(start(manifest))
    forbid_models(monkeypatch)
    second = done(start(manifest))
    assert texts(second, "tuned") == texts(first, "tuned")
    key = {answer.id: answer.nll for answer in first.answers("base", "test")}
    assert {answer.id: answer.nll for answer in second.answers("base", "test")} == key


@pytest.mark.parametrize(
    "changes", [{"max_new_tokens": 4}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 1}]
)
def test_other_settings_are_asked_anew(
    manifest: Manifest, start: Start, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    one = settled(manifest, subjects=manifest.subjects[:1], sets=manifest.sets[:1])
    done(start(settled(one, temperature=float("seed" in changes))))
    forbid_models(monkeypatch)
    assert run_inside(start(settled(one, **changes))) == 1


def test_other_weights_are_another_model(adapter: Path, tmp_path: Path) -> None:
    before = answer_cache.folder_hash(adapter)
    copied = shutil.copytree(adapter, tmp_path / "copy")
    assert answer_cache.folder_hash(copied) == before
    file = copied / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert answer_cache.folder_hash(copied) != before


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_killed_evaluation_goes_on_to_the_same_end(
    work: Workspace, manifest: Manifest, start: Start, monkeypatch: pytest.MonkeyPatch,
    temperature: float,
) -> None:  # fmt: skip
    asked = settled(manifest, temperature=temperature)
    whole = done(start(asked))
    shutil.rmtree(work.cache / evaluate.CACHE)
    job, add, count = start(asked), Appender.add, 0

    def dying(self: Appender, row: Any) -> None:
        nonlocal count
        count += 1
        if count == 12:
            raise MemoryError
        add(self, row)

    monkeypatch.setattr(Appender, "add", dying)
    assert run_inside(job) == 1
    monkeypatch.setattr(Appender, "add", add)
    (job.path / "outcome.json").unlink()
    record = of_job(job.path)
    left = {subject: texts(record, subject) for subject in ("base", "tuned")}
    assert len(left["base"]) == 6 and 0 < len(left["tuned"]) < 6
    with record.answers_path("tuned", "test").open("ab") as file:
        file.write(b'{"id":"test.jsonl:9","ans')
    for path in (work.cache / evaluate.CACHE).glob("*.jsonl"):
        path.write_bytes(path.read_bytes()[:-9])
    again = done(job)
    for subject in ("base", "tuned"):
        lines = [answer.id for answer in again.answers(subject, "test")]
        assert len(lines) == len(set(lines)) == 6
        for name in ("test", "drift"):
            assert texts(again, subject, name) == texts(whole, subject, name)
    assert figures.compute(again).summaries == figures.compute(whole).summaries


def test_a_stop_ends_it_in_the_middle_of_a_batch(
    manifest: Manifest, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, tokens = start(settled(manifest, max_new_tokens=50)), 0

    def ask(self: Any, ids: Any, scores: Any, **_: Any) -> Any:
        nonlocal tokens
        tokens += 1
        if tokens == 3:
            request(job, "stop")
        self._beat()
        return torch.zeros(len(ids), dtype=torch.bool)

    monkeypatch.setattr(generate._Beat, "__call__", ask)
    monkeypatch.setattr(evaluate, "_LISTEN_S", 0.0)
    assert run_inside(job) == 0
    outcome = job.outcome()
    assert outcome is not None and outcome["status"] == "stopped"
    assert tokens == 3 and not of_job(job.path).answers("base", "test")


def test_a_cache_forgets_nothing_and_minds_no_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "c" / "x.jsonl"
    Cache(file, Generated).put({"a": Generated("é", True, 2, 0.1)})
    with file.open("ab") as stream:
        stream.write(b'["b",{"te')
    other = Cache(file, Generated)
    assert other.get("b") is None
    other.put({"c": Generated("c", False, 1, 0.1)})
    again = Cache(file, Generated)
    assert len(again) == 2 and again.get("a") == Generated("é", True, 2, 0.1)
    file.parent.chmod(0o500)
    answer_cache.tidy(file.parent, most=1 << 20)
    file.parent.chmod(0o700)
    assert file.is_file()
    answer_cache.tidy(file.parent, most=10)
    assert not file.exists()


def test_a_disk_that_takes_nothing_costs_the_cache_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "x.jsonl", Generated)
    cache.put({"a": Generated("a", True, 1, 0.1)})
    assert not cache.writable and cache.get("a") is not None


# -- drawing and batches -------------------------------------------------------------------------


def test_draws_follow_the_models_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -9.0]])
    rows = 4000
    draws = Draws(list(range(rows)), 0.5, 0.97, torch.device("cpu"))
    chosen = draws(torch.zeros(rows, 1, dtype=torch.long), logits.repeat(rows, 1)).argmax(-1)
    shares = torch.bincount(chosen, minlength=5) / rows
    warm = (logits[0] / 0.5).softmax(-1)
    kept = torch.where(warm.cumsum(0) - warm < 0.97, warm, 0.0)
    assert torch.allclose(shares, kept / kept.sum(), atol=0.025)
    assert shares[3] == shares[4] == 0


def test_what_is_drawn_for_a_row_depends_on_no_neighbour(tokenizer: ChatTokenizer) -> None:
    prompts = [tokenizer.encode_prompt(chat(text, "")["messages"][:1]) for text in "abcdef"]
    model = tiny_llama()
    how = Settings(max_new_tokens=6, temperature=1.0, seed=3)
    (together,) = answers(model, tokenizer, prompts, how)
    (alone,) = answers(model, tokenizer, [prompts[4]], how)
    assert alone[0].text == next(one.text for one in together if one.index == 4)
    assert len({one.text for one in together}) > 1


def test_a_batch_too_large_for_the_gpu_is_halved(
    tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, sizes = generate._batch, []

    def small(*arguments: Any) -> Any:
        sizes.append(len(arguments[3]))
        if len(arguments[3]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return batch(*arguments)

    prompts = [tokenizer.encode_prompt(chat(text, "")["messages"][:1]) for text in "abcde"]
    model = tiny_llama()
    (whole,) = answers(model, tokenizer, prompts, Settings(max_new_tokens=3))
    monkeypatch.setattr(generate, "_batch", small)
    (halves,) = answers(model, tokenizer, prompts, Settings(max_new_tokens=3))
    assert sizes == [5, 2, 3, 1, 2]
    assert sorted(whole, key=lambda one: one.index) == sorted(halves, key=lambda one: one.index)


# -- rows, shots and answers from elsewhere ------------------------------------------------------


def test_a_chat_that_the_template_refuses_is_an_answer_with_a_fault(
    work: Workspace, manifest: Manifest, start: Start, model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_dir, tmp_path / "strict")
    file = folder / "chat_template.jinja"
    refuse = "{% if messages[0].content == 'no' %}{{ raise_exception('never') }}{% endif %}"
    file.write_text(refuse + file.read_text())
    write_rows(work.datasets / "test.jsonl", [chat("no", "x"), chat("yes", "y")])
    asked = settled(
        manifest, subjects=[Subject("base", "base", model=str(folder))], sets=manifest.sets[:1]
    )
    found = {answer.id: answer for answer in done(start(asked)).answers("base", "test")}
    assert found["test.jsonl:1"].finish == "error" and found["test.jsonl:1"].nll is None
    assert found["test.jsonl:2"].finish != "error" and found["test.jsonl:2"].nll is not None


def test_plain_text_is_read_and_not_answered(
    work: Workspace, manifest: Manifest, start: Start
) -> None:
    write_rows(work.datasets / "test.jsonl", [{"text": "Once upon a time there was a lamp."}])
    asked = settled(manifest, subjects=manifest.subjects[:1], sets=manifest.sets[:1])
    (found,) = done(start(asked)).answers("base", "test")
    assert found.answer == "" and found.nll == found.nll_all and found.nll_tokens > 5


def test_shots_stand_behind_the_system_turn_and_never_ask_what_is_asked(work: Workspace) -> None:
    system = {"role": "system", "content": "Be brief."}
    prompt = [system, {"role": "user", "content": "What is 10 plus one?"}]
    file = str(work.datasets / "train.jsonl")
    shots = subjects.shots_of(Subject("s", "few-shot", few_shot=file, shots=2), work, [prompt])
    assert [shot[0]["content"] for shot in shots] == [f"What is {n} plus one?" for n in (11, 12)]
    messages = subjects.with_shots(prompt, shots)
    assert messages[0] == system and messages[-1] == prompt[-1] and len(messages) == 6
    with pytest.raises(UserError, match="were wanted as examples"):
        subjects.shots_of(Subject("s", "few-shot", few_shot=file, shots=50), work, [])


def test_the_beginning_of_an_answer_is_what_the_model_goes_on_with(
    tokenizer: ChatTokenizer,
) -> None:
    begun = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "one two"}]
    found = read(Item("x:1", begun, "three"), "leak", tokenizer).prompt
    assert found is not None
    assert tokenizer.tokenizer.decode(found, skip_special_tokens=False).endswith("one two")
    asked = tokenizer.encode_prompt(begun[:1])
    assert found[: len(asked)] == asked


@pytest.mark.parametrize(
    "rows",
    [
        [{"id": "t.jsonl:1", "output": "A"}, {"id": "t.jsonl:2", "output": "B"}],
        [chat("two", "B"), chat("one", "A")],
        [{"prompt": "two", "response": "B"}, {"prompt": "one", "response": "A"}],
        ["A", "B"],
        [{"text": "A"}, {"text": "B"}],
    ],
)
def test_answers_from_elsewhere_find_their_rows(tmp_path: Path, rows: list[Any]) -> None:
    asked = [
        Item(f"t.jsonl:{n}", [{"role": "user", "content": text}], "r")
        for n, text in ((1, "one"), (2, "two"))
    ]
    found = outputs_of(write_rows(tmp_path / "o.jsonl", rows), {"t": asked})
    assert found == {"t": {"t.jsonl:1": "A", "t.jsonl:2": "B"}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"id": "other:1", "answer": "A"}\n', "none of its 1 lines fits"),
        ('{"id": "t.jsonl:1"}\n', r"o\.jsonl:1.*has no answer"),
        ('"A"\n{\n', r"o\.jsonl:2.*not valid JSON"),
    ],
)
def test_answers_that_fit_nothing_are_refused(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "o.jsonl"
    file.write_text(content)
    asked = [Item("t.jsonl:1", [{"role": "user", "content": "one"}], "r")]
    with pytest.raises(UserError, match=words):
        outputs_of(file, {"t": asked})


def test_rows_that_left_as_training_data_are_not_asked_again(
    work: Workspace, manifest: Manifest, start: Start
) -> None:
    asked = settled(manifest, subjects=manifest.subjects[:1])
    prompts = [[{"role": "user", "content": f"What is {n} plus one?"}] for n in range(6)]
    burn(work.ratings, "r", {"a": prompts[1]})
    job = start(asked)
    record = done(job)
    assert sorted(texts(record, "base")) == [f"test.jsonl:{n}" for n in (1, 3, 4, 5, 6)]
    assert "1 row of test left as training data" in events(job, "warning")[0]["text"]
    burn(work.ratings, "r", {str(n): prompt for n, prompt in enumerate(prompts)})
    job = start(asked)
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None and "every row of it left" in outcome["sentence"]


def test_rows_can_be_sliced_by_what_the_checks_say_of_them(
    work: Workspace, manifest: Manifest
) -> None:
    german = "Was ist das für eine Sache und wie wird sie auf der Seite mit den Farben gezeigt?"
    rows = [chat(german, "Ask k@example.org"), {**chat("What?", "This."), "language": "en"}]
    write_rows(work.datasets / "test.jsonl", rows)
    first, second = items.items_of(manifest.sets[0], manifest, work)
    assert "email" in " ".join(first.tags["finding"]) and second.tags["finding"] != ["email"]
    assert first.tags["language"] == ["German"] and second.tags["language"] == ["en"]


def test_a_set_without_rows_is_named(work: Workspace, manifest: Manifest, start: Start) -> None:
    (work.datasets / "test.jsonl").write_text('{"messages": []}\n')
    job = start(manifest)
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None and "test.jsonl" in outcome["sentence"]


def test_a_job_gets_the_libraries_that_it_names(work: Workspace) -> None:
    spec = {"kind": "evaluate", "libraries": ["datasets", "bitsandbytes"]}
    job = create(work.jobs, "evaluate", "e", spec, {})
    assert needed_libraries(job.path) == {"datasets", "bitsandbytes"}


# -- lm-evaluation-harness -----------------------------------------------------------------------


def test_without_the_harness_its_tasks_are_refused_before_anything_is_asked(
    manifest: Manifest, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    job = start(settled(manifest, harness=["hellaswag"]))
    assert run_inside(job) == 1
    outcome = job.outcome()
    assert outcome is not None and "finetui[harness]" in outcome["sentence"]
    assert not events(job, "progress")


def test_the_harness_table_is_read_with_its_errors() -> None:
    told = {
        "arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,strict": 0.25,
                "f1_stderr,strict": "N/A"},
        "group": {"alias": "group"},
    }  # fmt: skip
    assert harness.read_results(told) == {"arc": {"acc": [0.5, 0.1], "f1 (strict)": [0.25]}}
