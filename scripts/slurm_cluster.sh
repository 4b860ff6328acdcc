#!/usr/bin/env bash
# A Slurm cluster of one node for as long as a command runs: `scripts/slurm_cluster.sh sbatch --wait job.sh`.
#
# For root on a throw-away machine with Debian's slurm-wlm and munge, which are installed where they are missing and no
# systemd would start them. Everywhere else one sentence says what is missing, and nothing is done (exit status 0).
# Configuration, key, sockets, logs and state live in one temporary directory, and go with it, whatever happens; the
# command finds it in STN_SLURM_CLUSTER. Jobs in partition `high` preempt those in `low` (at once) and `graced` (which
# are told 20 seconds before).
set -euo pipefail

nothing_done() {
    echo "No Slurm cluster was started: $1" >&2
    exit 0
}

[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT...]" >&2; exit 2; }
[ "$(id -u)" = 0 ] || nothing_done "it takes root on a throw-away machine, such as a container of Debian."
for file in /etc/slurm/slurm.conf /etc/slurm-llnl/slurm.conf; do
    [ ! -e "$file" ] || nothing_done "$file says that this machine belongs to a cluster; use a throw-away one."
done
[ ! -d /run/systemd/system ] ||
    nothing_done "systemd runs here, so this is no throw-away machine; use a container of Debian."

cluster=$(mktemp -d "${TMPDIR:-/tmp}/slurm.XXXXXX")
policy=
started=
clean_up() {
    trap '' INT TERM HUP
    if [ -n "$started" ]; then # daemons, jobs, and what a job left behind: whatever was told of this cluster
        local environment pid
        timeout 10 scancel --full --signal=KILL --user=root || true
        for environment in $(grep -lsF "$cluster/slurm.conf" /proc/[0-9]*/environ); do
            pid=${environment//[^0-9]/}
            [ "$pid" = $$ ] || kill -KILL "$pid" 2>/dev/null || true
        done
        wait
    fi 2>/dev/null
    [ -z "$policy" ] || rm -f "$policy"
    rm -rf "$cluster"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

missing() {
    local program
    for program in slurmctld slurmd srun munged; do command -v "$program" >/dev/null || echo -n " $program"; done
}
if [ -n "$(missing)" ]; then
    command -v apt-get >/dev/null ||
        nothing_done "there is no$(missing), and no apt-get to install them with; use a container of Debian."
    echo "Installing slurm-wlm and munge." >&2
    if [ ! -e /usr/sbin/policy-rc.d ]; then # what keeps Debian from starting the services of a package
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -qq --yes --no-install-recommends slurm-wlm munge; } \
        >"$cluster/apt.log" 2>&1 || true
    [ -z "$(missing)" ] ||
        nothing_done "apt-get could not install$(missing); $(tail -n 1 "$cluster/apt.log" | grep . || echo "see to it that it can.")"
fi

free_port() { "${PYTHON:-python3}" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
chmod 755 "$cluster"
mkdir "$cluster"/{munge,state,spool,log}
dd if=/dev/urandom of="$cluster/munge/key" bs=128 count=1 status=none
chmod 600 "$cluster/munge/key"
cat >"$cluster/slurm.conf" <<CONF
ClusterName=stn
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$cluster/munge/socket,cred_expire=10
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.pid
SlurmctldLogFile=$cluster/log/slurmctld
SlurmdLogFile=$cluster/log/slurmd
# Nothing of the machine is asked for or changed: no cgroups, no binding, more processors than there are.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2
ReturnToService=2
JobRequeue=0 # of the cluster; a sweep asks for it
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
OverTimeLimit=0
KillWait=5
NodeName=node NodeHostname=$(hostname) NodeAddr=127.0.0.1 CPUs=8
PartitionName=DEFAULT Nodes=node State=UP
PartitionName=low PriorityTier=1 Default=YES
PartitionName=graced PriorityTier=1 GraceTime=20
PartitionName=high PriorityTier=2 PreemptMode=OFF
CONF
: >"$cluster/cgroup.conf"
started=yes
export SLURM_CONF="$cluster/slurm.conf" STN_SLURM_CLUSTER="$cluster"

munged --foreground --force --num-threads=2 --key-file="$cluster/munge/key" --socket="$cluster/munge/socket" \
    --pid-file="$cluster/munge/pid" --log-file="$cluster/log/munged" --seed-file="$cluster/munge/seed" \
    >"$cluster/log/munged.out" 2>&1 &
wait_for() { # at most a minute
    local end=$((SECONDS + 60))
    until "$@"; do
        if [ $SECONDS -gt $end ]; then
            head -n 100 "$cluster"/log/* >&2
            echo "The Slurm cluster did not come up; its logs are above." >&2
            exit 1
        fi
        sleep 0.1
    done
}
idle() { [ "$(timeout 5 sinfo --noheader --partition=low --format=%T 2>/dev/null)" = idle ]; }
wait_for test -S "$cluster/munge/socket"
slurmctld -D -f "$SLURM_CONF" >"$cluster/log/slurmctld.out" 2>&1 &
slurmd -D -f "$SLURM_CONF" -N node >"$cluster/log/slurmd.out" 2>&1 &
wait_for idle
"$@"
