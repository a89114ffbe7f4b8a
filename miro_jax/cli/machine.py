"""What this machine is, and what of it stands in the way: the findings of `miro-jax doctor`.

Each check is a function that returns findings; none of them changes anything but a file that is
written and removed to see whether a folder takes it.
"""

import dataclasses
import glob
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
from huggingface_hub import constants as hub

from miro_jax.cli.compile_cache import VARIABLE
from miro_jax.models.flops import peak_tflops
from miro_jax.models.fused_attention import resolve

OK, WARNING, FAILED = "ok", "warning", "failed"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers")
# Extras by the module that each brings.
EXTRAS = {"demo": "gradio", "docs": "sphinx", "gcs": "gcsfs", "s3": "s3fs"}
# Files by which an accelerator shows before any driver is asked, and the extra that uses it.
ACCELERATORS = {"NVIDIA GPU": ("/dev/nvidia[0-9]*", "cuda12"), "TPU": ("/dev/accel[0-9]*", "tpu")}
LEAST_MEMORY, LEAST_DISK = 4 << 30, 5 << 30


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
      name: what. state: OK, WARNING (works, not as well as it could) or FAILED.
      text: what was found, and after a warning or a failure what to do.
    """

    name: str
    state: str
    text: str


def examine(folder: Path) -> list[Finding]:
    """Return the findings of all checks; `folder` is where runs will be written."""
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _versions,
        _devices,
        _attention,
        _processor,
        lambda: _disk("folder of runs", folder),
        lambda: _disk("weights from the hub", Path(hub.HF_HUB_CACHE)),
        _compiled,
        _hub,
        _extras,
    )
    return [finding for check in checks for finding in check()]


def _versions() -> list[Finding]:
    found = {name: _version(name) for name in PACKAGES}
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    python = Finding("Python", OK, f"{platform.python_version()} at {sys.executable}")
    return [python, Finding("packages", OK if all(found.values()) else FAILED, text)]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _devices() -> list[Finding]:
    try:
        devices = jax.devices()
    except RuntimeError as error:  # of a driver
        text = f"JAX finds no device: {' '.join(str(error).split())}"
        return [Finding("devices", FAILED, text)]
    kind, platform_name = devices[0].device_kind, devices[0].platform
    stats = devices[0].memory_stats() or {}
    memory = stats.get("bytes_limit")
    text = f"{len(devices)} x {kind} ({platform_name})"
    text += f", {_gib(memory)} each" if memory else ""
    found = [Finding("devices", OK, text)]
    if platform_name != "cpu" and peak_tflops(kind) is None:
        text = f"the peak of {kind} is not in models/flops.py: logs show no share of it"
        found.append(Finding("peak", WARNING, text))
    for name, (pattern, extra) in ACCELERATORS.items():
        if platform_name == "cpu" and glob.glob(pattern):
            text = (
                f"there is a {name} that JAX does not use: pip install 'miro_jax[{extra}]', and "
                f"unset JAX_PLATFORMS (now {os.environ.get('JAX_PLATFORMS', '')!r})"
            )
            found.append(Finding(name, WARNING, text))
    return found


def _attention() -> list[Finding]:
    try:
        kernel = resolve("auto", "bfloat16")
    except (RuntimeError, ValueError) as error:
        return [Finding("attention", FAILED, str(error))]
    return [Finding("attention", OK, f"auto means {kernel} in bfloat16")]


def _processor() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = memory_limit()
    text = f"{cores} cores, {_gib(memory)} of memory"
    if memory < LEAST_MEMORY:
        text += f"; `make train` wants {_gib(LEAST_MEMORY)}"
        return [Finding("processor", WARNING, text)]
    return [Finding("processor", OK, text)]


def memory_limit() -> int:
    """Return the bytes of memory that this process may use: of the machine or its control group."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    names = "memory.max", "memory/memory.limit_in_bytes"
    texts = (_read(Path("/sys/fs/cgroup") / name) for name in names)
    return min([whole, *(int(text) for text in texts if text.isdigit())])


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _disk(name: str, folder: Path) -> list[Finding]:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        free = shutil.disk_usage(there).free
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        text = f"{folder} cannot be written: {error.strerror}. Take another folder"
        return [Finding(name, WARNING, text)]
    text = f"{folder}, {_gib(free)} free"
    low = free < LEAST_DISK
    return [Finding(name, WARNING if low else OK, text + ("; make room" if low else ""))]


def _compiled() -> list[Finding]:
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.environ.get(VARIABLE)
    text = given or f"in each run's folder; set {VARIABLE} for one that runs share"
    return [Finding("compiled programs", OK, text)]


def _hub() -> list[Finding]:
    if hub.HF_HUB_OFFLINE:
        text = "HF_HUB_OFFLINE is set: weights must be in the cache, or named as folders"
        return [Finding("hub", WARNING, text)]
    return [Finding("hub", OK, f"{hub.ENDPOINT}, not asked")]


def _extras() -> list[Finding]:
    have = {extra: importlib.util.find_spec(module) for extra, module in EXTRAS.items()}
    words = [f"{extra} {'yes' if there else 'no'}" for extra, there in have.items()]
    return [Finding("extras", OK, f"{', '.join(words)}; more by pip install 'miro_jax[EXTRA]'")]
