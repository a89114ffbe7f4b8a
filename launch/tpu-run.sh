#!/bin/bash
# Run a command of this repository on all hosts of a TPU slice at once, as training needs it.
#
#   NAME=miro ZONE=us-central2-b launch/tpu-run.sh python -m miro_jax.main \
#       --config=configs/miro.py --workdir=/shared/miro --config.mesh.distributed=True
set -euo pipefail

exec gcloud compute tpus tpu-vm ssh "${NAME:?a name}" --zone="${ZONE:?a zone}" --worker=all \
  --command="cd miro_jax && PATH=\$PWD/.venv/bin:\$PATH ${*@Q}"
