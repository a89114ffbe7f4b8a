"""Our Mask2Former against that of transformers, and its three key tables."""

import json

import numpy as np
import pytest
import torch

from miro_jax.evaluate.suites.geneval import detector
from miro_jax.pretrained.networks import bilinear, deformable, mask2former_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.convert import converted
from miro_jax.pretrained.weights.tensors import from_arrays
from tests.networks import abstract_module, difference, paths
from tests.oracles import mask2former as oracle

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("precise")]


@pytest.fixture(scope="module")
def theirs():
    return oracle.make(seed=1)


@pytest.fixture(scope="module")
def config(theirs):
    return mask2former_keys.parse_config(theirs.config.to_dict())


@pytest.fixture(scope="module")
def tower(theirs, config):
    return Tower(mask2former_keys.load(from_arrays(oracle.arrays(theirs)), config))


def stages(module, images):
    maps = module.backbone(images)
    return maps, *module.decoder(*module.pixels(maps))


def images(height, width):
    rng = np.random.default_rng(height)
    return rng.normal(size=(1, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(96, 128), (101, 75), (288, 256)])
def test_network_agrees_at_sizes_that_are_no_whole_windows(theirs, tower, height, width):
    x = images(height, width)
    expected = oracle.outputs(theirs, x)
    found = tower.run(stages, x)
    for level, (ours, wanted) in enumerate(zip(found[0], expected[0], strict=True)):
        assert difference(ours, wanted) < 1e-5, level
    assert difference(found[1], expected[1]) < 1e-5
    assert difference(found[2], expected[2]) < 1e-5


def fill(arrays, config):
    """Return our parameters, path -> array, of a file's tensors, and how many tensors it took."""
    layout = mask2former_keys.LAYOUTS[mask2former_keys.spelling(arrays)]
    _, params, _ = abstract_module(lambda rngs: layout.make(config, rngs=rngs))
    shapes = {path: leaf.shape for path, leaf in paths(params).items()}
    return dict(converted(from_arrays(arrays), layout.table, shapes, layout.ignored))


def test_both_spellings_of_mmdet_and_older_names_fill_what_hugging_face_fills(theirs, config):
    own = oracle.arrays(theirs)
    expected = fill(own, config)
    three = oracle.to_mmdet(own)
    two = oracle.to_mmdet_2(three)
    assert len(set(three) - set(two)) == (2 + 4) * (8 + 4)  # layers
    spelled = {"mmdet-3": three, "mmdet-2": two, "hf": oracle.to_older(own)}
    for name, arrays in spelled.items():
        assert mask2former_keys.spelling(arrays) == name
        found = fill(arrays, config)
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_a_mixture_a_missing_and_a_strange_tensor_are_named(theirs, config):
    three = oracle.to_mmdet(oracle.arrays(theirs))
    two = oracle.to_mmdet_2(three)
    layer = "panoptic_head.transformer_decoder.layers.0"
    key = f"{layer}.ffn.layers.1.bias"
    mixed = {k: v for k, v in three.items() if k != key}
    mixed[f"{layer}.ffns.0.layers.1.bias"] = three[key]
    missing = {k: v for k, v in two.items() if k != "panoptic_head.cls_embed.bias"}
    cases = (
        (mixed, r"layers\.0\.cross_attn\.attn\.in_proj_weight .* has no place"),
        (missing, r"decoder/classes/bias \(6,\) is not given"),
        (two | {"backbone.norm9.weight": np.zeros(3)}, r"backbone\.norm9\.weight .* no place"),
        (two | {"panoptic_head.cls_embed.bias": np.zeros(81)}, r"\(81,\) does not fit"),
    )
    for arrays, message in cases:
        with pytest.raises(ValueError, match=message):
            fill(arrays, config)


def test_the_published_size_has_625_tensors_and_24_index_tables():
    with torch.device("meta"):
        network = oracle.on_meta()
    own = {k: np.broadcast_to(np.float32(0), v.shape) for k, v in network.state_dict().items()}
    config = mask2former_keys.parse_config(network.config.to_dict())
    assert config == mask2former_keys.COCO
    for arrays in (oracle.to_mmdet(own), oracle.to_mmdet_2(oracle.to_mmdet(own))):
        indices = [key for key in arrays if key.endswith("relative_position_index")]
        assert (len(arrays) - len(indices), len(indices)) == (625, 24)
        assert sum(value.size for key, value in arrays.items() if key not in indices) == 68_739_547
        assert sum(value.size for value in fill(arrays, config).values()) == 68_739_547


def test_deformable_sampling_agrees_with_grid_sample_inside_and_outside():
    rng = np.random.default_rng(0)
    batch, heads, channels, count, points, (height, width) = 2, 3, 4, 11, 5, (6, 9)
    values = rng.normal(size=(batch, heads, height * width, channels)).astype(np.float32)
    locations = rng.uniform(-0.5, 1.5, (batch, heads, count, points, 2)).astype(np.float32)
    weights = rng.normal(size=(batch, heads, count, points)).astype(np.float32)
    found = deformable.sample(values, (height, width), locations, weights)
    maps = torch.from_numpy(values).reshape(batch * heads, height, width, channels)
    grid = torch.from_numpy(2 * locations - 1).reshape(batch * heads, count, points, 2)
    sampled = torch.nn.functional.grid_sample(
        maps.permute(0, 3, 1, 2), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    sampled = sampled.reshape(batch, heads, channels, count, points).numpy()
    expected = np.einsum("bacnp,banp->banc", sampled, weights)
    assert np.isfinite(found).all()
    assert np.abs(np.asarray(found) - expected).max() < 1e-6 * np.abs(expected).max() + 1e-6


@pytest.mark.parametrize(("old", "new"), [(25, 200), (200, 25), (7, 11), (11, 7), (1, 3), (5, 5)])
def test_bilinear_matrix_agrees_with_interpolate(old, new):
    x = np.random.default_rng(old).normal(size=(1, 1, old, 2)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x), size=(new, 2), mode="bilinear", align_corners=False
    )
    found = np.einsum("hH,bcHw->bchw", bilinear.matrix(old, new), x)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-5)


def test_other_variants_of_a_config_are_refused(theirs):
    values = json.loads(theirs.config.to_json_string())
    for change, message in (
        ({"pre_norm": True}, "pre_norm = False"),
        ({"mask_feature_size": 64}, "mask_feature_size = 32"),
        ({"backbone_config": values["backbone_config"] | {"patch_size": 2}}, "patch_size = 4"),
    ):
        with pytest.raises(ValueError, match=message):
            mask2former_keys.parse_config(values | change)


class Buffer:
    """A kind of mmengine's in the `meta` of a checkpoint."""


def test_a_checkpoint_of_mmdet_is_read_past_its_meta(theirs, tmp_path):
    state = {k: torch.from_numpy(v) for k, v in oracle.to_mmdet(oracle.arrays(theirs)).items()}
    meta = {"CLASSES": ("person",), "buffer": Buffer(), "seed": np.float64(1.5), "epoch": 50}
    path = tmp_path / "mask2former_swin-s-tiny.pth"
    torch.save({"meta": meta, "state_dict": state, "optimizer": {}}, path)
    # The tiny network is not the published one: all of its tensors were listed, none executed.
    with pytest.raises(ValueError, match=f"The weights of {path} do not fit the network"):
        detector.load(str(path))
