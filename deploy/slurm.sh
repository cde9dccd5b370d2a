#!/usr/bin/env bash
# A search by an array of workers, one GPU each: sbatch --array=0-3 deploy/slurm.sh plateau [OPTIONS OF tuner search]
# Task 0 begins the study, the others join it within half an hour. All of them need the storage (TUNER_STORAGE, PostgreSQL) and a folder that all nodes see, or a
# bucket (TUNER_ARTIFACTS); say both through these variables, for options go to task 0 alone. No --fresh: a task that is queued again would begin anew.
# A task whose time is up is asked to end two minutes before, writes its state and goes to the end of the queue.
#SBATCH --job-name=tuner
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=tuner-%A-%a.log
set -euo pipefail

study=${1:?"name the study: sbatch --array=0-3 deploy/slurm.sh plateau"}
shift
: "${TUNER_STORAGE:?"name the storage that all workers share: export TUNER_STORAGE=postgresql+psycopg://tuner@HOST/tuner"}"
export TUNER_ARTIFACTS=${TUNER_ARTIFACTS:-$PWD/runs/artifacts}

if [[ ${SLURM_ARRAY_TASK_ID:-0} == 0 ]]; then
  tuner search "$study" --log-format json "$@" &
else
  name=$study before=
  for word in "$@"; do
    if [[ $before == --name ]]; then name=$word; fi
    if [[ $word == --name=* ]]; then name=${word#--name=}; fi
    before=$word
  done
  for ((waited = 0; waited < 180; waited++)); do # until somebody trains it: an older study of the name may be over
    if tuner status "$name" --json 2>/dev/null | grep -q '"running": [1-9]'; then break; fi
    sleep 10
  done
  tuner worker "$name" --log-format json &
fi
worker=$!
trap 'kill -TERM "$worker" 2>/dev/null || true' TERM # it may have ended by itself just then
wait "$worker" || true # cut short where the signal comes: the worker still writes its state, or has ended by itself just then
status=0
wait "$worker" || status=$?
if [[ $status == 143 && -n ${SLURM_JOB_ID:-} ]]; then # preempted or out of time: not finished
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
