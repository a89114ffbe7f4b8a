"""Our CLIP towers against Hugging Face's, stage by stage, from both layouts of weight files."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from miro_jax.pretrained.networks import clip, clip_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.networks.transformer import ACTIVATIONS
from miro_jax.pretrained.weights.tensors import from_arrays
from tests.networks import difference, small_mesh
from tests.oracles.clip import Oracle, opened
from tests.oracles.towers import all_tokens, before_blocks, call

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("precise")]

# No two sizes are equal; the last rows and columns of a picture belong to no patch.
CONFIG = {
    "projection_dim": 20,
    "text_config": {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "vocab_size": 50,
        "max_position_embeddings": 11,
        "hidden_act": "gelu",
        "eos_token_id": 2,
    },
    "vision_config": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 56,
        "image_size": 23,
        "patch_size": 7,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-3,
    },
}
SEED = 3


@pytest.fixture(scope="module")
def oracle():
    return Oracle(CONFIG)


def changed(**changes):
    config = copy.deepcopy(CONFIG)
    for part in ("vision_config", "text_config"):
        config[part] |= changes
    return config


def images(rows=3, size=23):
    return np.random.default_rng(SEED).normal(size=(rows, size, size, 3)).astype(np.float32)


def ids(rows=4, end=49):
    """Texts of differing lengths; what follows the end token differs too."""
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(3, end, (rows, 11)).astype(np.int32)
    for row in range(rows):
        drawn[row, 2 + 2 * row :: 3] = end
    return drawn


def vision(config, tensors, **options):
    return Tower(clip_keys.load_vision(from_arrays(tensors), config, **options))


def text(config, tensors, **options):
    return Tower(clip_keys.load_text(from_arrays(tensors), config, **options))


def before_last_block(module, array):
    return module.tokens(array, module.config.layers - 1)


def test_vision_tower_agrees_stage_by_stage(oracle):
    tower = vision(clip_keys.vision_config(CONFIG), oracle.tensors())
    hidden = oracle.hidden(images())
    for stage, expected in ((before_blocks, 0), (before_last_block, -2), (all_tokens, -1)):
        assert difference(tower.run(stage, images()), hidden[expected]) < 1e-5, stage.__name__
    assert difference(tower.run(call, images()), oracle.image_features(images())) < 1e-5


def test_text_tower_agrees_and_ends_at_the_first_largest_token(oracle):
    tower = text(clip_keys.text_config(CONFIG), oracle.tensors())
    assert difference(tower.run(call, ids()), oracle.text_features(ids())) < 1e-5


def test_towers_agree_with_quick_gelu_and_a_named_end_token():
    config = changed(hidden_act="quick_gelu", eos_token_id=30)
    oracle = Oracle(config, seed=1)
    tower = text(clip_keys.text_config(config), oracle.tensors())
    texts = ids(end=30)
    texts[texts == 30] = 40  # larger, and not the end
    texts[:, 5] = 30
    assert difference(tower.run(call, texts), oracle.text_features(texts)) < 1e-5
    tower = vision(clip_keys.vision_config(config), oracle.tensors())
    assert difference(tower.run(call, images()), oracle.image_features(images())) < 1e-5


def test_text_after_the_end_has_no_effect(oracle):
    tower = text(clip_keys.text_config(CONFIG), oracle.tensors())
    texts = ids()
    texts[:, 4] = 49
    cut = tower.run(call, texts[:, :5])
    assert np.abs(cut - tower.run(call, texts)).max() < 1e-6


def test_openai_layout_gives_the_same_features_and_sizes(oracle):
    tensors = opened(oracle.tensors())
    config = changed(layer_norm_eps=1e-5)
    sizes = clip_keys.configs_of_shapes(from_arrays(tensors), "gelu", heads=(4, 3))
    # A grid of 3 patches of 7 pixels: the picture's remainder is not to be seen from the weights.
    sizes = (dataclasses.replace(sizes[0], image_size=23), sizes[1])
    assert sizes == (clip_keys.vision_config(config), clip_keys.text_config(config))
    sizes = (dataclasses.replace(sizes[0], epsilon=1e-3), sizes[1])
    seen = vision(sizes[0], tensors).run(call, images())
    assert difference(seen, oracle.image_features(images())) < 1e-5
    assert difference(text(sizes[1], tensors).run(call, ids()), oracle.text_features(ids())) < 1e-5


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_transformers_under_their_names(name):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    found = np.asarray(ACTIVATIONS[name](x))
    np.testing.assert_allclose(found, ACT2FN[name](torch.from_numpy(x)).numpy(), atol=2e-6)


def test_a_config_of_open_clip_tells_what_shapes_do_not(oracle):
    tensors = from_arrays(opened(oracle.tensors()))
    own = {
        "embed_dim": 20,
        "quick_gelu": True,
        "vision_cfg": {"image_size": [23, 23], "layers": 3, "width": 32, "head_width": 8},
        "text_cfg": {"context_length": 11, "vocab_size": 50, "width": 24, "heads": 3},
    }
    preprocessing = {"mean": list(clip.MEAN), "std": list(clip.STD), "resize_mode": "shortest"}
    config = {"model_cfg": own, "preprocess_cfg": preprocessing}
    expected = changed(layer_norm_eps=1e-5, hidden_act="quick_gelu")
    found = clip_keys.configs_of_open_clip(config, tensors)
    assert found == clip_keys.configs(expected)
    plain = clip_keys.configs_of_open_clip({"model_cfg": own | {"quick_gelu": False}}, tensors)
    assert {sizes.activation for sizes in plain} == {"gelu"}
    config["preprocess_cfg"] = preprocessing | {"mean": [0.5, 0.5, 0.5]}
    with pytest.raises(
        ValueError, match=r"preprocess_cfg must have mean = .*got \[0.5, 0.5, 0.5\]"
    ):
        clip_keys.configs_of_open_clip(config, tensors)
    with pytest.raises(ValueError, match="model_cfg.vision_cfg is missing"):
        clip_keys.configs_of_open_clip({"model_cfg": {}}, tensors)


@pytest.mark.parametrize("widths, heads", [((768, 512), (12, 8)), ((1280, 1024), (16, 16))])
def test_heads_of_known_sizes_follow_the_rule_of_the_family(widths, heads):
    shapes = {
        "visual.conv1.weight": (widths[0], 3, 14, 14),
        "visual.positional_embedding": (257, widths[0]),
        "visual.transformer.resblocks.0.mlp.c_fc.bias": (4 * widths[0],),
        "visual.proj": (widths[0], 512),
        "token_embedding.weight": (49408, widths[1]),
        "transformer.resblocks.0.mlp.c_fc.bias": (4 * widths[1],),
        "positional_embedding": (77, widths[1]),
        "text_projection": (widths[1], 512),
    }
    tensors = from_arrays({k: np.broadcast_to(np.float16(0), s) for k, s in shapes.items()})
    vision_sizes, text_sizes = clip_keys.configs_of_shapes(tensors)
    assert (vision_sizes.heads, text_sizes.heads) == heads
    assert vision_sizes.image_size == 224


def test_config_that_leaves_sizes_out_means_those_of_clip_base():
    found = clip_keys.vision_config({"vision_config": {"hidden_size": 960, "patch_size": 14}})
    assert (found.image_size, found.heads, found.projection) == (224, 12, 512)
    assert clip_keys.text_config({}).max_tokens == 77


def test_vision_tower_alone_needs_neither_text_nor_projection(oracle):
    """VQAScore's files hold the vision tower without the projection."""
    tensors = {k: v for k, v in oracle.tensors().items() if k.startswith("vision_model")}
    tower = vision(clip_keys.vision_config(CONFIG["vision_config"], False), tensors)
    found = tower.run(before_last_block, images())
    assert difference(found, oracle.hidden(images())[-2]) < 1e-5


def test_missing_and_unknown_weights_are_named(oracle):
    tensors = oracle.tensors() | {"vision_model.surprise": np.zeros(3, np.float32)}
    del tensors["visual_projection.weight"]
    with pytest.raises(ValueError, match="(?s)surprise.*projection/kernel"):
        vision(clip_keys.vision_config(CONFIG), tensors)


def test_half_precision_stays_close(oracle):
    tower = vision(clip_keys.vision_config(CONFIG), oracle.tensors(), dtype="bfloat16")
    found = tower.run(call, images())
    assert found.dtype == np.float32
    assert 1e-5 < difference(found, oracle.image_features(images())) < 0.05


def test_towers_on_a_mesh_give_the_same_features(oracle):
    mesh = small_mesh(2, 2)
    tower = vision(clip_keys.vision_config(CONFIG), oracle.tensors(), mesh=mesh)
    assert difference(tower.run(call, images(5)), oracle.image_features(images(5))) < 1e-5
    tower = text(clip_keys.text_config(CONFIG), oracle.tensors(), mesh=mesh)
    assert difference(tower.run(call, ids()), oracle.text_features(ids())) < 1e-5


def test_batches_longer_than_a_slice_agree(oracle):
    tower = vision(clip_keys.vision_config(CONFIG), oracle.tensors())
    assert difference(tower.run(call, images(13)), oracle.image_features(images(13))) < 1e-5
    assert difference(tower.run(all_tokens, images(8)), oracle.hidden(images(8))[-1]) < 1e-5


def test_logit_scale_is_read_from_the_file(oracle):
    assert abs(clip_keys.logit_scale(from_arrays(oracle.tensors())) - oracle.scale()) < 1e-4
    with pytest.raises(ValueError, match="logit_scale"):
        clip_keys.logit_scale({})


def test_pictures_of_another_size_and_texts_too_long_are_refused(oracle):
    with pytest.raises(ValueError, match="23, 23, 3"):
        vision(clip_keys.vision_config(CONFIG), oracle.tensors()).run(call, images(size=22))
    with pytest.raises(ValueError, match="at most 11"):
        text(clip_keys.text_config(CONFIG), oracle.tensors()).run(call, np.zeros((2, 12), np.int32))


def test_normalize_takes_bytes_and_the_unit_scale():
    pixels = np.random.default_rng(SEED).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    expected = (pixels / 255.0 - np.array(clip.MEAN)) / np.array(clip.STD)
    assert np.abs(clip.normalize(pixels) - expected).max() < 1e-6
    assert np.abs(clip.normalize(np.float32(pixels / 255.0)) - expected).max() < 1e-6


def test_zero_features_stay_zero():
    found = np.asarray(clip.normed(np.array([[0.0, 0.0], [3.0, 4.0]], np.float32)))
    assert np.allclose(found, [[0, 0], [0.6, 0.8]])


def test_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="gelu, quick_gelu"):
        clip_keys.vision_config(changed(hidden_act="relu"))
