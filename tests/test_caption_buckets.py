"""Captions are padded to the least bucket that holds those of a batch; nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miro_jax.data.records.examples import pad_captions
from miro_jax.train import distil
from miro_jax.train.settings import Distillation
from miro_jax.train.state import TrainState
from miro_jax.train.step import pad_together
from tests.networks import TINY, make_batch, random_network, resize
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


@pytest.mark.parametrize("count", [2, 4, 7])
def test_a_text_and_captions_are_padded_to_the_longer_of_both(count):
    tokens, mask = jnp.ones((3, 4, 5), jnp.float16), jnp.ones((3, 4), bool)
    text = np.full((count, 5), 2, np.float32)
    tokens, mask, padded, shown = pad_together(tokens, mask, text)
    length = max(4, count)
    assert tokens.shape == (3, length, 5) and padded.shape == (length, 5)
    assert mask.tolist() == [[True] * 4 + [False] * (length - 4)] * 3
    assert shown.tolist() == [True] * count + [False] * (length - count)
    assert padded.dtype == tokens.dtype == np.float16
    assert not tokens[:, 4:].any() and not padded[count:].any() and (padded[:count] == 2).all()


@pytest.mark.over_a_second
def test_a_student_learns_from_captions_that_are_shorter_than_its_negative_text():
    config = resize(TINY, student=True)
    graphdef, params, buffers = random_network(config, seed=0)
    optimizer = optax.sgd(0.1)
    settings = Distillation(teacher_steps=2, spans_per_trajectory=2, max_guidance=3.0)
    negative = np.ones((4, config.caption_width), np.float32)
    make = distil.make_distil_step
    step = make(graphdef, optimizer, lambda step: 0.1, settings, 0.9, negative, 0)
    state = TrainState(np.int32(0), params, params, buffers, optimizer.init(params))
    batch = make_batch(config, 4, 3, seed=1)
    batch = {name: batch[name] for name in ("caption_tokens", "caption_mask", "levels")}
    _, metrics = jax.eval_shape(step, state, batch, (params, buffers))
    assert metrics["loss"].shape == ()
