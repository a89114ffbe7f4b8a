"""Our BLIP towers against Hugging Face's, stage by stage, from ImageReward's layout of weights."""

import jax
import numpy as np
import pytest

from miro_jax.pretrained.networks import blip, blip_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.pickles import open_pickle
from tests.networks import difference
from tests.oracles.blip import Oracle
from tests.oracles.towers import shorten

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("precise")]

# No two sizes are equal. Heads of the vision tower are 64 wide: nothing in the file tells.
VISION = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 80,
    "image_size": 28,
    "patch_size": 7,
}
TEXT = {
    "hidden_size": 48,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 72,
    "vocab_size": 60,
    "max_position_embeddings": 40,
    "layer_norm_eps": 1e-12,
}
ROWS, LENGTH = 4, 9


@pytest.fixture(scope="module")
def oracle():
    return Oracle(VISION, TEXT, widths=(20, 9, 8, 5, 1), seed=1)


@pytest.fixture(scope="module")
def tensors(oracle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip")
    oracle.write(folder)
    return open_pickle(folder / "ImageReward.pt")


@pytest.fixture(scope="module")
def towers(tensors):
    return load(tensors)


def load(tensors, **options):
    vision = blip_keys.vision_config(tensors)
    text = blip_keys.text_config(TEXT | {"encoder_width": 7}, vision.width)
    return [Tower(n) for n in blip_keys.load_towers(tensors, vision, text, **options)]


def images(rows=ROWS):
    return np.random.default_rng(5).normal(size=(rows, 28, 28, 3)).astype(np.float32)


def texts():
    """Ids, and a ragged mask; what stands under the padding is no zero."""
    rng = np.random.default_rng(6)
    ids = rng.integers(0, 60, (ROWS, LENGTH)).astype(np.int32)
    return ids, np.arange(LENGTH)[None] < np.array([9, 5, 2, 7])[:, None]


def embed(module, array):
    return module.patches(array)


def one_block(module, array):
    return module.blocks[0](module.patches(array), causal=False)


def see(module, array):
    return module(array)


def look_none(module, ids, mask, source):
    return shorten(module, 0)(ids, mask, source)


def look_once(module, ids, mask, source):
    return shorten(module, 1)(ids, mask, source)


def look(module, ids, mask, source):
    return module(ids, mask, source)


def test_vision_tower_agrees_stage_by_stage(oracle, towers):
    expected = oracle.image_hidden(images())
    for stage, tokens in zip((embed, one_block, see), expected, strict=True):
        assert difference(towers[0].run(stage, images()), tokens) < 1e-5, stage.__name__


def test_text_tower_agrees_stage_by_stage_where_there_is_text(oracle, towers):
    ids, mask = texts()
    source = oracle.image_hidden(images())[-1]
    expected = oracle.text_hidden(ids, mask, source)
    for stage, tokens in zip((look_none, look_once, look), expected, strict=True):
        found = towers[1].run(stage, ids, mask, source)
        assert difference(found[mask], tokens[mask]) < 1e-5, stage.__name__


def test_padding_has_no_effect(towers):
    ids, mask = texts()
    source = np.random.default_rng(7).normal(size=(ROWS, 17, 128)).astype(np.float32)
    changed = np.where(mask, ids, 59 - ids)
    both = [towers[1].run(look, x, mask, source)[mask] for x in (ids, changed)]
    np.testing.assert_array_equal(*both)
    longer = [np.pad(x, ((0, 0), (0, 4))) for x in (ids, mask)]
    assert difference(towers[1].run(look, *longer, source)[:, :LENGTH][mask], both[0]) < 1e-5


def test_sizes_are_seen_from_the_weights(tensors):
    found = blip_keys.vision_config(tensors)
    assert found == blip.VisionConfig(
        width=128,
        layers=3,
        heads=2,
        mlp_width=80,
        activation="gelu",
        epsilon=1e-6,
        image_size=28,
        patch_size=7,
    )
    text = blip_keys.text_config({"encoder_width": 768}, 1024)
    assert (text.width, text.layers, text.heads, text.epsilon) == (768, 12, 12, 1e-12)
    assert (text.source_width, text.max_tokens, text.activation) == (1024, 512, "gelu")
    with pytest.raises(ValueError, match="patch_embed.proj.weight with 4 axes"):
        blip_keys.vision_config({key.removeprefix("blip."): t for key, t in tensors.items()})


def test_missing_and_unknown_weights_are_named(tensors):
    wrong = dict(tensors) | {"blip.text_encoder.surprise": tensors["blip.text_proj.bias"]}
    del wrong["blip.text_encoder.encoder.layer.1.crossattention.self.key.bias"]
    with pytest.raises(ValueError, match="(?s)text_encoder.surprise.*blocks/1/cross/k/bias"):
        load(wrong)


def test_half_precision_stays_close_and_keeps_small_parameters(oracle, tensors):
    vision, text = load(tensors, dtype="bfloat16")
    tokens = vision.run(see, images())
    assert str(tokens.dtype) == "bfloat16"
    assert 1e-5 < difference(np.float32(tokens), oracle.image_hidden(images())[-1]) < 0.05
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(text.state)}
    assert kinds == {"float32", "bfloat16"}
    ids, mask = texts()
    found = text.run(look, ids, mask, tokens)
    expected = oracle.text_hidden(ids, mask, oracle.image_hidden(images())[-1])[-1]
    assert found.dtype == np.float32 and difference(found[mask], expected[mask]) < 0.1


def test_pictures_of_another_size_and_texts_too_long_are_refused(towers):
    with pytest.raises(ValueError, match="28, 28, 3"):
        towers[0].run(see, images()[:, 1:])
    ids = np.zeros((1, 41), np.int32)
    with pytest.raises(ValueError, match="at most 40"):
        towers[1].run(look, ids, ids == 0, np.zeros((1, 17, 128), np.float32))
