"""Train several runs of one network in one program.

A reward that a run is not conditioned on is missing, which is a zero vector: so the baseline, the
specialists and MIRO have the same shapes, and `vmap` trains them side by side. All records lie on
the device, and a step draws its batch there: nothing is done on the host between two measurements.
The step itself is that of the train stage, `train.step`.

Letters: N records, S runs, B batch, L caption tokens, E their width, R rewards.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miro_jax.evaluate.study.settings import Run
from miro_jax.models import compiling
from miro_jax.train.components import Components
from miro_jax.train.settings import Training
from miro_jax.train.state import TrainState, leaf_name
from miro_jax.train.step import make_loss, make_train_step

_ORDER = 0x0DE2  # tells the key of the records' order from those of the steps


def stack_runs(runs: Sequence[Run]) -> dict[str, jax.Array]:
    """Return what training needs of the runs, a row each."""
    return {
        "rewards": jnp.asarray(np.stack([run.rewards for run in runs])),
        "synthetic": jnp.asarray([run.synthetic for run in runs], jnp.float32),
        "seed": jnp.asarray([run.seed for run in runs], jnp.uint32),
    }


def start(parts: Components, runs: Sequence[Run]) -> TrainState:
    """Return the first states of the runs, a row each: those of the train stage for their seeds."""
    init = jax.jit(lambda seeds: jax.vmap(lambda seed: parts.init(jax.random.key(seed)))(seeds))
    return init(jnp.asarray([run.seed for run in runs], jnp.uint32))


def make_chunk(parts: Components, training: Training) -> Callable[..., tuple[TrainState, Any]]:
    """Return the jitted `chunk(states, runs, examples, steps) -> (states, loss of each run)`.

    Args:
      parts: of a run conditioned on all rewards.
      training: `config.train`.

    Returns:
      A function of states [S, ...], which it consumes, runs of `stack_runs`, examples of
      `load_examples`, and how many updates to do (traced: no number compiles anew).
    """
    empty_tokens = parts.caption_encoder.encode([""])[0]
    loss = make_loss(parts.graphdef, training, parts.image_encoder.normalize, empty_tokens)

    def one(state, run, examples, steps):
        step_fn = make_train_step(loss, parts.optimizer, parts.schedule, training, run["seed"])
        key = jax.random.fold_in(jax.random.key(run["seed"]), _ORDER)

        def update(_, carry):
            state, _ = carry
            batch = draw_batch(
                jax.random.fold_in(key, state.step), run, examples, training.batch_size
            )
            state, metrics = step_fn(state, batch)
            return state, metrics["loss"]

        return jax.lax.fori_loop(0, steps, update, (state, jnp.zeros(())))

    def chunk(states, runs, examples, steps):
        if runs["seed"].shape[0] > 1:
            return jax.vmap(one, in_axes=(0, 0, None, None))(states, runs, examples, steps)
        # One run needs no batched products, which are slow on a CPU.
        alone = jax.tree.map(lambda leaf: leaf[0], (states, runs))
        return jax.tree.map(lambda leaf: leaf[None], one(*alone, examples, steps))

    return jax.jit(chunk, donate_argnums=0, compiler_options=compiling.options())


def draw_batch(
    key: jax.Array, run: Mapping[str, jax.Array], examples: Mapping[str, jax.Array], size: int
) -> dict[str, jax.Array]:
    """Draw a batch, with replacement, as `data.records.batches` gives one.

    Args:
      run: a row of `stack_runs`. examples: of `load_examples`. size: B.
    """
    which, caption = jax.random.split(key)
    index = jax.random.randint(which, (size,), 0, len(examples["image_mean"]))
    synthetic = jax.random.bernoulli(caption, run["synthetic"], (size,)).astype(jnp.int32)
    batch = {name: examples[name][index] for name in ("image_mean", "image_std")}
    batch |= {n: examples[n][synthetic, index] for n in ("caption_tokens", "caption_mask")}
    levels = examples["levels"][synthetic, index]
    batch["levels"] = jnp.where(run["rewards"], levels, jnp.nan)
    return batch | {"weight": examples["weight"][index]}


def load_examples(own: Mapping[str, np.ndarray], synthetic: Mapping[str, np.ndarray]) -> dict:
    """Put all records on the device.

    Args:
      own, synthetic: of `data.records.batches.load_all`, with either caption.

    Returns:
      image_mean, image_std [N, h, w, c], weight [N]; and with a first axis for the own and the
      synthetic caption caption_tokens [2, N, L, E], caption_mask [2, N, L], levels [2, N, R].
    """
    shared = {name: own[name] for name in ("image_mean", "image_std", "weight")}
    both = ("caption_tokens", "caption_mask", "levels")
    return jax.device_put(shared | {name: np.stack([own[name], synthetic[name]]) for name in both})


@jax.jit
def take(states: Any, row: int) -> Any:
    """Return the state of one run, or a part of it."""
    return jax.tree.map(lambda leaf: leaf[row], states)


def to_arrays(states: TrainState) -> dict[str, np.ndarray]:
    """Return all leaves by name, for `data.safetensors.pack`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(states)
    return {leaf_name(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(abstract: Any, arrays: Mapping[str, np.ndarray]) -> TrainState:
    """Undo `to_arrays`.

    Args:
      abstract: states of the right shapes.

    Raises:
      ValueError: the arrays are those of other states.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
    wanted = {leaf_name(path): (leaf.shape, np.dtype(leaf.dtype)) for path, leaf in leaves}
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if found != wanted:
        wrong = sorted(
            name for name in wanted.keys() | found if found.get(name) != wanted.get(name)
        )
        raise ValueError(f"its {len(wrong)} arrays from {wrong[0]} on are those of another network")
    return jax.tree.unflatten(tree, [jnp.asarray(arrays[name]) for name in wanted])
