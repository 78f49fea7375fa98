"""Sealing: what raters can read tells nothing, and a session appears whole or not at all."""

from __future__ import annotations

import grp
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rating_cases import (
    CANDIDATE,
    KEY,
    MOMENT,
    REFERENCE,
    by_system,
    make_items,
    make_session,
    placements,
    vote_by,
)

from finetui.errors import UserError
from finetui.rating import audit
from finetui.rating.ballot import Ballot
from finetui.rating.registration import Registration
from finetui.rating.sequential import StopRule
from finetui.rating.session import (
    Item,
    SealStrength,
    default_rater,
    list_sessions,
    open_session,
    seal,
    seal_strength,
)
from finetui.workspace import MARKER, create

SECRETS = {
    "model": "/models/plainfish-3b",
    "adapter": "jobs/20260102-train-tunedfish/adapter",
    "job": "20260102-prepare-trial",
}


def public_files(session_path: Path) -> list[Path]:
    return [
        path
        for path in session_path.rglob("*")
        if path.is_file() and session_path / "sealed" not in path.parents
    ]


def test_nothing_outside_the_seal_names_a_system_a_path_or_the_map(tmp_path: Path) -> None:
    session = make_session(
        tmp_path,
        40,
        raters=("ann", "bob"),
        identical=(3, 4),
        generation={"max_new_tokens": 64, "temperature": 0.0, **SECRETS},
        provenance={**SECRETS, "labels": ["base", "tuned"]},
    )
    answers = dict.fromkeys((item.id for item in make_items(40)), "W")
    decide = by_system(session, answers)
    for rater in session.raters:
        vote_by(session, rater, decide)
    words = [REFERENCE, CANDIDATE, "base", "tuned", "adapter", "row-", *SECRETS.values(), KEY.hex()]
    files = public_files(session.path)
    assert len(files) == 6
    for path in files:
        content = path.read_bytes()
        for word in words:
            assert word.encode() not in content, (path, word)
            assert word not in str(path.relative_to(session.path))


def test_a_packet_holds_id_place_prompt_and_two_texts_only(tmp_path: Path) -> None:
    items = [
        msgspec.structs.replace(item, prompt=[{**item.prompt[0], "source": "jobs/secret"}])
        for item in make_items(25)
    ]
    session = make_session(tmp_path, items=items)
    for line in (session.path / "packets" / "ann.jsonl").read_bytes().splitlines():
        record = msgspec.json.decode(line)
        assert list(record) == ["pid", "seq", "prompt", "left", "right"]
        assert set(record["prompt"][0]) == {"role", "content"}


def test_files_and_folders_all_bear_the_same_time(tmp_path: Path) -> None:
    session = make_session(tmp_path, 30, raters=("ann", "bob"))
    times = {path.stat().st_mtime for path in session.path.rglob("*")}
    assert times == {MOMENT.timestamp()}


def test_settings_that_could_name_a_side_stay_sealed(tmp_path: Path) -> None:
    generation = {
        "max_new_tokens": 64,
        "lora_rank": 16,
        "do_sample": False,
        "adapter": "x",
        "temperature": "tuned",
    }
    session = make_session(tmp_path, generation=generation)
    assert session.manifest.generation == {"do_sample": False, "max_new_tokens": 64}


def test_the_hash_of_the_outputs_cannot_be_tried_out_without_the_key(tmp_path: Path) -> None:
    session = make_session(tmp_path)
    open_hash = hashlib.sha256((session.sealed / "items.jsonl").read_bytes()).hexdigest()
    plain = msgspec.json.encode(make_items(12), order="deterministic")
    assert session.manifest.items_hash not in (open_hash, hashlib.sha256(plain).hexdigest())


def test_the_rater_needs_nothing_but_manifest_and_packet(tmp_path: Path) -> None:
    session = make_session(tmp_path, 12)
    shutil.rmtree(session.sealed)
    shutil.rmtree(session.audit_log.parent)
    vote_by(open_session(session.path), "ann", lambda item: "L")
    assert Ballot(session, "ann").done
    assert seal_strength(session) is SealStrength.SEPARATE


def test_the_raters_code_never_imports_the_module_that_seals_or_unseals() -> None:
    code = "import sys, finetui.rating.ballot; print(*[m for m in sys.modules if 'seal' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_seal_is_for_its_owner_alone(tmp_path: Path) -> None:
    session = make_session(tmp_path)
    for path in [session.sealed, *session.sealed.iterdir(), session.audit_log]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert seal_strength(session) is SealStrength.TAMPER_EVIDENT
    assert seal_strength(session) == "one account: tamper-evident only"


def as_nobody(act: Callable[[], None]) -> int:
    """Run in a child that gave up its rights; returns its exit status (0 = no exception)."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_another_account_can_rate_and_cannot_unseal() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        rater = "visiting-expert"
        group = grp.getgrgid(65534).gr_name
        session = make_session(folder / "r", raters=(rater,), group=group)
        (folder / "r").chmod(0o755)

        def act() -> None:
            own = open_session(session.path)
            assert seal_strength(own) is SealStrength.SEPARATE
            for secret in ("key", "map.jsonl", "items.jsonl"):
                with pytest.raises(PermissionError):
                    (own.sealed / secret).read_bytes()
            vote_by(own, rater, lambda item: "R")
            from finetui.rating.unseal import unseal

            with pytest.raises(UserError, match="cannot be opened from this account"):
                unseal(own, "curious")

        assert as_nobody(act) == 0
        assert audit.verify(session) == []
        assert [e.event for e in audit.entries(session)] == ["create"]
        assert Ballot(session, rater).done
    finally:
        shutil.rmtree(folder)


def test_a_group_is_let_in_to_its_session_and_to_nothing_beside_it(tmp_path: Path) -> None:
    workspace = create(tmp_path / "place")
    group = grp.getgrgid(os.getgid()).gr_name
    session = make_session(workspace.ratings, group=group)

    def open_to_group(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode) & 0o070

    assert (open_to_group(workspace.root), open_to_group(workspace.ratings)) == (0o010, 0o050)
    assert open_to_group(workspace.root / MARKER) == 0o040
    assert open_to_group(session.path / "packets" / "ann.jsonl") == 0o040
    for closed in (workspace.jobs, workspace.datasets, session.sealed, session.audit_log.parent):
        assert open_to_group(closed) == 0
    assert workspace.root.stat().st_mode & 0o007 == 0


def test_identical_answers_are_counted_but_not_shown(tmp_path: Path) -> None:
    items = make_items(6, identical=(2,))
    items[4].outputs[REFERENCE] = items[4].outputs[CANDIDATE] + "<|im_end|>  \n"
    session = make_session(tmp_path, items=items)
    assert (session.manifest.items, session.manifest.shown, session.manifest.identical) == (6, 4, 2)
    shown = {placements(session)[item.pid].item for item in session.packet("ann")}
    assert shown == {"row-0", "row-1", "row-3", "row-5"}


def test_both_sides_are_normalised_alike(tmp_path: Path) -> None:
    outputs = {REFERENCE: " yes\u200b<|im_end|>", CANDIDATE: "no\x1b[0m \n"}
    item = Item("one", [{"role": "user", "content": "q"}], "", outputs)
    session = make_session(tmp_path, items=[item])
    (pair,) = session.packet("ann")
    assert {pair.left, pair.right} == {"yes", "no"}


def test_the_same_plan_and_key_give_the_same_bytes(tmp_path: Path) -> None:
    one = make_session(tmp_path / "a", 30, raters=("ann", "bob"))
    two = make_session(tmp_path / "b", 30, raters=("ann", "bob"))
    for path in public_files(one.path):
        if path.name != "log.jsonl":
            assert path.read_bytes() == (two.path / path.relative_to(one.path)).read_bytes()


def test_without_a_key_two_sealings_differ(tmp_path: Path) -> None:
    one = make_session(tmp_path / "a", 30, key=None)
    two = make_session(tmp_path / "b", 30, key=None)
    assert one.packet("ann") != two.packet("ann")
    assert one.manifest.commitment != two.manifest.commitment


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"items": []}, "nothing to rate"),
        ({"items": make_items(2) + make_items(1)}, "same id"),
        ({"items": [Item("a", [], "", {REFERENCE: "x"})]}, "is missing"),
        ({"items": make_items(3, identical=(0, 1, 2))}, "same answer to all 3 items"),
        ({"raters": ("ann", "ann")}, "named twice"),
        ({"raters": ("../ann",)}, "cannot be a file name"),
        ({"interested": ("eve",)}, "no rater of this session"),
        ({"systems": (REFERENCE,)}, "one system alone"),
        ({"criteria": ("a", "b", "c", "d")}, "too many"),
        ({"tags": ("tone", "tone ")}, "named twice"),
        ({"alpha": 0.7}, "alpha is 0.7"),
        ({"catches": -1}, "catches is -1"),
        ({"practice": 4}, "too few"),
        ({"margin": 0.1, "stop": StopRule(kind="e-process")}, "tested once, at the end"),
        ({"stop": StopRule(kind="looks", looks=(50, 20))}, "rising numbers"),
        ({"stop": StopRule(cap=-1)}, "is negative"),
        ({"name": "../../x"}, "cannot be a file name"),
        ({"systems": ("a", "a")}, "same name"),
        ({"group": "no-such-group-here"}, "no Unix group"),
    ],
)
def test_what_cannot_be_sealed_is_refused_and_leaves_nothing(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    name = change.pop("name", "trial")
    items = change.pop("items", make_items(4))
    systems = change.pop("systems", (REFERENCE, CANDIDATE))
    group = change.pop("group", None)
    chosen = Registration(**{"raters": ("ann",), **change})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=says):
        seal(tmp_path, name, items, chosen, systems=systems, group=group)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_session_is_never_overwritten(tmp_path: Path) -> None:
    session = make_session(tmp_path)
    before = (session.path / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="exists already"):
        make_session(tmp_path, 5)
    assert (session.path / "manifest.json").read_bytes() == before


def test_a_changed_packet_is_not_rated(tmp_path: Path) -> None:
    session = make_session(tmp_path)
    file = session.path / "packets" / "ann.jsonl"
    file.write_bytes(file.read_bytes().replace(b"wording 3", b"wording X"))
    with pytest.raises(UserError, match="not the one that was sealed"):
        Ballot(session, "ann")
    assert audit.verify(session) == ["packets/ann.jsonl: is not the packet that was sealed"]


def test_sessions_are_listed_newest_first_and_strangers_passed_over(tmp_path: Path) -> None:
    old = seal(tmp_path, "old", make_items(3), systems=(REFERENCE, CANDIDATE), now=MOMENT)
    new = seal(tmp_path, "new", make_items(3), systems=(REFERENCE, CANDIDATE))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    (tmp_path / "notes").mkdir()
    assert [session.name for session in list_sessions(tmp_path)] == [new.name, old.name]
    assert old.raters == (default_rater(),)


def test_opening_what_is_no_session_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no rating session"):
        open_session(tmp_path)
    (tmp_path / "manifest.json").write_text('{"session": 3}')
    with pytest.raises(UserError, match="does not read"):
        open_session(tmp_path)


def test_the_default_rater_comes_from_the_account_and_not_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("USER", "somebody-else")
    assert default_rater() != "somebody-else"
