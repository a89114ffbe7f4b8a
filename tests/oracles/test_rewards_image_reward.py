"""ImageReward from files in its published layout, against Hugging Face's BLIP and tokenizer."""

import json

import numpy as np
import pytest
from PIL import Image

from miro_jax import rewards
from miro_jax.pretrained.networks.clip import MEAN, STD
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.pickles import convert_to_safetensors, open_pickle
from miro_jax.pretrained.weights.tensors import from_arrays
from miro_jax.pretrained.weights.tokenizer import cut_ids, encode_texts, load_tokenizer, pad_rows
from miro_jax.rewards import base, image_reward
from miro_jax.rewards.aesthetic import fold_linear
from miro_jax.rewards.contract import check_reward
from tests.networks import small_mesh
from tests.oracles.blip import VISION, Oracle, vocabulary, wordpiece_ids

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("precise")]

SYLLABLES = (
    "ka lo mi ré ñu ÄÖ sh tion ing 狗 猫 🦊 é́ ß Å ﬁ İ 'll - . , ! [SEP] [CLS] 3 17 \t \x07".split(
        " "
    )
)
LONG = " ".join(["a fox in the snow"] * 100)
CAPTIONS = ["A fox, in snow", "ein Bär läuft 🐻 zum naïve café!", "", LONG, "x" * 120]


@pytest.fixture(scope="module")
def oracle():
    text = {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "intermediate_size": 72,
        "vocab_size": len(vocabulary()) + 2,
        "max_position_embeddings": 40,
        "layer_norm_eps": 1e-12,
    }
    return Oracle(VISION, text, widths=(20, 9, 8, 5, 1), seed=2)


@pytest.fixture(scope="module")
def folder(oracle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ImageReward")
    oracle.write(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def reward(folder):
    return rewards.load_reward("image_reward", weights=str(folder), tokenizer=str(folder))


def pictures():
    rng = np.random.default_rng(8)
    sizes = [(40, 31), (24, 24), (25, 90), (11, 60), (79, 24)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def prepared_by_hand(image):
    """Shortest edge 24 by Pillow, centre crop, statistics of CLIP; written out for this test."""
    height, width, _ = image.shape
    scale = 24 / min(height, width)
    size = (24, int(24 * height / width)) if width <= height else (int(24 * width / height), 24)
    assert abs(max(size) - scale * max(height, width)) < 1
    big = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - 24) / 2) for side in size)
    pixels = np.asarray(big.crop((left, top, left + 24, top + 24)), np.float32) / 255
    return ((pixels - np.array(MEAN)) / np.array(STD)).astype(np.float32)


def many_captions():
    rng = np.random.default_rng(9)
    captions = list(CAPTIONS)
    while len(captions) < 1000:
        parts = rng.choice(SYLLABLES, rng.integers(1, 60))
        spaces = rng.choice(["", " ", " "], len(parts))
        captions.append("".join(a + b for a, b in zip(parts, spaces, strict=True)))
    return captions


def test_scores_equal_those_of_the_published_scorer(oracle, folder, reward):
    images = np.stack([prepared_by_hand(image) for image in pictures()])
    ids = wordpiece_ids(folder / "vocab.txt", CAPTIONS, 35)
    mask = ids != 0
    expected = oracle.rewards(images, ids, mask)
    found = reward.score(pictures(), CAPTIONS)
    assert found.dtype == np.float32 and np.ptp(found) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(reward.stored(found), (expected + 2) / 4, atol=1e-4)


def test_ids_of_a_thousand_captions_equal_those_of_bert(folder):
    captions = many_captions()
    tokenizer = load_tokenizer(hub.open(folder), "bert")
    rows = [cut_ids(ids, 35) for ids in encode_texts(tokenizer, captions)]
    found, _ = pad_rows(rows, 35, 0)
    expected = wordpiece_ids(folder / "vocab.txt", captions, 35)
    wrong = np.flatnonzero((found != expected).any(axis=1))
    assert not len(wrong), (captions[wrong[0]], found[wrong[0]], expected[wrong[0]])
    assert len({row.tobytes() for row in expected}) > 900
    assert (expected == vocabulary().index("[UNK]")).mean() < 0.5


def test_the_same_tokenizer_is_read_from_tokenizer_json(folder, tmp_path):
    load_tokenizer(hub.open(folder), "bert").save(str(tmp_path / "tokenizer.json"))
    both = [encode_texts(load_tokenizer(hub.open(x), "bert"), CAPTIONS) for x in (folder, tmp_path)]
    assert both[0] == both[1]


def test_a_vocabulary_that_is_not_berts_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("a\nb\n[UNK]\n")
    with pytest.raises(ValueError, match=r"vocab\.txt must hold \[CLS\], \[SEP\], \[PAD\]"):
        load_tokenizer(hub.open(tmp_path), "bert")
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        load_tokenizer(hub.open(tmp_path), "bert")


def test_a_caption_counts_by_its_first_33_pieces(reward):
    image = pictures()[:1]
    start = " ".join(["fox"] * 33)
    a, b, c = (reward.score(image, [x])[0] for x in (start, f"{start} snow", start[:-3] + "snow"))
    assert a == b != c


def test_a_score_depends_neither_on_its_neighbours_nor_on_padding(reward):
    together = reward.score(pictures(), CAPTIONS)
    alone = [reward.score([x], [y])[0] for x, y in zip(pictures(), CAPTIONS, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_protocol_and_identity(reward, folder):
    assert reward.identity == "image_reward@1.0" and reward.needs_caption
    assert reward.synthetic_form == "short" and reward.preprocessing == "bicubic24-round"
    digest = hub.open(folder).sha256("ImageReward.pt")
    assert reward.tower == f"blip-{digest[:12]}-float32"
    captions = [{"caption": CAPTIONS}, {"long": ["?"] * 5, "short": CAPTIONS}]
    both = base.score_all([reward], pictures(), captions)
    np.testing.assert_array_equal(*both)
    np.testing.assert_allclose(
        both[0][:, 0], reward.stored(reward.score(pictures(), CAPTIONS)), atol=1e-5
    )


def test_safetensors_give_the_same_scores(reward, folder, tmp_path):
    convert_to_safetensors(folder / "ImageReward.pt", tmp_path / "ImageReward.safetensors")
    (tmp_path / "med_config.json").write_bytes((folder / "med_config.json").read_bytes())
    other = image_reward.ImageReward(str(tmp_path), tokenizer=str(folder))
    np.testing.assert_array_equal(
        other.score(pictures(), CAPTIONS), reward.score(pictures(), CAPTIONS)
    )
    assert other.tower != reward.tower


def test_a_mesh_gives_the_same_scores(reward, folder):
    options = {"tokenizer": str(folder), "mesh": small_mesh(4, 2)}
    split = image_reward.ImageReward(str(folder), **options)
    found, expected = (x.score(pictures(), CAPTIONS) for x in (split, reward))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_half_precision_stays_close(reward, folder):
    half = image_reward.ImageReward(str(folder), tokenizer=str(folder), dtype="bfloat16")
    difference = half.score(pictures(), CAPTIONS) - reward.score(pictures(), CAPTIONS)
    assert 0 < np.abs(difference).max() < 0.2


def test_the_head_is_folded_in_the_order_of_its_numbers(folder):
    rng = np.random.default_rng(3)
    sizes = (7, 6, 5, 4, 3, 1)
    layers = [
        (rng.normal(size=(b, a)), rng.normal(size=b))
        for a, b in zip(sizes, sizes[1:], strict=False)
    ]
    x = rng.normal(size=(2, 7))
    y = x
    for w, b in layers:
        y = y @ w.T + b
    arrays = {}
    for place, (w, b) in zip((11, 2, 9, 10, 100), layers, strict=True):
        arrays |= {f"head.{place}.weight": w, f"head.{place}.bias": b}
    with pytest.raises(ValueError, match="head.* outputs"):
        fold_linear(from_arrays(arrays), "head")  # 2 stands before 11
    arrays = {}
    for place, (w, b) in zip((2, 9, 10, 11, 100), layers, strict=True):
        arrays |= {f"head.{place}.weight": w, f"head.{place}.bias": b}
    weight, bias = fold_linear(from_arrays(dict(reversed(arrays.items()))), "head")
    np.testing.assert_allclose(x @ weight + bias, y[:, 0], rtol=1e-12)
    assert len(fold_linear(open_pickle(folder / "ImageReward.pt"), "mlp.layers")[0]) == 48
    with pytest.raises(ValueError, match="got none"):
        fold_linear({}, "head")


def test_other_weights_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ImageReward\.pt"):
        image_reward.ImageReward(str(tmp_path))
    config = json.loads((folder / "med_config.json").read_text()) | {"hidden_size": 60}
    (tmp_path / "med_config.json").write_text(json.dumps(config))
    (tmp_path / "ImageReward.pt").write_bytes((folder / "ImageReward.pt").read_bytes())
    with pytest.raises(ValueError, match="does not fit"):
        image_reward.ImageReward(str(tmp_path), tokenizer=str(folder))


def test_the_contract_of_rewards_is_kept(reward):
    check_reward(reward)
