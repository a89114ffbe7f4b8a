#!/bin/bash
# Annotate with a Slurm array: each task takes its own pieces; a task that was killed is queued again
# and resumes at its last batch.
#
#   SOURCE='tar:/data/cc12m/*.tar' OUT=/data/records sbatch --array=0-63 launch/annotate-slurm.sh
#
# When all tasks are done, finish the set with the same variables and --merge:
#
#   SOURCE=... OUT=... SLURM_ARRAY_TASK_ID= bash launch/annotate-slurm.sh --merge
#
# To queue some of 64 tasks again, with the pieces that they had:
#
#   SOURCE=... OUT=... WORKERS=64 sbatch --array=3,17 launch/annotate-slurm.sh
#
#SBATCH --job-name=annotate
#SBATCH --array=0-63
#SBATCH --requeue
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=96G
#SBATCH --time=24:00:00
set -euo pipefail

if [[ -n "${WORKERS:-}" && -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then
  set -- --worker-index="$SLURM_ARRAY_TASK_ID" --num-workers="$WORKERS" "$@"
fi
# A task that is queued again finds its programs compiled.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/jax}"
exec srun "${PYTHON:-.venv/bin/python}" -m miro_jax.annotate \
  --source="${SOURCE:?a source, as tar:/data/*.tar}" \
  --out="${OUT:?the folder of the records}" \
  --rewards="${REWARDS:-clip,aesthetic,image_reward,pick_score,hpsv2,vqa,sci_score}" \
  --image-encoder=sdxl_vae:size=256 \
  --caption-encoder=flan_t5:width=2048,max_tokens=256,dtype=bfloat16 \
  --dtype=bfloat16 --one-by-one --num-threads="${SLURM_CPUS_PER_TASK:-16}" "$@"
