"""The one strict loader: tensors of a published file into the parameters of one of our networks.

The key table of a network has rows (source key, our path, transform). `*` in a key stands for one
part between dots and replaces the `*`s of the path, in order. One source key may stand in several
rows: a packed tensor is cut into several parameters. Everything must fit: each tensor that is not
ignored on purpose fills a parameter, each parameter is filled once, each shape agrees; all that
does not is reported together.

Tensors are read, converted and put on their devices one by one, so the host holds no more than the
parameters that live on it and one tensor.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from miro_jax.models import sharding
from miro_jax.pretrained.weights.tensors import Tensor

# A transform takes a tensor and the shape of the parameter; None says that they do not fit.
Transform = Callable[[np.ndarray, tuple[int, ...]], np.ndarray | None]
Row = tuple[str, str, Transform]
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
REPORTED = 30  # errors shown of one file
# Our paths that stay float32 in a bfloat16 transformer: they cost little.
SMALL = r".*(scale|bias|class_token|positions)"


def same(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Take an array as it is, apart from axes of length 1."""
    return value.reshape(shape) if _squeezed(value.shape) == _squeezed(shape) else None


def split(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Cut a vector `[out]` into packs and heads."""
    return value.reshape(shape) if value.shape == (math.prod(shape),) else None


def transpose(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Turn a kernel `[out, in]` into `[*inputs, *outputs]`."""
    cuts = [(math.prod(shape[k:]), math.prod(shape[:k])) for k in range(1, len(shape))]
    return value.T.reshape(shape) if value.shape in cuts else None


def straight(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Cut a kernel stored `[in, out]` into `[*inputs, *outputs]`."""
    cuts = [(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(1, len(shape))]
    return value.reshape(shape) if value.shape in cuts else None


def conv(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Turn the kernel of a convolution `[out, in, h, w]` into `[h, w, in, out]`."""
    turned = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    return turned if turned.shape == shape else None


def kernel(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Turn a kernel of a linear map or of a convolution, which may be 1x1 and ours be linear."""
    if value.ndim == len(shape) == 4:
        return conv(value, shape)
    return transpose(value.reshape(value.shape[:2]) if value.shape[2:] == (1, 1) else value, shape)


def part(index: int, count: int, then: Transform) -> Transform:
    """Make a transform that takes one of `count` equal parts of the first axis, then `then`."""

    def cut(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        if value.ndim == 0 or value.shape[0] % count:
            return None
        return then(np.split(value, count)[index], shape)

    return cut


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def below(key: str, path: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    """Put rows below a source key and below one of our paths; either may be empty."""
    return tuple(
        (f"{key}.{k}".strip("."), f"{path}/{p}".strip("/"), transform) for k, p, transform in rows
    )


def packed(weight: str = "weight", bias: str = "bias") -> tuple[Row, ...]:
    """Return the rows of a linear map that computes q, k and v at once."""
    return (
        *((weight, f"{name}/kernel", part(i, 3, transpose)) for i, name in enumerate("qkv")),
        *((bias, f"{name}/bias", part(i, 3, split)) for i, name in enumerate("qkv")),
    )


# A linear map, convolution or norm: those rows apply whose path the network has.
MODULE: tuple[Row, ...] = (
    ("weight", "kernel", kernel),
    ("weight", "scale", same),
    ("bias", "bias", split),
)
FORMS: dict[str, tuple[Row, ...]] = {
    "module": MODULE,
    "array": (("", "", same),),
    "vector": (("", "", split),),
    "kernel": (("", "", transpose),),
    "straight": (("", "", straight),),
}


def table(text: str, **tables: Iterable[Row]) -> tuple[Row, ...]:
    """Write a key table as lines of a source key, our path, and what stands there.

        class_embedding    patches/class_token    array
        attn.{q,k,v}_proj  {q,k,v}
        layers.*           blocks/*               block

    Braces spell one row for each of their words; "." is the path of the table itself.

    Args:
      text: the lines; the third word is a key of FORMS or of `tables`, or missing for a module.
      tables: what stands there, in rows of its own.
    """
    rows: list[Row] = []
    for key, path, *form in (line.split() for line in text.strip().splitlines()):
        inside = (FORMS | tables)[form[0] if form else "module"]
        for one, ours in zip(_spelled(key), _spelled(path.strip(".")), strict=True):
            rows += below(one, ours, inside)
    return tuple(rows)


def _spelled(word: str) -> list[str]:
    head, _, rest = word.partition("{")
    names, _, tail = rest.partition("}")
    return [f"{head}{name}{tail}" for name in names.split(",")]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its weights, functional: `nnx.merge(graphdef, state)` is the module.

    Attributes:
      graphdef: static structure. state: parameters and buffers on their devices.
      mesh: where they are.
    """

    graphdef: nnx.GraphDef
    state: nnx.State
    mesh: jax.sharding.Mesh


class Placing(TypedDict, total=False):
    """How a network is loaded, see `Layout.load`."""

    dtype: str
    mesh: jax.sharding.Mesh | None


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a published file fills one of our networks.

    Attributes:
      make: makes the module of (config, rngs=, dtype=); usually its class.
      table: rows (source key, our path, transform).
      ignored: regular expression of source keys that are skipped on purpose.
      keep_float32: regular expression of our paths that stay float32 whatever the dtype.
    """

    make: Callable[..., nnx.Module]
    table: Sequence[Row]
    ignored: str = ""
    keep_float32: str = ""

    def load(
        self,
        tensors: Mapping[str, Tensor],
        config: Any,
        *,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
    ) -> Network:
        """Build a network and fill all of its parameters and buffers.

        Args:
          tensors: what the file holds.
          config: sizes of the network, for `make`; called under `jax.eval_shape`, so nothing is
            initialised.
          dtype: of parameters and matrix products, "float32" or "bfloat16"; integers keep theirs.
          mesh: where the parameters go, laid out by their logical axes; None is the first device.

        Raises:
          ValueError: all at once: tensors without a parameter, two for one parameter, parameters
            without a tensor, wrong shapes; or an unknown dtype.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
        mesh = sharding.one_device_mesh() if mesh is None else mesh
        with sharding.use_mesh(mesh):
            abstract = nnx.eval_shape(
                lambda: self.make(config, rngs=nnx.Rngs(params=0), dtype=DTYPES[dtype])
            )
            graphdef, abstract = nnx.split(abstract)
            shardings = sharding.state_shardings(abstract, mesh)
        flat = [(path, leaf) for path, leaf in nnx.to_flat_state(abstract)]
        homes = {_path(path): leaf for path, leaf in nnx.to_flat_state(shardings)}
        shapes = {_path(path): tuple(leaf.get_raw_value().shape) for path, leaf in flat}
        arrays = {}
        for path, array in converted(tensors, self.table, shapes, self.ignored):
            kept = self.keep_float32 and re.fullmatch(self.keep_float32, path)
            kind = jnp.float32 if kept else DTYPES[dtype]
            kind = array.dtype if np.issubdtype(array.dtype, np.integer) else kind
            arrays[path] = jax.device_put(array.astype(kind), homes[path].get_raw_value())
        filled = [(path, leaf.replace(arrays[_path(path)])) for path, leaf in flat]
        return Network(graphdef, nnx.from_flat_state(filled), mesh)


def converted(
    tensors: Mapping[str, Tensor],
    table: Iterable[Row],
    shapes: Mapping[str, tuple[int, ...]],
    ignored: str = "",
) -> Iterator[tuple[str, np.ndarray]]:
    """Read tensor by tensor and give (our path, array); names are checked before the first read.

    Raises:
      ValueError: see `Layout.load`. Wrong shapes are found while reading and reported at the end.
    """
    rows = [(pattern(key), path, transform) for key, path, transform in table]
    plan: dict[str, list[tuple[str, Transform]]] = {}
    filled: dict[str, str] = {}
    errors = []
    for key in tensors:
        if ignored and re.fullmatch(ignored, key):
            continue
        plan[key] = [(p, t) for p, t in targets(key, rows) if p in shapes]
        if not plan[key]:
            errors.append(f"{key} {tensors[key].shape} has no place in the network")
        for path, _ in plan[key]:
            if path in filled:
                errors.append(f"{path} is given twice, by {filled[path]} and by {key}")
            filled[path] = key
    errors += [f"{path} {shapes[path]} is not given" for path in shapes if path not in filled]
    _report(errors, tensors)
    for key, filling in plan.items():
        value = tensors[key].read()
        for path, transform in filling:
            array = transform(value, shapes[path])
            if array is None or array.shape != shapes[path]:
                errors.append(f"{key} {value.shape} does not fit {path} {shapes[path]}")
            elif not errors:
                yield path, array
    _report(errors, tensors)


def pattern(key: str, word: str = "[^.]+") -> re.Pattern[str]:
    """Return the expression of a key in which each `*` stands for one `word`."""
    return re.compile(re.escape(key).replace(r"\*", f"({word})"))


def targets(key: str, rows: Iterable[tuple[re.Pattern[str], str, Any]]) -> Iterator[tuple]:
    """Give (path, transform) of the rows (pattern, path, transform) that a key matches."""
    for expression, path, transform in rows:
        if match := expression.fullmatch(key):
            for name in match.groups():
                path = path.replace("*", name, 1)
            yield path, transform


def _report(errors: list[str], tensors: Mapping[str, Tensor]) -> None:
    if errors:
        files = list(dict.fromkeys(tensor.file for tensor in tensors.values() if tensor.file))
        of = f" of {files[0]}" if files else ""
        remedy = "; give all files of this model, with its own config.json" if files else ""
        of += f" and {len(files) - 1} more" if len(files) > 1 else ""
        more = f"\n... and {len(errors) - REPORTED} more" if len(errors) > REPORTED else ""
        raise ValueError(
            f"The weights{of} do not fit the network{remedy}:\n"
            + "\n".join(errors[:REPORTED])
            + more
        )


def _path(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
