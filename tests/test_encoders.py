"""Encoders of the shapes world: fixed word codes, and pixels as image latents."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.pretrained import encoders
from miro_jax.pretrained.encoders.words import WordsEncoder
from miro_jax.pretrained.weights.tokenizer import by_length, once_each

WIDTH = 64


@pytest.fixture(scope="module")
def words():
    return encoders.build_caption_encoder("words", width=WIDTH, max_tokens=16)


def test_a_caption_has_one_token_a_word_and_an_end(words):
    texts = ["", "a red circle", "A Red, circle.", "\U0001f600"]
    codes = words.encode(texts)
    assert [c.shape for c in codes] == [(1, WIDTH), (4, WIDTH), (6, WIDTH), (1, WIDTH)]
    assert all(c.dtype == np.float16 and np.isfinite(c).all() for c in codes)
    word = WIDTH // 2
    for code in codes:
        np.testing.assert_array_equal(code[-1, :word], codes[0][0, :word])


def test_padding_keeps_the_codes_and_marks_them(words):
    texts = ["", "a red circle", "circle " * 500]
    tokens, mask = words.encode_padded(texts)
    assert tokens.shape == (3, 16, WIDTH) and tokens.dtype == np.float16
    assert mask.dtype == bool and mask.sum(axis=1).tolist() == [1, 4, 16]
    for row, code in enumerate(words.encode(texts)):
        np.testing.assert_array_equal(tokens[row][mask[row]], code)
    assert not tokens[~mask].any()


def test_long_captions_are_cut_and_keep_their_end(words):
    (code,) = words.encode(["circle " * 500])
    assert code.shape == (16, WIDTH)
    np.testing.assert_array_equal(code[-1, :32], words.encode([""])[0][0, :32])


def test_a_token_tells_its_word_the_word_before_and_its_position(words):
    first, second = words.encode(["red circle and circle red", "blue circle"])
    word, before, place = slice(0, 32), slice(32, 48), slice(48, 64)
    np.testing.assert_array_equal(first[1, word], first[3, word])
    np.testing.assert_array_equal(first[1, word], second[1, word])
    assert not np.array_equal(first[1, before], second[1, before])  # red circle, blue circle
    assert not np.array_equal(first[1, place], first[3, place])
    np.testing.assert_array_equal(first[1, place], second[1, place])


def test_codes_have_unit_variance_and_differ_by_word(words):
    vocabulary = "a red yellow green cyan blue purple circle square triangle circles two three"
    vocabulary += " four and left right of above below at the"
    codes = np.stack([words.encode([w])[0][0, :32] for w in vocabulary.split()]).astype(np.float64)
    np.testing.assert_allclose(codes.mean(axis=1), 0, atol=2e-3)
    np.testing.assert_allclose(codes.std(axis=1), 1, atol=2e-3)
    alike = codes @ codes.T / 32 - np.eye(len(codes))
    assert np.abs(alike).max() < 0.7
    long = words.encode(["a circle left of a square and two red triangles below it"])[0]
    assert long.astype(np.float64).std() == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_codes_are_the_same_in_every_process(words):
    program = (
        "from miro_jax.pretrained.encoders.words import WordsEncoder as W;"
        f"print(W({WIDTH}, 16).encode(['a red circle'])[0].tobytes().hex())"
    )
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        )
        assert found.stdout.strip() == words.encode(["a red circle"])[0].tobytes().hex()


def test_caption_encoders_refuse_wrong_arguments(words):
    with pytest.raises(TypeError, match="one str"):
        words.encode("a circle")
    with pytest.raises(TypeError, match="got int"):
        words.encode(["a", 3])
    with pytest.raises(ValueError, match="multiple of 8; got 20"):
        WordsEncoder(width=20)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        WordsEncoder(max_tokens=0)
    with pytest.raises(ValueError, match="caption encoder must be one of words, flan_t5; got 't6'"):
        encoders.build_caption_encoder("t6")


def test_identities_name_what_changes_the_codes(words):
    assert words.identity == "words@1-width64-max16"
    assert WordsEncoder(32, 16).identity != words.identity
    assert encoders.build_image_encoder("pixels", size=8).identity == "pixels@1-size8"


def test_every_pixel_value_survives_float16():
    pixels = encoders.build_image_encoder("pixels", size=16)
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    mean, std = pixels.encode(images)
    assert pixels.latent_shape == (16, 16, 3)
    assert mean.dtype == std.dtype == np.float16 and mean.shape == std.shape == (1, 16, 16, 3)
    assert mean.min() == -1 and mean.max() == 1 and not std.any()
    decoded = pixels.decode(pixels.denormalize(pixels.normalize(mean.astype(np.float32))))
    np.testing.assert_array_equal(decoded, images)


def test_decoding_is_the_same_inside_jit_and_clips():
    pixels = encoders.build_image_encoder("pixels", size=4)
    latents = np.random.default_rng(0).normal(size=(3, 4, 4, 3)).astype(np.float32)
    inside = jax.jit(lambda z: pixels.decode(pixels.denormalize(z)))(jnp.asarray(latents))
    assert inside.dtype == jnp.uint8
    np.testing.assert_array_equal(np.asarray(inside), pixels.decode(latents))
    assert pixels.decode(np.full((1, 4, 4, 3), 9.0, np.float32)).max() == 255
    assert pixels.decode(np.full((1, 4, 4, 3), -9.0, np.float32)).max() == 0


def test_image_encoders_refuse_wrong_arguments():
    pixels = encoders.build_image_encoder("pixels", size=4)
    with pytest.raises(TypeError, match="uint8.*got float32"):
        pixels.encode(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match=r"\[B, 4, 4, 3\]; got \(1, 4, 5, 3\)"):
        pixels.encode(np.zeros((1, 4, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="at least 1; got 0"):
        encoders.build_image_encoder("pixels", size=0)
    with pytest.raises(
        ValueError, match="image encoder must be one of pixels, sdxl_vae; got 'vae'"
    ):
        encoders.build_image_encoder("vae")


def test_equal_texts_are_encoded_once_and_each_gets_its_own():
    asked = []
    texts = ["b", "a", "b", "c", "a", "b"]
    found = once_each(lambda some: asked.append(some) or map(str.upper, some), texts)
    assert found == list("BABCAB")
    assert asked == [["b", "a", "c"]]
    with pytest.raises(ValueError):  # as many results as texts
        once_each(lambda some: some[1:], texts)


def test_rows_are_grouped_by_the_length_they_are_padded_to():
    rows = [[7] * n for n in (1, 5, 2, 9, 3, 4)]
    groups = list(by_length(rows, lambda n: 4 if n <= 4 else 16, most=3, padding=2))
    assert [members for members, *_ in groups] == [[0, 2, 4], [5], [1, 3]]
    assert [ids.shape for _, ids, _ in groups] == [(3, 4), (1, 4), (2, 16)]
    _, ids, mask = groups[0]
    assert ids.tolist() == [[7, 2, 2, 2], [7, 7, 2, 2], [7, 7, 7, 2]] and ids.dtype == np.int32
    assert mask.tolist() == (ids == 7).tolist()
