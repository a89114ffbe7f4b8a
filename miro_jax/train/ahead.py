"""The training step, compiled in a thread before there is anything to train on.

XLA needs shapes, types and shardings, which the config gives. So on accelerators it works while
records are annotated or opened, weights are loaded, and a state is made or restored. Python traces
the step first, in the thread of the caller: what runs beside the rest holds no lock of Python.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax
import numpy as np

from miro_jax.cli.build import Config
from miro_jax.cli.exit import COMPILER
from miro_jax.models import compiling, sharding
from miro_jax.train import components
from miro_jax.train.agreement import longest
from miro_jax.train.settings import Training
from miro_jax.train.state import TrainState, over_leaves
from miro_jax.train.step import make_loss, make_train_step

Array = jax.Array


class Ahead:
    """A jitted function of which one program is compiled ahead; others are compiled on demand.

    Args:
      function: from `jax.jit`.
      shapes: jax.ShapeDtypeStruct of its arguments in a call that is to come, with shardings.

    Attributes:
      seconds: that tracing and the compiler took, once the program is there.
    """

    def __init__(self, function: Any, *shapes: Any):
        begin = time.perf_counter()
        self._function, self._types, self.seconds = function, _types(shapes), 0.0
        self._program: futures.Future = futures.Future()
        work = function.lower(*shapes).compile, begin
        # Not a daemon: Python must not end while XLA compiles, see `cli.exit.leave`.
        threading.Thread(target=self._compile, args=work, name=COMPILER).start()

    def _compile(self, compile_it: Callable[[], Any], begin: float) -> None:
        try:
            program = compile_it()
        except BaseException as error:  # raised where the program is called
            self._program.set_exception(error)
        else:
            self.seconds = time.perf_counter() - begin
            self._program.set_result(program)

    def is_ready(self, seconds: float) -> bool:
        """Return whether the compiler has ended, after so many seconds at the most."""
        with contextlib.suppress(futures.TimeoutError):
            self._program.exception(seconds)
        return self._program.done()

    def __call__(self, *arguments: Any) -> Any:
        """Call the function; raises what its compilation raised."""
        is_ahead = _types(arguments) == self._types
        return (self._program.result() if is_ahead else self._function)(*arguments)


def _types(arguments: tuple) -> list:
    """Return what differs between calls; the first argument, leaves of a state, stays."""
    return [(x.shape, x.dtype) for x in jax.tree.leaves(arguments[1:])]


@dataclasses.dataclass(frozen=True)
class Begun:
    """What a run begins with.

    Attributes:
      parts: of the run.
      step: (leaves of the state, batch, tokens of "") -> (leaves, metrics), the state is donated.
        None where the step is not that of training, or is compiled later.
    """

    parts: components.Components
    step: Ahead | None


def begin(config: Config, is_training: bool = True) -> Begun:
    """Build the parts of a run, and begin to compile its step where `is_early`."""
    parts = components.build_components(config)
    if not is_training or not is_early(config):
        return Begun(parts, None)
    return Begun(parts, compile_step(config, parts, config.encoder.caption.max_tokens))


def step_of(config: Config, begun: Begun, data: Any, first: int) -> Any:
    """Return the step of a run that is at step `first`, compiled; perhaps None where none is left.

    Args:
      data: the iterator of batches, at its position.
    """
    if begun.step is not None or first >= config.train.num_steps:
        return begun.step
    buckets, length = config.data.caption_buckets, config.encoder.caption.max_tokens
    return compile_step(config, begun.parts, longest(data.caption_length) if buckets else length)


def is_early(config: Config) -> bool:
    """Whether the step is compiled before the records are open, and else when the state is there.

    Where captions are padded to buckets, the first ones decide on the program. On a CPU two
    programs at once take as long as one after the other, see docs/benchmarks.md.
    """
    return not config.data.caption_buckets and jax.default_backend() != "cpu"


def compile_step(config: Config, parts: components.Components, length: int) -> Ahead:
    """Return the step of a run, whose program for captions of a length is compiled ahead."""
    recipe, optimizer, schedule = Training(**config.train), parts.optimizer, parts.schedule
    normalize, whole = parts.image_encoder.normalize, sharding.replicated(parts.mesh)

    def train_step(state: TrainState, batch: dict[str, Array], empty_tokens: Array):
        loss = make_loss(parts.graphdef, recipe, normalize, empty_tokens)
        step = make_train_step(loss, optimizer, schedule, recipe, config.seed, recipe.microbatches)
        return step(state, batch)

    jitted = jax.jit(
        over_leaves(train_step, jax.tree.structure(parts.abstract)),
        donate_argnums=0,
        out_shardings=(jax.tree.leaves(parts.shardings), whole),
        compiler_options=compiling.options(),
    )
    encoder = parts.caption_encoder
    count = min(encoder.count_tokens([""])[0], encoder.max_tokens)
    empty = jax.ShapeDtypeStruct((count, encoder.width), np.float16, sharding=whole)
    with sharding.use_mesh(parts.mesh):
        leaves = jax.tree.leaves(parts.abstract)
        return Ahead(jitted, leaves, _batch_shapes(config, parts, length), empty)


def _batch_shapes(config: Config, parts: components.Components, length: int) -> dict[str, Any]:
    """Return the shapes of a global batch, see `data.records.batches.DataIterator`."""
    latents, width = parts.image_encoder.latent_shape, parts.caption_encoder.width
    shapes = {
        "image_mean": (latents, np.float16),
        "image_std": (latents, np.float16),
        "caption_tokens": ((length, width), np.float16),
        "caption_mask": ((length,), np.bool_),
        "levels": ((len(parts.reward_names),), np.float32),
        "weight": ((), np.float32),
    }
    layout, rows = sharding.batch_sharding(parts.mesh), config.train.batch_size
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=layout)
        for name, (shape, dtype) in shapes.items()
    }


def put_empty_tokens(parts: components.Components) -> Array:
    """Encode "", and put its tokens on every device."""
    tokens = np.asarray(parts.caption_encoder.encode([""])[0])
    whole = sharding.replicated(parts.mesh)
    return jax.make_array_from_callback(tokens.shape, whole, tokens.__getitem__)
