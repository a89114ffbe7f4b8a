#!/bin/bash
# One verb of a Slurm job that trains on several nodes, called on a login node in a clone of this
# repository that all nodes see. launch/watch.py calls this and sets the variables:
#
#   python3 launch/watch.py run --on=slurm --name=... --hosts=4 --sbatch='--partition=gpu' -- COMMAND
set -euo pipefail

: "${NAME:?call launch/watch.py, which sets it}"
cd "$LAUNCH/.."

case "${1:?create, setup, run, state, exits, logs or delete}" in
  create) ;; # nodes come with the job
  setup)
    [[ -x .uv/bin/uv ]] || { python3 -m venv .uv && .uv/bin/pip install --quiet uv==0.11.7; }
    [[ -x .venv/bin/python ]] || .uv/bin/uv venv --quiet --python=3.12 .venv
    .uv/bin/uv pip install --quiet --python=.venv/bin/python \
      --constraint=constraints-3.12.txt --editable=".[$EXTRA]"
    ;;
  run)
    # shellcheck disable=SC2086  # words for sbatch
    sbatch --parsable --job-name="$NAME" --nodes="$HOSTS" --time="$MINUTES_PAID" \
      --output="$NAME-%j.log" $SBATCH "$LAUNCH/train-slurm.sh" > "$NAME.job"
    ;;
  state) squeue --me --name="$NAME" --noheader --format=%T ;;
  exits) [[ ! -f $NAME.job ]] || sacct --jobs="$(cat "$NAME.job")" --allocations --noheader --parsable2 --format=State,ExitCode ;;
  logs)
    for file in "$NAME"-*.log; do echo "== $file"; tail --lines=40 "$file"; done
    ;;
  delete) scancel --me --name="$NAME" ;;
  *) echo "no verb $1" >&2 && exit 2 ;;
esac
