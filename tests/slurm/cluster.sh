#!/usr/bin/env bash
# A Slurm of one node on loopback, for tests: no systemd, no accounting, two invented GPUs. As root, on Debian 12.
#   tests/slurm/cluster.sh install|start|stop|kill-node|start-node|restart-controller
# Its state, logs and process ids lie in $SLURM_FOLDER.
set -euo pipefail
FOLDER=${SLURM_FOLDER:-/var/tmp/dt-slurm}
CONFIGURATION=/etc/slurm # not elsewhere: job steps do not hear of SLURM_CONF
MARK="# written by tests/slurm/cluster.sh"
NODE=$(hostname -s)
export PATH=$PATH:/usr/sbin

main() {
  case "${1:-}" in
    install) install_packages ;;
    start) start ;;
    stop) stop ;;
    kill-node) kill_node ;;
    start-node) start_node ;;
    restart-controller) end slurmctld; slurmctld; wait_for "the controller" scontrol ping ;;
    *) sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
  esac
}

install_packages() {
  local packages=(slurm-wlm munge) wait=(-o DPkg::Lock::Timeout=300)
  dpkg -s "${packages[@]}" >/dev/null 2>&1 && return
  apt-get update -q "${wait[@]}"
  apt-get install -q -y --no-install-recommends "${wait[@]}" "${packages[@]}"
}

start() {
  if ! command -v slurmctld munged >/dev/null; then
    echo "Slurm is not installed: run tests/slurm/cluster.sh install" >&2; exit 1
  fi
  if [ -e $CONFIGURATION/slurm.conf ] && ! configuration_is_ours; then
    echo "$CONFIGURATION/slurm.conf is of another cluster: it stays, and nothing is started" >&2; exit 1
  fi
  stop
  start_munge
  write_configuration
  slurmctld
  start_node
}

start_node() {
  slurmd
  wait_for "the node" node_is_up
}

stop() {
  end slurmd
  end slurmctld
  end munged /run/munge/munged.pid
  rm -rf "$FOLDER"
  if configuration_is_ours; then rm $CONFIGURATION/{slurm,gres,cgroup}.conf; fi
}

configuration_is_ours() {
  grep -qxF "$MARK" $CONFIGURATION/slurm.conf 2>/dev/null
}

kill_node() { # as a power cut does: the daemon, the steps' shepherds and all that they run
  local daemon steps
  daemon=$(cat "$FOLDER/slurmd.pid")
  kill -KILL "$daemon"
  steps=$(pgrep -x slurmstepd || true)
  for step in $steps; do kill_tree "$step"; done
}

kill_tree() {
  local children
  kill -STOP "$1" 2>/dev/null || return 0 # so that it starts no more
  children=$(pgrep -P "$1" || true)
  for child in $children; do kill_tree "$child"; done
  kill -KILL "$1" 2>/dev/null || true
}

start_munge() {
  install -d -o munge -g munge -m 0755 /run/munge
  install -d -o munge -g munge -m 0700 /etc/munge /var/lib/munge /var/log/munge
  if [ ! -s /etc/munge/munge.key ]; then
    install -o munge -g munge -m 0400 <(head -c 128 /dev/urandom) /etc/munge/munge.key
  fi
  runuser -u munge -- munged
  wait_for munged munge --no-input --output /dev/null
}

write_configuration() {
  mkdir -p "$FOLDER"/{controller,node} $CONFIGURATION
  # a GPU needs a character device of its own; nothing opens these
  cat >$CONFIGURATION/gres.conf <<END
AutoDetect=off
NodeName=$NODE Name=gpu File=/dev/null
NodeName=$NODE Name=gpu File=/dev/zero
END
  echo "CgroupPlugin=cgroup/v1" >$CONFIGURATION/cgroup.conf # none is used, but slurmd looks for one and stops
  cat >$CONFIGURATION/slurm.conf <<END
$MARK
ClusterName=test
SlurmctldHost=$NODE(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=1,bf_interval=5,sched_interval=5
GresTypes=gpu
StateSaveLocation=$FOLDER/controller
SlurmdSpoolDir=$FOLDER/node
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait=10
SlurmdTimeout=10
EnforcePartLimits=ALL
DefMemPerCPU=500
NodeName=$NODE NodeAddr=127.0.0.1 CPUs=8 RealMemory=32000 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes=$NODE Default=YES MaxTime=1-00:00:00 State=UP
END
}

node_is_up() {
  case "$(sinfo --noheader --nodes "$NODE" --format %t 2>/dev/null)" in
    idle | mix | alloc) ;;
    *) scontrol update NodeName="$NODE" State=RESUME 2>/dev/null; return 1 ;;
  esac
}

wait_for() { # what, command: up to two minutes
  local what=$1; shift
  for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
  echo "$what does not answer" >&2
  tail -n 20 "$FOLDER"/*.log >&2
  exit 1
}

end() { # the process of a pid file, if it is the named program
  local file=${2:-$FOLDER/$1.pid} pid
  pid=$(cat "$file" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ] || return 0
  kill "$pid"
  for _ in $(seq 100); do runs "$pid" || return 0; sleep 0.2; done
  kill -KILL "$pid"
}

runs() { # a zombie has ended
  grep -q '^State:[[:space:]]*[^Z]' "/proc/$1/status" 2>/dev/null
}

main "$@"
