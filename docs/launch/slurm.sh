#!/bin/bash
# Trains on two machines with eight GPUs each: sbatch docs/launch/slurm.sh [--config.KEY=VALUE ...]
# from the checkout, whose virtual environment has pip install ".[cuda]". The workdir and the data
# are on a file system that all machines mount.
#
# One process a GPU: of the GPUs of its machine JAX takes the one with the process's local number.
# So all of them have to be visible to each: no --gpus-per-task. Before the time is over the
# processes of srun are sent SIGTERM, and save.
#
#SBATCH --job-name=vit_s16
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=vit_s16-%j.log
set -u
# shellcheck source=/dev/null
source .venv/bin/activate

# Where one process fails the others end by themselves; they must not be killed while they save.
code=0
srun --kill-on-bad-exit=0 vit-jax train \
  --config configs/vit_s16_i1k.py \
  --workdir runs/vit_s16 \
  --config.distributed.auto=True \
  --config.data.workers=10 \
  --config.checkpoint.every_epochs=1 \
  "$@" || code=$?

# 75: stopped by a signal, saved. The same command resumes it.
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
