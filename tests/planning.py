"""What XLA sets aside for a training step on fake devices, beside what `train.memory` estimates.

python -m tests.planning 16        # bytes on meshes of 1, 8 and 16 devices, as JSON
"""

import json
import os
import sys

from tests import compiling

if __name__ == "__main__":  # before jax is imported
    # Nothing is run, so that code need not be quick; what is in memory when is decided before.
    os.environ["XLA_FLAGS"] = compiling.xla_flags(int(sys.argv[1]))
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"  # programs that are read have no analysis

import jax
import numpy as np

from miro_jax.evaluate.doctor import latent_shape, read_config
from miro_jax.models import sharding
from miro_jax.train.memory import Layout, StepMemory
from miro_jax.train.settings import Training
from miro_jax.train.state import abstract_state
from miro_jax.train.step import make_loss, make_train_step

BATCH = 64
CONFIG = "base:full"
OVERRIDES = (
    "--config.model.dtype=float32",
    "--config.model.rin.num_blocks=2",
    "--config.model.rin.layers_per_block=1",
    "--config.model.rin.condition_layers=1",
    f"--config.train.batch_size={BATCH}",
)


def analysed(config, devices):
    """Bytes on each device by XLA: of arguments, and of all that a step has besides."""
    memory = StepMemory(config, latent_shape(config))
    network = memory.network
    mesh = jax.make_mesh(
        (devices, 1),
        ("data", "model"),
        devices=jax.devices()[:devices],
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
    )
    with sharding.use_mesh(mesh):
        abstract, shardings = abstract_state(network.init, mesh)
        empty = np.zeros((1, network.sizes.caption_width), np.float16)
        loss = make_loss(network.graphdef, network.training, lambda x: x, empty)
        recipe = Training(**config.train)
        step = make_train_step(
            loss, network.optimizer, lambda step: 1e-4, recipe, 0, recipe.microbatches
        )
        layout = sharding.batch_sharding(mesh)
        batch = {
            name: jax.ShapeDtypeStruct((BATCH, *x.shape[1:]), x.dtype, sharding=layout)
            for name, x in network.records(1).items()
        }
        jitted = jax.jit(
            step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh))
        )
        found = jitted.lower(abstract, batch).compile().memory_analysis()
    return found.argument_size_in_bytes, found.temp_size_in_bytes


def main(count):
    """Print for each mesh what XLA says and what is estimated."""
    config = read_config(CONFIG, OVERRIDES)
    memory, rows = StepMemory(config, latent_shape(config)), {}
    for devices in (1, 8, count):
        arguments, temporary = analysed(config, devices)
        estimate = memory.of(Layout(devices), BATCH)
        rows[devices] = {
            "arguments": arguments,
            "total": arguments + temporary,
            "state": estimate.state,
            "estimate": estimate.total,
        }
    print(json.dumps(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]))
