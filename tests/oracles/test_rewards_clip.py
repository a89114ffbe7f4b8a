"""The rewards made of a CLIP against the published scorers, from repositories of tiny models."""

import json

import numpy as np
import pytest

from miro_jax import rewards as table
from miro_jax.pretrained.weights.tensors import write_safetensors
from miro_jax.rewards import base
from miro_jax.rewards.clip_family import SharedTowers
from miro_jax.rewards.contract import check_reward
from tests.oracles import clip_rewards, clip_tokens
from tests.oracles.clip import Oracle, opened
from tests.oracles.clip_rewards import CONFIG, HEAD, NUM_MERGES

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("precise")]

HF_REWARDS = ("pick_score", "sci_score", "openai_clip")
CAPTIONS = [
    "a red fox in the snow",
    "the cat &amp; the hat",
    "",
    "cafÃ© at night 🌃 " * 12,
    "a red fox in the snow",
]


@pytest.fixture(scope="module")
def oracle():
    model = Oracle(CONFIG, seed=5)
    model.model.half().float()  # HPSv2's file is in half precision
    return model


@pytest.fixture(scope="module")
def folder(oracle, tmp_path_factory):
    """One folder that is a repository of each of the rewards."""
    path = tmp_path_factory.mktemp("weights")
    (path / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(path / "model.safetensors", oracle.tensors())
    clip_tokens.write_tokenizer_json(path, NUM_MERGES)
    half = {k: v.astype(np.float16) for k, v in opened(oracle.tensors()).items()}
    clip_rewards.save_pickle(path / "HPS_v2.1_compressed.pt", half, "state_dict")
    write_safetensors(path / "HPS_v2_compressed.safetensors", half)
    clip_rewards.save_pickle(path / f"{HEAD}.pth", clip_rewards.make_head(16))
    return path


@pytest.fixture(scope="module")
def built(folder):
    names = ("aesthetic", "pick_score", "hpsv2", "sci_score", "openai_clip")
    rewards = table.load_rewards(names, weights=dict.fromkeys(names, str(folder)))
    return dict(zip(names, rewards, strict=True))


def pictures(sizes=((40, 31), (28, 28), (30, 97), (31, 28), (200, 151))):
    rng = np.random.default_rng(9)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("name", HF_REWARDS)
def test_scores_equal_those_of_transformers(built, oracle, name):
    expected = clip_rewards.hugging_face_score(oracle, pictures(), CAPTIONS, NUM_MERGES)
    found = built[name].score(pictures(), CAPTIONS)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5 * oracle.scale()
    np.testing.assert_allclose(built[name].stored(found), found / 100, rtol=1e-6)


def test_hpsv2_equals_the_cosine_of_resized_floats_and_repaired_captions(built, folder, oracle):
    expected = clip_rewards.hpsv2_score(oracle, pictures(), CAPTIONS, NUM_MERGES)
    found = built["hpsv2"].score(pictures(), CAPTIONS)
    assert np.abs(found - expected).max() < 1e-5
    np.testing.assert_array_equal(built["hpsv2"].stored(found), found)
    old = table.load_reward("hpsv2", weights=str(folder), version="2.0")
    assert (built["hpsv2"].identity, old.identity) == ("hpsv2@2.1", "hpsv2@2.0")
    assert np.abs(old.score(pictures(), CAPTIONS) - expected).max() < 1e-5
    with pytest.raises(ValueError, match="2.1, 2.0; got '3'"):
        table.load_reward("hpsv2", weights=str(folder), version="3")


def test_aesthetic_equals_five_layers_and_ignores_captions(built, oracle):
    expected = clip_rewards.aesthetic_score(oracle, pictures(), clip_rewards.make_head(16))
    found = built["aesthetic"].score(pictures(), CAPTIONS)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    np.testing.assert_array_equal(found, built["aesthetic"].score(pictures(), [""] * 5))
    np.testing.assert_allclose(built["aesthetic"].stored(found), found / 10, rtol=1e-6)


def test_rewards_carry_the_facts_that_annotation_needs(built):
    assert [r.identity for r in built.values()] == [
        "aesthetic@1",
        "pick_score@1",
        "hpsv2@2.1",
        "sci_score@1",
        "openai_clip@1",
    ]
    forms = {name: reward.synthetic_form for name, reward in built.items()}
    assert [forms[n] for n in ("pick_score", "hpsv2", "sci_score")] == ["short"] * 3
    assert [r.needs_caption for r in built.values()] == [False, True, True, True, True]
    assert len({r.preprocessing for r in built.values()}) == 3
    assert built["hpsv2"].tower != built["pick_score"].tower == built["aesthetic"].tower


@pytest.mark.parametrize("name", ["aesthetic", "pick_score", "hpsv2"])
def test_a_score_does_not_depend_on_its_batch(built, name):
    images, captions = pictures() * 4, CAPTIONS * 4
    together = built[name].score(images[:16], captions[:16])
    for i in range(5):
        (alone,) = built[name].score(images[i : i + 1], captions[i : i + 1])
        assert abs(alone - together[i]) < 1e-5 * max(abs(alone), 1)


def test_a_picture_that_cannot_be_prepared_concerns_no_other(built):
    images, rewards = pictures(), list(built.values())
    good = [base.prepare_image(rewards, image) for image in images]
    with pytest.raises(ValueError, match="so narrow"):
        base.prepare_image(rewards, np.zeros((1, 100_000_000, 3), np.uint8))
    with pytest.raises(ValueError, match="shape"):
        base.prepare_image(rewards, np.zeros((0, 9, 3), np.uint8))
    sets = [{"caption": CAPTIONS}, {"short": CAPTIONS[::-1], "long": CAPTIONS}]
    found = base.score_prepared(rewards, base.stack_images(good), sets)
    for row, texts in zip(found, (CAPTIONS, CAPTIONS[::-1]), strict=True):
        for column, reward in zip(row.T, rewards, strict=True):
            expected = reward.stored(reward.score(images, texts))
            np.testing.assert_allclose(column, expected, rtol=1e-5, atol=1e-6)


def test_an_array_of_pictures_reads_like_a_list(built):
    images = np.stack(pictures(((37, 50),) * 3))
    for name in ("pick_score", "hpsv2", "aesthetic"):
        whole = built[name].read(images)
        np.testing.assert_array_equal(whole, built[name].read(list(images)))
        np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)


def test_towers_of_equal_weights_are_loaded_and_run_once(built, monkeypatch):
    shared, runs = built["aesthetic"], []
    run = type(shared._vision.tower).run
    monkeypatch.setattr(
        "miro_jax.pretrained.networks.tower.Tower.run",
        lambda self, *a: runs.append(self) or run(self, *a),
    )
    assert shared._vision.tower is built["openai_clip"]._vision.tower
    trio = [built[name] for name in ("aesthetic", "openai_clip", "pick_score")]
    for images, count in ((pictures(((28, 28), (50, 50))), 1), (pictures(((28, 31),) * 2), 2)):
        runs.clear()
        base.score_all(trio, images, [{"caption": ["", "x"]}])
        assert runs.count(shared._vision.tower) == count


def test_equal_captions_are_encoded_once(built, monkeypatch):
    seen = []
    text = built["pick_score"]._text
    read = type(text.tokenizer).__call__
    monkeypatch.setattr(
        type(text.tokenizer),
        "__call__",
        lambda self, c, n: seen.append(list(c)) or read(self, c, n),
    )
    built["pick_score"].score(pictures(), CAPTIONS)
    assert seen == [CAPTIONS[:4]]


def test_half_precision_stays_close(built, folder):
    half = table.load_reward("pick_score", weights=str(folder), dtype="bfloat16")
    assert half.tower != built["pick_score"].tower
    difference = half.score(pictures(), CAPTIONS) - built["pick_score"].score(pictures(), CAPTIONS)
    assert 0 < np.abs(difference).max() < 0.5  # of a scale of 22


def test_weights_that_do_not_belong_together_are_refused(folder, tmp_path):
    large = tmp_path / "tokenizer"
    large.mkdir()
    clip_tokens.write_tokenizer_json(large, NUM_MERGES + 1)
    with pytest.raises(ValueError, match="at most the 554 tokens.*got 555"):
        table.load_reward("pick_score", weights=str(folder), tokenizer=str(large))
    heads = tmp_path / "head"
    heads.mkdir()
    write_safetensors(heads / f"{HEAD}.safetensors", clip_rewards.make_head(15))
    with pytest.raises(ValueError, match="width 16; got one for 15"):
        table.load_reward("aesthetic", weights=str(folder), head=str(heads))
    with pytest.raises(FileNotFoundError, match="HPS_v2.1_compressed.pt"):
        table.load_reward("hpsv2", weights=str(large), tokenizer=str(large))


def test_one_holder_serves_rewards_that_are_loaded_one_by_one(folder):
    towers = SharedTowers()
    first, second = (
        table.load_reward(name, weights=str(folder), towers=towers)
        for name in ("pick_score", "sci_score")
    )
    assert first._vision.tower is second._vision.tower and first._text.tower is second._text.tower


def test_weights_of_unknown_names_are_refused(folder):
    with pytest.raises(ValueError, match="weights.*got 'hpsv2'"):
        table.load_rewards(("pick_score",), weights={"hpsv2": str(folder)})


@pytest.mark.parametrize("name", ["aesthetic", "pick_score", "hpsv2", "sci_score", "openai_clip"])
def test_the_contract_of_rewards_is_kept(built, name):
    check_reward(built[name])
