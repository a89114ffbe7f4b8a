#!/bin/bash
# One verb of a TPU slice of the queued-resources API, v4 to v6e. launch/watch.py calls this and
# sets the variables:
#
#   python3 launch/watch.py create --on=queued --name=... --zone=... --type=v6e-16
set -euo pipefail

: "${ZONE:?call launch/watch.py, which sets it}"
tpus() { gcloud compute tpus "$@" --zone="$ZONE" --quiet; }
# A verb of host.sh on all hosts at once; which of them is which, the slice's metadata say.
hosts() {
  tpus tpu-vm ssh "$NAME" --worker=all --command="
REPOSITORY=${REPOSITORY@Q} REVISION=${REVISION@Q} EXTRA=${EXTRA@Q} COMMAND=${COMMAND@Q} WORKDIR=${WORKDIR@Q} DEVICES=$DEVICES HOSTS=$HOSTS
export JAX_COORDINATOR_PORT=$PORT
$(cat "$LAUNCH/host.sh")
$1"
}

case "${1:?create, setup, run, state, exits, logs or delete}" in
  create)
    tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" \
      --runtime-version="$RUNTIME" --valid-until-duration="${SECONDS_WAITED}s" ${SPOT:+--spot}
    ;;
  setup | run | exits | logs) hosts "$1" ;;
  state)
    tpus queued-resources list --filter="name~/$NAME\$" --format='value(state.state)'
    tpus tpu-vm list --filter="name~/$NAME\$" --format='value(state)'
    ;;
  delete)
    tpus queued-resources delete "$NAME" --force || true
    tpus tpu-vm delete "$NAME" || true
    ;;
  *) echo "no verb $1" >&2 && exit 2 ;;
esac
