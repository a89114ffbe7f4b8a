"""What devices send each other: parameters, never tokens of images or captions."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from miro_jax.models import sharding
from miro_jax.models.sampler import Branch, Guidance, make_sampler
from miro_jax.models.solvers import euler
from tests.networks import TINY, abstract_network, make_batch, small_mesh

ROWS = 24  # no other size of this network
COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter)(-start)?\(")


@pytest.mark.over_a_second
def test_the_network_moves_parameters_alone_between_devices():
    """Registers and times have their width spread over devices: tokens must not follow them.

    A vector an image, as of its time or of a level, may move: it is smaller than its weights.
    """
    mesh = small_mesh(8)
    graphdef, params, buffers = abstract_network(TINY)
    batch = make_batch(TINY, ROWS, 6, seed=0)

    def forward(params, buffers, batch):
        model = nnx.merge(graphdef, params, buffers)
        condition = model.encode_condition(
            batch["caption_tokens"], batch["caption_mask"], batch["levels"]
        )
        return model(batch["x"], jnp.full(ROWS, 0.5), *condition)

    with sharding.use_mesh(mesh):
        layouts = sharding.state_shardings((params, buffers), mesh)
        spread = jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch)
        shapes = jax.eval_shape(lambda x: x, batch)
        run = jax.jit(forward, in_shardings=(*layouts, spread))
        text = run.lower(params, buffers, shapes).compile().as_text()
    moved = [match[1] for match in map(COLLECTIVE.search, text.splitlines()) if match]
    assert len(moved) > 20 and not [one for one in moved if re.search(rf"\[{ROWS},\d+,", one)]


@pytest.mark.over_a_second
def test_sampling_sends_nothing_between_devices():
    """Both branches of an image are evaluated where it is."""
    mesh = small_mesh(4)
    graphdef, params, buffers = abstract_network(TINY)
    batch = make_batch(TINY, ROWS, 6, seed=0)
    noise = np.zeros((ROWS, *TINY.latent_shape), np.float32)
    branch = Branch(batch["caption_tokens"], batch["caption_mask"], batch["levels"])
    guidance = Guidance(np.ones(ROWS, np.float32), np.array([0, 1], np.float32))
    with sharding.use_mesh(mesh):
        weights = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated(mesh)),
            (params, buffers),
        )
        spread = jax.device_put((noise, branch), sharding.batch_sharding(mesh))
        run = make_sampler(graphdef, euler, 3)
        lowered = run.lower(weights, *spread, spread[1], guidance, guided=True)
        text = lowered.compile().as_text()
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert word not in text
