"""One step of flow matching conditioned on captions and reward levels.

Draw t and noise, run the network once without gradient for its latent tokens, run it again with
them (zeroed for some samples), weigh the squared error of the velocity by the learned log-variance,
clip, LAMB, EMA (the paper's section 3). The condition is encoded once for both runs: it depends on
neither.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from miro_jax.models import flow
from miro_jax.models.rin import RIN
from miro_jax.models.sharding import constrain
from miro_jax.train.optim import global_norm
from miro_jax.train.settings import Recipe
from miro_jax.train.state import TrainState, update_ema

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss in two parts, so that microbatches see what the whole batch has drawn.

    Attributes:
      draw: (batch, key) -> a dict of arrays [B, ...] and `total`, the sum of their weights.
      of_drawn: (params, buffers, drawn) -> (scalar, metrics); of some rows their part of the loss.
    """

    draw: Callable[..., dict[str, Array]]
    of_drawn: Callable[..., tuple[Array, dict[str, Array]]]

    def __call__(self, params, buffers, batch, key) -> tuple[Array, dict[str, Array]]:
        """Return the loss of a batch, and its metrics."""
        return self.of_drawn(params, buffers, self.draw(batch, key))


def make_loss(
    graphdef: nnx.GraphDef,
    recipe: Recipe,
    normalize: Callable[[Array], Array],
    empty_tokens: np.ndarray | Array,
) -> Loss:
    """Return `loss(params, buffers, batch, key) -> (scalar, metrics)`.

    Args:
      graphdef: structure of the network.
      recipe: numbers of the loss.
      normalize: image latents as stored -> as the network sees them.
      empty_tokens: [n, E] caption tokens of "", put in place of dropped captions.
    """

    def draw(batch, key):
        keys = dict(zip(KEY_NAMES, jax.random.split(key, len(KEY_NAMES)), strict=True))
        mean, std = (batch[k].astype(jnp.float32) for k in ("image_mean", "image_std"))
        x = normalize(mean + std * jax.random.normal(keys["latents"], mean.shape))
        t = flow.sample_time(keys["time"], x.shape[0], recipe.time_mean, recipe.time_std)
        noise = jax.random.normal(keys["noise"], x.shape)
        keep = jax.random.bernoulli(keys["self"], recipe.self_condition_rate, t.shape)

        tokens, mask = _drop_captions(keys["captions"], batch, empty_tokens, recipe.caption_dropout)
        drop = jax.random.bernoulli(keys["rewards"], recipe.reward_dropout, batch["levels"].shape)
        drawn = {"x": x, "noise": noise, "t": t, "keep": keep, "caption_tokens": tokens}
        drawn |= {"caption_mask": mask, "levels": jnp.where(drop, jnp.nan, batch["levels"])}
        weight = batch["weight"]
        return drawn | {"weight": weight, "total": jnp.maximum(jnp.sum(weight), 1.0)}

    def of_drawn(params, buffers, drawn):
        model = nnx.merge(graphdef, params, buffers)
        error, log_variance = velocity_error(model, *(drawn[name] for name in INPUTS))
        weight, total = drawn["weight"], drawn["total"]
        value = jnp.sum(weight * flow.weigh_by_log_variance(error, log_variance)) / total
        return value, {
            "loss": value,
            "mse": jnp.sum(weight * error) / total,
            "log_variance": jnp.mean(log_variance),
            "damaged_records": jnp.sum(weight == 0),
        }

    return Loss(draw, of_drawn)


def velocity_error(
    model: RIN,
    x: Array,
    noise: Array,
    t: Array,
    keep: Array,
    caption_tokens: Array,
    caption_mask: Array,
    levels: Array,
) -> tuple[Array, Array]:
    """Run the network at x_t, twice where it conditions itself, and compare its velocity with the
    target; nothing is drawn here.

    Args:
      model: the network.
      x, noise: [B, H, W, C] float32. t: [B] float32 in [0, 1].
      keep: [B] bool, which samples see their own latent tokens of the first run (zeros otherwise).
      caption_tokens, caption_mask, levels: see `RIN.encode_condition`.

    Returns:
      error [B] float32, mean squared error of the velocity; log_variance [B] float32.
    """
    x_t = flow.interpolate(x, noise, t)
    condition, mask = model.encode_condition(caption_tokens, caption_mask, levels)
    z = None
    if model.config.self_condition:
        _, z = model(x_t, t, jax.lax.stop_gradient(condition), mask)
        z = jax.lax.stop_gradient(z * keep[:, None, None])
    velocity_pred, _ = model(x_t, t, condition, mask, z)
    return flow.squared_error(velocity_pred, flow.velocity_target(x, noise)), model.logvar(t)


INPUTS = ("x", "noise", "t", "keep", "caption_tokens", "caption_mask", "levels")
KEY_NAMES = ("latents", "time", "noise", "self", "rewards", "captions")


def _drop_captions(
    key: Array, batch: dict[str, Array], empty_tokens: np.ndarray | Array, share: float
) -> tuple[Array, Array]:
    """Put the empty caption in place of a share of captions: tokens [B, L, E], mask [B, L]."""
    tokens, mask = batch["caption_tokens"], batch["caption_mask"]
    if share == 0:
        return tokens, mask
    drop = jax.random.bernoulli(key, share, (tokens.shape[0],))
    tokens, mask, empty, empty_mask = pad_together(tokens, mask, empty_tokens)
    tokens = jnp.where(drop[:, None, None], empty[None], tokens)
    return tokens, jnp.where(drop[:, None], empty_mask[None], mask)


def pad_together(
    tokens: Array, mask: Array, text: np.ndarray | Array
) -> tuple[Array, Array, Array, Array]:
    """Pad captions and a text, which may be longer than their bucket, to the longer of both.

    Args:
      tokens: [B, L, E]. mask: [B, L] bool. text: [n, E].

    Returns:
      tokens, mask, the text [max(L, n), E] in the dtype of the tokens, and its mask [max(L, n)].
    """
    more, count = max(0, len(text) - tokens.shape[1]), len(text)
    if more:
        tokens = jnp.pad(tokens, ((0, 0), (0, more), (0, 0)))
        mask = jnp.pad(mask, ((0, 0), (0, more)))
    padded = jnp.zeros(tokens.shape[1:], tokens.dtype)
    padded = padded.at[:count].set(text.astype(tokens.dtype))
    return tokens, mask, padded, jnp.arange(tokens.shape[1]) < count


def make_train_step(
    loss: Callable[..., tuple[Array, dict[str, Array]]] | Loss,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    recipe: Recipe,
    seed: int,
    microbatches: int = 1,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, dict[str, Any]]]:
    """Return the pure `train_step(state, batch) -> (state, metrics)`.

    Metrics are float32 scalars of the batch that the step consumed. See `make_gradient`, too.
    """
    gradient = make_gradient(loss, seed, microbatches)

    def train_step(state: TrainState, batch: dict[str, Array]):
        grads, metrics = gradient(state, batch)
        new_state, more = apply_gradient(state, grads, optimizer, schedule, recipe.ema_decay)
        return new_state, metrics | more

    return train_step


def make_gradient(
    loss: Callable[..., tuple[Array, dict[str, Array]]] | Loss, seed: int, microbatches: int = 1
) -> Callable[[TrainState, dict[str, Array]], tuple[Any, dict[str, Array]]]:
    """Return the pure `gradient(state, batch) -> (of the parameters, metrics)` of a step.

    The key of a step is `fold_in(key(seed), step)`, so a resumed run draws what an uninterrupted
    one would. With several microbatches, of which one after the other is in memory, `loss` is a
    `Loss`; the gradient is that of the whole batch, up to the order of sums.
    """

    def gradient(state: TrainState, batch: dict[str, Array]):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if microbatches == 1:
            return jax.grad(loss, has_aux=True)(state.params, state.buffers, batch, key)
        assert isinstance(loss, Loss)
        drawn = loss.draw(batch, key)
        return _accumulate(loss, state.params, state.buffers, drawn, microbatches)

    return gradient


def _accumulate(loss: Loss, params: Any, buffers: Any, drawn: dict[str, Array], count: int):
    """Sum the gradients, and the metrics, of every `count`-th row and the rows after it."""
    total = drawn.pop("total")

    def cut(x: Array) -> Array:  # so that each device keeps its rows
        rows = len(x) // count  # not -1: of a network without rewards, levels are [B, 0]
        x = jnp.moveaxis(x.reshape(rows, count, *x.shape[1:]), 1, 0)
        return constrain(x, None, "batch")

    def add(sums, rows):
        parts = jax.grad(loss.of_drawn, has_aux=True)(params, buffers, rows | {"total": total})
        return jax.tree.map(jnp.add, sums, parts), None

    pieces = jax.tree.map(cut, drawn)
    first = jax.tree.map(lambda x: x[0], pieces) | {"total": total}
    shapes = jax.eval_shape(jax.grad(loss.of_drawn, has_aux=True), params, buffers, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (grads, metrics), _ = jax.lax.scan(add, zeros, pieces)
    return grads, metrics | {"log_variance": metrics["log_variance"] / count}


def apply_gradient(
    state: TrainState,
    grads: Any,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    ema_decay: float,
) -> tuple[TrainState, dict[str, Array]]:
    """Return the state after one update, and the norms and the rate of that update."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "grad_norm": global_norm(grads),
        "update_norm": global_norm(updates),
        "param_norm": global_norm(params),
        "learning_rate": schedule(state.step),
    }
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        ema_params=update_ema(state.ema_params, params, ema_decay),
        buffers=state.buffers,
        opt_state=opt_state,
    )
    return new_state, metrics
