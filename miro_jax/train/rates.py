"""What a device reaches: a large matrix product, a training step and a sampler on random data.

Letters: B batch, L caption tokens, E their width.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models import rin, sharding
from miro_jax.models.flops import sampling_flops, training_flops
from miro_jax.models.sampler import Branch, Guidance, make_sampler
from miro_jax.models.solvers import get_solver
from miro_jax.train.optim import make_optimizer
from miro_jax.train.settings import Optim, Training
from miro_jax.train.state import Init, TrainState
from miro_jax.train.step import make_loss, make_train_step

BRANCH = ("caption_tokens", "caption_mask", "levels")  # of a batch, in the order of `Branch`


@dataclasses.dataclass(frozen=True)
class Rate:
    """What was reached.

    Attributes:
      name: of the work. per_second: of `unit`.
      tflops: of the model's operations, TFLOP/s. compile_seconds: until the first call was done.
    """

    name: str
    per_second: float
    unit: str
    tflops: float
    compile_seconds: float


def product_rate(size: int, dtype: str, seconds: float) -> Rate:
    """Time products of two square matrices of `size` rows, for some seconds."""
    left = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    each, compiling = _time(lambda: product(left, left), seconds)
    name = f"product of {size} x {size} in {dtype}"
    return Rate(name, 1 / each, "products", 2 * size**3 / each / 1e12, compiling)


class Network:
    """The network of a config with random parameters, on one device.

    Args:
      config: of a run. latent_shape: (H, W, C) that its image encoder makes.
    """

    def __init__(self, config: Any, latent_shape: tuple[int, int, int]):
        width = config.encoder.caption.width
        sizes = config.model, latent_shape, width, len(config.data.train_rewards)
        self.config, self.tokens = config, min(77, config.encoder.caption.max_tokens)
        self.sizes = rin.rin_config(*sizes)
        self.training = Training(**config.train)
        self.optimizer = make_optimizer(Optim(**config.optim), self.training.num_steps)

        def build(rngs: nnx.Rngs) -> nnx.Module:
            return rin.build(*sizes, rngs=rngs)

        self.mesh = sharding.one_device_mesh()
        with sharding.use_mesh(self.mesh):
            self.init = Init(build, self.optimizer)
        self.graphdef = self.init.graphdef

    def training_rate(self, batch: int, seconds: float) -> Rate:
        """Time training steps of `batch` images on random records."""
        empty = np.zeros((1, self.sizes.caption_width), np.float16)
        loss = make_loss(self.graphdef, self.training, lambda x: x, empty)
        constant = lambda step: 1e-4  # noqa: E731
        step = make_train_step(loss, self.optimizer, constant, self.training, 0)
        step = jax.jit(step, donate_argnums=0)
        with sharding.use_mesh(self.mesh):
            state: TrainState = jax.jit(self.init)(jax.random.key(0))
            data = jax.device_put(self.records(batch))

            def once() -> Any:
                nonlocal state
                state, metrics = step(state, data)
                return metrics

            each, compiling = _time(once, seconds)
        work = batch * training_flops(self.sizes, self.tokens)
        name = f"training step, batch {batch}"
        return Rate(name, batch / each, "images", work / each / 1e12, compiling)

    def sampling_rate(self, batch: int, num_steps: int, seconds: float) -> Rate:
        """Time guided sampling of `batch` images by Euler steps, from noise to image latents."""
        sample = make_sampler(self.graphdef, get_solver("euler"), num_steps)
        data = self.records(batch)
        branch = Branch(*map(jnp.asarray, (data[name] for name in BRANCH)))
        scale = jnp.ones(batch), jnp.array([0.0, 1.0])
        with sharding.use_mesh(self.mesh):
            state = jax.jit(self.init)(jax.random.key(0))
            noise = jax.random.normal(jax.random.key(1), (batch, *self.sizes.latent_shape))
            weights = state.params, state.buffers

            def once() -> Any:
                return sample(weights, noise, branch, branch, Guidance(*scale), guided=True)

            each, compiling = _time(once, seconds)
        work = 2 * batch * sampling_flops(self.sizes, self.tokens, num_steps)
        name = f"sampling, {num_steps} guided steps, batch {batch}"
        return Rate(name, batch / each, "images", work / each / 1e12, compiling)

    def records(self, rows: int) -> dict[str, np.ndarray]:
        """Return a batch as records give it, of random numbers."""
        rng, c = np.random.default_rng(0), self.sizes
        return {
            "image_mean": rng.normal(0, 1, (rows, *c.latent_shape)).astype(np.float16),
            "image_std": np.zeros((rows, *c.latent_shape), np.float16),
            "caption_tokens": rng.normal(size=(rows, self.tokens, c.caption_width)).astype("f2"),
            "caption_mask": np.ones((rows, self.tokens), bool),
            "levels": rng.uniform(size=(rows, c.num_rewards)).astype(np.float32),
            "weight": np.ones(rows, np.float32),
        }


def _time(call: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Return the median seconds of a call, and the seconds until the first one was done."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    compiling, taken = time.perf_counter() - begin, []
    begin = time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - start)
    return float(np.median(taken)), compiling
