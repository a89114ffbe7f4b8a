"""What this machine is, and what of it stands in the way: the findings of `miro-jax doctor`.

Each check is a function that returns findings; none of them changes anything but a file that is
written and removed to see whether a folder takes it.
"""

import glob
import importlib.util
import os
import platform
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from huggingface_hub import constants as hub

from miro_jax.cli import cluster, devices, fit, huge_pages, surroundings
from miro_jax.cli.compile_cache import VARIABLE
from miro_jax.cli.finding import FAILED, OK, WARNING, Finding
from miro_jax.data.storage import nearest
from miro_jax.models.compiling import cores
from miro_jax.models.flops import peak_tflops
from miro_jax.models.fused_attention import resolve

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers")
# Extras by the module that each brings.
EXTRAS = {"demo": "gradio", "docs": "sphinx", "gcs": "gcsfs", "s3": "s3fs"}
# Files by which an accelerator shows before any driver is asked, and the extra that uses it.
ACCELERATORS = {"NVIDIA GPU": ((devices.NVIDIA,), "cuda12"), "TPU": (cluster.TPUS, "tpu")}
RUNS = "runs"
LEAST_MEMORY, LEAST_DISK = 4 << 30, 5 << 30
LEAST_OPEN_FILES = 4096  # shards of a set, each open, and what libraries need


def examine(where: Path | str | None = None, weights: Sequence[str] = ()) -> list[Finding]:
    """Return the findings of all checks.

    Args:
      where: runs will be written, a folder or the URL of one in a store. None: in runs, and that
        it cannot be written is a warning, for nobody named it.
      weights: names as of `miro-jax weights pull` that must be here, whole.

    Raises:
      UsageError: an unknown name of weights.
    """
    place, bad = (where, FAILED) if where else (RUNS, WARNING)
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _versions,
        devices.drivers,
        _devices,
        _attention,
        _processor,
        _huge_pages,
        _open_files,
        lambda: _runs(place, bad),
        lambda: _disk("weights from the hub", Path(hub.HF_HUB_CACHE)),
        lambda: surroundings.weights(weights, Path(hub.HF_HUB_CACHE)),
        _compiled,
        surroundings.coordinator,
        _hub,
        _extras,
    )
    return [finding for check in checks for finding in check()]


def _versions() -> list[Finding]:
    found = {name: fit.version(name) for name in PACKAGES}
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    python = Finding("Python", OK, f"{platform.python_version()} at {sys.executable}")
    there = Finding("packages", OK if all(found.values()) else FAILED, text)
    return [python, there, fit.check(PACKAGES)]


def _devices() -> list[Finding]:
    try:
        there = jax.devices()
    except RuntimeError as error:  # of a driver
        text = f"JAX finds no device: {' '.join(str(error).split())}"
        return [Finding("devices", FAILED, text)]
    kind, platform_name = there[0].device_kind, there[0].platform
    stats = there[0].memory_stats() or {}
    memory = stats.get("bytes_limit")
    text = f"{len(there)} x {kind} ({platform_name})"
    text += f", {_gib(memory)} each" if memory else ""
    found = [Finding("devices", OK, text)]
    if platform_name != "cpu" and peak_tflops(kind) is None:
        text = f"the peak of {kind} is not in models/flops.py: logs show no share of it"
        found.append(Finding("peak", WARNING, text))
    for name, (patterns, extra) in ACCELERATORS.items():
        if platform_name == "cpu" and any(map(glob.glob, patterns)):
            text = (
                f"there is a {name} that JAX does not use: pip install 'miro_jax[{extra}]', and "
                f"unset JAX_PLATFORMS (now {os.environ.get('JAX_PLATFORMS', '')!r})"
            )
            found.append(Finding(name, WARNING, text))
    return found + devices.compute()


def _attention() -> list[Finding]:
    try:
        kernel = resolve("auto", "bfloat16")
    except (RuntimeError, ValueError) as error:
        return [Finding("attention", FAILED, str(error))]
    return [Finding("attention", OK, f"auto means {kernel} in bfloat16")]


def _processor() -> list[Finding]:
    memory = memory_limit()
    text = f"{cores()} cores, {_gib(memory)} of memory"
    if memory < LEAST_MEMORY:
        text += f"; `make train` wants {_gib(LEAST_MEMORY)}"
        return [Finding("processor", WARNING, text)]
    return [Finding("processor", OK, text)]


def _huge_pages() -> list[Finding]:
    mode = huge_pages.mode()
    if not mode:
        return []
    if mode == "always":
        return [Finding("huge pages", OK, "always")]
    if mode == "madvise" and huge_pages.is_requested():
        return [Finding("huge pages", OK, "on request, which this process makes")]
    if huge_pages.is_requested() is False:
        return [Finding("huge pages", OK, f"switched off by {huge_pages.VARIABLE}")]
    if huge_pages.is_available():
        return [Finding("huge pages", OK, "on request, which training makes")]
    if mode == "madvise":
        text = f"this process requests none: {huge_pages.VARIABLE}={huge_pages.WORD}=1"
    else:
        text = f"none: echo always | sudo tee {huge_pages.MODES}"
    text += "; without, training on CPUs is a sixth slower"
    return [Finding("huge pages", WARNING, text)]


def _open_files() -> list[Finding]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # what is below it we raise ourselves
    if most != resource.RLIM_INFINITY and most < LEAST_OPEN_FILES:
        text = f"at most {most}: ulimit -Hn {LEAST_OPEN_FILES}, or LimitNOFILE of the service"
        return [Finding("open files", WARNING, text)]
    few = most == resource.RLIM_INFINITY
    return [Finding("open files", OK, "no limit" if few else f"up to {most:,}")]


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


def _runs(place: Path | str, bad: str) -> list[Finding]:
    """Where runs are written; the room of a folder that takes no file is of no use."""
    found = surroundings.store(place, bad)
    if "://" in str(place) or found[0].state != OK:
        return found
    return _disk("folder of runs", Path(place)) + found


def _disk(name: str, folder: Path) -> list[Finding]:
    there = nearest(folder)
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
    if given and "://" not in given:
        return _disk("compiled programs", Path(given).expanduser())
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
