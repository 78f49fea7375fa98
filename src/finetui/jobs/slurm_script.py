"""The sbatch script of a job: plain bash that a person can read, and hand in again by hand.

The batch shell takes the supervisor's place. It numbers the attempt, starts the engine through
srun, turns Slurm's signals into a request to save and end, and has the job requeued as long as
attempts move it on. It needs no Python of its own: the engine may live in a container.
"""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetui.errors import UserError
from finetui.jobs.engine_command import RENDEZVOUS_VARIABLE, engine_command, processes
from finetui.jobs.folder import Job
from finetui.jobs.scrubbing import Scrubber, secret_names
from finetui.jobs.slurm_note import name_of
from finetui.jobs.worker import ATTEMPT_VARIABLE, BACKEND_VARIABLE, FOLDER_VARIABLE
from finetui.settings import Cluster

# What the run may see of the environment, if it is set. Slurm keeps the environment of a job in
# a file of its own, so nothing else goes there, and never a key.
EXPORTED = (
    "HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "LC_ALL", "TZ",
    "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "CONDA_PREFIX", "MODULEPATH", "MODULESHOME",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "HF_ENDPOINT",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip

LEAD_S = 240
"""Seconds before the time limit at which a run saves: Slurm looks only every half minute and may
signal a minute early, the rest is for the step and the save."""

LOST = "LostRankError"
"""The error of an outcome that says no more than that another process was gone."""

_TIME = re.compile(r"(\d+-)?\d+(:\d{1,2}){0,2}|UNLIMITED|INFINITE", re.IGNORECASE)
_MEMORY = re.compile(r"\d+[KMGT]?", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9_.,:*/\[\]=%@+&|!-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OURS = frozenset({
    "--array", "--chdir", "--error", "--export", "--export-file", "--job-name", "--no-requeue",
    "--nodes", "--ntasks", "--ntasks-per-node", "--open-mode", "--output", "--requeue", "--signal",
    "--wrap", "--wait", "--hold", "--test-only", "--parsable",
})  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """How a run is spread: machines, processes on each, GPUs of each (0 for none)."""

    nodes: int
    processes: int
    gpus: int


def problems(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """What is wrong with a profile: (field, sentence) pairs."""
    for field in ("partition", "account", "qos", "gpu_type"):
        value = getattr(cluster, field)
        if value and not _WORD.fullmatch(value):
            yield field, f"{value!r} is no name that Slurm takes."
    yield from _bad_limits(cluster)
    yield from _bad_lines(cluster)
    yield from _bad_options(cluster)
    yield from _bad_variables(cluster)


def _bad_limits(cluster: Cluster) -> Iterator[tuple[str, str]]:
    if cluster.time and not _TIME.fullmatch(cluster.time):
        yield "time", f"{cluster.time!r} is no time limit; write 4:00:00, 2-00:00:00 or minutes."
    if cluster.memory and not _MEMORY.fullmatch(cluster.memory):
        yield "memory", f"{cluster.memory!r} is no size; write 64G."
    limit, warning = seconds(cluster.time), lead(cluster)
    if limit and limit <= warning:
        text = f"{cluster.time} is no more than the {warning} s before it at which a run saves."
        yield "time", f"{text} Raise it, or lower lead."
    if cluster.gpu_type and not cluster.gpus:
        yield "gpu_type", "a type of GPU is named, but gpus is 0."


def _bad_variables(cluster: Cluster) -> Iterator[tuple[str, str]]:
    for name in cluster.export:
        if not _VARIABLE.fullmatch(name):
            yield "export", f"{name!r} is no name of a variable."
        elif secret_names({name: ""}):
            text = f"{name} holds a key, and Slurm keeps the environment of jobs in a file."
            yield "export", f"{text} Put the key in a file, as HF_TOKEN_PATH names one."


def _bad_lines(cluster: Cluster) -> Iterator[tuple[str, str]]:
    words = {"modules": cluster.modules, "setup": cluster.setup, "options": cluster.options,
             "srun": cluster.srun, "python": [cluster.python],
             "container": [cluster.container]}  # fmt: skip
    for field, values in words.items():
        for value in values:
            if any(ord(char) < 32 and char != "\t" for char in value):
                yield field, f"{value!r} has a line break or a control character."
    try:
        shlex.split(cluster.container)
    except ValueError:
        yield "container", f"{cluster.container!r} has an open quotation mark."


def _bad_options(cluster: Cluster) -> Iterator[tuple[str, str]]:
    for option in cluster.options:
        name = option.partition("=")[0].partition(" ")[0]
        if not name.startswith("--"):
            yield "options", f"{option!r}: write options in full, such as --reservation=course."
        elif name in _OURS:
            yield "options", f"{name} is set by finetui itself."
        elif not _WORD.fullmatch(option):
            yield "options", f"{option!r} has characters that an #SBATCH line cannot hold."
    for option in cluster.srun:
        if not option.startswith("--"):
            yield "srun", f"{option!r}: write options in full, such as --container-image=FILE."


def require_sound(cluster: Cluster, name: str) -> None:
    """Raises UserError with the first thing that is wrong with a profile."""
    for field, sentence in problems(cluster):
        raise UserError(sentence, f"[cluster.{name}] {field}" if name else field)


def lead(cluster: Cluster) -> int:
    """Seconds before the time limit at which Slurm warns the run."""
    return cluster.lead or LEAD_S


def seconds(limit: str) -> int:
    """A time limit of Slurm in seconds; 0 for none or one that is not understood."""
    if not _TIME.fullmatch(limit) or not limit[0].isdigit():
        return 0
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:  # days-hours[:minutes[:seconds]]
        hours, minutes, secs = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, secs = parts
    else:  # minutes[:seconds]
        hours, (minutes, secs) = 0, [*parts, 0][:2]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + secs


def shape(count: int, cluster: Cluster) -> Shape:
    """Spread a run's processes over the profile's machines: as few as have GPUs enough.

    Raises UserError where they do not fit.
    """
    even = [nodes for nodes in range(1, cluster.nodes + 1) if count % nodes == 0]
    if not cluster.gpus:
        return Shape(even[-1], count // even[-1], 0)
    for nodes in even:
        if count // nodes <= cluster.gpus:
            return Shape(nodes, count // nodes, count // nodes)
    raise UserError(
        f"{count} processes do not fit evenly on {cluster.nodes} x {cluster.gpus} GPUs.",
        "training.processes",
        "Change training.processes of the recipe, or nodes and gpus of the profile.",
    )


def exported(cluster: Cluster, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The names of the variables that the run may see."""
    secret, scrubber = secret_names(environ), Scrubber({})
    names = [one for one in dict.fromkeys((*EXPORTED, *cluster.export)) if one in environ]
    # A proxy's address may hold a password.
    plain = [one for one in names if scrubber.text(environ[one]) == environ[one]]
    return [one for one in plain if one not in secret]


def script(
    job: Job,
    cluster: Cluster,
    *,
    attempt: int,
    token: str,
    command: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> str:
    """The whole sbatch script. `attempt` is the number of its first attempt, `token` the hand-in.

    `command` takes the engine's place (tests). Raises UserError for a profile that cannot be.
    """
    if any(ord(char) < 32 for char in str(job.path)):
        raise UserError("Slurm cannot work in a folder of this name.", repr(str(job.path)))
    spread = shape(processes(job), cluster)
    values = {
        "directives": "\n".join(_directives(job, cluster, spread, environ)),
        "folder": shlex.quote(str(job.path)),
        "token": shlex.quote(token),
        "first": str(attempt),
        "most": str(cluster.attempts),
        "setup": "\n".join(_setup(cluster, spread)),
        "step": " ".join(_step(job, cluster, spread, command)),
        "folder_variable": FOLDER_VARIABLE,
        "attempt_variable": ATTEMPT_VARIABLE,
        "backend_variable": BACKEND_VARIABLE,
        "lost": LOST,
    }
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], _template(bool(cluster.modules)))


def _directives(
    job: Job, cluster: Cluster, spread: Shape, environ: Mapping[str, str]
) -> Iterator[str]:
    kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
    wanted = {
        "job-name": name_of(job),
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "time": cluster.time,
        "nodes": spread.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cluster.cpus,
        "mem": cluster.memory,
        "gres": f"gpu:{kind}{spread.gpus}" if spread.gpus else "",
        "signal": f"B:USR1@{lead(cluster)}",
        "open-mode": "append",
        "export": ",".join(exported(cluster, environ)) or "NONE",
    }
    yield from (f"#SBATCH --{name}={value}" for name, value in wanted.items() if value)
    yield "#SBATCH --requeue"
    yield from (f"#SBATCH {option}" for option in cluster.options)


def _setup(cluster: Cluster, spread: Shape) -> Iterator[str]:
    if cluster.modules:
        yield f"module load {shlex.join(cluster.modules)}"
    yield from cluster.setup
    if spread.nodes > 1:
        yield "# The processes meet on the first machine, at a port of this job's own."
        yield 'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
        yield "address=$(scontrol show node \"$head\" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')"
        yield "port=$((20000 + SLURM_JOB_ID % 20000))"
        yield f'export {RENDEZVOUS_VARIABLE}="${{address:-$head}}:$port"'


def _step(job: Job, cluster: Cluster, spread: Shape, command: Sequence[str]) -> list[str]:
    srun = [
        "srun", "--export=ALL", "--kill-on-bad-exit=1", f"--nodes={spread.nodes}",
        f"--ntasks={spread.nodes}", "--ntasks-per-node=1",
    ]  # fmt: skip
    if cluster.cpus:
        srun.append(f"--cpus-per-task={cluster.cpus}")  # srun does not take it from the job
    python = {"python": str(Path(cluster.python).expanduser())} if cluster.python else {}
    engine = list(command) or engine_command(job, nodes=spread.nodes, **python)
    words = [*srun, *cluster.srun, *shlex.split(cluster.container), *engine]
    return [shlex.quote(word) for word in words]


def _template(login: bool) -> str:
    # Only a login shell knows `module` everywhere.
    return f"#!/bin/bash{' -l' if login else ''}\n{_BODY}\n"


_BODY = r"""@directives@
#
# Written by finetui for one job. Watch it: finetui watch; end it: finetui stop.
# It saves and goes on in a new attempt when its time limit comes, when the cluster needs the
# machine, and when a machine fails; it gives up once an attempt brings no new checkpoint.

set -u
umask 077

folder=@folder@
token=@token@  # of this hand-in: a later one, or a start elsewhere, takes the folder over
first=@first@  # the number of its first attempt
most=@most@  # attempts at most

cd "$folder" || exit 1
attempt=$((first + ${SLURM_RESTART_COUNT:-0}))
log="log-a$attempt.txt"
asked=""  # what Slurm said: "limit" is near, or the job has to "end"

say() {
    printf '%s slurm job %s: %s\n' "$(date '+%F %T')" "$SLURM_JOB_ID" "$*" | tee -a "$log"
}

# A file of the folder, whole or not at all: NAME TEXT.
publish() {
    printf '%s\n' "$2" >"$1.$SLURM_JOB_ID.tmp" && mv -f "$1.$SLURM_JOB_ID.tmp" "$1"
}

# Have the worker save and end after the current step.
ask() {
    local note='{"verb":"preempt","t":%d,"who":"Slurm","fields":{}}'
    # shellcheck disable=SC2059
    publish control/preempt.json "$(printf "$note" "$(date +%s)")" ||
        : >control/preempt.json  # on a full disk an empty one says enough
}

# The step of the newest checkpoint, -1 while there is none.
newest() {
    local file step best=-1
    for file in checkpoints/step-*/MANIFEST.json; do
        step=${file#checkpoints/step-}
        step=${step%/MANIFEST.json}
        if [[ -f $file && $step =~ ^[0-9]+$ ]] && ((10#$step > best)); then
            best=$((10#$step))
        fi
    done
    echo "$best"
}

# How this attempt ended in the worker's own words; nothing when it left none, "lost" when one of
# several processes was gone and the others could only say that.
outcome() {
    local word number
    read -r word number < <(
        sed -n -e '1s/^{"status":"failed","attempt":\([0-9]*\),.*"error":"@lost@".*/lost \1/p' \
            -e '1s/^{"status":"\([a-z]*\)","attempt":\([0-9]*\)[,}].*/\1 \2/p' \
            outcome.json 2>/dev/null
    )
    if [[ ${number:-0} -ge $attempt ]]; then echo "$word"; fi
}

# Leave the reason for the screens: AGAIN (true or false) WHY.
note() {
    publish slurm-end.json "{\"attempt\":$attempt,\"again\":$1,\"why\":\"$2\"}"
    say "$2"
}

# What a dead worker cannot write itself: its exit CODE, and the machine's KILLS when it began.
exit_record() {
    local signal=null oom=null
    # On several machines neither tells of the one where it happened.
    if [[ $SLURM_NNODES == 1 ]]; then
        if (($1 > 128)); then signal=$(($1 - 128)); fi
        oom=$(($(oom_kills) - ${2:-0}))
    fi
    publish exit.json \
        "{\"attempt\":$attempt,\"rc\":$1,\"t\":$(date +%s),\"signal\":$signal,\"oom_kills\":$oom}"
}

oom_kills() {
    sed -n 's/^oom_kill //p' /proc/vmstat 2>/dev/null
}

# Go on in a new attempt if this one brought a new checkpoint: WHY.
again() {
    if (($(newest) <= before)); then
        note false "$1; it brought no new checkpoint, so it is not started again"
        return 1
    fi
    if ((attempt - first + 1 >= most)); then
        note false "$1; that was attempt $most of $most of this hand-in"
        return 1
    fi
    note true "$1; it goes on in a new attempt"
    trap 'exit 0' TERM
    trap '' USR1
    if ! scontrol requeue "$SLURM_JOB_ID"; then
        note false "$1; Slurm would not requeue it"
        return 1
    fi
    sleep 120 &  # Slurm ends this shell
    wait
    exit 0
}

if ! grep -qF "\"$token\"" slurm.json; then
    say "the job was cancelled, or started anew elsewhere: nothing was run"
    exit 0
fi
before=$(newest)
kills=$(oom_kills)
rm -f control/preempt.json
publish slurm-attempt.json "{\"token\":\"$token\",\"id\":\"$SLURM_JOB_ID\",\"attempt\":$attempt,\
\"node\":\"$(hostname)\",\"t\":$(date +%s)}"
say "attempt $attempt on $SLURM_JOB_NODELIST"

trap 'asked=limit; say "the time limit is near: saving"; ask' USR1
trap 'asked=end; say "told to end: saving"; ask' TERM

export @folder_variable@="$folder" @attempt_variable@="$attempt" @backend_variable@=slurm
export HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0
@setup@

@step@ >>"$log" 2>&1 </dev/null &
worker=$!
while :; do
    wait "$worker"
    code=$?
    # A signal interrupts the wait; the worker is still there then.
    kill -0 "$worker" 2>/dev/null || break
done

case $(outcome) in
    finished | stopped) exit 0 ;;
    failed) exit 1 ;;
    preempted) ended=saved ;;
    lost) ended=lost ;;
    *) ended=dead ;;
esac
if [[ $asked == end ]]; then
    # Cancelled, or Slurm requeues it itself.
    exit 0
fi
if [[ $ended == saved ]]; then
    again "$([[ $asked == limit ]] && echo "saved before the time limit" || echo "made way, saved")"
    exit 0
fi
if [[ $ended == lost ]]; then
    again "one of its processes was lost"
    exit 1
fi
again "the worker ended with code $code and no last word"
exit_record "$code" "$kills"
exit 1"""
