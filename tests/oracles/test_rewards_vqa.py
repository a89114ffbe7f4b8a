"""VQAScore equals CLIP-FlanT5 put together from transformers' parts, from picture to score."""

import io
import json
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from miro_jax.pretrained.networks import clip, clip_flant5_keys
from miro_jax.pretrained.weights.tensors import from_arrays
from miro_jax.pretrained.weights.tokenizer import encode_texts
from miro_jax.rewards import base, contract, load_reward, vqa
from tests.networks import difference, small_mesh
from tests.oracles import clip_flant5 as oracles
from tests.oracles import t5, t5_tokenizer
from tests.oracles.clip_flant5 import CAPTIONS, CORPUS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small model in the published layout: weights with tokenizer, vision config, oracle."""
    folder, vision = (tmp_path_factory.mktemp(name) for name in ("flant5", "clip"))
    processor = t5_tokenizer.train(folder, CORPUS, pieces=150)
    # More rows than tokens: those of no token must not compete.
    rows = processor.vocab_size() + 6 + 9
    oracle = oracles.Oracle(t5.TINY | {"vocab_size": rows}, seed=11)
    (folder / "config.json").write_text(json.dumps(oracle.config()))
    (vision / "config.json").write_text(json.dumps(oracle.vision_config()))
    t5.write_weights(folder / "model.safetensors", oracle.tensors())
    return folder, vision, oracle


def load(published, **options):
    folder, vision, _ = published
    arguments = {"variant": "xl", "weights": str(folder), "vision": str(vision), "dtype": "float32"}
    return load_reward("vqa", **arguments | options)


@pytest.fixture(scope="module")
def reward(published):
    return load(published)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    sizes = [(40, 60), (61, 30), (28, 28), (9, 100)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def normalised(prepared):
    """As the network sees them: [B, 3, S, S] float32."""
    x = prepared.astype(np.float32) / 255
    mean, std = (np.array(of, np.float32)[None, None, None] for of in (clip.MEAN, clip.STD))
    return ((x - mean) / std).transpose(0, 3, 1, 2)


def test_pictures_are_prepared_as_by_transformers(reward, images):
    ours = normalised(np.stack([reward.prepare(image) for image in images]))
    assert difference(ours, oracles.prepare(images)) <= 1e-6


@pytest.mark.parametrize("size", [(5, 90), (90, 5), (1, 7), (33, 64), (64, 33), (3, 3), (50, 50)])
def test_padding_band_by_band_equals_padding_the_whole(size, monkeypatch):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    square = oracles.pad(Image.fromarray(image), vqa.COLOR)
    whole = np.asarray(square.resize((21, 21), Image.Resampling.BICUBIC))
    for rows in (1024, 7):
        monkeypatch.setattr(vqa, "BAND", rows)
        np.testing.assert_array_equal(vqa.pad_and_resize(image, 21), whole)


def test_a_picture_that_is_too_long_is_refused():
    image = np.full((2, vqa.LONGEST_SIDE, 3), 200, np.uint8)
    assert vqa.pad_and_resize(image, 8).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="at most 16384 pixels long; got 16385 x 2"):
        vqa.pad_and_resize(np.full((2, vqa.LONGEST_SIDE + 1, 3), 200, np.uint8), 8)


def test_padding_has_the_mean_colour_of_clip():
    assert vqa.COLOR == (122, 116, 104)


def test_jpeg_is_pillows_default(published, images):
    reward = load(published, jpeg_quality=75)
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG")
        decoded = np.asarray(Image.open(file).convert("RGB"))
        np.testing.assert_array_equal(vqa.through_jpeg(image, 75), decoded)
        np.testing.assert_array_equal(
            reward.prepare(image), vqa.pad_and_resize(decoded, oracles.SIDE)
        )
    assert reward.identity == "vqa@clip-flant5-xl-jpeg75"
    assert reward.preprocessing != load(published).preprocessing


def test_prompts_equal_the_authors(published, reward):
    folder, *_ = published
    captions = [vqa.clean_caption(caption) for caption in CAPTIONS]
    for caption, prompt in zip(captions, oracles.prompts(folder, captions), strict=True):
        before, after = encode_texts(reward._tokenizer, [vqa.BEFORE, vqa.AFTER.format(caption)])
        assert [*before, oracles.IMAGE, *after] == prompt
        assert prompt.count(1) == 2 and prompt[prompt.index(oracles.IMAGE) - 1] == 1


def test_vision_tokens_equal_transformers(published, reward, images):
    prepared = np.stack([reward.prepare(image) for image in images])
    ours = reward.encode(prepared).fetch()
    assert ours.shape == (4, 16, 16)
    assert difference(ours, published[2].tokens(normalised(prepared))) <= 1e-5


def test_log_probabilities_equal_transformers(published, reward, images):
    folder, _, oracle = published
    prompts = oracles.prompts(folder, [vqa.clean_caption(c) for c in CAPTIONS])
    answer, classes = oracles.answer(folder)
    pixels = oracles.prepare(images)
    logits = oracle.logits(pixels, prompts, answer)[..., :classes].astype(np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    likely = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    expected = likely[:, np.arange(len(answer)), answer]
    seen = []
    run = reward._network.run
    reward._network.run = lambda *arrays: seen.append(run(*arrays)) or seen[-1]
    try:
        for index in range(len(CAPTIONS)):
            reward.score(images[index : index + 1], CAPTIONS[index : index + 1])
    finally:
        del reward._network.run
    ours = np.concatenate([part for part in seen if part.ndim == 2])
    assert ours.shape == expected.shape == (4, len(answer))
    np.testing.assert_allclose(ours, expected, atol=1e-4, rtol=1e-5)


def test_scores_equal_transformers(published, reward, images):
    folder, _, oracle = published
    answer, classes = oracles.answer(folder)
    prompts = oracles.prompts(folder, [vqa.clean_caption(c) for c in CAPTIONS])
    expected = oracle.scores(oracles.prepare(images), prompts, answer, classes)
    ours = reward.score(images, CAPTIONS)
    assert ours.dtype == np.float32 and (0 < ours).all() and (ours < 1).all()
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    # Rows of the weights that belong to no token would change them.
    rows = oracle.t5.sizes["vocab_size"]
    assert difference(oracle.scores(oracles.prepare(images), prompts, answer, rows), ours) > 1e-4


def test_prompts_are_cut_at_the_longest(published, reward, images, monkeypatch):
    folder, _, oracle = published
    longest = len(reward._before) + 9
    monkeypatch.setattr(vqa, "MAX_TOKENS", longest)
    prompts = oracles.prompts(folder, CAPTIONS[:1], longest)
    assert prompts[0][-1] != 1
    expected = oracle.scores(oracles.prepare(images[:1]), prompts, *oracles.answer(folder))
    np.testing.assert_allclose(reward.score(images[:1], CAPTIONS[:1]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "caption, cleaned",
    [
        ("a cat", "a cat"),
        ("  a \n\n cat\t", "a cat"),
        ("a\ncat", "a\ncat"),
        ("a <image>cat<b/> x < y", "a cat x < y"),
        ("a ```python\nx = 1\n``` cat", "a cat"),
        ("a cat ```and the rest\nof it", "a cat"),
        ("```one``` a ```two``` cat ```", "a cat"),
        ("a `code` cat", "a code cat"),
        ("x <> y", "x <> y"),
    ],
)
def test_captions_are_cleaned_as_miro_does(caption, cleaned):
    assert vqa.clean_caption(caption) == cleaned


def test_scores_do_not_depend_on_company_order_or_runs(reward, images, monkeypatch):
    whole = reward.score(images, CAPTIONS)
    monkeypatch.setattr(vqa, "ROWS", 3)
    turned = reward.score(images[::-1], CAPTIONS[::-1])[::-1]
    np.testing.assert_allclose(turned, whole, rtol=1e-5)


def test_one_reading_serves_two_sets_of_captions(reward, images):
    features = reward.read(images)
    np.testing.assert_allclose(reward.judge(features, CAPTIONS), reward.score(images, CAPTIONS))
    both = base.score_all([reward], images, [{"long": CAPTIONS, "short": [""] * 4}])
    np.testing.assert_allclose(both[0][:, 0], reward.score(images, CAPTIONS), rtol=1e-6)


def test_parameters_split_over_a_mesh_give_the_same_scores(published, reward, images):
    split = load(published, mesh=small_mesh(4, 2))
    np.testing.assert_allclose(
        split.score(images, CAPTIONS), reward.score(images, CAPTIONS), rtol=1e-5
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(split._network.state):
        if leaf.size >= 24 * 24 and "norm" not in jax.tree_util.keystr(path):
            parts = leaf.size / np.prod(leaf.sharding.shard_shape(leaf.shape))
            assert parts >= 4, (path, leaf.shape)


def test_bfloat16_is_close(published, reward, images):
    half = load(published, dtype="bfloat16")
    assert half.read(images).arrays.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(
        half.score(images, CAPTIONS), reward.score(images, CAPTIONS), rtol=0.3
    )
    assert half.identity == reward.identity == "vqa@clip-flant5-xl"


def test_the_second_name_of_the_embedding_must_hold_the_same(published):
    _, _, oracle = published
    sizes = oracle.t5.sizes["vocab_size"]
    config = clip_flant5_keys.parse_config(oracle.config(), oracle.vision_config(), sizes)
    tensors = oracle.tensors()
    tensors["embed_tokens.weight"] = tensors["shared.weight"]
    clip_flant5_keys.load(from_arrays(tensors), config)
    tensors["embed_tokens.weight"] = tensors["shared.weight"] * 2
    with pytest.raises(ValueError, match="embed_tokens.weight must be a copy of shared.weight"):
        clip_flant5_keys.load(from_arrays(tensors), config)


def test_conversion_is_strict_apart_from_the_vision_blocks_left_out(published):
    _, _, oracle = published
    config = clip_flant5_keys.parse_config(oracle.config(), oracle.vision_config(), 20)
    assert config.vision.layers == oracles.VISION["num_hidden_layers"] - 1
    tensors = oracle.tensors()
    tensors["vision_tower.vision_tower.vision_model.embeddings.position_ids"] = np.zeros((1, 17))
    clip_flant5_keys.load(from_arrays(tensors), config)
    tensors["mm_projector.4.weight"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="mm_projector.4.weight .* has no place"):
        clip_flant5_keys.load(from_arrays(tensors), config)
    del tensors["mm_projector.4.weight"]
    del tensors["vision_tower.vision_tower.vision_model.encoder.layers.2.mlp.fc1.bias"]
    with pytest.raises(ValueError, match=r"vision/blocks/2/hidden/bias \(20,\) is not given"):
        clip_flant5_keys.load(from_arrays(tensors), config)


@pytest.mark.parametrize(
    "change, classes, error",
    [
        ({"mm_projector_type": "linear"}, 20, "mm_projector_type = 'mlp2x_gelu'; got 'linear'"),
        ({"mm_vision_select_feature": "cls_patch"}, 20, "got 'cls_patch'"),
        ({"mm_vision_select_layer": 1}, 20, r"mm_vision_select_layer in \[-4, -1\]; got 1"),
        ({}, 10**6, "at most the .* tokens of the weights; got 1000000"),
    ],
)
def test_other_models_are_refused_by_name(published, change, classes, error):
    _, _, oracle = published
    with pytest.raises(ValueError, match=error):
        clip_flant5_keys.parse_config(oracle.config() | change, oracle.vision_config(), classes)


def test_a_tower_of_one_block_needs_the_layer_to_be_named(published):
    _, _, oracle = published
    config = {k: v for k, v in oracle.config().items() if k != "mm_vision_select_layer"}
    vision = {"vision_config": oracles.VISION | {"num_hidden_layers": 1}}
    with pytest.raises(ValueError, match=r"mm_vision_select_layer in \[-1, -1\]; got -2"):
        clip_flant5_keys.parse_config(config, vision, 20)


@pytest.mark.parametrize(
    "options, error",
    [
        ({"variant": "small"}, "variant must be one of xl, xxl; got 'small'"),
        ({"jpeg_quality": 0}, r"jpeg_quality must be in \[1, 95\] or None; got 0"),
    ],
)
def test_wrong_arguments_are_refused(published, options, error):
    with pytest.raises(ValueError, match=error):
        load(published, **options)


def test_weights_of_the_other_variant_are_refused(published, tmp_path):
    _, _, oracle = published
    (tmp_path / "config.json").write_text(json.dumps(oracle.config() | {"d_model": 4096}))
    with pytest.raises(ValueError, match="variant must be 'xxl' for .*; got 'xl'"):
        load(published, weights=str(tmp_path))


def test_the_contract_of_rewards_is_kept(reward):
    # Each number of rows and tokens is compiled for; few of both keep this quick.
    sizes, texts = contract.SIZES[1:3], ("a fox", "", "two foxes in the snow")
    contract.check_reward(reward, sizes=sizes, captions=texts)


def test_the_tower_is_named_by_its_weights_wherever_they_lie(published, reward, tmp_path):
    folder, *others = published
    copy = (tmp_path / "copy", *others)
    shutil.copytree(folder, copy[0])
    assert load(copy).tower == reward.tower
    path = tmp_path / "copy" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert load(copy).tower != reward.tower
