#!/bin/bash
# Trains one model on two machines: sbatch launchers/slurm.sh, in a clone that all of them see.
# params.yaml has to say the same: train.nodes: 2, train.processes: 1 (GPUs of a machine).
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=artifacts/slurm-%j.log
set -euo pipefail

MASTER_ADDR=$(hostname) # the first machine runs this script, and rank 0
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export MASTER_ADDR MASTER_PORT PYTHONPATH=src

dvc repro preprocess
# A rank that dies ends the others. After the death of a machine Slurm queues the job again by
# itself, and it goes on from its checkpoint.
srun --kill-on-bad-exit=1 --label python -m pipeline.train
dvc commit --force train
dvc repro
