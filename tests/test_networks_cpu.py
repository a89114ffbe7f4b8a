"""What is quicker on a CPU against what it equals: attention and slices of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.models import sharding
from miro_jax.pretrained.networks import cpu
from tests.networks import small_mesh


def inputs(batch, queries, sources, dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = [(batch, n, 2, 8) for n in (queries, sources, sources)]
    return [jax.numpy.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def softmax_attention(q, k, v, causal):
    """Said again in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    logits = np.einsum("bnah,bsah->bans", q, k) / np.sqrt(q.shape[-1])
    if causal:
        logits[..., np.triu(np.ones(logits.shape[-2:], bool), 1)] = -np.inf
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.einsum("bans,bsah->bnah", weights / weights.sum(axis=-1, keepdims=True), v)


@pytest.mark.parametrize("cache", [0, 2**30])
@pytest.mark.parametrize("causal, queries, sources", [(False, 5, 9), (True, 7, 7)])
def test_both_ways_of_attention_equal_the_formula(monkeypatch, cache, causal, queries, sources):
    monkeypatch.setattr(cpu, "CACHE_BYTES", cache)
    q, k, v = inputs(3, queries, sources)
    with jax.default_matmul_precision("highest"):
        call = jax.jit(lambda q, k, v: cpu.attend(q, k, v, causal=causal))
        assert ("while" in call.lower(q, k, v).compile().as_text()) == (cache == 0)
        assert np.abs(call(q, k, v) - softmax_attention(q, k, v, causal)).max() < 1e-6


def test_result_keeps_the_dtype_of_the_queries(monkeypatch):
    monkeypatch.setattr(cpu, "CACHE_BYTES", 0)
    q, k, v = inputs(2, 4, 4, "bfloat16")
    assert cpu.attend(q, k, v).dtype == q.dtype


def test_attention_of_batches_that_devices_share_is_not_taken_apart(monkeypatch):
    monkeypatch.setattr(cpu, "CACHE_BYTES", 0)
    mesh = small_mesh(4)
    arrays = [jax.device_put(x, sharding.batch_sharding(mesh)) for x in inputs(8, 4, 4)]
    with sharding.use_mesh(mesh):
        compiled = jax.jit(cpu.attend).lower(*arrays).compile()
    assert "while" not in compiled.as_text() and "all-gather" not in compiled.as_text()


def squares(x):
    return jnp.square(x).sum(axis=-1)


def compiled(rows, x):
    return jax.jit(lambda x: cpu.by_slices(squares, x, rows)).lower(x).compile()


@pytest.mark.parametrize("rows, sliced", [(1, True), (2, True), (6, False), (4, False), (9, False)])
def test_slices_give_what_the_whole_batch_gives(rows, sliced):
    x = np.random.default_rng(0).normal(size=(6, 3, 5)).astype(np.float32)
    program = compiled(rows, x)
    assert ("while" in program.as_text()) == sliced
    np.testing.assert_allclose(program(x), squares(x), rtol=1e-6)


def test_batches_that_devices_share_are_not_sliced():
    mesh = small_mesh(4)
    x = jax.device_put(np.ones((8, 3), np.float32), sharding.batch_sharding(mesh))
    with sharding.use_mesh(mesh):
        assert "while" not in compiled(1, x).as_text()
