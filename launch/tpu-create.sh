#!/bin/bash
# Create a TPU VM or slice and install this repository on all of its hosts.
#
#   NAME=miro ZONE=us-central2-b TYPE=v4-32 REPOSITORY=https://github.com/OWNER/miro_jax launch/tpu-create.sh
set -euo pipefail

gcloud compute tpus tpu-vm create "${NAME:?a name}" --zone="${ZONE:?a zone}" \
  --accelerator-type="${TYPE:?as v4-32}" --version="${VERSION:-tpu-ubuntu2204-base}" --spot
gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="\
git clone ${REPOSITORY:?the address of this repository} miro_jax && cd miro_jax \
&& python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e '.[tpu,gcs]'"
