"""Fused attention: which kernel computes an attention, and the padding that it wants.

The kernels by name:

    xla     products and a softmax as XLA compiles them; any device, dtype and shape. The float32
            logits [B, A, N, S] pass through the device's memory.
    cudnn   cuDNN's kernel, which keeps them on the chip: NVIDIA GPUs from compute capability 8.0,
            bfloat16 or float16, head widths that are a multiple of 8 and at most 128.
    auto    cudnn where it can be had, else xla, with one line in the log.

Whether cuDNN has a kernel for a shape is known once one is compiled. This is done when a shape is
traced for the first time, with its lengths as they are and then with even ones (JAX wants them for
a backward pass): a run never fails on it later. `MIRO_JAX_ATTENTION` gives `auto` another meaning.

Its backward adds in an order that may change from run to run: what is promised bit for bit (resumed
runs, images of a seed) is promised under `xla`.

Letters: B batch, N query tokens, S source tokens, A heads, H head width.
"""

import dataclasses
import functools
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Array = jax.Array
KERNELS = ("auto", "xla", "cudnn")
VARIABLE = "MIRO_JAX_ATTENTION"
HALVES = (jnp.bfloat16, jnp.float16)
MOST_HEAD_WIDTH, LEAST_CAPABILITY = 128, 8.0
log = logging.getLogger("miro_jax")


@dataclasses.dataclass(frozen=True)
class Shape:
    """What decides on a kernel: lengths and sizes of an attention, the batch apart.

    Attributes:
      queries: N. sources: S. heads: A. head_width: H. dtype: of q, k and v.
      padded: whether rows have lengths of their own. causal: whether later sources are hidden.
      trained: whether there will be a backward pass.
    """

    queries: int
    sources: int
    heads: int
    head_width: int
    dtype: str
    padded: bool
    causal: bool
    trained: bool


def check_kernel(name: str, key: str = "config.model.attention") -> None:
    """Raise ValueError unless `name` is a kernel."""
    if name not in KERNELS:
        raise ValueError(f"{key} must be one of {', '.join(KERNELS)}; got {name!r}.")


def resolve(name: str, dtype: DTypeLike) -> str:
    """Return the kernel, "xla" or "cudnn", that a name means on this device for a dtype.

    Raises:
      ValueError: an unknown name, or "cudnn" where there is none.
    """
    check_kernel(name)
    if name == "auto":
        name = os.environ.get(VARIABLE) or "auto"
        check_kernel(name, VARIABLE)
    missing = _missing(jnp.dtype(dtype)) if name != "xla" else ""
    if name == "cudnn" and missing:
        raise ValueError(f"config.model.attention='cudnn' needs {missing}. Take 'auto'.")
    return "xla" if missing or name == "xla" else "cudnn"


def _missing(dtype: jnp.dtype) -> str:
    """Return what cuDNN's kernel needs and does not have here; "" for nothing."""
    if dtype not in HALVES:
        return f"bfloat16 or float16; got {dtype}"
    device = jax.local_devices()[0]
    capability = getattr(device, "compute_capability", None)  # TPUs and CPUs have none
    try:
        enough = float(capability or 0) >= LEAST_CAPABILITY
    except ValueError:  # AMD's are names
        enough = False
    if enough:
        return ""
    return f"an NVIDIA GPU of compute capability {LEAST_CAPABILITY} or more; got {device}"


def choose(name: str, shape: Shape) -> str:
    """Return how an attention is computed: "xla", "cudnn" or, with even lengths, "cudnn_even".

    Raises:
      ValueError: "cudnn" was named and cannot be had.
    """
    if resolve(name, shape.dtype) == "xla":
        return "xla"
    way, reason = _compiled_way(shape)
    if way == "xla" and name == "cudnn":
        raise ValueError(f"config.model.attention='cudnn' has no kernel for {shape}: {reason}")
    return way


@functools.cache
def _compiled_way(shape: Shape) -> tuple[str, str]:
    """Return the first way that compiles, and why the others did not."""
    reason = f"the head width must be a multiple of 8 and at most {MOST_HEAD_WIDTH}"
    if shape.head_width % 8 == 0 and shape.head_width <= MOST_HEAD_WIDTH:
        ways = ["cudnn", "cudnn_even"]
        if shape.queries % 2 == 0 and shape.sources % 2 == 0:
            del ways[1]
        for way in ways:
            reason = _failure(shape, way)
            if not reason:
                return way, ""
    log.info("Attention by XLA, not cuDNN, for %s: %s", shape, reason)
    return "xla", reason


def _failure(shape: Shape, way: str) -> str:
    """Compile the attention of one row, with its gradient where trained; return the error or ""."""
    s = shape
    q, k = (
        jax.ShapeDtypeStruct((1, n, s.heads, s.head_width), s.dtype) for n in (s.queries, s.sources)
    )
    lengths = jax.ShapeDtypeStruct((1,), jnp.int32) if s.padded else None

    def total(q, k, v, lengths):
        return jnp.sum(run(way, q, k, v, lengths, causal=s.causal).astype(jnp.float32))

    def compile_it() -> str:
        try:
            function = jax.grad(total, (0, 1, 2)) if s.trained else total
            jax.jit(function).lower(q, k, k, lengths).compile()
        except Exception as error:  # jax, XLA and cuDNN each have their own
            return " ".join(str(error).split())[:200] or type(error).__name__
        return ""

    # A thread of its own: the caller is being traced, under a mesh.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(compile_it).result()


def run(
    way: str,
    q: Array,
    k: Array,
    v: Array,
    lengths: Array | None,
    *,
    causal: bool = False,
    implementation: Literal["xla", "cudnn"] = "cudnn",
) -> Array:
    """Compute an attention by cuDNN.

    Args:
      way: "cudnn", or "cudnn_even": tokens are added to odd lengths, hidden, and cut off again.
      q: [B, N, A, H]. k, v: [B, S, A, H].
      lengths: [B] int32, how many source tokens each row sees, at least one; None is all.
      causal: hide source tokens that come later than the query token.
      implementation: of `jax.nn.dot_product_attention`; "xla" shows on a CPU that padding is right.

    Returns:
      [B, N, A, H] in the dtype of q.
    """
    queries, sources = q.shape[1], k.shape[1]
    if way == "cudnn_even":
        if sources % 2 and lengths is None and not causal:
            lengths = jnp.full(len(q), sources, jnp.int32)
        q, k, v = _even(q), _even(k), _even(v)
    y = jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, key_value_seq_lengths=lengths, implementation=implementation
    )
    return y[:, :queries]


def _even(x: Array) -> Array:
    """Add a token of zeros to an odd number of them."""
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
