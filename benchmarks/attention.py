"""Milliseconds of an attention by each kernel, at the shapes of the networks.

    python benchmarks/attention.py              # on a GPU
    python benchmarks/attention.py --tiny       # to try it: XLA in place of cuDNN

Forward alone for towers, forward and backward for the velocity network, bfloat16.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp

from benchmarks import timing
from miro_jax.models import attention, fused_attention

# rows, queries, sources, heads, head width, rows have lengths, trained
SHAPES = {
    "clip_h": (256, 257, 257, 16, 80, False, False),
    "clip_l": (256, 257, 257, 16, 64, False, False),
    "process": (64, 256, 256, 32, 32, False, True),
    "write": (64, 256, 256, 16, 32, False, True),
    "read_condition": (64, 256, 101, 16, 64, True, True),
    "condition": (64, 100, 100, 16, 64, True, True),
}


def make(way: str, trained: bool, implementation: str):
    """Return the jitted attention, or its gradients."""

    def forward(q, k, v, lengths):
        if way == "xla":
            mask = None if lengths is None else jnp.arange(k.shape[1])[None] < lengths[:, None]
            return attention.attend(q, k, v, mask, kernel="xla")
        return fused_attention.run(way, q, k, v, lengths, implementation=implementation)

    def total(*arrays):
        return jnp.sum(forward(*arrays).astype(jnp.float32))

    return jax.jit(jax.grad(total, (0, 1, 2)) if trained else forward)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.2, help="timed, of each")
    parser.add_argument("--tiny", action="store_true", help="two rows, on any device")
    args = parser.parse_args()
    made = {}
    for name, (rows, queries, sources, heads, width, padded, trained) in SHAPES.items():
        rows = 2 if args.tiny else rows
        keys = jax.random.split(jax.random.key(0), 3)
        q, k, v = (
            jax.random.normal(key, (rows, n, heads, width), jnp.bfloat16)
            for key, n in zip(keys, (queries, sources, sources), strict=True)
        )
        lengths = jnp.full(rows, sources - 3, jnp.int32) if padded else None
        for way in ("xla", "cudnn", "cudnn_even"):
            odd = queries % 2 or sources % 2
            if way == "cudnn_even" and not odd or way == "cudnn" and odd and trained:
                continue  # nothing to pad, and what JAX refuses
            with timing.case(f"attention/{name}/{way}"):
                call = make(way, trained, "xla" if args.tiny else "cudnn")
                inputs = q, k, v, lengths
                made[f"attention/{name}/{way}"] = partial(call.lower(*inputs).compile(), *inputs)
    timing.wait_for_turn()
    for name, call in made.items():
        with timing.case(name):
            found = timing.measure(call, jax.block_until_ready, seconds=args.seconds)
            timing.emit(name, ms=1e3 * found["piped_s"], **found)


if __name__ == "__main__":
    main()
