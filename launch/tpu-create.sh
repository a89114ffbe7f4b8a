#!/bin/bash
# Create a TPU VM or slice and install this repository on all of its hosts, once. What keeps a run
# alive on machines that may be taken away is launch/watch.py, which also knows the other services.
#
#   NAME=miro ZONE=us-central2-b TYPE=v4-32 REPOSITORY=https://github.com/OWNER/miro_jax launch/tpu-create.sh
set -euo pipefail

: "${NAME:?a name}" "${ZONE:?a zone}" "${TYPE:?as v4-32}" "${REPOSITORY:?the address of this repository}"
HERE=$(cd "$(dirname "$0")" && pwd)
if [[ -z "${VERSION:-}" ]]; then # the image that suits the type
  VERSION=$(cd "$HERE" && python3 -c 'import machines, sys; print(machines.machine("queued", sys.argv[1])["RUNTIME"])' "$TYPE")
fi
gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" \
  --accelerator-type="$TYPE" --version="$VERSION" --spot
gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="
REPOSITORY=${REPOSITORY@Q} REVISION=${REVISION:-HEAD} EXTRA=tpu
$(cat "$HERE/host.sh")
setup"
