"""The authors' network and ours with the same random weights, at three sizes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from miro_jax.models import rin
from miro_jax.models.rin import RINConfig
from miro_jax.pretrained.weights.convert import converted
from miro_jax.pretrained.weights.official_keys import IGNORED, key_table
from miro_jax.pretrained.weights.tensors import from_arrays
from tests.networks import abstract_network, fill, paths, resize
from tests.oracles.rin import Oracle

TINY = RINConfig(
    latent_shape=(8, 8, 4),
    caption_width=12,
    num_rewards=2,
    patch_size=2,
    token_width=16,
    latent_width=32,
    num_latent_tokens=6,
    num_blocks=1,
    layers_per_block=1,
    read_write_heads=2,
    process_heads=4,
    condition_heads=16,
    condition_layers=2,
    num_registers=3,
    mlp_multiplier=4,
    mlp_multiple=256,
    sigma=0.5,
    table_std=0.02,
    log_variance_features=8,
    remat=False,
)
# Image tokens wider than latent tokens (attention takes the narrower width), patches of 3 x 3 x 3,
# two blocks of three layers.
ODD = resize(
    TINY,
    latent_shape=(15, 15, 3),
    caption_width=7,
    num_rewards=3,
    patch_size=3,
    token_width=60,
    latent_width=48,
    num_latent_tokens=11,
    num_blocks=2,
    layers_per_block=3,
    read_write_heads=6,
    process_heads=8,
    num_registers=5,
    sigma=0.7,
    table_std=0.02,
    log_variance_features=20,
)
RELEASED = resize(
    TINY,
    latent_shape=(32, 32, 4),
    caption_width=2048,
    num_rewards=7,
    token_width=512,
    latent_width=1024,
    num_latent_tokens=256,
    num_blocks=4,
    layers_per_block=4,
    read_write_heads=16,
    process_heads=32,
    num_registers=16,
    table_std=0.02,
    log_variance_features=128,
)
REWARDS = (
    "clip_score",
    "aesthetic_score",
    "image_reward_score",
    "pick_a_score_score",
    "hpsv2_score",
    "vqa_score",
    "sciscore_score",
)


class Pair:
    """The authors' network with random weights, and ours with the same."""

    def __init__(self, config: RINConfig, seed: int):
        self.config = config
        self.rewards = REWARDS[: config.num_rewards]
        self.oracle = Oracle(config, self.rewards, seed)
        self.graphdef, self.abstract_params, self.abstract_buffers = abstract_network(config)
        self.params, self.buffers = self.convert(self.oracle.tensors())
        self.seen = []
        self.evaluate = jax.jit(partial(_stages, self.graphdef, self.seen))

    def shapes(self):
        leaves = paths(self.abstract_params) | paths(self.abstract_buffers)
        return {path: leaf.shape for path, leaf in leaves.items()}

    def convert(self, tensors):
        """Return our params and buffers of the authors' tensors."""
        arrays = self._converted(tensors, self.shapes())
        return fill(self.abstract_params, arrays), fill(self.abstract_buffers, arrays)

    def convert_parameters(self, tensors):
        """Return the authors' parameters, or their gradients, in the tree of our params."""
        shapes = {path: leaf.shape for path, leaf in paths(self.abstract_params).items()}
        return fill(self.abstract_params, self._converted(tensors, shapes))

    def _converted(self, tensors, shapes):
        return dict(converted(from_arrays(tensors), key_table(self.rewards), shapes, IGNORED))

    def stages(self, batch, previous):
        """Evaluate our network once; return what stands at each stage."""
        with pytest.MonkeyPatch.context() as patch, jax.default_matmul_precision("highest"):
            original = rin.RINBlock.__call__

            def spy(block, x, z, condition, mask):
                self.seen.append((x, z, condition, *original(block, x, z, condition, mask)))
                return self.seen[-1][-2:]

            patch.setattr(rin.RINBlock, "__call__", spy)
            return jax.device_get(self.evaluate(self.params, self.buffers, batch, previous))


def _stages(graphdef, seen, params, buffers, batch, previous):
    seen.clear()
    model = nnx.merge(graphdef, params, buffers)
    t, levels = batch["t"], batch["levels"]
    c_in, c_out = rin.precondition(t, model.config.sigma)
    condition, mask = model.encode_condition(batch["caption_tokens"], batch["caption_mask"], levels)
    velocity, z = model(batch["x_t"], t, condition, mask, previous)
    x_before, z_before, condition, x_after, z_after = seen[0]
    return {
        "c_in": c_in,
        "c_out": jnp.full_like(c_in, c_out),
        "log-variance": model.logvar(t),
        "time": model.time(1.0 - t),
        "rewards": jnp.stack([embed(levels[:, r]) for r, embed in enumerate(model.rewards)]),
        "condition": condition,
        "image tokens": x_before,
        "first latent tokens": z_before,
        "image tokens of the first block": x_after,
        "latent tokens of the first block": z_after,
        "velocity": velocity,
        "latent tokens": z,
    }


def with_gaps(batch, length):
    """Hide all but the first tokens of each caption (a different number each), and some rewards."""
    kept = [max(1, length - 2 * row) for row in range(len(batch["t"]))]
    mask = np.arange(length)[None] < np.array(kept)[:, None]
    levels = batch["levels"].copy()
    levels[0, -1] = levels[1, 0] = np.nan
    levels[2] = np.nan
    return batch | {"caption_mask": mask, "levels": levels}
