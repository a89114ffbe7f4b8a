"""Records: encode then decode is the identity, and nothing else passes for a record."""

import dataclasses
import random

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from miro_jax.data.records import record as records

WIDTH, REWARDS, LATENT_SHAPE = 5, 3, (4, 4, 3)


def make_record(seed, key=None, tokens_dtype=np.float16, synthetic=None, twice=None):
    rng = np.random.default_rng(seed)
    twice = bool(seed % 2) if twice is None else twice
    synthetic = bool(rng.integers(2)) if synthetic is None else synthetic

    def tokens():
        return rng.normal(size=(rng.integers(0, 6), WIDTH)).astype(tokens_dtype)

    scores = rng.normal(size=(2, REWARDS)).astype(np.float32)
    scores[0, rng.integers(REWARDS)] = np.nan
    return records.Record(
        key=key or f"sample-{seed:05d}",
        caption=rng.choice(
            ["a red circle", "", "ein grüner Kreis — 緑の円 🟢", 'tab\t"quoted"\n\\']
        ),
        synthetic_caption="long: 二つの青い四角" if synthetic else None,
        width=int(rng.integers(1, 5000)),
        height=int(rng.integers(1, 5000)),
        image_mean=rng.normal(size=LATENT_SHAPE).astype(np.float16),
        image_std=rng.uniform(size=LATENT_SHAPE).astype(np.float16),
        caption_tokens=tokens(),
        synthetic_caption_tokens=tokens() if synthetic else None,
        scores=scores[0],
        synthetic_scores=scores[1] if synthetic else None,
        image_mean_512=rng.normal(size=(8, 8, 3)).astype(np.float16) if twice else None,
        image_std_512=rng.uniform(size=(8, 8, 3)).astype(np.float16) if twice else None,
    )


def assert_same(got, want):
    for name, value in vars(want).items():
        other = getattr(got, name)
        if isinstance(value, np.ndarray):
            assert other.dtype == value.dtype and other.shape == value.shape, name
            assert other.tobytes() == value.tobytes(), name
        else:
            assert other == value, name


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_decode_inverts_encode(dtype):
    for seed in range(100):
        record = make_record(seed, tokens_dtype=dtype)
        data = records.encode_record(record)
        assert_same(records.decode_record(data), record)
        assert records.encode_record(records.decode_record(data)) == data


def test_record_without_tokens_keeps_its_width():
    empty = np.zeros((0, WIDTH), np.float16)
    record = dataclasses.replace(make_record(0, synthetic=False), caption_tokens=empty)
    assert records.decode_record(records.encode_record(record)).caption_tokens.shape == (0, WIDTH)


def test_other_libraries_read_a_record():
    record = make_record(1, synthetic=True, twice=True)
    arrays = load_safetensors(records.encode_record(record))
    assert set(arrays) == set(records._FIELDS)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, getattr(record, name))


def test_arrays_are_aligned_views():
    record = records.decode_record(
        records.encode_record(make_record(2, synthetic=True, twice=True))
    )
    for name in records._FIELDS:
        array = getattr(record, name)
        assert array.flags.aligned and not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"scores": np.zeros(3)}, "scores must have rank 1"),
        ({"image_mean": np.zeros((4, 4, 3), np.float32)}, "image_mean"),
        ({"image_std": np.zeros((2, 4, 3), np.float16)}, "one shape"),
        ({"caption_tokens": None}, "lacks caption_tokens"),
        ({"image_mean": None}, "lacks image_mean"),
        ({"image_std_512": None}, "image_std_512 None must have one shape"),
        ({"synthetic_scores": None}, "all or none"),
        ({"synthetic_caption": None}, "all or none"),
    ],
)
def test_encode_refuses_a_record_of_wrong_form(changes, text):
    record = dataclasses.replace(make_record(3, synthetic=True), **changes)
    with pytest.raises(ValueError, match=text):
        records.encode_record(record)


def test_records_of_the_first_version_are_read():
    record = make_record(6, twice=False)
    first = records.encode_record(record).replace(b'"schema_version":"2"', b'"schema_version":"1"')
    assert_same(records.decode_record(first), record)


def test_decode_refuses_other_bytes():
    good = records.encode_record(make_record(4))
    other_version = good.replace(b'"schema_version":"2"', b'"schema_version":"7"')
    rng = random.Random(0)
    for data in [
        b"",
        b"abc",
        b"\xff" * 64,
        good[:20],
        good[:-1],
        good + b"x",
        other_version,
        rng.randbytes(500),
    ]:
        with pytest.raises(ValueError, match="[Rr]ecord"):
            records.decode_record(data)
