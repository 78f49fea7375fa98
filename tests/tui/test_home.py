"""Home: the state of the loop from the files, the next step, the machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from desk import until

from finetui.tui.app import FinetuiApp
from finetui.tui.lookout import JobLine, machine_line
from finetui.tui.loop import loop_of
from finetui.tui.messages import OpenJob, OpenRecipe
from finetui.tui.screens.home import machine_words
from finetui.workspace import Workspace, create


def job(path: Path, state: str, kind: str = "train") -> JobLine:
    path.mkdir(parents=True, exist_ok=True)
    return JobLine(path, path.name, kind, "demo", 0.0, state, "some words")


def states(workspace: Workspace, *jobs: JobLine) -> dict[str, str]:
    return {step.mode: step.state for step in loop_of(workspace, jobs).steps}


def test_an_empty_workspace_asks_for_data(tmp_path: Path) -> None:
    loop = loop_of(create(tmp_path), [])
    assert {step.state for step in loop.steps} == {"open"}
    assert loop.mode == "data"


def test_data_without_a_recipe_asks_for_a_recipe(workspace: Workspace) -> None:
    loop = loop_of(workspace, [])
    assert states(workspace)["data"] == "done"
    assert (loop.mode, loop.request) == ("recipe", OpenRecipe())


def test_a_running_job_comes_first(workspace: Workspace) -> None:
    running = job(workspace.jobs / "a", "running")
    loop = loop_of(workspace, [running])
    assert states(workspace, running)["train"] == "now"
    assert (loop.mode, loop.request) == ("train", OpenJob(running.path))


def test_a_failed_run_is_looked_into(workspace: Workspace) -> None:
    failed = job(workspace.jobs / "a", "failed")
    assert states(workspace, failed)["train"] == "bad"
    assert "ended early" in loop_of(workspace, [failed]).advice


def test_a_finished_run_leads_to_rating_and_votes_close_the_loop(workspace: Workspace) -> None:
    (workspace.recipes / "r.toml").write_text("")
    done = job(workspace.jobs / "a", "finished")
    (done.path / "outputs-after.jsonl").write_text("")
    assert states(workspace, done)["evaluate"] == "done"
    assert loop_of(workspace, [done]).mode == "rate"
    votes = workspace.ratings / "first" / "ratings"
    votes.mkdir(parents=True)
    assert states(workspace, done)["rate"] == "now"
    (votes / "me.jsonl").write_text("{}")
    assert states(workspace, done)["rate"] == "done"
    assert loop_of(workspace, [done]).mode == "evaluate"


def test_an_evaluation_is_watched_and_then_stands_before_the_run(workspace: Workspace) -> None:
    done = job(workspace.jobs / "a", "finished")
    asked = job(workspace.jobs / "b", "running", "evaluate")
    (done.path / "outputs-after.jsonl").write_text("")
    loop = loop_of(workspace, [asked, done])
    assert states(workspace, asked, done)["evaluate"] == "now"
    assert loop.advice == "Watch the evaluation." and loop.request == OpenJob(asked.path)
    asked = job(asked.path, "finished", "evaluate")
    (asked.path / "evaluation").mkdir()
    (asked.path / "evaluation" / "figures.json").write_text("{}")
    (step,) = (one for one in loop_of(workspace, [asked, done]).steps if one.mode == "evaluate")
    assert (step.state, step.request) == ("done", OpenJob(asked.path))


async def test_home_shows_the_loop_and_space_does_the_next_step(workspace: Workspace) -> None:
    app = FinetuiApp(workspace)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(lambda: app.mode == "home" and app.pane is not None and app.loop is not None)
        assert app.pane is not None
        table = app.pane.query_one("#loop")
        await until(lambda: "Write a recipe" in "".join(
            table.render_line(y).text for y in range(table.size.height)))  # fmt: skip
        await pilot.press("space")
        await until(lambda: app.mode == "recipe")


async def test_every_mode_opens_with_its_digit(workspace: Workspace) -> None:
    app = FinetuiApp(workspace)
    async with app.run_test(size=(120, 36)):
        await until(lambda: app.mode == "home")
        for name in ("data", "recipe", "train", "evaluate", "rate", "home"):
            await app.show(name)
            assert app.pane is not None
            assert app.pane.display


async def test_help_shows_the_keys_of_the_focus_and_closes_with_its_key(
    workspace: Workspace,
) -> None:
    from finetui.tui.screens.help import HelpLines, HelpScreen

    app = FinetuiApp(workspace, start="data")
    async with app.run_test(size=(120, 36)) as pilot:
        await until(lambda: app.mode == "data")
        await pilot.press("question_mark")
        await until(lambda: isinstance(app.screen, HelpScreen) and app.screen.query(HelpLines))
        lines = app.screen.query_one(HelpLines)
        await until(lambda: lines.lines)
        text = "\n".join(line.text for line in lines.lines)
        assert text.index("Data") < text.index("Everywhere")
        assert "Edit a turn, or the row's JSON" in text
        await pilot.press("question_mark")
        await until(lambda: not isinstance(app.screen, HelpScreen))


async def test_at_most_five_hints_and_always_help(workspace: Workspace) -> None:
    from finetui.tui.widgets.bars import HintBar

    app = FinetuiApp(workspace)
    async with app.run_test(size=(80, 24)):
        for name in ("home", "data", "recipe", "train", "evaluate", "rate"):
            await app.show(name)
            bar = app.query_one(HintBar)
            assert len(bar.hints) <= 5
            assert bar.render().plain.rstrip().endswith("? help")


async def test_leaving_says_how_many_jobs_go_on(workspace: Workspace) -> None:
    app = FinetuiApp(workspace)
    async with app.run_test(size=(80, 24)):
        await until(lambda: app.devices is not None)
        app.jobs = (job(workspace.jobs / "a", "running"), job(workspace.jobs / "b", "queued"))
        app.action_leave()
        assert "2 jobs go on running" in str(app._exit_renderables[-1])


def gpu(**known: object) -> SimpleNamespace:
    fields = ("name", "utilisation", "memory_used", "memory_total", "temperature", "power_w")
    return SimpleNamespace(**({"index": 0, "problem": ""} | dict.fromkeys(fields) | known))


def sample(*gpus: object) -> SimpleNamespace:
    return SimpleNamespace(
        gpus=gpus, driver=None, problem="no NVIDIA driver", cpu_percent=None,
        host_memory_used=None, host_memory_total=None,
    )  # fmt: skip


def test_a_machine_that_tells_nothing_is_shown_with_dashes() -> None:
    for seen in (sample(), sample(gpu()), sample(gpu(problem="GPU is lost"))):
        for width in (20, 40, 80):
            assert "–" in machine_words(seen, width).plain
    assert "no NVIDIA driver" in machine_words(sample(), 40).plain
    assert "GPU is lost" in machine_words(sample(gpu(problem="GPU is lost")), 40).plain
    assert machine_line(sample()).startswith("no GPU")
    assert machine_line(None) == ""


def test_a_gpu_is_shown_with_memory_and_work() -> None:
    seen = sample(gpu(memory_used=61 << 30, memory_total=140 << 30, utilisation=98.0))
    assert machine_line(seen) == "GPU0 61.0/140.0 GiB 98 %"
