"""LAMB, AdamW, clipping and the schedule agree with the authors' classes and PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miro_jax.train import optim
from miro_jax.train.settings import Optim
from tests.oracles import optim as oracle
from tests.updates import ADAPTED, SHAPES, flatten, make_gradients, make_params, nest, run


@pytest.fixture(scope="module")
def params():
    return make_params()


@pytest.fixture(scope="module")
def gradients():
    return make_gradients()


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_twenty_updates_equal_the_torch_optimizer(name, params, gradients):
    optimizer = optim.OPTIMIZERS[name](3e-3, Optim(name, 3e-3, 0, weight_decay=0.1))
    found = flatten(run(optimizer, nest(params), map(nest, gradients)))
    torch_run = {"lamb": oracle.run_lamb, "adamw": oracle.run_adamw}[name]
    expected = torch_run(params, gradients, ADAPTED, lr=3e-3, weight_decay=0.1)
    for key in SHAPES:
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-6, err_msg=key)
        moved = np.abs(expected[key] - params[key]).max()
        assert (moved > 1e-3) == (key != "still/kernel"), key


@pytest.mark.parametrize("warmup_steps, rate", [(5000, 0.8), (1, 1.0), (0, 0.8), (300_000, 0.0)])
def test_schedule_at_count_n_is_the_authors_rate_at_global_step_n(warmup_steps, rate):
    total = 500_000
    edges = [0, 1, warmup_steps // 2, warmup_steps, warmup_steps + 1, total - 1, total]
    steps = sorted({*edges, *np.linspace(2, total, 43).astype(int).tolist()})
    schedule = jax.jit(optim.warmup_cosine(1e-3, warmup_steps, total, rate))
    found = [schedule(jnp.int32(step)) for step in steps]
    expected = oracle.rates(1e-3, warmup_steps, total, rate, steps)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("size", [1e-3, 10.0])
def test_clip_equals_torch(size, gradients):
    gradient = {k: np.float32(size) * v for k, v in gradients[0].items()}
    norm = np.sqrt(sum((v.astype(np.float64) ** 2).sum() for v in gradient.values()))
    assert (norm > 2.0) == (size > 1.0)
    found, _ = optim.clip_by_global_norm(2.0).update(nest(gradient), optax.EmptyState())
    expected = oracle.clip(gradient, 2.0)
    for key, value in flatten(found).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-6, atol=0, err_msg=key)
