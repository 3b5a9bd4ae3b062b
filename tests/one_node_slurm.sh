#!/usr/bin/env bash
# A SLURM cluster of this one machine, for as long as a command runs:
#   tests/one_node_slurm.sh sbatch --wait --wrap 'hostname'
# Debian: apt install slurmctld slurmd munge. Daemons of its own, on ports and in a folder of its own; nothing of the system is touched.
set -euo pipefail
for tool in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin command -v $tool > /dev/null || { echo "$tool is not installed" >&2; exit 77; }
done
PATH=$PATH:/usr/sbin
folder=$(mktemp -d /tmp/slurm.XXXXXX)
chmod 755 "$folder"
mkdir "$folder"/{state,spool,munge,bin}
chmod 700 "$folder/munge"
me=$(id -un) host=$(hostname -s) port=$((20000 + RANDOM % 20000))

cat > "$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$me
SlurmdUser=$me
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=${SLURM_TEST_CPUS:-2} RealMemory=${SLURM_TEST_MEMORY:-16000} State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF

started=()
finish() {
    scancel --user "$me" 2> /dev/null || true
    for pid in ${started[@]+"${started[@]}"}; do kill "$pid" 2> /dev/null || true; done
    wait || true
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM
export SLURM_CONF=$folder/slurm.conf
# Jobs keep PATH, and lose SLURM_CONF where something clears SLURM's variables.
for tool in sbatch srun squeue scancel sinfo scontrol sacct; do
    printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v $tool)" > "$folder/bin/$tool"
    chmod +x "$folder/bin/$tool"
done
export PATH=$folder/bin:$PATH

head -c 1024 /dev/urandom > "$folder/munge/key"
chmod 400 "$folder/munge/key"
munged --foreground --force --socket="$folder/munge/socket" --key-file="$folder/munge/key" --pid-file="$folder/munge/pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" > "$folder/munge/said" 2>&1 &
started+=($!)
for _ in $(seq 50); do [ -S "$folder/munge/socket" ] && break; sleep .1; done
slurmctld -D > "$folder/slurmctld.said" 2>&1 &
started+=($!)
slurmd -D -N "$host" > "$folder/slurmd.said" 2>&1 &
started+=($!)
for _ in $(seq 100); do sinfo -h -o %T 2> /dev/null | grep -q idle && break; sleep .2; done
if ! sinfo -h -o %T 2> /dev/null | grep -q idle; then
    echo "The node did not come up:" >&2
    tail -n 5 "$folder"/*.log "$folder"/*.said "$folder/munge/log" >&2 || true
    exit 1
fi
"$@"
