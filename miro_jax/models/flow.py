"""Flow matching on straight paths, written once.

    x_t = (1 - t) x + t noise          t = 0 is data, t = 1 is noise
    d x_t / dt = noise - x             the velocity the network predicts
    t = sigmoid(m + s n), n ~ N(0, 1)  logit-normal training times
    loss = mse / exp(u) + u            u = learned log-variance at t

Sources: flow matching (arXiv 2210.02747), logit-normal times (arXiv 2403.03206, section 3.1), the
learned log-variance (arXiv 2312.02696, Eq. 16), the MIRO recipe (arXiv 2510.25897, section 3).
"""

import jax
import jax.numpy as jnp

Array = jax.Array
MIN_TIME = 0.05  # below it an image is turned into a velocity as at it


def _per_sample(t: Array, x: Array) -> Array:
    return t.reshape((-1,) + (1,) * (x.ndim - 1))


def interpolate(x: Array, noise: Array, t: Array) -> Array:
    """Return x_t for clean x `[B, ...]`, noise `[B, ...]` and times t `[B]` in [0, 1]."""
    t = _per_sample(t, x)
    return (1.0 - t) * x + t * noise


def velocity_target(x: Array, noise: Array) -> Array:
    """Return the velocity `noise - x`, `[B, ...]`; it does not depend on t."""
    return noise - x


def velocity_to(image: Array, x_t: Array, t: Array) -> Array:
    """Return the velocity `[B, ...]` that leads from an image to x_t: (x_t - image) / t.

    A network that predicts the image leaves the noise, which no bottleneck can carry, to x_t
    ("Back to basics: let denoising generative models denoise", arXiv 2511.13720). t is taken as
    MIN_TIME where it is less, so that the last steps are no division by almost nothing.

    Args:
      image: [B, ...] predicted, float32. x_t: [B, ...] noisy. t: [B] in [0, 1].
    """
    return (x_t - image) / _per_sample(jnp.maximum(t, MIN_TIME), x_t)


def sample_time(key: Array, batch: int, mean: float, std: float) -> Array:
    """Draw training times `[batch]` float32 in (0, 1), logit-normal(mean, std)."""
    return jax.nn.sigmoid(mean + std * jax.random.normal(key, (batch,)))


def squared_error(velocity_pred: Array, target: Array) -> Array:
    """Mean squared error of each sample, `[B]` float32."""
    error = jnp.square(velocity_pred.astype(jnp.float32) - target.astype(jnp.float32))
    return jnp.mean(error, axis=tuple(range(1, error.ndim)))


def weigh_by_log_variance(error: Array, log_variance: Array) -> Array:
    """Return `error / exp(u) + u` per sample, `[B]`; least where exp(u) equals the error."""
    return error * jnp.exp(-log_variance) + log_variance
