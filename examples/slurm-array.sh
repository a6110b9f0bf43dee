#!/bin/bash
# One audit over many machines: a Slurm array, one shard a task. Fill in the paths; the shards need nothing of each other, only the same
# checkout, checkpoint and options. All machines must be of one kind: kilotoken merge refuses shards from different ones.
#
#   sbatch --array=1-8 examples/slurm-array.sh
#   # when the array has ended; a task that failed can be run again alone, with --array=<its number>
#   kilotoken merge runs/campaign "$RESULTS"/shard-*
#   kilotoken check runs/campaign
#
#SBATCH --job-name=kilotoken
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --output=kilotoken-%A-%a.log
set -euo pipefail

: "${CHECKPOINT:?directory of the checkpoint, the same on every machine}"
: "${RESULTS:?directory that every machine can write}"

# The number of shards is that of the array, also when one task of it is run again: set SHARDS then.
shards=${SHARDS:-$SLURM_ARRAY_TASK_COUNT}
out=$RESULTS/shard-$SLURM_ARRAY_TASK_ID

# A run is never written over; what an earlier attempt left is kept beside it.
if [ -e "$out" ]; then mv "$out" "$out.$(date +%s).earlier"; fi

exec npx kilotoken audit --checkpoint "$CHECKPOINT" --shard "$SLURM_ARRAY_TASK_ID/$shards" --seed 1 --no-page --out "$out"
