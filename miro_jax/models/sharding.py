"""Meshes, the table logical axis -> mesh axis, and shardings of a whole state.

Two mesh axes: `data` (batch; parameters are split over it too, FSDP style) and `model` (heads and
MLP width). Code names logical axes; `RULES` is the only place that knows mesh axes.
"""

import collections
import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

# Every logical axis stands here, None included: flax takes a missing name for a mesh axis.
RULES = (
    ("batch", "data"),
    ("embed", "data"),
    ("mlp", "model"),
    ("heads", "model"),
    ("head_dim", None),
    ("pack", None),  # q k v, or the two halves of SwiGLU
    ("patch", None),
    ("vocab", None),
    ("caption", None),
    ("fourier", None),
    ("tokens", None),
    ("latent_tokens", None),
    ("registers", None),
    ("reward", None),
    ("bins", None),
    ("buckets", None),  # of distances between tokens
    ("one", None),
    ("channels", None),  # of images; towers that have them are whole on every device
)


AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh  # with devices, or sizes alone


def make_mesh(data: int, model: int) -> jax.sharding.Mesh:
    """Lay all devices out as `data` x `model`.

    Args:
      data: devices along `data`; -1 takes all that `model` leaves.
      model: devices along `model`.

    Raises:
      ValueError: the product is not the number of devices; the text names the config's keys.
    """
    return mesh_of(jax.devices(), data_size(data, model, jax.device_count()), model)


def data_size(data: int, model: int, count: int) -> int:
    """Return how many of `count` devices stand along `data`; raises as `make_mesh`."""
    check_sizes(data, model)
    if data == -1 and count % model:
        raise ValueError(f"config.mesh.model must divide the {_devices(count)}; got {model}.")
    if data == -1:
        data = count // model
    if data * model != count:
        raise ValueError(
            f"config.mesh.data x config.mesh.model must be the {_devices(count)}; "
            f"got {data} x {model}. config.mesh.data=-1 takes all that config.mesh.model leaves."
        )
    return data


def mesh_of(devices: Sequence[Any], data: int, model: int) -> jax.sharding.Mesh:
    """Lay devices out as they are wired, slices one after the other along `data`.

    `jax.make_mesh` refuses several slices, which nodes of GPUs are as well, and splits the sides of
    a v5e slice alone: of 4 x 4 chips of a v6e it makes no 8 x 2.
    """
    slices = collections.defaultdict(list)
    for device in devices:
        slices[getattr(device, "slice_index", 0)].append(device)
    parts = [part for _, part in sorted(slices.items())]
    if data % len(parts) or any(len(part) != len(parts[0]) for part in parts):
        parts = [[device for part in parts for device in part]]
    array = np.concatenate([_wired(part, data // len(parts), model) for part in parts])
    return jax.sharding.Mesh(array, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def _wired(devices: Sequence[Any], data: int, model: int) -> np.ndarray:
    """Return devices of one slice [data, model] as they are wired, where they are a block."""
    try:
        return mesh_utils.create_device_mesh((data, model), devices, allow_split_physical_axes=True)
    except (AssertionError, NotImplementedError):  # three chips of a host, or several slices
        return np.array(devices, object).reshape(data, model)


def _devices(count: int) -> str:
    return f"{count} device{'' if count == 1 else 's'}"


def check_sizes(data: int, model: int) -> None:
    """Raise ValueError, naming the config's key, unless a mesh of these sizes could be made."""
    if model < 1:
        raise ValueError(
            "config.mesh.model must be at least 1, the devices that share each matrix; got "
            f"{model}."
        )
    if data < 1 and data != -1:
        raise ValueError(
            "config.mesh.data must be at least 1, the devices that share a batch, or -1 for all "
            f"that config.mesh.model leaves; got {data}."
        )


def one_device_mesh() -> jax.sharding.Mesh:
    """Make the mesh of the first local device alone, for networks that are not sharded."""
    return mesh_of(jax.local_devices()[:1], 1, 1)


def parse_mesh(text: str) -> tuple[int | None, int]:
    """Read a mesh as people write it: "4x2" is data x model, "all" is "allx1".

    Returns:
      (data, model) for `local_mesh`; data is None for all devices that `model` leaves.

    Raises:
      ValueError: it is no such text.
    """
    match = re.fullmatch(r"(all|[1-9]\d*)(?:x([1-9]\d*))?", str(text))
    if match is None or (match[1] != "all" and match[2] is None):
        raise ValueError(f"mesh must be all, DATAxMODEL or allxMODEL, such as 4x2; got {text!r}.")
    return None if match[1] == "all" else int(match[1]), int(match[2] or 1)


def local_mesh(data: int | None = None, model: int = 1) -> jax.sharding.Mesh:
    """Lay devices of this process out as `data` x `model`; None takes all that `model` leaves.

    Raises:
      ValueError: there are fewer devices, or `model` does not divide all of them.
    """
    devices = jax.local_devices()
    if data is None:
        data, rest = divmod(len(devices), model)
        if rest:
            raise ValueError(
                "MODEL of --mesh=DATAxMODEL (config.annotate.mesh) must divide the "
                f"{len(devices)} devices of this process; got {model}."
            )
    if data * model > len(devices):
        raise ValueError(
            f"--mesh=DATAxMODEL (config.annotate.mesh) must fit the {len(devices)} devices of this "
            f"process; got {data}x{model}."
        )
    return mesh_of(devices[: data * model], data, model)


@contextlib.contextmanager
def use_mesh(mesh: jax.sharding.Mesh) -> Iterator[jax.sharding.Mesh]:
    """Enter a mesh and the axis rules together; annotated modules cannot be built outside."""
    with jax.set_mesh(mesh), nnx.logical_axis_rules(RULES):
        yield mesh


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pin an activation's layout to logical axes; a no-op outside `use_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    rules = dict(RULES)
    spec = PartitionSpec(*[None if a is None else rules[a] for a in axes])
    return jax.lax.with_sharding_constraint(x, spec)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Sharding of batches: the leading axis over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def local_rows(mesh: jax.sharding.Mesh, batch_size: int) -> list[int]:
    """Return the rows of a global batch that the devices of this process hold, in order.

    They need be no single block: meshes follow the wiring of the devices, not their processes.
    """
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    rows = {row for index in held.values() if index for row in range(batch_size)[index[0]]}
    return sorted(rows)


def put_rows(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Lay arrays that each process has whole, as every one made the same, out over `data`."""
    layout = batch_sharding(mesh)
    if layout.is_fully_addressable:
        return jax.device_put(tree, layout)

    def put(array: Any) -> jax.Array:
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, layout, host.__getitem__)

    return jax.tree.map(put, tree)


def whole(array: jax.Array) -> jax.Array | np.ndarray:
    """Return an array as it is; on the host, the same in all, where processes hold parts of it.

    All processes make the same call.
    """
    layout = getattr(array, "sharding", None)  # an array of the host has none
    if not isinstance(layout, NamedSharding) or layout.is_fully_addressable:
        return array
    # On CPUs, collectives of two programs can wait for each other: hence to the end of each.
    return np.asarray(jax.block_until_ready(_replicate(layout.mesh)(array)))


def replicated(mesh: AnyMesh) -> NamedSharding:
    """Sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(abstract_state: Any, mesh: AnyMesh) -> Any:
    """Shardings of a whole state from `jax.eval_shape` of its init, in the same tree.

    Parameters carry their logical axes; optimizer moments and EMA inherit them. An axis whose
    length the mesh axis does not divide stays whole on every device, as do leaves without names.
    """
    rules = dict(RULES)

    def of(leaf):
        if not isinstance(leaf, nnx.Variable):
            return replicated(mesh)
        names = leaf.get_metadata().get("out_sharding") or ()
        value = leaf.get_raw_value()
        spec = [
            rules[name] if name is not None and _divides(mesh, rules[name], size) else None
            for name, size in zip(names, value.shape, strict=False)
        ]
        return leaf.replace(NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(of, abstract_state, is_leaf=lambda x: isinstance(x, nnx.Variable))


def _divides(mesh: AnyMesh, axis: str | None, size: int) -> bool:
    return axis is None or math.gcd(mesh.shape[axis], size) == mesh.shape[axis]


def gather(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Return the whole arrays on process 0, nothing on the others; all make the same call.

    One by one: a device holds one array whole at a time, process 0 all of them.

    Args:
      arrays: by name.
    """
    whole = {}
    for name, array in arrays.items():
        # On CPUs, collectives of two programs can wait for each other: hence to the end of each.
        if isinstance(array.sharding, NamedSharding):
            array = jax.block_until_ready(_replicate(array.sharding.mesh)(array))
        if jax.process_index() == 0:
            whole[name] = np.asarray(array.addressable_data(0))
    return whole


@functools.cache
def _replicate(mesh: jax.sharding.Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))
