#!/bin/bash
# One verb of a managed instance group of Compute Engine: TPU slices (v5e and newer) and machines
# with GPUs. launch/watch.py calls this and sets the variables:
#
#   python3 launch/watch.py create --on=mig --name=... --zone=... --type=h100-16
set -euo pipefail

: "${ZONE:?call launch/watch.py, which sets it}"
compute() { gcloud compute "$@" --quiet; }
group() { compute instance-groups managed "$@" --zone="$ZONE"; }
machines() { group list-instances "$NAME" --format='value(instance.basename())' | sort; }
# A verb of host.sh on all machines at once.
hosts() {
  FIRST=$(machines | head -n 1) && export FIRST
  machines | awk '{print NR - 1, $1}' | xargs -P 256 -L 1 "$LAUNCH/mig.sh" host "$1"
}

case "${1:?create, setup, run, state, exits, logs or delete}" in
  create)
    compute instance-templates create "$NAME" --machine-type="$MACHINE" \
      --image-family="$FAMILY" --image-project="$FAMILY_PROJECT" \
      --boot-disk-size=200GB --boot-disk-type="$DISK" --scopes=cloud-platform \
      --maintenance-policy=TERMINATE --instance-termination-action=DELETE \
      --max-run-duration="${SECONDS_PAID}s" ${SPOT:+--provisioning-model=SPOT}
    [[ -z $SLICE ]] || compute resource-policies create workload-policy "$NAME" \
      --region="$REGION" --type=HIGH_THROUGHPUT --accelerator-topology="$TOPOLOGY"
    group create "$NAME" --template="$NAME" --size="$HOSTS" --target-size-policy-mode=bulk \
      --default-action-on-vm-failure=do-nothing ${SLICE:+--workload-policy="$NAME"}
    ;;
  setup | run | exits | logs) hosts "$1" ;;
  host) # VERB NUMBER MACHINE
    compute ssh "$4" --zone="$ZONE" --command="
REPOSITORY=${REPOSITORY@Q} REVISION=${REVISION@Q} EXTRA=${EXTRA@Q} COMMAND=${COMMAND@Q} WORKDIR=${WORKDIR@Q} DEVICES=$DEVICES HOSTS=$HOSTS
export JAX_COORDINATOR_ADDRESS=$FIRST:$PORT JAX_NUM_PROCESSES=$HOSTS JAX_PROCESS_ID=$3
$(cat "$LAUNCH/host.sh")
$2"
    ;;
  state)
    if [[ -n $(compute instance-groups managed list --filter="name=$NAME" --format='value(name)') ]]; then
      echo GROUP
      group list-instances "$NAME" --format='value(instanceStatus,currentAction)'
    fi
    ;;
  delete)
    group delete "$NAME" || true
    compute instance-templates delete "$NAME" || true
    [[ -z $SLICE ]] || compute resource-policies delete "$NAME" --region="$REGION" || true
    ;;
  *) echo "no verb $1" >&2 && exit 2 ;;
esac
