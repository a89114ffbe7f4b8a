#!/bin/bash
# One verb of a JobSet on a GKE cluster, with a pool of nodes of its own: TPU slices and machines
# with GPUs. launch/watch.py calls this and sets the variables:
#
#   python3 launch/watch.py create --on=gke --cluster=... --name=... --zone=... --type=v6e-16 --image=...
set -euo pipefail

: "${CLUSTER:?call launch/watch.py, which sets it}"
pools() { gcloud container node-pools "$@" --cluster="$CLUSTER" --location="$ZONE" --quiet; }
# train-gke.yaml with the variables put in; one that is missing is an error.
job() {
  python3 -c 'import os, string, sys; print(string.Template(sys.stdin.read()).substitute(os.environ))' \
    < "$LAUNCH/train-gke.yaml"
}

case "${1:?create, setup, run, state, exits, logs or delete}" in
  create)
    pools create "$NAME" --machine-type="$MACHINE" --num-nodes="$HOSTS" \
      --max-run-duration="${SECONDS_PAID}s" ${TOPOLOGY:+--tpu-topology="$TOPOLOGY"} ${SPOT:+--spot}
    ;;
  setup) # the image has everything; a job looks at the machines as the run will see them
    export NAME="$NAME-doctor" POOL="$NAME" RESTARTS=0
    export COMMAND_JSON="\"miro-jax doctor && python /miro_jax/launch/together.py $DEVICES $HOSTS\""
    kubectl delete jobset "$NAME" --ignore-not-found
    job | kubectl apply -f -
    kubectl wait --for=condition=Completed "jobset/$NAME" --timeout=20m
    kubectl delete jobset "$NAME" --ignore-not-found
    ;;
  run)
    kubectl delete jobset "$NAME" --ignore-not-found
    POOL=$NAME RESTARTS=10 job | kubectl apply -f -
    ;;
  state) pools list --filter="name=$NAME" --format='value(status)' ;;
  exits) # what the JobSet says, and its pods
    kubectl get jobset "$NAME" --ignore-not-found \
      -o jsonpath='{.metadata.name} {.status.terminalState}{"\n"}'
    kubectl get pods -l "jobset.sigs.k8s.io/jobset-name=$NAME" \
      -o jsonpath='{range .items[*]}{.status.containerStatuses[0].state.terminated.exitCode}{"\n"}{end}'
    ;;
  logs) kubectl logs -l "jobset.sigs.k8s.io/jobset-name=$NAME" --tail=40 --prefix ;;
  delete)
    kubectl delete jobset "$NAME" "$NAME-doctor" --ignore-not-found || true
    pools delete "$NAME" || true
    ;;
  *) echo "no verb $1" >&2 && exit 2 ;;
esac
