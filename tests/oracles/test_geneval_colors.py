"""GenEval's colours against CLIP by transformers, Pillow and open_clip's tokenizer."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from miro_jax.evaluate.suites.geneval import colors, prompts, verdict
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tensors import write_safetensors
from miro_jax.pretrained.weights.tokenizer import openai_tokenizer
from tests.networks import difference
from tests.oracles import clip_tokens, resize
from tests.oracles.clip import Oracle
from tests.oracles.clip_rewards import CONFIG, NUM_MERGES, _normalized

CONFIG = copy.deepcopy(CONFIG)
for tower_ in ("text_config", "vision_config"):
    CONFIG[tower_]["hidden_act"] = "quick_gelu"


@pytest.fixture(scope="module")
def oracle():
    return Oracle(CONFIG, seed=5)


@pytest.fixture
def folder(oracle, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(tmp_path / "model.safetensors", oracle.tensors())
    clip_tokens.write_tokenizer_json(tmp_path, NUM_MERGES)
    return tmp_path


def object_of(seed, height=40, width=31):
    """An image, a mask and its box."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), bool)
    mask[5:33, 8:20] = rng.random((28, 12)) < 0.7
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return image, mask, np.array(box, np.float32)


def by_pillow(image, mask, box):
    """The cut-out as the benchmark makes it."""
    grey = Image.new("RGB", image.shape[1::-1], "#999")
    whole = Image.composite(Image.fromarray(image), grey, Image.fromarray(mask))
    return whole.crop(tuple(map(float, box)))


def test_cut_outs_have_the_bytes_of_pillow():
    for seed in range(5):
        made = object_of(seed)
        np.testing.assert_array_equal(colors.cut_out(*made), np.asarray(by_pillow(*made)))


@pytest.mark.slow
@pytest.mark.usefixtures("precise")
def test_logits_are_those_of_the_published_classifier(oracle, folder):
    made = [object_of(seed) for seed in range(3)]
    names = ["car", "dog", "car"]
    classifier = colors.load(str(folder))
    found = classifier.logits([colors.cut_out(*one) for one in made], names)
    side = CONFIG["vision_config"]["image_size"]
    squares = [resize.openai(by_pillow(*one), side) for one in made]
    images = unit(oracle.image_features(_normalized(squares)))
    expected = np.empty((3, 10))
    for row, name in enumerate(names):
        for column, color in enumerate(prompts.COLORS):
            texts = [
                f"a photo of a {color} {name}",
                f"a photo of a {color}-colored {name}",
                f"a photo of a {color} object",
            ]
            text = unit(oracle.text_features(clip_tokens.simple_ids(texts, NUM_MERGES)))
            expected[row, column] = 100 * images[row] @ unit(text.mean(axis=0, keepdims=True))[0]
    assert found.shape == (3, 10) and difference(found, expected) < 1e-5
    assert classifier.logits([], []).shape == (0, 10)
    assert classifier.identity["activation"] == "quick_gelu"


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("tower", ["text_config", "vision_config"])
def test_weights_of_the_exact_gelu_are_refused(folder, tower):
    wrong = CONFIG | {tower: CONFIG[tower] | {"hidden_act": "gelu"}}
    (folder / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="activation quick_gelu; the .* tower .* has gelu"):
        colors.load(str(folder))


@pytest.mark.over_a_second
def test_sentences_of_every_class_have_the_ids_of_open_clip(tmp_path):
    every = clip_tokens.NUM_MERGES
    clip_tokens.write_tokenizer_json(tmp_path, every)
    encode = openai_tokenizer(hub.open(tmp_path))
    classes = {name for prompt in prompts.prompts() for name in verdict.colored(prompt)}
    texts = [text for name in sorted(classes) for text in colors.sentences(name)]
    assert len(classes) == 76 and len(texts) == 76 * 30
    found = encode(texts, 77)
    expected = clip_tokens.simple_ids(texts, every)
    np.testing.assert_array_equal(found, expected[:, : found.shape[1]])
    assert not expected[:, found.shape[1] :].any()
