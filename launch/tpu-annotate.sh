#!/bin/bash
# Annotate on all hosts of a TPU slice, each with its own pieces and its own chips.
#
#   NAME=miro ZONE=us-central2-b SOURCE='tar:gs://BUCKET/cc12m/*.tar' OUT=gs://BUCKET/records \
#       launch/tpu-annotate.sh
#
# When all hosts are done, finish the set from anywhere with the same arguments and --merge.
# The slice's metadata tell a host its number and how many there are. The variables make each host a
# slice of its own, of four chips or CHIPS (2,4,1 on a host of eight, 1,1,1 on one of a single chip), so
# that hosts need not wait for each other.
set -euo pipefail

METADATA='curl -sfH Metadata-Flavor:Google http://metadata.google.internal/computeMetadata/v1/instance/attributes'
: "${SOURCE:?a source, as tar:gs://BUCKET/*.tar}" "${OUT:?the folder of the records}"
SCRIPT="\
set -euo pipefail; cd miro_jax; export PATH=\$PWD/.venv/bin:\$PATH; \
index=\$($METADATA/agent-worker-number); \
hosts=\$($METADATA/worker-network-endpoints | tr , '\n' | grep -c .); \
export TPU_WORKER_ID=0 TPU_WORKER_HOSTNAMES=localhost \
TPU_PROCESS_BOUNDS=1,1,1 TPU_CHIPS_PER_PROCESS_BOUNDS=${CHIPS:-2,2,1} \
JAX_COMPILATION_CACHE_DIR=\$HOME/.cache/jax; \
exec python -m miro_jax.annotate --worker-index=\$index --num-workers=\$hosts \
--source=${SOURCE@Q} --out=${OUT@Q} \
--rewards=${REWARDS:-clip,aesthetic,image_reward,pick_score,hpsv2,vqa,sci_score} \
--image-encoder=sdxl_vae:size=256 \
--caption-encoder=flan_t5:width=2048,max_tokens=256,dtype=bfloat16 \
--dtype=bfloat16 --one-by-one --num-threads=32 ${*@Q}"
exec gcloud compute tpus tpu-vm ssh "${NAME:?a name}" --zone="${ZONE:?a zone}" --worker=all \
  --command="bash -c ${SCRIPT@Q}"
