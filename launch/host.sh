# What a host of a slice or group does; queued.sh and mig.sh send this text, with variables before
# it and a verb behind it. Python 3.12 comes with uv: images of TPUs have 3.10, which is too old.
set -euo pipefail
cd "$HOME"

# Huge pages: the runtime of TPUs from v5e on begins and ends slowly without, and training on CPUs is slower.
setup() {
  stop
  sudo sh -c 'echo always > /sys/kernel/mm/transparent_hugepage/enabled' || true
  [[ -x .uv/bin/uv ]] || { python3 -m venv .uv && .uv/bin/pip install --quiet uv==0.11.7; }
  [[ -d miro_jax ]] || git clone --quiet "${REPOSITORY:?the address of this repository}" miro_jax
  cd miro_jax
  git fetch --quiet origin && git checkout --quiet --detach "$REVISION"
  [[ -x .venv/bin/python ]] || "$HOME/.uv/bin/uv" venv --quiet --python=3.12 .venv
  "$HOME/.uv/bin/uv" pip install --quiet --python=.venv/bin/python \
    --constraint=constraints-3.12.txt --editable=".[$EXTRA,gcs]"
  .venv/bin/miro-jax doctor ${WORKDIR:+--workdir="$WORKDIR"}
  [[ -z ${DEVICES:-} ]] || .venv/bin/python launch/together.py "$DEVICES" "$HOSTS"
}

# Variables of a run over several slices that ended make the next start wait for ever.
run() {
  stop
  unset "${!MEGASCALE_@}"
  cd miro_jax
  PATH=$PWD/.venv/bin:$PATH nohup setsid bash -c \
    "($COMMAND); echo \$? > ~/run.exit.new; mv ~/run.exit.new ~/run.exit" \
    > ~/run.log 2>&1 < /dev/null &
  echo $! > ~/run.pid
}

# A process that died may still hold the chips: the next one then finds none.
stop() {
  if [[ -f run.pid ]] && kill -TERM -- "-$(cat run.pid)" 2> /dev/null; then
    timeout 60 tail --pid="$(cat run.pid)" -f /dev/null || kill -KILL -- "-$(cat run.pid)" || true
  fi
  rm -f run.pid run.exit
  sudo fuser --silent --kill /dev/vfio/* /dev/accel* || true
  sudo rm -f /tmp/libtpu_lockfile
}

exits() {
  if [[ -f run.exit ]]; then cat run.exit
  elif [[ -f run.pid ]] && kill -0 "$(cat run.pid)" 2> /dev/null; then echo running
  elif [[ -f run.pid ]]; then echo 137
  fi
}

logs() { tail --lines=40 run.log; }

