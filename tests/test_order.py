"""The order of records by shards: permutations, by windows and lanes."""

import numpy as np
import pytest

from miro_jax.data.records.order import ShardOrder

SIZES = [7, 9, 0, 8, 5, 11, 8, 9, 7]  # one shard without a record


@pytest.mark.parametrize("window", [1, 3, 8, 20])
def test_each_epoch_by_shards_is_a_permutation_of_all_records(window):
    total = sum(SIZES)
    order = ShardOrder(SIZES, window, 0)
    epochs = [[order(e * total + i) for i in range(total)] for e in range(3)]
    assert all(sorted(epoch) == list(range(total)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert ShardOrder(SIZES, window, 1)(0) != order(0) or window < 3
    assert [ShardOrder(SIZES, window, 0)(i) for i in (5, 90, 3)] == [
        (epochs[0] + epochs[1])[i] for i in (5, 90, 3)
    ]


@pytest.mark.parametrize("window", [1, 3, 8])
def test_a_record_is_in_one_of_the_shards_that_are_near(window):
    order, starts = ShardOrder(SIZES, window, 4), np.cumsum([0, *SIZES])
    before: list[int] = []
    for position in range(2 * sum(SIZES)):
        near = order.shards_near(position)
        shard = int(np.searchsorted(starts, order(position), side="right")) - 1
        assert shard in near[:window] and len(near) <= order.most_shards()
        assert not before or shard in before  # it was fetched ahead
        before = near


def first_order(counts, window, seed, epoch):
    """The records of an epoch in the order that runs without lanes began with."""
    order = np.random.default_rng((seed, epoch)).permutation(np.flatnonzero(counts))
    starts, found = np.cumsum([0, *counts]), []
    for number, begin in enumerate(range(0, len(order), window)):
        spans = [np.arange(starts[s], starts[s + 1]) for s in order[begin : begin + window]]
        rng = np.random.default_rng((seed, epoch, 1 + number))
        found += rng.permutation(np.concatenate(spans)).tolist()
    return found


@pytest.mark.parametrize("window", [1, 3, 20])
def test_one_lane_is_the_order_that_older_runs_resume_in(window):
    total = sum(SIZES)
    for seed in (0, 4, 2**32 - 1):
        order = ShardOrder(SIZES, window, seed)
        for epoch in range(3):
            found = [order(epoch * total + i) for i in range(total)]
            assert found == first_order(SIZES, window, seed, epoch)


@pytest.mark.parametrize("lanes", [2, 3, 4, 16])
@pytest.mark.parametrize("window", [1, 5, 20])
def test_each_epoch_by_lanes_is_a_permutation_and_its_shards_are_fetched_ahead(window, lanes):
    total, starts = sum(SIZES), np.cumsum([0, *SIZES])
    order = ShardOrder(SIZES, window, 3, lanes)
    found = [order(i) for i in range(4 * total)]
    for epoch in range(4):
        assert sorted(found[epoch * total : (epoch + 1) * total]) == list(range(total))
    for lane in range(lanes):
        before = None
        for position in range(lane, 4 * total, lanes):
            near = order.shards_near(position, [lane])
            shard = int(np.searchsorted(starts, found[position], side="right")) - 1
            assert shard in near[: -(-window // lanes)] and len(near) <= order.most_shards([lane])
            assert before is None or shard in before
            before = near


def test_lanes_mix_their_records_each_in_an_order_of_its_own():
    order = ShardOrder([8] * 8, window=8, seed=0, lanes=2)
    rows = np.array([[order(2 * i + lane) for i in range(32)] for lane in range(2)])
    shards = rows // 8
    places = [
        [shards[lane].tolist().index(shard) for shard in dict.fromkeys(shards[lane])]
        for lane in range(2)
    ]
    assert places[0] != places[1]


def test_the_window_before_an_epoch_is_the_last_of_the_one_before():
    order = ShardOrder([8] * 8, window=2, seed=1)
    last = {order(position) // 8 for position in range(48, 64)}
    assert last <= set(order.shards_near(64))
    assert last.isdisjoint({order(position) // 8 for position in range(64, 96)})


def test_lanes_share_a_window_rounded_up():
    order = ShardOrder([8] * 20, window=5, seed=0, lanes=2)
    assert order.most_shards([0]) == 9 and order.most_shards([0, 1]) == 18
