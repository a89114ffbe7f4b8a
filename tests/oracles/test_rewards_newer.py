"""ICT, HP and CycleReward from files in their published layouts, against PyTorch."""

import json

import numpy as np
import pytest

from miro_jax import rewards
from miro_jax.pretrained.networks import blip_keys
from miro_jax.pretrained.weights.tensors import write_safetensors
from miro_jax.rewards import clip_family, cycle_reward, hp
from miro_jax.rewards.contract import check_reward
from tests.oracles import blip, clip_rewards, clip_tokens
from tests.oracles.clip import Oracle
from tests.oracles.clip_rewards import CONFIG, NUM_MERGES
from tests.oracles.test_rewards_image_reward import prepared_by_hand

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("precise")]

CAPTIONS = ["a red fox in the snow", "the cat &amp; the hat", "", "cafÃ© at night " * 12, "ein Bär"]
PLACES = (0, 2, 4, 6, 8)  # of CycleReward's head: GELUs stand between
TEXT = {
    "hidden_size": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 2,
    "intermediate_size": 72,
    "vocab_size": len(blip.vocabulary()) + 2,
    "max_position_embeddings": 140,
    "layer_norm_eps": 1e-12,
}


def pictures():
    rng = np.random.default_rng(9)
    sizes = ((40, 31), (28, 28), (30, 97), (31, 28), (200, 151))
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def clip_oracle():
    return Oracle(CONFIG, seed=7)


@pytest.fixture(scope="module")
def clip_folder(clip_oracle, tmp_path_factory):
    """Repositories of ICT and HP, without a config, and of the CLIP that they were made from."""
    folder = tmp_path_factory.mktemp("icthp")
    for name in ("ict", "hp/hp_backbone", "hp/hp_scorer", "base"):
        (folder / name).mkdir(parents=True)
    (folder / "base/config.json").write_text(json.dumps(CONFIG))
    clip_tokens.write_tokenizer_json(folder / "base", NUM_MERGES)
    clip_rewards.save_pickle(folder / "ict/pytorch_model.bin", clip_oracle.tensors())
    clip_rewards.save_pickle(folder / "hp/hp_backbone/pytorch_model.bin", clip_oracle.tensors())
    head = clip_rewards.make_head(16, seed=3)
    clip_rewards.save_pickle(folder / "hp/hp_scorer/mlp_pytorch_model.bin", head)
    return folder


@pytest.fixture(scope="module")
def blip_oracle():
    return blip.Oracle(blip.VISION, TEXT, widths=(20, 9, 8, 5, 1), seed=4)


@pytest.fixture(scope="module")
def blip_folder(blip_oracle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("CycleReward")
    tensors = {key: value.numpy() for key, value in blip_oracle.tensors().items()}
    old = {key: value for key, value in tensors.items() if key.startswith("mlp.")}
    tensors = {key: value for key, value in tensors.items() if key not in old}
    for place, number in zip(blip.PLACES, PLACES, strict=True):
        for part in ("weight", "bias"):
            tensors[f"mlp.layers.{number}.{part}"] = old[f"mlp.layers.{place}.{part}"]
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "vocab.txt").write_text("\n".join(blip.vocabulary()) + "\n", "utf-8")
    return folder


@pytest.fixture
def based(clip_folder, monkeypatch):
    for module in (clip_family, hp):
        monkeypatch.setattr(module, "BASE", str(clip_folder / "base"))
    monkeypatch.setattr(clip_family, "TOKENIZER", str(clip_folder / "base"))


def test_ict_equals_the_cosine_of_repaired_captions(clip_oracle, clip_folder, based):
    reward = rewards.load_reward("ict", weights=str(clip_folder / "ict"))
    found = reward.score(pictures(), CAPTIONS)
    expected = clip_rewards.ict_score(clip_oracle, pictures(), CAPTIONS, NUM_MERGES)
    assert reward.identity == "ict@1" and np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(reward.stored(found), found)


def test_hp_equals_the_head_on_features_of_their_own_length(clip_oracle, clip_folder, based):
    reward = rewards.load_reward("hp", weights=str(clip_folder / "hp"))
    found = reward.score(pictures())
    head = clip_rewards.make_head(16, seed=3)
    expected = clip_rewards.hp_score(clip_oracle, pictures(), head)
    assert reward.identity == "hp@1" and np.ptp(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)
    check_reward(reward)


def test_hp_shares_no_features_with_a_reward_of_features_of_length_one(clip_folder, based):
    names = ("ict", "hp")
    weights = {name: str(clip_folder / name) for name in names}
    both = rewards.load_rewards(names, weights=weights)
    assert both[0].tower != both[1].tower
    head = clip_rewards.make_head(15)
    clip_rewards.save_pickle(clip_folder / "hp/hp_scorer/mlp_pytorch_model.bin", head)
    with pytest.raises(ValueError, match="head must read features of width 16; got one for 15"):
        rewards.load_reward("hp", weights=weights["hp"])


def test_cycle_reward_equals_blip_with_gelus_in_its_head(blip_oracle, blip_folder):
    reward = rewards.load_reward("cycle_reward", weights=str(blip_folder))
    images = [image for image in pictures() if min(image.shape[:2]) >= 24]
    captions = [*CAPTIONS[:4], " ".join(["fox"] * 126) + " snow"][: len(images)]
    ids = blip.wordpiece_ids(blip_folder / "vocab.txt", captions, 128)
    prepared = np.stack([prepared_by_hand(image) for image in images])
    expected = blip_oracle.cycle_rewards(prepared, ids, ids != 0)
    found = reward.score(images, captions)
    assert reward.identity == "cycle_reward@combo" and np.ptp(expected) > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-4)
    without = blip_oracle.rewards(prepared, ids, ids != 0)
    assert np.abs(found - without).max() > 1e-2


def test_sizes_are_seen_from_the_weights_or_read(blip_oracle, blip_folder, tmp_path):
    tensors = cycle_reward.CARDS[0].repository(str(blip_folder)).tensors()
    seen = blip_keys.text_config_of_shapes(tensors, 64)
    assert seen == blip_keys.text_config(TEXT, 64)
    with pytest.raises(ValueError, match="variant must be one of combo, t2i, i2t; got 'x'"):
        rewards.load_reward("cycle_reward", weights=str(blip_folder), variant="x")
    other = rewards.load_reward("cycle_reward@t2i", weights=str(blip_folder))
    assert other.identity == "cycle_reward@t2i"
