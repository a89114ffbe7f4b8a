"""Meshes on devices that are not here: slices of TPUs, several of them, nodes of GPUs."""

import dataclasses
import itertools

import jax
import pytest

from miro_jax.models import sharding


@dataclasses.dataclass(frozen=True)
class Device:
    """What laying out needs to know of a device."""

    id: int
    process_index: int
    device_kind: str
    platform: str
    slice_index: int
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0


def tpus(kind, sides, slices=1, cores=1):
    """Chips of slices, whose hosts have 2 x 2 of them, in the order of their processes."""
    places = itertools.product(range(slices), *map(range, reversed(sides)), range(cores))
    chips = [
        Device(number, hash_of_host(part, x, y, z), kind, "tpu", part, (x, y, z), core)
        for number, (part, z, y, x, core) in enumerate(places)
    ]
    return sorted(chips, key=lambda chip: chip.process_index)


def hash_of_host(part, x, y, z):
    return ((part * 64 + z) * 64 + y // 2) * 64 + x // 2


def gpus(nodes):
    return [
        Device(8 * node + n, node, "NVIDIA H100 80GB HBM3", "gpu", node)
        for node in range(nodes)
        for n in range(8)
    ]


@pytest.fixture
def made(monkeypatch):
    """Makes the mesh of some devices; returns them as they lie in it."""

    def make(devices, data, model):
        monkeypatch.setattr(jax, "devices", lambda: devices)
        monkeypatch.setattr(jax, "device_count", lambda: len(devices))
        monkeypatch.setattr(jax.sharding, "Mesh", lambda array, names, axis_types: array)
        return sharding.make_mesh(data, model)

    return make


@pytest.mark.parametrize("model", [1, 2, 4])
@pytest.mark.parametrize(
    "devices",
    [
        tpus("TPU v5 lite", (4, 4, 1)),
        tpus("TPU v6 lite", (4, 4, 1)),
        tpus("TPU v6 lite", (8, 8, 1)),
        tpus("TPU v5", (2, 2, 4)),
        tpus("TPU7x", (2, 2, 2), cores=2),
    ],
    ids=lambda devices: f"{len(devices)} {devices[0].device_kind}",
)
def test_each_slice_can_be_split_over_data_and_model(devices, model, made):
    laid = made(devices, -1, model)
    assert laid.shape == (len(devices) // model, model)
    assert {device.id for device in laid.flat} == {device.id for device in devices}


@pytest.mark.parametrize("model", [1, 2])
@pytest.mark.parametrize("devices", [tpus("TPU v6 lite", (4, 4, 1), slices=2), gpus(2)])
def test_slices_and_nodes_follow_each_other_along_data(devices, model, made):
    laid = made(devices, -1, model)
    each = len(devices) // 2 // model
    assert laid.shape == (2 * each, model)
    assert {device.id for device in laid.flat} == {device.id for device in devices}
    parts = [
        {device.slice_index for device in laid[rows].flat}
        for rows in (slice(each), slice(each, None))
    ]
    assert parts == [{0}, {1}]


def test_what_splits_no_slice_evenly_is_laid_out_in_order(made):
    laid = made(gpus(2), 1, 16)  # `model` over both nodes
    assert [device.id for device in laid.flat] == list(range(16))
    three = made(tpus("TPU v6 lite", (2, 2, 1))[:3], 3, 1)
    assert [device.id for device in three.flat] == [0, 1, 2]


def test_a_mesh_of_devices_that_are_here_is_that_of_jax():
    ours = sharding.make_mesh(4, 2)
    theirs = jax.make_mesh((4, 2), ("data", "model"), axis_types=ours.axis_types)
    assert ours == theirs and ours.axis_types == (jax.sharding.AxisType.Auto,) * 2
