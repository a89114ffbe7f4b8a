"""Multi-reward guidance, and three changes of it that the field reports to help.

    v = v+ + w (v+ - v-)               MIRO section 3; w = 0 is no guidance
    v = v+ + w (v+ - s v-)             CFG-Zero*, s the projection of v+ on v-
    D = D+ + w (D_orth + eta D_par)    APG, of predictions of the clean image D = x_t - t v

v+ is the velocity under the positive targets, v- under the negative ones. In the paper both use
the same prompt; the release gives v- the empty prompt (`config.sample.negative`). w may act at
some times only (`Guidance.interval`, arXiv 2404.07724), and may fall towards the noise.
"""

from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def _per_sample(number: Any, x: Array) -> Any:
    """Bring [B] numbers to the rank of x; one number stays."""
    if getattr(number, "ndim", 0) == 1:
        return number.reshape((-1,) + (1,) * (x.ndim - 1))
    return number


def _dot(a: Array, b: Array) -> Array:
    """Inner product of each sample, [B, 1, ...]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def guide(v_pos: Array, v_neg: Array, scale: Array) -> Array:
    """Push the velocity away from the negative branch: v+ + w (v+ - v-).

    Source: multi-reward guidance, MIRO (arXiv 2510.25897), section 3.

    Args:
      v_pos, v_neg: [B, ...] velocities.
      scale: scalar or [B], 0 means no guidance.

    Returns:
      [B, ...] guided velocity.
    """
    return v_pos + _per_sample(scale, v_pos) * (v_pos - v_neg)


def linear_schedule(scale: Array, t: Array) -> Array:
    """Return the scale at time t: 2 w (1 - t), nothing at the noise, whose mean over t is w.

    Source: "Analysis of classifier-free guidance weight schedulers", arXiv 2404.13040, section 4.
    """
    return 2.0 * scale * (1.0 - t)


def guide_cfg_zero(v_pos: Array, v_neg: Array, scale: Array, t: Array, zero: Array) -> Array:
    """Guide against the negative velocity times the scale that fits it to the positive one.

    CFG-Zero* (arXiv 2503.18886): s = <v+, v-> / |v-|^2 (Eq. 9), and no movement at first, where a
    flow is worse than none.

    Args:
      v_pos, v_neg, scale: see `guide`.
      t: scalar, 1 is noise. zero: share of the time, from the noise on, in which the velocity is 0.
    """
    fit = _dot(v_pos, v_neg) / jnp.maximum(_dot(v_neg, v_neg), 1e-12)
    return jnp.where(t > 1.0 - zero, 0.0, guide(v_pos, fit * v_neg, scale))


def guide_apg(
    v_pos: Array, v_neg: Array, scale: Array, x: Array, t: Array, average: Array, apg: Array
) -> tuple[Array, Array]:
    """Guide the prediction of the clean image, mostly at right angles to it: less saturation.

    Adaptive projected guidance (arXiv 2410.02416, algorithm 1).

    Args:
      v_pos, v_neg, scale: see `guide`. x: [B, ...] x_t. t: scalar in (0, 1].
      average: [B, ...] of the evaluation before, zeros at first.
      apg: [3], eta (share of the parallel part), the largest norm of the change (0 is no limit),
        momentum (negative pushes away from past changes). (1, 0, 0) is `guide`.

    Returns:
      (guided velocity [B, ...], the average for the next evaluation).
    """
    eta, limit, momentum = apg
    average = -t * (v_pos - v_neg) + momentum * average
    norm = jnp.sqrt(jnp.maximum(_dot(average, average), 1e-12))
    change = average * jnp.where(limit > 0, jnp.minimum(1.0, limit / norm), 1.0)
    clean = x - t * v_pos
    parallel = clean * (_dot(change, clean) / jnp.maximum(_dot(clean, clean), 1e-12))
    change = change - parallel + eta * parallel
    return v_pos - _per_sample(scale, x) * change / t, average
