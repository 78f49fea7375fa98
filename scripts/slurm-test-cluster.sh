#!/bin/bash
# A Slurm cluster for tests: two nodes on this machine, on the loopback address only.
#
#   slurm-test-cluster.sh start DIR    everything lies in DIR; prints how to use it
#   slurm-test-cluster.sh stop DIR     ends its daemons and waits until they are gone
#   slurm-test-cluster.sh install      apt-get install of what it needs (as root)
#
# FINETUI_SLURM_PORT is the first of four ports (default: a free one is looked for).
# Needs root: slurmd starts jobs as their owner.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

PACKAGES="slurmctld slurmd slurm-client munge"
NODES="n1 n2"

main() {
    case "${1:-}" in
        install) install ;;
        start) start "$(mkdir -p "$2" && cd "$2" && pwd -P)" ;;
        stop) stop "$(cd "$2" && pwd -P)" ;;
        *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
}

install() {
    local need=0 program
    for program in slurmctld slurmd sbatch munged; do
        command -v "$program" >/dev/null || need=1
    done
    if [ "$need" = 0 ]; then return; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "Slurm is not installed, and only root with apt-get can do it" >&2
        exit 3
    fi
    # The packages' own services would start without a configuration where there is systemd.
    if [ -d /run/systemd/system ]; then
        systemctl mask --quiet slurmctld.service slurmd.service munge.service || true
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null 2>&1 || true
    # shellcheck disable=SC2086
    apt-get install -qq -y --no-install-recommends $PACKAGES >/dev/null
}

start() {
    local dir=$1 port node
    port=${FINETUI_SLURM_PORT:-$(free_ports)}
    chmod 755 "$dir"
    mkdir -p "$dir/state" "$dir/log" "$dir/munge"
    chmod 711 "$dir/munge"
    if [ ! -s "$dir/munge/munge.key" ]; then
        (umask 077 && head -c 1024 /dev/urandom >"$dir/munge/munge.key")
    fi
    configuration "$dir" "$port" >"$dir/slurm.conf"
    export SLURM_CONF="$dir/slurm.conf"
    munged --force --key-file="$dir/munge/munge.key" --socket="$dir/munge/munge.socket" \
        --pid-file="$dir/munge/munged.pid" --log-file="$dir/munge/munged.log" \
        --seed-file="$dir/munge/munged.seed"
    slurmctld -c -f "$dir/slurm.conf"
    for node in $NODES; do
        slurmd -c -f "$dir/slurm.conf" -N "$node"
    done
    wait_until_idle
    echo "export SLURM_CONF=$dir/slurm.conf"
}

# The first of four ports in a row on which nobody listens.
free_ports() {
    local base port
    for base in $(seq 16817 10 17817); do
        for port in "$base" $((base + 1)) $((base + 2)) $((base + 3)); do
            if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
        done
        echo "$base"
        return
    done
    echo "no four free ports" >&2
    exit 1
}

configuration() {
    local dir=$1 port=$2 node
    cat <<CONF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is requeued waits cred_expire + 1 seconds; 5 is the least.
AuthInfo=socket=$dir/munge/munge.socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=$port
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdTimeout=10
KillWait=10
MinJobAge=600
JobRequeue=1
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
CONF
    port=$((port + 2))
    for node in $NODES; do
        echo "NodeName=$node NodeHostname=localhost NodeAddr=127.0.0.1 Port=$port CPUs=2" \
            "RealMemory=1024 State=UNKNOWN"
        port=$((port + 1))
    done
    echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO"
}

wait_until_idle() {
    local _
    for _ in $(seq 300); do
        if [ "$(sinfo -h -o %T 2>/dev/null | sort -u)" = idle ]; then return; fi
        sleep 0.1
    done
    echo "the nodes are not idle after 30 s: $(sinfo -h -o '%n %T %E' 2>&1)" >&2
    exit 1
}

# A job's own daemon stays behind for minutes where nobody hears that the job has ended.
end_jobs() {
    local _
    export SLURM_CONF="$1/slurm.conf"
    if ! scontrol ping 2>/dev/null | grep -q "is UP"; then return; fi
    scancel --user=root --signal=KILL --full 2>/dev/null || true
    scancel --user=root 2>/dev/null || true
    for _ in $(seq 150); do
        if [ -z "$(squeue -h 2>/dev/null)" ]; then return; fi
        sleep 0.1
    done
}

# What a step's daemon leaves when its controller was killed: only it works in DIR/log.
end_steps() {
    local pid
    for pid in $(pgrep slurmstepd || true); do
        if [ "$(readlink "/proc/$pid/cwd")" = "$1/log" ]; then kill -9 "$pid" 2>/dev/null || true; fi
    done
}

stop() {
    local dir=$1 file pid pids=() _
    end_jobs "$dir"
    for file in "$dir"/slurmd-*.pid "$dir/slurmctld.pid" "$dir/munge/munged.pid"; do
        if [ -s "$file" ]; then pids+=("$(cat "$file")"); fi
    done
    if [ "${#pids[@]}" = 0 ]; then return; fi
    kill "${pids[@]}" 2>/dev/null || true
    end_steps "$dir"
    # slurmctld saves its state when it ends: whoever starts anew in DIR must not race with that.
    for _ in $(seq 100); do
        for pid in "${pids[@]}"; do
            if kill -0 "$pid" 2>/dev/null; then sleep 0.1; continue 2; fi
        done
        return
    done
    kill -9 "${pids[@]}" 2>/dev/null || true
}

main "$@"
