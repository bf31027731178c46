#!/usr/bin/env bash
# Trains on a SLURM cluster, from a checkout that all nodes see, with the flags of `python main.py`:
#
#     sbatch launch/slurm.sh --config=alexnet:imagenet2012_pack256 --workdir=/shared/runs/first
#
# Before its time limit, preempted, or with a process lost, it saves or falls back to the last checkpoint, queues itself
# again and resumes. It stops when it is done, when it fails (status 1), and after RESTARTS restarts.
#
# ---- to change: how many nodes, GPUs on each, and for how long at a time
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
# ---- one process per node, which drives all its GPUs. One per GPU: --ntasks-per-node=8, and fewer CPUs for each
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#
#SBATCH --job-name=alexnet
#SBATCH --output=alexnet-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -uo pipefail

PYTHON=${PYTHON:-.venv/bin/python}
RESTARTS=${RESTARTS:-100}

# JAX gives a process under SLURM one GPU, the one that has the process's number on its node (jax-ml/jax#16788). That is
# right for a process per GPU that sees them all, so not with --gpus-per-task or --gpu-bind (jax-ml/jax#28194).
flags=()
if ((SLURM_NTASKS == SLURM_JOB_NUM_NODES)); then flags+=(--local_devices=all); fi

# The processes talk to each other only, and a proxy in between can hang them.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

echo "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): $SLURM_NTASKS processes on $SLURM_JOB_NODELIST"

# srun's status is the largest of its processes' (128 + the number of the signal that ended one). --kill-on-bad-exit=0:
# the others notice by themselves that one is lost, and leave; --wait: any that have not after 5 minutes are ended.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 --wait=300 --label \
  "$PYTHON" main.py "$@" "${flags[@]}" &
step=$!

# USR1: the time limit is near (or `scancel --batch --signal=USR1 JOB`). TERM: somebody ends or requeues the job, and
# SLURM sends it to the processes too.
trap 'echo "job $SLURM_JOB_ID: time is up, saving"; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap : TERM
while
  wait "$step" # a trap ends it early
  status=$?
  kill -0 "$step" 2>/dev/null
do :; done

echo "job $SLURM_JOB_ID ended with status $status"

# Again after a lost or hanging process (75) and after a signal (129 to 192), unless somebody has ended or requeued it.
if ((status == 75 || (status > 128 && status <= 192))) && ((${SLURM_RESTART_COUNT:-0} < RESTARTS)) &&
  [[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
