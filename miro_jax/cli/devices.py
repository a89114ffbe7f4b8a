"""Whether the devices of this machine can be used: drivers, who holds them, what they compute."""

import glob
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from miro_jax.cli.cluster import TPUS
from miro_jax.cli.finding import FAILED, OK, Finding
from miro_jax.cli.fit import version
from miro_jax.data.printable import counted
from miro_jax.models import sharding

NVIDIA, NVIDIA_DRIVER = "/dev/nvidia[0-9]*", Path("/proc/driver/nvidia/version")
_WIDTH = 128  # of the product, whose sums are exact in every dtype


def drivers() -> list[Finding]:
    """Return what is known of the drivers of accelerators whose files are there; see `holders`."""
    found = []
    if glob.glob(NVIDIA):
        try:
            text = NVIDIA_DRIVER.read_text().splitlines()[0].removeprefix("NVRM version: ")
            found.append(Finding("driver", OK, " ".join(text.split())))
        except (OSError, IndexError):
            text = f"{NVIDIA_DRIVER} is missing: is the driver loaded? Try nvidia-smi"
            found.append(Finding("driver", FAILED, text))
    paths = [path for pattern in TPUS for path in glob.glob(pattern)]
    if paths:
        if libtpu := version("libtpu"):
            found.append(Finding("libtpu", OK, libtpu))
        else:
            text = "not installed, and there are TPUs: pip install 'miro_jax[tpu]'"
            found.append(Finding("libtpu", FAILED, text))
        for number, name in holders(paths):
            text = f"process {number} ({name}) holds the TPU: end it, kill {number}"
            found.append(Finding("TPU", FAILED, text))
    return found


def holders(paths: list[str]) -> list[tuple[int, str]]:
    """Return the other processes that have one of some files open, as far as we may see."""
    held = []
    for folder in Path("/proc").glob("[0-9]*"):
        if folder.name == str(os.getpid()):
            continue
        try:
            links = [os.readlink(link) for link in (folder / "fd").iterdir()]
            if any(link in paths for link in links):
                held.append((int(folder.name), (folder / "comm").read_text().strip()))
        except OSError:  # it has ended, or is another user's
            continue
    return held


def compute() -> list[Finding]:
    """Return whether each device multiplies matrices right, and all of them add up right."""
    devices = jax.local_devices()
    numbers = np.arange(1, len(devices) + 1, dtype=np.float32)
    rows = np.repeat(numbers, _WIDTH)[:, None] * np.ones(_WIDTH, np.float32)
    mesh = sharding.local_mesh()
    spread = NamedSharding(mesh, PartitionSpec("data"))

    @jax.jit
    def work(a, b):
        product = jax.lax.with_sharding_constraint(a @ b, spread)
        return product, jnp.sum(product.reshape(len(devices), _WIDTH, _WIDTH), axis=0)

    try:
        b = jax.device_put(np.ones((_WIDTH, _WIDTH), np.float32), sharding.replicated(mesh))
        product, total = jax.device_get(work(jax.device_put(rows, spread), b))
    except RuntimeError as error:  # of XLA, a driver, a library of collectives
        text = f"the devices do not compute: {' '.join(str(error).split())[:300]}"
        return [Finding("product", FAILED, f"{text}. Another process on them? See driver")]
    each = product.reshape(len(devices), -1)
    wrong = [str(devices[i]) for i in np.flatnonzero((each != _WIDTH * numbers[:, None]).any(1))]
    found = [_result("product", "a product of matrices", wrong, len(devices))]
    if len(devices) > 1:
        bad = ["all"] if (total != _WIDTH * numbers.sum()).any() else []
        found.append(_result("collective", "a sum over devices", bad, len(devices)))
    return found


def _result(name: str, what: str, wrong: list[str], count: int) -> Finding:
    if wrong:
        text = f"{what} is wrong on {', '.join(wrong)}: take another machine"
        return Finding(name, FAILED, text)
    return Finding(name, OK, f"{what} is exact on {counted(count, 'device')}")
