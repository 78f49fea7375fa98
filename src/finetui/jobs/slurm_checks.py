"""What a machine lacks to hand jobs in to Slurm, and what ends local runs at a logout."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetui.jobs import locks
from finetui.jobs.slurm_queue import CommandError, run
from finetui.jobs.slurm_script import problems, seconds
from finetui.settings import Cluster

_PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "srun")
# On these a folder is seen by one machine only.
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "ramfs",
                    "overlay", "squashfs", "vfat"})  # fmt: skip
_LOGIND = ("/etc/systemd/logind.conf", "/etc/systemd/logind.conf.d", "/run/systemd/logind.conf.d",
           "/usr/lib/systemd/logind.conf.d")  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One thing looked at: ``status`` is ok, missing or note."""

    name: str
    status: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Partition:
    """A partition as sinfo lists it; ``limit`` is its time limit, ``gres`` what nodes have."""

    name: str
    up: bool
    limit: str
    gres: str


def slurm_checks(clusters: Mapping[str, Cluster], workspace: Path) -> Iterator[Check]:
    """Look at all that ``--on slurm`` needs; a machine that has nothing to do with Slurm gets one
    line."""
    lacking = [name for name in _PROGRAMS if shutil.which(name) is None]
    if lacking and not clusters and len(lacking) == len(_PROGRAMS):
        yield Check("slurm", "note", "not here", "only needed for finetui train --on slurm")
        return
    if lacking:
        text = f"{', '.join(lacking)} not on PATH"
        advice = "use a login node of the cluster, or install slurm-client"
        yield Check("slurm", "missing", text, advice)
        yield from _profiles(clusters, None)
        return
    partitions = None
    try:
        version = run("sbatch", "--version").strip()
        partitions = parse(run("sinfo", "--noheader", "--format=%R|%a|%l|%G"))
        names = ", ".join(dict.fromkeys(one.name for one in partitions))
        yield Check("slurm", "ok", f"{version}: partitions {names or 'none'}")
        yield _accounting()
    except CommandError as error:
        yield Check("slurm", "missing", str(error), _advice(str(error)))
    yield from _profiles(clusters, partitions)
    yield from _folder(workspace)
    if not clusters:
        yield Check("cluster profiles", "note", "none", "add [cluster.NAME] to your settings")


def parse(text: str) -> list[Partition]:
    """The partitions in sinfo's output, a line each kind of node."""
    found = []
    for line in text.splitlines():
        words = line.strip().split("|", 3)
        if len(words) == 4:
            found.append(Partition(words[0], words[1] == "up", words[2], words[3]))
    return found


def _advice(said: str) -> str:
    text = said.lower()
    if "munge" in text or "authentication" in text or "credential" in text:
        return "munged must run here with the cluster's key: ask the administrators"
    if "configuration" in text or "dns srv" in text:
        return "set SLURM_CONF, or use a login node of the cluster"
    return "the controller (slurmctld) does not answer; runs go on without it"


def _accounting() -> Check:
    kind = ""
    for line in run("scontrol", "show", "config").splitlines():
        if line.startswith("AccountingStorageType"):
            kind = line.partition("=")[2].strip()
    if kind in ("", "(null)", "accounting_storage/none"):
        return Check("slurm accounting", "ok", "none; finetui does not need it")
    return Check("slurm accounting", "ok", kind.rpartition("/")[2])


def _profiles(
    clusters: Mapping[str, Cluster], partitions: list[Partition] | None
) -> Iterator[Check]:
    for name, cluster in clusters.items():
        wrong = [f"{field}: {text}" for field, text in problems(cluster)]
        if not wrong and partitions is not None:
            wrong = list(_unmet(cluster, partitions))
        if wrong:
            yield Check(f"[cluster.{name}]", "missing", " ".join(wrong), "mend your settings")
        else:
            where = cluster.partition or "the default partition"
            yield Check(f"[cluster.{name}]", "ok", f"{where}{_python(cluster)}")


def _unmet(cluster: Cluster, partitions: list[Partition]) -> Iterator[str]:
    """What of a profile the cluster does not have."""
    mine = [one for one in partitions if not cluster.partition or one.name == cluster.partition]
    if not mine:
        names = ", ".join(dict.fromkeys(one.name for one in partitions))
        yield f"there is no partition {cluster.partition!r}, only {names}."
        return
    if not any(one.up for one in mine):
        yield f"partition {mine[0].name} is down."
    limits = [seconds(one.limit) for one in mine]
    if all(limits) and seconds(cluster.time) > max(limits):
        yield f"time {cluster.time} is above the partition's limit of {mine[0].limit}."
    wanted = f"gpu:{cluster.gpu_type}" if cluster.gpu_type else "gpu"
    if cluster.gpus and not any(wanted in one.gres for one in mine):
        yield f"no machine of {mine[0].name} has {wanted}; set gpus = 0 to train on CPUs."


def _python(cluster: Cluster) -> str:
    if cluster.container:
        return f"; in a container: {cluster.container}"
    if cluster.python and not cluster.setup and not shutil.which(cluster.python):
        return f"; {cluster.python} is not on this machine, so it was not looked at"
    return ""


def _folder(workspace: Path) -> Iterator[Check]:
    """Whether the nodes can see the workspace, and whether locks work there."""
    kind = file_system(workspace)
    if kind in _LOCAL:
        text = f"on {kind}, a file system of this machine"
        yield Check("shared folder", "note", text, "the nodes must see the same workspace")
    elif kind:
        yield Check("shared folder", "ok", f"on {kind}")
    if workspace.is_dir() and not _locks_work(workspace):
        advice = "mount it with flock; until then two workers on one run are not noticed"
        yield Check("file locks", "note", "flock does not work in the workspace", advice)


def file_system(folder: Path, table: str = "/proc/self/mountinfo") -> str:
    """The kind of file system that a folder lies on, "" when it is not known."""
    where = os.path.realpath(folder)
    best, kind = "", ""
    try:
        lines = Path(table).read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        left, _, right = line.partition(" - ")
        words = left.split()
        if len(words) < 5 or not right:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), words[4])
        if (where + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def _locks_work(folder: Path) -> bool:
    path = folder / f".finetui-lock-{os.getpid()}"
    try:
        held = locks.hold(path)
        works = held is not None and locks.is_held(path) is True
        if held is not None:
            os.close(held)
    except OSError:
        return not os.access(folder, os.W_OK)
    finally:
        path.unlink(missing_ok=True)
    return works


def logout_check(
    user: str, root: Path = Path("/"), systemd: Path = Path("/run/systemd/system")
) -> Check | None:
    """Whether a logout ends runs on this machine; None where nothing does.

    logind leaves root alone by default, and everybody's processes outside their sessions; those
    need a user manager that stays, which is what lingering means.
    """
    if user == "root" or not systemd.is_dir() or not _kills_at_logout(root):
        return None
    lingers = (root / "var/lib/systemd/linger" / user).exists()
    first = "" if lingers else f"loginctl enable-linger {user}, then "
    advice = f"{first}start finetui by: systemd-run --user --scope finetui"
    return Check("logout", "note", "ends all processes of a user (KillUserProcesses=yes)", advice)


def _kills_at_logout(root: Path) -> bool:
    answer = "no"
    for name in _LOGIND:
        path = root / name.lstrip("/")
        files = sorted(path.glob("*.conf")) if path.is_dir() else [path]
        for file in files:
            try:
                text = file.read_text("utf-8", "replace")
            except OSError:
                continue
            for value in re.findall(r"(?m)^\s*KillUserProcesses\s*=\s*(\S+)", text):
                answer = value.lower()
    return answer in ("yes", "true", "1", "on")
