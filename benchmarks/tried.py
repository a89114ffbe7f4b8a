"""What was tried and is not in the package, patched into it by name: `--tried NAME` of the others.

    python benchmarks/train_step.py --residual=compute --tried scan
    python benchmarks/gpu_program.py --blocks 6 --layers 4 --tried scan     # compilation alone
    python benchmarks/towers.py --only clip_h --tried stream

Measurements, and why they were not kept, stand in docs/benchmarks.md.
"""

import functools
import types
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from miro_jax.models import layers, rin
from miro_jax.pretrained.networks import clip


def barrier() -> None:
    """Keep the sums for the gradients of packed biases apart from the products before them."""

    def unpack(self, x):
        y = jax.lax.optimization_barrier(layers.row_major(self(x)))
        axis = y.ndim - (self.kernel[...].ndim - self.num_in)
        return [jax.lax.index_in_dim(y, i, axis, False) for i in range(y.shape[axis])]

    layers.Linear.unpack = unpack


def scan() -> None:
    """Run the equal blocks, and the equal layers of each, as scans over stacked parameters."""

    def block(self, x, z, condition, mask):
        z = self.read(self.read_condition(z, condition, mask), x)
        graph, stacked = _stack(self.process)
        z, _ = jax.lax.scan(lambda z, one: (nnx.merge(graph, one)(z), None), z, stacked)
        return self.write(x, z), z

    def every_block(graph, stacked, _, x, z, condition, mask):
        def body(tokens, one):
            x, z = nnx.merge(graph, one)(*tokens, condition, mask)
            return (rin._pin(x), rin._pin(z)), None

        return jax.lax.scan(body, (x, z), stacked)[0]

    def network(self, *args, **kwargs):
        blocks, kind = self.blocks, rin.RINBlock
        call = functools.partial(every_block, *_stack(blocks))
        object.__setattr__(self, "blocks", [None])
        rin.RINBlock = types.SimpleNamespace(__call__=call)
        try:
            return real(self, *args, **kwargs)
        finally:
            rin.RINBlock = kind
            object.__setattr__(self, "blocks", blocks)

    real, rin.RINBlock.__call__, rin.RIN.__call__ = rin.RIN.__call__, block, network


def stream() -> None:
    """Keep the tokens of CLIP's image tower in bfloat16 between the blocks."""

    def tokens(self, images, num_blocks):
        x = self.norm(self.patches(images)).astype(jnp.bfloat16)
        for block in self.blocks[:num_blocks]:
            x = block(x, causal=False)
        return x

    clip.VisionTower._tokens = tokens


TRIED = {change.__name__: change for change in (barrier, scan, stream)}


def add_option(parser) -> None:
    """Let a benchmark take `--tried`."""
    parser.add_argument("--tried", nargs="+", choices=TRIED, default=[], help="see tried.py")


def patch(names: Sequence[str]) -> None:
    """Apply changes by name, before anything is built."""
    for name in names:
        TRIED[name]()


def _stack(modules):
    graph, states = None, []
    for module in modules:
        graph, state = nnx.split(module)
        states.append(state)
    return graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
