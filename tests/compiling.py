"""How tests compile: as fast as XLA can, for what they compile runs briefly.

Without its optimisations, and without the fusion emitters, whose kernels pass through MLIR, a
training step compiles in a sixth of the time. `MIRO_TEST_OPTIMIZED=1` compiles as users do.
"""

import os
from importlib import metadata

QUICKLY = "--xla_backend_optimization_level=0"
WITH_EMITTERS = {}  # compiler options of a program that wants the kernels that users get
if metadata.version("jaxlib").startswith("0.10."):  # later ones have no others
    QUICKLY += " --xla_cpu_use_fusion_emitters=false"
    WITH_EMITTERS["xla_cpu_use_fusion_emitters"] = True


def xla_flags(devices: int) -> str:
    """Return `XLA_FLAGS` for so many devices on a CPU."""
    count = f"--xla_force_host_platform_device_count={devices}"
    return count if os.environ.get("MIRO_TEST_OPTIMIZED") == "1" else f"{count} {QUICKLY}"
