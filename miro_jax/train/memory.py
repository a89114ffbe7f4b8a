"""The memory that a training step takes on each device, before anything is compiled.

A step is fullest when its backward pass begins, or when parameters are updated:

    state + max(what the backward pass needs of the forward pass, what an update needs)

The state (parameters, average, moments) is known from its shapes and shardings. What the backward
pass needs is found by tracing the loss: the values that JAX keeps, those of one image times the
images that a device has at a time. Nothing is run.

Letters: B batch, L caption tokens, E their width.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from miro_jax.models import sharding
from miro_jax.models.rin import REMATS
from miro_jax.train.rates import Network
from miro_jax.train.settings import Training
from miro_jax.train.step import make_loss

_ROWS = 11  # of the traced batch: an axis of this length that comes first is the batch


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a batch is spread. data, model: devices along the axes. microbatches: of a batch."""

    data: int = 1
    model: int = 1
    microbatches: int = 1

    def rows(self, batch_size: int) -> int:
        """Return the images that a device has at a time."""
        return max(1, batch_size // (self.data * self.microbatches))


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
      parameters: number of them, on all devices together.
      state: parameters, average, moments. kept: for the backward pass. update: of an update.
    """

    parameters: int
    state: float
    kept: float
    update: float

    @property
    def total(self) -> float:
        """Bytes of a step at its fullest."""
        return self.state + max(self.kept, self.update)


class StepMemory:
    """The memory of the training steps of one config.

    Args:
      config: of a run. latent_shape: (H, W, C) of its image latents.
      share: of what JAX keeps for the backward pass, that is in memory: compilers that fuse compute
        what is cheap again.
    """

    def __init__(self, config: Any, latent_shape: tuple[int, int, int], share: float = 1.0):
        self.config, self.latent_shape, self.share = config, latent_shape, share
        self.network = Network(config, latent_shape)
        with sharding.use_mesh(self.network.mesh):
            self.state = self.network.init.shapes
        self._kept: dict[str, float] = {}

    @property
    def remat(self) -> str:
        """What the config's backward pass computes again, see `rin.REMATS`."""
        return str(self.network.sizes.remat)  # a name by now

    def of(self, layout: Layout, batch_size: int, remat: str | None = None) -> Memory:
        """Return the memory of a step.

        Args:
          batch_size: global. remat: in place of that of the config, see `rin.REMATS`.
        """
        remat = self.remat if remat is None else remat
        mesh = AbstractMesh(
            (layout.data, layout.model), ("data", "model"), axis_types=(AxisType.Auto,) * 2
        )
        shardings = sharding.state_shardings(self.state, mesh)
        parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(self.state.params))
        params = self._bytes(self.state.params, shardings.params)
        # Devices that share parameters gather them whole, and sum gradients that are whole: in the
        # backward pass a layer's parameters go as its gradients come.
        whole = 4.0 * parameters / layout.model
        gathered = whole if layout.data > 1 else 0.0
        accumulated = params if layout.microbatches > 1 else 0.0
        return Memory(
            parameters=parameters,
            state=self._bytes(self.state, shardings),
            kept=self.kept_of_image(remat) * layout.rows(batch_size) + accumulated + gathered,
            update=whole + params,
        )

    def kept_of_image(self, remat: str) -> float:
        """Return the bytes that a backward pass needs of the forward pass of one image.

        Where it computes something again, that part's values are there for its time: a block's, or
        those of one layer of a block, which has three besides its own.
        """
        if remat not in self._kept:
            self._kept[remat] = self.share * self._trace(remat)
        kept, sizes = self._kept[remat], self.network.sizes
        if remat == "none":
            return kept
        again = (self.kept_of_image("none") - kept) / sizes.num_blocks
        return kept + again / (1 if remat == "block" else sizes.layers_per_block + 3)

    def _trace(self, remat: str) -> float:
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.model.rin.remat = remat
        network = Network(config, self.latent_shape)
        empty = np.zeros((1, network.sizes.caption_width), np.float16)
        loss = make_loss(network.graphdef, Training(**config.train), lambda x: x, empty)

        def keep(params: Any, buffers: Any, drawn: Any) -> list[jax.Array]:
            return jax.tree.leaves(
                jax.vjp(lambda p: loss.of_drawn(p, buffers, drawn)[0], params)[1]
            )

        with sharding.use_mesh(network.mesh):
            network.tokens = config.encoder.caption.max_tokens
            batch = jax.tree.map(jnp.asarray, network.records(_ROWS))
            drawn = jax.eval_shape(loss.draw, batch, jax.random.key(0))
            kept = jax.eval_shape(keep, self.state.params, self.state.buffers, drawn)
        of_rows = [x for x in kept if x.shape[:1] == (_ROWS,) or x.shape[:2] == (1, _ROWS)]
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in of_rows) / _ROWS

    def _bytes(self, tree: Any, shardings: Any) -> float:
        """Bytes of a tree on one device."""
        leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
        return float(sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in leaves))


def smallest_change(
    memory: StepMemory, layout: Layout, batch_size: int, limit: float
) -> tuple[Layout, str, Memory] | None:
    """Return the first change by which a step fits, with its memory; None where none helps.

    More microbatches come first, which cost nothing; then what is computed again.

    Args:
      batch_size: global. limit: bytes of a device.
    """
    own = memory.remat
    for remat in dict.fromkeys((own, *REMATS)):
        if REMATS.index(remat) < REMATS.index(own):
            continue
        parts = layout.microbatches
        while batch_size % (layout.data * parts) == 0:
            tried = dataclasses.replace(layout, microbatches=parts)
            found = memory.of(tried, batch_size, remat)
            if found.total <= limit:
                return tried, remat, found
            parts *= 2
    return None
