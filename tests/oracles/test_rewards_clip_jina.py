"""The CLIP score from files in jina-clip-v2's layout, against PyTorch and SentencePiece."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from miro_jax import rewards
from miro_jax.pretrained.networks.clip import MEAN, STD
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.pickles import convert_to_safetensors
from miro_jax.pretrained.weights.tensors import from_arrays
from miro_jax.rewards import base, contract
from miro_jax.rewards import jina as reward_file
from tests.networks import small_mesh
from tests.oracles import jina, jina_tokenizer
from tests.oracles.jina import CONFIG
from tests.oracles.jina_tokenizer import CORPUS, PIECES, WORDS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("precise")]

LONG = "a red fox in the snow, " * 300
CAPTIONS = ["A red fox, in snow!", "", "Café 狗 naïve \U0001f98a", LONG, "A red fox, in snow!"]


@pytest.fixture(scope="module")
def oracle():
    return jina.Oracle(CONFIG, seed=6)


@pytest.fixture(scope="module")
def folder(oracle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("jina-clip-v2")
    oracle.write(folder)
    return folder


@pytest.fixture(scope="module")
def processor(folder):
    return jina_tokenizer.train(folder, CORPUS, PIECES)


@pytest.fixture(scope="module")
def reward(folder, processor):
    return rewards.load_reward("clip", weights=str(folder))


def pictures():
    rng = np.random.default_rng(8)
    sizes = [(50, 41), (30, 30), (31, 90), (11, 60), (85, 30)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def prepared_by_hand(image):
    """Shortest edge 30 by Pillow, centre crop, statistics of CLIP; written out for this test."""
    height, width, _ = image.shape
    size = (30, int(30 * height / width)) if width <= height else (int(30 * width / height), 30)
    big = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - 30) / 2) for side in size)
    pixels = np.asarray(big.crop((left, top, left + 30, top + 30)), np.float32) / 255
    return ((pixels - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def expected_ids(processor):
    rows = jina_tokenizer.original_ids(processor, CAPTIONS)
    return [np.array(ids if len(ids) <= 1024 else [*ids[:1023], 2], np.int32) for ids in rows]


def test_scores_equal_those_of_the_published_scorer(oracle, processor, reward):
    images = np.stack([prepared_by_hand(image) for image in pictures()])
    texts = expected_ids(processor)
    assert len(texts[1]) == 2 and len(texts[3]) == 1024
    expected = oracle.scores(images, texts)
    found = reward.score(pictures(), CAPTIONS)
    assert found.dtype == np.float32 and np.ptp(found) > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(reward.stored(found), expected / 100, atol=1e-6)


def test_ids_equal_those_of_sentencepiece(processor, reward):
    rng = np.random.default_rng(9)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(300)]
    texts += [t.upper() for t in texts[:50]] + ["  two   spaces\tand\nlines ", "ﬁ ½ Ⅳ e\u0301"]
    expected = jina_tokenizer.original_ids(processor, texts)
    found = [encoding.ids for encoding in reward._text.tokenizer.encode_batch(texts)]
    assert found == expected


def test_a_caption_that_spells_padding_is_masked_there_as_by_the_model(oracle, reward):
    """The model hides every token of id 1, whoever wrote it."""
    ids = np.array(reward._text.tokenizer.encode("a <pad> fox").ids, np.int32)
    assert 1 in ids[1:-1]
    images = np.stack([prepared_by_hand(image) for image in pictures()[:1]])
    found = reward.score(pictures()[:1], ["a <pad> fox"])
    np.testing.assert_allclose(found, oracle.scores(images, [ids]), atol=1e-4)


def test_a_score_depends_neither_on_its_neighbours_nor_on_padding(reward):
    together = reward.score(pictures(), CAPTIONS)
    alone = [reward.score([x], [y])[0] for x, y in zip(pictures(), CAPTIONS, strict=True)]
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_protocol_and_identity(reward, folder):
    assert reward.identity == "clip@jina-clip-v2" and reward.needs_caption
    assert reward.synthetic_form == "long" and reward.preprocessing == "bicubic30-round"
    digest = hub.open(folder).sha256("pytorch_model.bin")
    assert reward.tower == f"jina-clip-{digest[:12]}-float32"
    captions = [{"caption": CAPTIONS}, {"long": CAPTIONS, "short": ["?"] * 5}]
    both = base.score_all([reward], pictures(), captions)
    np.testing.assert_array_equal(*both)


def test_features_have_length_one(reward):
    for features in (reward.read(pictures()), reward._text.encode(CAPTIONS)):
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


def test_safetensors_give_the_same_scores(reward, folder, tmp_path):
    convert_to_safetensors(folder / "pytorch_model.bin", tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    other = reward_file.JinaClip(str(tmp_path))
    images, captions = pictures()[:2], CAPTIONS[:2]
    np.testing.assert_array_equal(other.score(images, captions), reward.score(images, captions))


def test_half_precision_stays_close(reward, folder):
    half = reward_file.JinaClip(str(folder), dtype="bfloat16")
    images, captions = pictures()[:3], CAPTIONS[:3]
    difference = half.score(images, captions) - reward.score(images, captions)
    assert 0 < np.abs(difference).max() < 1


def test_a_mesh_gives_the_same_scores(reward, folder):
    split = reward_file.JinaClip(str(folder), mesh=small_mesh(4, 2))
    images, captions = pictures()[:3], CAPTIONS[:3]
    found, expected = (x.score(images, captions) for x in (split, reward))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_every_tensor_belongs_to_a_tower():
    one = np.zeros(1)
    with pytest.raises(ValueError, match="visual_projection.weight belongs to neither"):
        reward_file.split_towers(from_arrays({"logit_scale": one, "visual_projection.weight": one}))
    with pytest.raises(ValueError, match="must hold logit_scale"):
        reward_file.split_towers(from_arrays({"vision_model.cls_token": one}))


def test_the_adapter_is_found_by_its_name():
    assert reward_file.adapter({}) == (1.0, 0)
    assert reward_file.adapter(CONFIG["text_config"]) == (2.0, 1)
    with pytest.raises(ValueError, match="must be one of text-matching, retrieval.query"):
        reward_file.adapter(CONFIG["text_config"] | {"default_lora_task": "separation"})


def test_a_tokenizer_with_too_many_tokens_is_refused(folder, processor, tmp_path):
    for name in ("pytorch_model.bin", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = copy.deepcopy(CONFIG)
    config["text_config"]["hf_model_config_kwargs"]["vocab_size"] = 20
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="embedding|at most the 20 tokens"):
        reward_file.JinaClip(str(tmp_path))


def test_the_contract_of_rewards_is_kept(reward):
    # Each number of rows and tokens is compiled for; few of both keep this quick.
    texts = (*contract.CAPTIONS[:4][::-1], "a longer one " * 40)
    contract.check_reward(reward, sizes=contract.SIZES[1:3], captions=texts)
