"""The layers do what their formulas say; start values, masks and types are as they should be."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from miro_jax.models import attention, layers, sharding
from tests.networks import abstract_module, paths, random_module, small_mesh


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def make(layer, *args, **kwargs):
    """Build a layer with random parameters."""
    return nnx.merge(*random_module(lambda rngs: layer(*args, rngs=rngs, **kwargs)))


def make_norm(norm, width):
    """Build a norm (it draws nothing) with random parameters."""
    return nnx.merge(*random_module(lambda rngs: norm(width)))


def values(module):
    """Path -> numpy array of every parameter and buffer."""
    return {path: np.asarray(leaf) for path, leaf in paths(nnx.state(module)).items()}


def call(module, *args):
    """Apply a layer under jit."""
    graphdef, state = nnx.split(module)
    return jax.jit(lambda state, *args: nnx.merge(graphdef, state)(*args))(state, *args)


def shapes(layer, *args, **kwargs):
    """Path -> shape of the parameters of a layer."""
    _, params, _ = abstract_module(lambda rngs: layer(*args, rngs=rngs, **kwargs))
    return {path: leaf.shape for path, leaf in paths(params).items()}


def test_linear_contracts_all_its_input_axes():
    axes = ("heads", "head_dim", "embed", "pack")
    linear = make(layers.Linear, (2, 3, 4, 5), axes, num_in=2)
    x = normal(6, 7, 2, 3)
    kernel, bias = values(linear)["kernel"], values(linear)["bias"]
    expected = np.asarray(x).reshape(6, 7, 6) @ kernel.reshape(6, 20) + bias.ravel()
    np.testing.assert_allclose(call(linear, x), expected.reshape(6, 7, 4, 5), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
def test_unpacked_parts_are_the_slices_of_the_whole(use_bias):
    axes = ("embed", "pack", "heads", "head_dim")
    linear = make(layers.Linear, (6, 3, 2, 4), axes, use_bias=use_bias)
    graphdef, state = nnx.split(linear)
    parts = jax.jit(lambda state, x: nnx.merge(graphdef, state).unpack(x))(state, normal(5, 7, 6))
    whole = np.moveaxis(np.asarray(call(linear, normal(5, 7, 6))), 2, 0)
    assert len(parts) == 3
    np.testing.assert_allclose(np.stack(parts), whole, rtol=1e-5, atol=1e-6)


def test_linear_without_bias_has_a_kernel_only():
    assert list(shapes(layers.Linear, (2, 3), ("embed", "mlp"), use_bias=False)) == ["kernel"]


def test_linear_computes_in_its_type_and_keeps_float32_parameters():
    linear = make(layers.Linear, (4, 3), ("embed", "mlp"), dtype=jnp.bfloat16)
    assert call(linear, normal(2, 4)).dtype == jnp.bfloat16
    assert {value.dtype for value in values(linear).values()} == {np.dtype(np.float32)}


def test_kernels_start_with_the_bound_of_their_whole_pack():
    """As torch sees it: one matrix of 64 inputs and 3 x 4 x 16 outputs."""
    kernel = layers.xavier_uniform(nnx.Rngs(params=0), (64, 3, 4, 16), 1)
    bound = np.sqrt(6 / (64 + 192))
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(np.std(kernel), bound / np.sqrt(3), rtol=0.02)


def test_tables_start_small_and_cut():
    with sharding.use_mesh(small_mesh()):
        param = layers.normal_table(nnx.Rngs(params=0), (100, 64), ("tokens", "embed"), 0.02)
    table = np.asarray(param[...])
    assert 0.035 < np.abs(table).max() <= 0.04
    np.testing.assert_allclose(table.std(), 0.02 * 0.8796, rtol=0.03)  # of a normal cut at 2


def test_rms_norm_follows_its_formula():
    norm = make_norm(layers.RMSNorm, 5)
    x = np.asarray(normal(3, 5)) * 1e-3  # small, so that epsilon counts
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * values(norm)["scale"]
    np.testing.assert_allclose(call(norm, jnp.asarray(x)), expected, rtol=1e-5)


def test_layer_norm_follows_its_formula():
    norm = make_norm(layers.LayerNorm, 5)
    x = np.asarray(normal(3, 5)) * 1e-3 + 0.02
    centered = x - x.mean(-1, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
    expected = normed * values(norm)["scale"] + values(norm)["bias"]
    np.testing.assert_allclose(call(norm, jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [layers.RMSNorm, layers.LayerNorm])
def test_norms_take_statistics_in_float32_and_keep_the_type(norm):
    """In bfloat16 the mean square of 4096 entries would be off by percents, in float16 infinite."""
    with sharding.use_mesh(small_mesh()):
        module = norm(4096)
    x = 300.0 * normal(1, 4096)
    for dtype in (jnp.bfloat16, jnp.float16):
        found = call(module, x.astype(dtype))
        assert found.dtype == dtype
        assert abs(np.asarray(found, np.float32).std() - 1) < 3e-3


def test_fourier_features_follow_their_formula_and_are_not_trained():
    features = make(layers.FourierFeatures, 6)
    t = np.array([0.0, 0.3, 1.0], np.float32)
    f, phase = values(features)["frequencies"], values(features)["phases"]
    expected = np.sqrt(2) * np.cos(t[:, None] * f + phase)
    np.testing.assert_allclose(call(features, jnp.asarray(t)), expected, atol=1e-6)
    assert not paths(nnx.state(features, nnx.Param))
    assert set(paths(nnx.state(features, layers.Buffer))) == {"frequencies", "phases"}


def test_fourier_frequencies_and_phases_have_the_right_spread():
    features = values(layers.FourierFeatures(4000, rngs=nnx.Rngs(params=0)))
    assert abs(features["frequencies"].std() / (2 * np.pi) - 1) < 0.05
    turns = features["phases"] / (2 * np.pi)
    assert 0 <= turns.min() < 0.01 and 0.99 < turns.max() < 1


def test_scalar_embedding_standardises_with_the_unbiased_deviation():
    embed = make(layers.ScalarEmbedding, 16)
    t, p = normal(5), values(embed)
    y = np.sqrt(2) * np.cos(np.asarray(t)[:, None] * p["fourier/frequencies"] + p["fourier/phases"])
    y = (y - y.mean(-1, keepdims=True)) / y.std(-1, ddof=1, keepdims=True)
    y = y @ p["hidden/kernel"] + p["hidden/bias"]
    expected = y / (1 + np.exp(-y)) @ p["out/kernel"] + p["out/bias"]
    np.testing.assert_allclose(call(embed, t), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "width, multiplier, multiple, hidden",
    [(1024, 4, 256, 2816), (512, 4, 256, 1536), (384, 4, 256, 1024), (16, 2, 32, 32)],
)
def test_swiglu_width_is_two_thirds_rounded_up(width, multiplier, multiple, hidden):
    found = shapes(layers.SwiGLU, width, multiplier, multiple)
    assert found["packed/kernel"] == (width, 2, hidden)
    assert found["out/kernel"] == (hidden, width)


def test_swiglu_gates_with_its_second_half():
    mlp = make(layers.SwiGLU, 6, 2, 8)
    x, p = normal(2, 3, 6), values(mlp)
    a, b = (np.asarray(x) @ p["packed/kernel"][:, i] + p["packed/bias"][i] for i in range(2))
    expected = (a * b / (1 + np.exp(-b))) @ p["out/kernel"] + p["out/bias"]
    np.testing.assert_allclose(call(mlp, x), expected, rtol=1e-4, atol=1e-5)


def test_gelu_mlp_uses_the_exact_gelu():
    mlp = make(layers.GeluMLP, 6, 2)
    x, p = normal(2, 3, 6), values(mlp)
    hidden = np.asarray(x) @ p["hidden/kernel"] + p["hidden/bias"]
    erf = np.vectorize(math.erf)
    expected = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))) @ p["out/kernel"] + p["out/bias"]
    np.testing.assert_allclose(call(mlp, x), expected, rtol=1e-5, atol=1e-5)


def test_gelu_and_its_slopes_are_those_of_the_normal_distribution():
    x = np.linspace(-6, 6, 241)
    cdf = np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in x])
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    given = jnp.asarray(x, jnp.float32)
    slope = jax.vmap(jax.grad(layers.gelu))
    curvature = jax.vmap(jax.grad(jax.grad(layers.gelu)))
    np.testing.assert_allclose(layers.gelu(given), x * cdf, atol=5e-7)
    np.testing.assert_allclose(slope(given), cdf + x * density, atol=5e-7)
    np.testing.assert_allclose(curvature(given), density * (2 - x * x), atol=2e-6)


def test_gelu_of_halves_is_as_exact_as_they_are():
    x = jnp.linspace(-4, 4, 161, dtype=jnp.bfloat16)
    found = layers.gelu(x)
    exact = layers.gelu(x.astype(jnp.float32))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))
    _, tangent = jax.jvp(layers.gelu, (x,), (jnp.ones_like(x),))
    assert tangent.dtype == jnp.bfloat16


def attention_by_hand(q, k, v, mask):
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    logits = np.einsum("bnah,bsah->bans", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits) * np.asarray(mask)[:, None, None, :]
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bans,bsah->bnah", weights, v)


@pytest.mark.over_a_second
def test_softmax_and_its_slopes_are_those_of_jax():
    x, change = 3 * normal(4, 7), normal(4, 7, seed=1)
    weighed = [lambda x, f=f: jnp.sum(f(x) * change) for f in (jax.nn.softmax, own_softmax)]
    (theirs, slope), (ours, found) = (jax.value_and_grad(f)(x) for f in weighed)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(found, slope, atol=1e-7)
    twice = [jax.jvp(jax.grad(f), (x,), (change,))[1] for f in weighed]
    np.testing.assert_allclose(twice[1], twice[0], atol=1e-6)


def test_softmax_rounds_at_its_end_alone():
    x = 3 * normal(4, 7)
    weights, change = jax.jvp(lambda x: attention.softmax(x, jnp.bfloat16), (x,), (normal(4, 7),))
    assert weights.dtype == change.dtype == jnp.bfloat16
    np.testing.assert_array_equal(weights, jax.nn.softmax(x).astype(jnp.bfloat16))
    exact = jax.jvp(jax.nn.softmax, (x,), (normal(4, 7),))[1]
    np.testing.assert_allclose(change.astype(jnp.float32), exact, atol=0.01)


def own_softmax(x):
    return attention.softmax(x, jnp.float32)


def test_attention_is_softmax_over_the_sources_shown():
    q, k, v = normal(2, 3, 2, 4), normal(2, 5, 2, 4, seed=1), normal(2, 5, 2, 4, seed=2)
    mask = jnp.array([[True] * 5, [True, False, True, False, False]])
    expected = attention_by_hand(q, k, v, mask)
    np.testing.assert_allclose(attention.attend(q, k, v, mask), expected, atol=1e-6)
    expected = attention_by_hand(q, k, v, np.ones((2, 5), bool))
    np.testing.assert_allclose(attention.attend(q, k, v, None), expected, atol=1e-6)


@pytest.mark.parametrize("given", [(1, 1), (2, 1)])
def test_keys_and_values_of_another_batch_are_refused(given):
    k, v = (normal(batch, 5, 2, 4) for batch in given)
    with pytest.raises(
        ValueError, match=r"q \[2, 3, 2, 4\], k \[., 5, 2, 4\] and v \[1, 5, 2, 4\]"
    ):
        attention.attend(normal(2, 3, 2, 4), k, v)


def test_attention_keeps_logits_in_float32():
    """Logits 200 and 200.3 are one number in bfloat16; their weights are 0.42 and 0.58."""
    q = np.full((1, 1, 1, 4), 10.0, np.float32)
    k = np.full((1, 2, 1, 4), 10.0, np.float32)
    k[0, 1, 0, 0] += 0.0625
    v = np.zeros((1, 2, 1, 4), np.float32)
    v[0, 1] = 1.0
    expected = attention_by_hand(q, k, v, np.ones((1, 2), bool))
    assert expected.min() > 0.55
    found = attention.attend(*(jnp.asarray(a, jnp.bfloat16) for a in (q, k, v)), None)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32), expected, rtol=1e-2)


@pytest.mark.parametrize("style", ["process", "condition"])
def test_hidden_tokens_do_not_reach_the_others(style):
    block = make(attention.SelfAttentionBlock, 8, 2, 2, 8, style)
    x = normal(2, 5, 8)
    changed = x.at[1, 3:].set(1e3)
    mask = jnp.arange(5)[None] < jnp.array([[5], [3]])
    found, expected = call(block, changed, mask), call(block, x, mask)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1, :3], expected[1, :3])
    shown = jnp.ones((2, 5), bool)
    assert np.abs(call(block, changed, shown)[1, :3] - call(block, x, shown)[1, :3]).max() > 1e-3


def test_hidden_sources_do_not_reach_the_queries():
    block = make(attention.CrossAttentionBlock, 8, 6, 2, 2, 8)
    x, source = normal(2, 4, 8), normal(2, 5, 6, seed=1)
    changed = source.at[0, 2:].set(1e3)
    mask = jnp.arange(5)[None] < jnp.array([[2], [5]])
    np.testing.assert_array_equal(call(block, x, changed, mask), call(block, x, source, mask))
    shown = jnp.ones((2, 5), bool)
    assert np.abs(call(block, x, changed, shown) - call(block, x, source, shown)).max() > 1e-3


@pytest.mark.parametrize("width, source", [(8, 6), (6, 8)])
def test_cross_attention_is_as_wide_as_the_narrower_tokens(width, source):
    found = shapes(attention.CrossAttentionBlock, width, source, 2, 2, 8)
    assert found["q/kernel"] == (width, 2, 3)
    assert found["kv/kernel"] == (source, 2, 2, 3)


def test_sources_are_not_normed_before_cross_attention():
    """With one source all attention is on it, and doubling it doubles what is read."""
    block = make(attention.CrossAttentionBlock, 8, 6, 2, 2, 8)
    block.mlp.out.kernel[...] = np.zeros((16, 8), np.float32)
    block.mlp.out.bias[...] = np.zeros(8, np.float32)
    x, source = normal(1, 3, 8), normal(1, 1, 6, seed=1)
    unread = np.asarray(x) + values(block)["out/bias"]
    once, twice = (np.asarray(call(block, x, scale * source)) - unread for scale in (1.0, 2.0))
    assert np.abs(once).max() > 0.1
    np.testing.assert_allclose(twice, 2 * once, atol=1e-5)


def test_branches_of_the_condition_encoder_start_at_a_tenth():
    with sharding.use_mesh(small_mesh()):
        gain = values(layers.LayerScale(8))["layer_scale"]
    np.testing.assert_array_equal(gain, np.full(8, 0.1, np.float32))
    found = shapes(attention.SelfAttentionBlock, 8, 2, 2, 8, "condition")
    assert sum(path.endswith("layer_scale") for path in found) == 2


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="multiple of its heads; got 8 / 3"):
        shapes(attention.SelfAttentionBlock, 8, 3, 2, 8, "process")
