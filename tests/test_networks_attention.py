"""Attention picture by picture against attention of the whole batch."""

import jax
import numpy as np
import pytest

from miro_jax.models import sharding
from miro_jax.pretrained.networks import attention
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
def test_both_ways_equal_the_formula(monkeypatch, cache, causal, queries, sources):
    monkeypatch.setattr(attention, "CACHE_BYTES", cache)
    q, k, v = inputs(3, queries, sources)
    with jax.default_matmul_precision("highest"):
        call = jax.jit(lambda q, k, v: attention.attend(q, k, v, causal=causal))
        assert ("while" in call.lower(q, k, v).compile().as_text()) == (cache == 0)
        assert np.abs(call(q, k, v) - softmax_attention(q, k, v, causal)).max() < 1e-6


def test_result_keeps_the_dtype_of_the_queries(monkeypatch):
    monkeypatch.setattr(attention, "CACHE_BYTES", 0)
    q, k, v = inputs(2, 4, 4, "bfloat16")
    assert attention.attend(q, k, v).dtype == q.dtype


def test_batches_that_devices_share_are_not_taken_apart(monkeypatch):
    monkeypatch.setattr(attention, "CACHE_BYTES", 0)
    mesh = small_mesh(4)
    arrays = [jax.device_put(x, sharding.batch_sharding(mesh)) for x in inputs(8, 4, 4)]
    with sharding.use_mesh(mesh):
        compiled = jax.jit(attention.attend).lower(*arrays).compile()
    assert "while" not in compiled.as_text() and "all-gather" not in compiled.as_text()
