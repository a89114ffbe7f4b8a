"""Compiler options and layouts for GPUs; measurements speak for them, see docs/benchmarks.md."""

import os
from collections.abc import Callable
from typing import TypeVar

import jax
from jax.experimental.layout import Layout, with_layout_constraint

# cuBLASLt adds biases and residuals where it multiplies: 3 % of sampling, 12 % of CLIP-H. Without
# products by Triton sampling gains 4 % of 64 images and 11 % of one, and compiles in half the time.
ON_GPU = {"xla_gpu_enable_cublaslt": True, "xla_gpu_enable_triton_gemm": False}
MOST_COMPILERS = 16
Call = TypeVar("Call", bound=Callable[..., jax.Array])


def options() -> dict[str, bool | int]:
    """Return `compiler_options` of `jax.jit` for whatever runs a network here.

    By default XLA for GPUs translates all kernels on one thread, half of a training step's
    compilation.
    """
    if jax.default_backend() != "gpu":
        return {}
    return ON_GPU | {"xla_gpu_force_compilation_parallelism": min(cores(), MOST_COMPILERS)}


def cores() -> int:
    """Return how many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def traced_once(*static: str) -> Callable[[Call], Call]:
    """Return a decorator for a layer's `__call__`: JAX traces it for the first of equal layers.

    For the others, with other parameters alone, it takes what it has traced, also for the backward
    pass. XLA inlines the calls before anything else, so that the program is that of a plain loop.
    In a profile their operations stand below the name of the class.

    Args:
      static: names of arguments that are no arrays.
    """

    def decorate(call: Call) -> Call:
        call.__name__ = call.__qualname__.split(".")[-2]
        return jax.jit(call, static_argnames=static)  # pyright: ignore[reportReturnType]

    return decorate


def row_major(x: jax.Array) -> jax.Array:
    """Return x, on GPUs with its last axis contiguous in memory.

    XLA chooses the layout of activations from whatever small array they were first added to, and
    the batch may end up last: then every norm reads its rows with strides, and every product
    copies its operand.
    """
    if jax.default_backend() != "gpu":
        return x
    # Before jax 0.11 the partitioner gathers what is pinned to a layout.
    if jax.sharding.get_abstract_mesh().size > 1 and jax.__version_info__ < (0, 11):
        return x
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
