#!/bin/bash
# Train on the nodes of a Slurm job, one process a node. launch/slurm.sh queues this; by hand:
#
#   COMMAND='miro-jax train --config=miro --workdir=/shared/miro --config.mesh.distributed=True' \
#       sbatch --nodes=4 launch/train-slurm.sh
#
# A job that is preempted is queued again and resumes. SIGTERM comes two minutes before the end of
# its time: training saves and ends.
#SBATCH --job-name=miro
#SBATCH --requeue
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --mem=0
#SBATCH --signal=TERM@120
#SBATCH --time=24:00:00
set -euo pipefail

# An array's or an earlier job's variables are not of this run.
unset "${!MEGASCALE_@}"
export PATH="$PWD/.venv/bin:$PATH"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/jax}"
exec srun --kill-on-bad-exit=1 bash -c "${COMMAND:?what each node runs}"
