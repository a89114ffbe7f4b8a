"""Our EVA-02 against one written out in PyTorch, stage by stage, on pictures of 80 pixels."""

import dataclasses

import jax
import numpy as np
import pytest

from miro_jax.pretrained.networks import eva02, eva02_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.tensors import from_arrays
from tests.networks import difference
from tests.oracles import jina
from tests.oracles.towers import (
    after_one_block,
    all_tokens,
    assert_half_precision_is_close,
    before_blocks,
    call,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("precise")]

# The last 10 rows and columns of a picture belong to no patch; int(48 * 2.6667) is 128.
CONFIG = {
    "width": 48,
    "layers": 3,
    "head_width": 16,
    "image_size": 80,
    "patch_size": 14,
    "mlp_ratio": 2.6667,
    "pt_hw_seq_len": 3,
    "intp_freq": True,
    "naive_swiglu": True,
    "patch_dropout": 0.1,
}


@pytest.fixture(scope="module")
def oracle():
    return jina.vision(CONFIG, seed=1)


@pytest.fixture(scope="module")
def tower(oracle):
    return load(oracle.arrays())


def load(arrays, config=CONFIG, **options):
    return Tower(eva02_keys.load(from_arrays(arrays), eva02_keys.parse_config(config), **options))


def images(rows=3):
    return np.random.default_rng(4).normal(size=(rows, 80, 80, 3)).astype(np.float32)


def test_tower_agrees_stage_by_stage(oracle, tower):
    hidden = oracle.hidden(images())
    for stage, expected in ((before_blocks, 0), (after_one_block, 1), (all_tokens, -1)):
        assert difference(tower.run(stage, images()), hidden[expected]) < 1e-5, stage.__name__
    assert difference(tower.run(call, images()), oracle.features(images())) < 1e-5


def test_tower_agrees_when_places_are_not_scaled():
    config = CONFIG | {"intp_freq": False}
    oracle = jina.vision(config, seed=2)
    found = load(oracle.arrays(), config).run(call, images())
    assert difference(found, oracle.features(images())) < 1e-5


def test_each_convention_of_the_rotation_matters(oracle, tower, monkeypatch):
    """Half-split pairs, swapped axes or a turned class token are far off, not subtly so."""
    expected = oracle.features(images())
    table = eva02.rotary_table

    def swapped(config):
        return tuple(np.concatenate(np.split(x, 2, axis=1)[::-1], axis=1) for x in table(config))

    def shifted(config):
        return tuple(np.roll(x, 1, axis=0) for x in table(config))

    def split_pairs(x, cos, sin):
        a, b = jax.numpy.split(x, 2, axis=-1)
        cos, sin = cos[None, :, None], sin[None, :, None]
        return jax.numpy.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    for name, wrong in (
        ("rotary_table", swapped),
        ("rotary_table", shifted),
        ("rotate", split_pairs),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(eva02, name, wrong)
            jax.clear_caches()  # of layers that were traced before
            found = load(oracle.arrays()).run(call, images())
        assert difference(found, expected) > 1e-3, (name, wrong)
    jax.clear_caches()


def test_rotation_keeps_lengths_and_depends_on_differences_of_places():
    config = eva02_keys.parse_config(CONFIG)
    cos, sin = eva02.rotary_table(config)
    assert cos.shape == sin.shape == (26, 8)
    assert (cos[0] == 1).all() and (sin[0] == 0).all()
    rng = np.random.default_rng(5)
    q, k = (np.broadcast_to(rng.normal(size=(1, 1, 2, 16)), (1, 26, 2, 16)) for _ in "qk")
    q, k = (np.asarray(eva02.rotate(np.float32(x), cos, sin)) for x in (q, k))
    np.testing.assert_allclose(
        np.square(q).sum(-1)[0, :, 0], np.square(q[0, 0, 0]).sum(), rtol=1e-5
    )
    logits = np.einsum("bnah,bmah->anm", q, k)[0, 1:, 1:].reshape(5, 5, 5, 5)
    np.testing.assert_allclose(logits[0, 0, 2, 1], logits[2, 3, 4, 4], rtol=1e-4)
    assert abs(logits[0, 0, 2, 1] - logits[0, 0, 1, 2]) > 1e-3


def test_published_sizes_are_the_defaults():
    config = eva02_keys.parse_config(
        {"rope_embeddings": True, "subln": True, "ls_init_value": None}
    )
    assert (config.width, config.layers, config.heads, config.mlp_width) == (1024, 24, 16, 2730)
    assert (config.image_size, config.grid, config.pretrained_grid) == (512, 36, 16)


def test_other_variants_are_refused():
    for name, value in (("naive_swiglu", False), ("post_norm", True), ("ls_init_value", 0.1)):
        with pytest.raises(ValueError, match=f"vision_config must have {name} = "):
            eva02_keys.parse_config(CONFIG | {name: value})
    with pytest.raises(ValueError, match="multiple of 4"):
        dataclasses.replace(eva02_keys.parse_config(CONFIG), heads=24)


def test_rotary_tables_of_a_file_are_ignored_and_other_strangers_named(oracle):
    arrays = oracle.arrays() | {
        "rope.freqs_cos": np.zeros(3),
        "blocks.1.attn.rope.freqs_sin": np.zeros(3),
    }
    load(arrays)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.k_bias"):
        load(arrays | {"blocks.0.attn.k_bias": np.zeros(48)})


def test_half_precision_stays_close_and_keeps_small_parameters(oracle):
    tower = load(oracle.arrays(), dtype="bfloat16")
    assert_half_precision_is_close(tower, images(), oracle.features(images()))


def test_pictures_of_another_size_are_refused(tower):
    with pytest.raises(ValueError, match="80, 80, 3"):
        tower.run(call, images()[:, 1:])
