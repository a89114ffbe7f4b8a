"""Captions are padded to the least bucket that holds those of a batch; nothing else changes."""

import pytest

from miro_jax.data.records.examples import pad_captions
from tests.test_data import assert_same, open_data, take, write_set

BUCKETS = (3, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("records"), [20, 0, 33, 11])


def test_batches_are_padded_to_the_least_bucket_and_are_otherwise_the_same(folder):
    options = {"batch_size": 4, "synthetic_caption_prob": 0.8}
    whole, lengths = open_data(folder, **options), set()
    bucketed = open_data(folder, **options, caption_buckets=BUCKETS)
    for want in take(whole, 24):
        length = bucketed.caption_length  # known before the batch is taken
        if len(lengths) == 2:  # a resumed run
            state = bucketed.get_state()
            bucketed = open_data(folder, **options, caption_buckets=BUCKETS)
            bucketed.set_state(state)
        batch = next(bucketed)
        longest = want["caption_mask"].sum(1).max()
        assert (
            length
            == batch["caption_mask"].shape[1]
            == min(n for n in (*BUCKETS, 8) if n >= longest)
        )
        lengths.add(length)
        assert_same([pad_captions(batch, 8)], [want])
    assert lengths == {3, 6, 8}
    assert bucketed.get_state() == whole.get_state()
