"""A record becomes an example: captions with their scores, what does not fit weighs nothing."""

import dataclasses
import os

import numpy as np
import pytest

from miro_jax.data.records import examples
from miro_jax.data.records.record import Record
from tests.test_data import assert_same, open_data, take, write_set

HALF = np.zeros((2, 2, 4), np.float16)
OWN, LONG = np.ones((3, 6), np.float16), np.full((5, 6), 2, np.float16)
SCORES = np.float32([1, 2])
RECORD = Record("k", "a", "b", 8, 8, HALF, HALF, OWN, LONG, SCORES, 10 * SCORES)


class Reported(list):
    def report(self, index, error):
        self.append((index, str(error)))


def make(record, monkeypatch, share):
    monkeypatch.setattr(examples.records, "decode_record", lambda _: record)
    added, fields = np.float32([[[3], [30]]]), ("image_mean", "image_std")
    reported = Reported()
    maker = examples.MakeExample(reported, added, fields, HALF.shape, 6, 3, 4, share)
    return maker((0, b"record"), np.random.default_rng(0)), reported


@pytest.mark.parametrize("share, caption, scale", [(0.0, OWN, 1), (1.0, LONG[:4], 10)])
def test_added_scores_are_those_of_the_caption_in_use(monkeypatch, share, caption, scale):
    example, reported = make(RECORD, monkeypatch, share)
    np.testing.assert_array_equal(example["scores"], scale * np.float32([1, 2, 3]))
    np.testing.assert_array_equal(example["caption_tokens"], caption)
    assert example["weight"] == 1 and not reported


@pytest.mark.parametrize(
    "change", [{"caption_tokens": OWN[:, :5]}, {"scores": SCORES[:1]}, {"image_mean": HALF[:1]}]
)
def test_a_record_of_another_shape_weighs_nothing_and_is_reported(monkeypatch, change):
    example, reported = make(dataclasses.replace(RECORD, **change), monkeypatch, 0.0)
    assert example["weight"] == 0 and example["caption_tokens"].shape == (0, 6)
    ((index, text),) = reported
    assert index == 0 and "as in the manifest" in text


def test_a_shard_that_changes_while_it_is_read_is_named(tmp_path):
    paths = sorted(write_set(tmp_path, [4, 3]).glob("*.array_record"))
    source = examples.RecordSource(paths, [4, 3])
    source.check_unchanged()
    os.utime(paths[1], ns=(1, 1))
    with pytest.raises(OSError, match=rf"{paths[1].name} has changed since it was opened"):
        source.check_unchanged()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_batches_without_a_choice_are_those_of_a_choice_by_chance(
    tmp_path, probability, monkeypatch
):
    folder = write_set(tmp_path / "set", [40, 24])
    without = take(open_data(folder, synthetic_caption_prob=probability), 6)
    monkeypatch.setattr(examples.MakeExample, "is_random", True)
    assert_same(without, take(open_data(folder, synthetic_caption_prob=probability), 6))
