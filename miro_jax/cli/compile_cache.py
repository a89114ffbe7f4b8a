"""Compiled programs are kept on disk: a run that starts again does not compile again.

They lie in the run's folder, below `compiled/`, or below `$MIRO_JAX_CACHE`, which runs may share.
JAX's own `JAX_COMPILATION_CACHE_DIR` comes first. Programs for a CPU use the instructions of the
processor that compiled them, so each kind has a folder of its own. On a GPU the choice among
kernels, which measures them, is kept with a program: a resumed run computes with the same ones.
"""

import hashlib
import logging
import os
import platform
import re
from pathlib import Path

import jax

FOLDER, VARIABLE = "compiled", "MIRO_JAX_CACHE"
# JAX keeps what took a second or more. On a GPU the digests of a checkpoint alone are dozens of
# programs of some tenths of a second, which every start would compile again.
LEAST, LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs", 0.1
log = logging.getLogger("miro_jax")


def keep_compiled(workdir: Path | None = None) -> Path | None:
    """Keep the programs that this process compiles, and use those that others have kept.

    Args:
      workdir: the run's folder; None where there is none, then only `$MIRO_JAX_CACHE` is used.

    Returns:
      The folder; None where nothing is kept here, or something else was set up before.
    """
    given = os.environ.get(VARIABLE)
    base = Path(given).expanduser() if given else workdir and workdir / FOLDER
    if base is None or jax.config.jax_compilation_cache_dir:
        return None
    folder = base / f"{jax.default_backend()}-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.info("Compiled programs are not kept: %s: %s", folder, error.strerror)
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if LEAST.upper() not in os.environ:
        jax.config.update(LEAST, LEAST_SECONDS)
    return folder


def _processor() -> str:
    """Return a digest of what the processor is able to."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        able = re.search(r"^(flags|Features)\s*:(.*)$", text, re.MULTILINE)
        known = able[2] if able else text
    except OSError:
        known = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {known}".encode()).hexdigest()[:8]
