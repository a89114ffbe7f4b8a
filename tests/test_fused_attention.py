"""Attention by cuDNN, as far as a machine without a GPU can show it."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from miro_jax.models import attention, fused_attention, layers, sharding
from miro_jax.models.fused_attention import Shape
from miro_jax.models.rin import RIN
from miro_jax.pretrained.networks import clip
from tests.networks import TINY, abstract_module, make_batch, resize, small_mesh

SHAPE = Shape(257, 257, 16, 80, "bfloat16", padded=False, causal=False, trained=False)


@pytest.fixture(autouse=True)
def forget_shapes():
    """Drop what was found for shapes, and the layers that were traced with it."""
    fused_attention._compiled_way.cache_clear()
    jax.clear_caches()
    yield
    fused_attention._compiled_way.cache_clear()
    jax.clear_caches()


@pytest.fixture
def a_gpu(monkeypatch):
    """A GPU as far as tracing and lowering see it: all checks of what is there hold."""
    monkeypatch.setattr(fused_attention, "_missing", lambda dtype: "")
    monkeypatch.setattr(fused_attention, "_failure", _failure)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 92000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda wanted: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda wanted: False)


def _failure(shape, way):
    """What JAX itself refuses: a backward pass of odd lengths."""
    odd = (shape.queries % 2 or shape.sources % 2) and way == "cudnn"
    return "odd" if odd and shape.trained else ""


def fused_calls(function, *arguments):
    """Count the calls of cuDNN's attention in a program for CUDA: forward, backward."""
    traced = jax.jit(function).trace(*arguments)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    backward = text.count("__cudnn$fmhaSoftmaxBackward") + text.count("__cudnn$fmhaScaleBias")
    return text.count("__cudnn$fmha") - backward, backward


def test_auto_is_xla_where_there_is_no_gpu(monkeypatch):
    assert fused_attention.resolve("auto", jnp.bfloat16) == "xla"
    assert fused_attention.choose("auto", SHAPE) == "xla"
    with pytest.raises(ValueError, match="'cudnn' needs an NVIDIA GPU of compute capability"):
        fused_attention.resolve("cudnn", jnp.bfloat16)
    with pytest.raises(ValueError, match="'cudnn' needs bfloat16 or float16; got float32"):
        fused_attention.resolve("cudnn", jnp.float32)
    with pytest.raises(ValueError, match="must be one of auto, xla, cudnn; got 'flash'"):
        fused_attention.resolve("flash", jnp.bfloat16)


def test_a_variable_says_what_auto_is(a_gpu, monkeypatch):
    assert fused_attention.resolve("auto", jnp.bfloat16) == "cudnn"
    monkeypatch.setenv(fused_attention.VARIABLE, "xla")
    assert fused_attention.resolve("auto", jnp.bfloat16) == "xla"
    assert fused_attention.resolve("cudnn", jnp.bfloat16) == "cudnn"
    monkeypatch.setenv(fused_attention.VARIABLE, "flash")
    with pytest.raises(ValueError, match="MIRO_JAX_ATTENTION must be one of"):
        fused_attention.resolve("auto", jnp.bfloat16)


def test_a_shape_that_cudnn_refuses_is_computed_by_xla_and_logged_once(a_gpu, monkeypatch, caplog):
    asked = []

    def fail(shape, way):
        asked.append(way)
        return "no kernel"

    monkeypatch.setattr(fused_attention, "_failure", fail)
    with caplog.at_level(logging.INFO, "miro_jax"):
        assert [fused_attention.choose("auto", SHAPE) for _ in range(3)] == ["xla"] * 3
    assert asked == ["cudnn", "cudnn_even"]  # once
    assert [r.message for r in caplog.records if "by XLA, not cuDNN" in r.message][0].endswith(
        "no kernel"
    )
    with pytest.raises(ValueError, match="has no kernel for Shape.*no kernel"):
        fused_attention.choose("cudnn", SHAPE)
    wide = Shape(64, 64, 1, 512, "bfloat16", padded=False, causal=False, trained=False)
    assert fused_attention.choose("auto", wide) == "xla" and len(asked) == 2


def test_a_shape_is_tried_while_a_program_is_traced(monkeypatch):
    """By XLA in cuDNN's place; inside a mesh and a gradient, as the network's are."""
    tried, run = [], fused_attention.run

    def by_xla(way, *arrays, **more):
        tried.append((way, len(arrays[0])))
        return run(way, *arrays, **more, implementation="xla")

    monkeypatch.setattr(fused_attention, "_missing", lambda dtype: "")
    monkeypatch.setattr(fused_attention, "run", by_xla)
    q = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 2, 8)), jnp.bfloat16)

    def total(q):
        once = attention.attend(q, q, q, trained=True)
        return jnp.sum(attention.attend(once, q, q, trained=True).astype(jnp.float32))

    with sharding.use_mesh(small_mesh(data=2)):
        assert np.isfinite(np.asarray(jax.jit(jax.grad(total))(q), np.float32)).all()
    assert tried == [("cudnn", 1), ("cudnn", 4), ("cudnn", 4)]


def test_odd_lengths_are_padded_where_there_is_a_backward_pass(a_gpu):
    assert fused_attention.choose("auto", SHAPE) == "cudnn"
    assert fused_attention.choose("auto", dataclasses.replace(SHAPE, trained=True)) == "cudnn_even"


@pytest.mark.parametrize("way", ["cudnn", "cudnn_even"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "sources"), [(5, 7), (6, 7), (5, 8), (4, 4)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.over_a_second
def test_padding_changes_nothing(way, causal, queries, sources, padded):
    """The code around cuDNN's kernel, with XLA's in its place, and its gradients."""
    if causal:
        sources = queries
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.normal(size=(3, n, 2, 8)), jnp.float32) for n in (queries, sources, sources)
    )
    lengths = jnp.array([sources, 3, 1], jnp.int32)
    mask = jnp.arange(sources)[None] < lengths[:, None] if padded else None

    def whole(q, k, v):
        return attention.attend(q, k, v, mask, causal=causal)

    def around(q, k, v):
        given = lengths if padded else None
        return fused_attention.run(way, q, k, v, given, causal=causal, implementation="xla")

    def value(call):
        return lambda *arrays: jnp.sum(jnp.sin(call(*arrays)))

    np.testing.assert_allclose(around(q, k, v), whole(q, k, v), atol=1e-6)
    gradients = [jax.grad(value(call), (0, 1, 2))(q, k, v) for call in (around, whole)]
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.over_a_second
def test_every_attention_of_the_network_is_cudnns(a_gpu):
    config = resize(TINY, condition_heads=4, latent_shape=(8, 12, 3))
    batch = make_batch(config, rows=2, length=7, seed=0)

    def calls(attention):
        graphdef, params, buffers = abstract_module(
            lambda rngs: RIN(config, rngs=rngs, dtype=jnp.bfloat16, attention=attention)
        )

        def total(params, buffers):
            model = nnx.merge(graphdef, params, buffers)
            named = (batch[k] for k in ("caption_tokens", "caption_mask", "levels"))
            condition, mask = model.encode_condition(*named)
            velocity, _ = model(batch["x_t"], batch["t"], condition, mask)
            return jnp.sum(velocity)

        return fused_calls(jax.grad(total), params, buffers)

    assert calls("auto") == calls("cudnn") == (5, 5)  # condition, read twice, process, write
    assert calls("xla") == (0, 0)


def test_the_attention_of_a_tower_is_cudnns_at_the_size_of_clip_h(a_gpu):
    config = clip.VisionConfig(
        width=1280,
        layers=2,
        heads=16,
        mlp_width=64,
        activation="gelu",
        epsilon=1e-5,
        image_size=224,
        patch_size=14,
        projection=8,
    )
    graphdef, params, _ = abstract_module(
        lambda rngs: clip.VisionTower(config, rngs=rngs, dtype=jnp.bfloat16)
    )
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)

    def tokens(params, images):
        return nnx.merge(graphdef, params, {})(images)

    # One of the two: the last block computes the class token alone. 257 tokens need no padding.
    assert fused_calls(tokens, params, images) == (1, 0)


@pytest.mark.over_a_second
def test_a_packed_product_is_that_of_its_parts(monkeypatch):
    graphdef, params, _ = abstract_module(
        lambda rngs: layers.Linear((6, 3, 2, 4), ("embed", "pack", "heads", "head_dim"), rngs=rngs)
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    x = jnp.asarray(rng.normal(size=(2, 5, 6)), jnp.float32)
    parts = nnx.merge(graphdef, params, {}).unpack(x)
    monkeypatch.setattr(layers, "cuts_kernels", lambda: False)
    whole = nnx.merge(graphdef, params, {}).unpack(x)
    assert len(parts) == len(whole) == 3
    for found, expected in zip(whole, parts, strict=True):
        assert found.shape == (2, 5, 2, 4)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.over_a_second
def test_the_backward_pass_without_a_kernel_keeps_the_weights_once():
    rows, heads, queries, sources = 2, 3, 5, 7
    q = jnp.ones((rows, queries, heads, 8))
    k = v = jnp.ones((rows, sources, heads, 8))
    _, backward = jax.vjp(attention.attend, q, k, v)
    kept = [x.size for x in jax.tree.leaves(backward)]
    assert kept.count(rows * heads * queries * sources) == 1, kept
