"""Multi-reward guidance.

    v = v+ + w (v+ - v-)               MIRO section 3; w = 0 is no guidance

v+ is the velocity under the positive targets, v- under the negative ones. In the paper both use
the same prompt; the release gives v- the empty prompt (`config.sample.negative`).
"""

import jax

Array = jax.Array


def guide(v_pos: Array, v_neg: Array, scale: Array) -> Array:
    """Push the velocity away from the negative branch.

    Args:
      v_pos, v_neg: [B, ...] velocities.
      scale: scalar or [B], 0 means no guidance.

    Returns:
      [B, ...] guided velocity.
    """
    if getattr(scale, "ndim", 0) == 1:
        scale = scale.reshape((-1,) + (1,) * (v_pos.ndim - 1))
    return v_pos + scale * (v_pos - v_neg)
