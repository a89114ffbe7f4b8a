"""GenEval's detector: pixels to the byte, the network and its instances as mmdet computes them."""

import hashlib
import itertools
import pathlib
import zlib

import jax
import numpy as np
import pytest
from flax import nnx

from miro_jax.evaluate.suites.geneval import detector, instances, pixels
from miro_jax.models import sharding
from miro_jax.pretrained.networks import mask2former, mask2former_keys, swin
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.tensors import from_arrays
from tests.networks import difference, small_mesh

GOLDEN = pathlib.Path(__file__).parent / "golden"
# Of mmdet 3 and of mmdet 2, which GenEval names: oracles/make_mmdet_golden.py, make_mmdet2_golden.
FILES = {"mmdet-3": "mmdet.npz", "mmdet-2": "mmdet2.npz"}
TINY = mask2former.Config(
    backbone=swin.SwinConfig(width=12, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4)),
    width=32,
    heads=4,
    encoder_layers=2,
    encoder_mlp=48,
    decoder_layers=4,
    decoder_mlp=40,
    queries=25,
    classes=5,
)
# SHA-256 of what cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR) made of the images below
# (opencv-python-headless 5.0.0).
RESIZED = {
    "256x256-800x800": "8daf4427568e5a576248d2bebf65bb1f68565379fc42a1a473ea4fbfb1247be6",
    "512x512-800x800": "ecc916bde5c01440e73058dd2a52dcf5bccb8afb165e35247ea7941110ca2477",
    "1024x1024-800x800": "c8b351c131211d27684f82ca5d20b613e122568ad803e807985fc19260a9ed8f",
    "64x96-800x1200": "26facb07123810d580f35fb5bfc2daf1b80986006a775bb01a9b7b3217d68fd3",
    "31x17-53x40": "2ee04764c2a8c5719c722fa01a1ddd08a37e538871c43714b7524f5ec6adb4b9",
    "53x40-31x17": "02a4ee3e98692d5d6e97f13fc1dbbeb9bf8ac9c075da5af831aac269e86349a2",
    "7x5-9x12": "3ca5eefe365fbfbe9120204d49892bf80ee15127469839df2db7e58ab3a531dd",
    "300x400-301x399": "ebffeaf5eb766c7925d8c8ae74c62d913d41ec2e6998d171ce3815ffe7e1b8a5",
}


def noise(height, width):
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("sizes", RESIZED)
def test_resize_has_the_bytes_of_opencv(sizes):
    (height, width), new = (tuple(map(int, side.split("x"))) for side in sizes.split("-"))
    found = pixels.resize(noise(height, width), *new)
    assert hashlib.sha256(found.tobytes()).hexdigest() == RESIZED[sizes]


def test_an_image_of_its_own_size_stays_as_it_is():
    image = noise(40, 30)
    np.testing.assert_array_equal(pixels.resize(image, 40, 30), image)


def test_sides_are_those_of_the_keep_ratio_rule():
    sizes = {(256, 256): (800, 800), (1024, 1024): (800, 800), (512, 768): (800, 1200)}
    sizes |= {(768, 512): (1200, 800), (300, 1000): (400, 1333), (427, 640): (800, 1199)}
    assert {size: pixels.scaled(*size) for size in sizes} == sizes
    assert pixels.padded(800, 1199) == (800, 1216) and pixels.padded(800, 800) == (800, 800)


def draw(key, shape):
    """As the script that made the golden file draws the tensor of a name."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    drawn = 0.2 * rng.normal(size=shape)
    return (drawn + (key.endswith("weight") and len(shape) == 1)).astype(np.float32)


@pytest.fixture(scope="module", params=FILES)
def golden(request):
    with np.load(GOLDEN / FILES[request.param]) as file:
        return dict(file) | {"spelling": request.param}


@pytest.fixture(scope="module")
def tower(golden):
    shapes = [tuple(map(int, text.split("x"))) for text in golden["shapes"]]
    arrays = {str(k): draw(str(k), s) for k, s in zip(golden["keys"], shapes, strict=True)}
    assert mask2former_keys.spelling(arrays) == golden["spelling"]
    return Tower(mask2former_keys.load(from_arrays(arrays), TINY))


def stages(module, images):
    maps = module.backbone(images)
    return maps[-1], *module.decoder(*module.pixels(maps))


@pytest.mark.slow
def test_network_has_the_numbers_of_mmdet(golden, tower):
    x = np.random.default_rng(7).normal(size=(1, 101, 75, 3)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        features, classes, masks = tower.run(stages, x)
    assert difference(features, golden["features"]) < 1e-5
    assert difference(classes[0], golden["classes"]) < 1e-5
    assert difference(masks[0], golden["masks"]) < 1e-5


def test_instances_are_those_of_mmdet(golden):
    """Labels and boxes exactly, scores to 1e-6, with a crop and another size."""
    _, height, width = golden["masks"].shape
    matrices = instances.composite(height, 101, 90, 57), instances.composite(width, 75, 70, 77)
    with jax.default_matmul_precision("highest"):
        found = jax.jit(instances.find)(golden["classes"][None], golden["masks"][None], *matrices)
    labels, scores, queries, boxes, bits = (np.asarray(part)[0] for part in found)
    order, wanted = np.lexsort((labels, -scores)), np.lexsort((golden["labels"], -golden["scores"]))
    np.testing.assert_array_equal(labels[order], golden["labels"][wanted])
    np.testing.assert_allclose(scores[order], golden["scores"][wanted], atol=1e-6)
    np.testing.assert_array_equal(boxes[queries][order], golden["boxes"][wanted])
    made = instances.Instances(labels, scores, boxes[queries], queries, bits, 77)
    areas = np.array([made.mask(number).sum() for number in range(len(made))])
    assert areas.max() > 0 and made.mask(0).shape == (57, 77)
    np.testing.assert_array_equal(areas[order], golden["areas"][wanted])


def test_one_composite_matrix_equals_two_resizes_and_a_crop():
    logits = np.random.default_rng(3).normal(size=(26, 19))
    rows, columns = instances.composite(26, 104, 90, 57), instances.composite(19, 76, 70, 77)
    step = instances.composite(26, 104, 104, 104) @ logits @ instances.composite(19, 76, 76, 76).T
    step = step[:90, :70]
    twice = instances.composite(90, 90, 90, 57) @ step @ instances.composite(70, 70, 70, 77).T
    np.testing.assert_allclose(rows @ logits @ columns.T, twice, atol=1e-5)
    # Going there directly gives other masks: the trap that makes them fatter.
    direct = instances.composite(26, 26, 26, 57) @ logits @ instances.composite(19, 19, 19, 77).T
    assert np.abs(direct - twice).max() > 0.1


def test_pairs_are_chosen_by_the_class_alone_and_an_empty_mask_scores_zero():
    classes = np.full((1, 101, 3), -9.0, np.float32)
    classes[..., 0] = np.linspace(0, 5, 101)  # query 0 has the smallest p of class 0
    masks = np.full((1, 101, 4, 4), 5.0, np.float32)
    masks[0, 1:] = 0.1  # all others have a low quality
    masks[0, 100] = -1
    labels, scores, queries, boxes, _ = (
        np.asarray(part)[0]
        for part in jax.jit(instances.find)(
            classes, masks, np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)
        )
    )
    assert len(labels) == 100 and 0 not in queries[labels == 0]
    assert scores[list(queries).index(100)] == 0 and (boxes[100] == 0).all()
    np.testing.assert_array_equal(boxes[50], [0, 0, 4, 4])


def test_relative_index_is_that_of_the_loop():
    side = 7
    expected = [
        [(a // side - b // side + 6) * 13 + a % side - b % side + 6 for b in range(side**2)]
        for a in range(side**2)
    ]
    np.testing.assert_array_equal(swin.relative_index(side), expected)


@pytest.mark.parametrize("shift", [0, 3])
def test_tokens_see_their_window_and_no_neighbour_of_the_roll(shift):
    """For every map of 5 to 15 tokens a side: who sees whom, against the definition."""
    for height in range(5, 16):
        for width in range(5, 16):
            full = height + -height % 7, width + -width % 7
            places = np.stack(np.indices(full), axis=-1)[None]  # [1, H, W, 2]
            rolled = np.roll(places, (-shift, -shift), axis=(1, 2))
            windows = np.asarray(swin.to_windows(rolled, 7))[0]  # [N, 49, 2]
            back = np.asarray(swin.from_windows(windows[None], *full))
            np.testing.assert_array_equal(back, rolled)
            region = swin.regions(*full, 7, shift) if shift else np.zeros(windows.shape[:2])
            together = region[:, :, None] == region[:, None]
            # Without the roll the map is cut at 3, 10, 17 ...; its ends are windows of their own.
            band = (windows - shift) // 7
            expected = (band[:, :, None] == band[:, None]).all(axis=-1)
            np.testing.assert_array_equal(together, expected, err_msg=f"{height} x {width}")


def by_definition(block, x, shift):
    """Attention of each token to those of its window, for a map [H, W, C]."""
    height, width, _ = x.shape
    whole = height + -height % 7, width + -width % 7
    # Padded tokens are zeros after the norm: keys like others.
    full = np.pad(x, ((0, 21 - height), (0, 21 - width), (0, 0)))[None]
    q, k, v = (
        np.asarray(f(full), np.float64)[0, : whole[0], : whole[1]]
        for f in (block.q, block.k, block.v)
    )
    bias, band = (
        np.asarray(block.offset_bias[...], np.float64),
        (np.indices(whole) - shift) // 7,
    )
    y = np.zeros((1, 15, 15, *q.shape[2:]), np.float32)
    for row, column in np.ndindex(height, width):
        mine = (band == band[:, row, column, None, None]).all(axis=0)
        rows, columns = np.nonzero(mine)
        index = (row - rows + 6) * 13 + (column - columns + 6)
        logits = (
            np.einsum("ah,tah->ta", q[row, column], k[mine]) * q.shape[-1] ** -0.5 + bias[index]
        )
        weights = np.exp(logits - logits.max(axis=0))
        y[0, row, column] = np.einsum("ta,tah->ah", weights / weights.sum(axis=0), v[mine])
    return np.asarray(block.out(y))[0, :height, :width]


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 3])
def test_attention_inside_windows_is_that_of_its_definition(shift):
    """For every map of 5 to 15 tokens a side, to 1e-6 of the largest value."""
    config = swin.SwinConfig(width=8, depths=(1,), heads=(2,))
    rng = np.random.default_rng(shift)
    with sharding.use_mesh(small_mesh()):
        block = swin.Block(8, 2, config, rngs=nnx.Rngs(0))
    params = nnx.state(block)
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), params)
    nnx.update(block, drawn)
    attend = jax.jit(lambda x: block.attend(x, shift))
    with jax.default_matmul_precision("highest"):
        for height, width in itertools.product(range(5, 16), repeat=2):
            x = rng.normal(size=(height, width, 8)).astype(np.float32)
            wanted = by_definition(block, x, shift)
            assert difference(attend(x[None])[0], wanted) < 1e-6, (height, width)


@pytest.mark.parametrize(("padding", "outside"), [("zero", 0), ("grey", 128)])
@pytest.mark.over_a_second
def test_pixels_are_normalised_as_red_green_blue_and_padded(padding, outside):
    seen = []

    def module(x):
        seen.append(np.asarray(x))
        return np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 200, 304), np.float32)

    image = np.broadcast_to(np.array([200, 100, 50], np.uint8), (40, 60, 3))
    detector._finder((40, 60), padding)(module, pixels.prepare(image)[None])
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    (x,) = seen
    assert x.shape == (1, 800, 1216, 3)
    inside = (np.array([200, 100, 50]) - mean) / std
    np.testing.assert_allclose(x[0, 400, 600], inside, rtol=1e-5)
    beyond = (outside - mean) / std if outside else np.zeros(3)
    np.testing.assert_allclose(x[0, 17, 1205], beyond, rtol=1e-5)


def test_padded_with_grey_pixels_are_those_of_mmdet_2():
    """By the pipeline of its own config, at points of an image that is not square."""
    seen = []

    def module(x):
        seen.append(np.asarray(x))
        return np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 200, 304), np.float32)

    with np.load(GOLDEN / FILES["mmdet-2"]) as file:
        places, expected = file["places"], file["pixels"]
    image = np.random.default_rng(11).integers(0, 256, (427, 640, 3), dtype=np.uint8)
    detector._finder(image.shape[:2], "grey")(module, pixels.prepare(image)[None])
    (x,) = seen
    assert x.shape == (1, 800, 1216, 3) and (places[:20, 1] >= 1199).sum() > 5
    np.testing.assert_allclose(x[0, places[:, 0], places[:, 1]], expected, atol=1e-6)
