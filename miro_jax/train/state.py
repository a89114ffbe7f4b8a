"""The training state: what a checkpoint holds, how it is made and laid out over a mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from miro_jax.models import sharding
from miro_jax.models.draws import Draws, build_at_once
from miro_jax.models.layers import Buffer

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that changes in training, and the fixed Fourier buffers that belong to the
    weights.

    Attributes:
      step: int32 scalar, updates done.
      params: nnx.State of nnx.Param, float32.
      ema_params: the same tree, exponential moving average; used for sampling.
      buffers: nnx.State of Buffer, float32, never trained.
      opt_state: optax state.
    """

    step: Array
    params: Any
    ema_params: Any
    buffers: Any
    opt_state: Any


class Init:
    """How a run begins: `init(key) -> TrainState`, a pure function for `jax.jit`.

    Building a network takes seconds of Python where it is large: it is built here, without a single
    array, and once more where `init` is traced.

    Args:
      build_model: makes the network, which draws by `models.draws.draw` alone.

    Attributes:
      graphdef: the static structure of the network. shapes: the state, of jax.ShapeDtypeStruct.
    """

    def __init__(
        self,
        build_model: Callable[[Any], nnx.Module],
        optimizer: optax.GradientTransformation,
    ):
        def outline() -> TrainState:
            graphdef, params, buffers = nnx.split(build_model(listed), nnx.Param, Buffer)
            graphs.append(graphdef)
            return self._state(params, buffers)

        self._build, self._optimizer = build_model, optimizer
        listed, graphs = Draws(), []
        self.shapes: TrainState = jax.eval_shape(outline)
        self.graphdef: nnx.GraphDef = graphs[0]
        self._wanted = tuple(listed.wanted)

    def __call__(self, key: Array) -> TrainState:
        network = build_at_once(self._build, key, self._wanted)
        return self._state(*nnx.split(network, nnx.Param, Buffer)[1:])

    def _state(self, params: Any, buffers: Any) -> TrainState:
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema_params=jax.tree.map(jnp.copy, params),
            buffers=buffers,
            opt_state=self._optimizer.init(params),
        )


def abstract_state(init: Init, mesh: jax.sharding.Mesh) -> tuple[TrainState, TrainState]:
    """Return the state's shapes with their shardings on `mesh`, and the shardings alone."""
    shardings = sharding.state_shardings(init.shapes, mesh)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), init.shapes, shardings
    )
    return abstract, shardings


def check_structure(state: TrainState, abstract: TrainState) -> TrainState:
    """Return a state whose leaves, in their order, are those that a program takes.

    Raises:
      ValueError: it is another tree than `abstract`.
    """
    if jax.tree.structure(state) != jax.tree.structure(abstract):
        names = [
            {leaf_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]}
            for tree in (state, abstract)
        ]
        differ = sorted(names[0] ^ names[1])
        raise ValueError(
            "The state must be the tree that the step was compiled for; they differ in "
            f"{', '.join(differ[:3]) or 'what stands beside the arrays'}."
        )
    return state


def over_leaves(step: Callable, structure: Any) -> Callable:
    """Return a `step(state, ...) -> (state, metrics)` as one of lists of the state's leaves.

    JAX takes the arguments of a call apart and puts its results together. A state of `nnx.Variable`
    costs that milliseconds of Python, in which a step of a small network may have ended on a GPU.

    Args:
      step: a pure function. structure: of the state, from `jax.tree.structure`.
    """

    @functools.wraps(step)
    def of_leaves(leaves: list[Array], *arguments: Any) -> tuple[list[Array], Any]:
        state, metrics = step(jax.tree.unflatten(structure, leaves), *arguments)
        return jax.tree.leaves(state), metrics

    return of_leaves


def update_ema(ema_params: Any, params: Any, decay: float | Array) -> Any:
    """Return `decay * ema + (1 - decay) * params`, leaf by leaf."""
    share = 1.0 - decay  # here, in Python's precision

    @jax.jit  # traced once for all leaves of a shape
    def move(ema: Array, param: Array, share: float | Array) -> Array:
        return ema + share * (param - ema)

    return jax.tree.map(lambda e, p: move(e, p, share), ema_params, params)


def leaf_name(path: tuple) -> str:
    """Return the keys that lead to a leaf, joined by "/": `blocks/0/norm/scale`.

    Args:
      path: as given by `jax.tree_util.tree_flatten_with_path`. An nnx.Variable adds the attribute
        `value` at its end, which is dropped.
    """
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")
