"""Parameters by path, gradients of them, and updates of an optimizer one after the other."""

import jax
import numpy as np
import optax
from flax import traverse_util

SHAPES = {
    "patch/kernel": (4, 6),
    "patch/bias": (6,),
    "norm/scale": (6,),
    "norm/bias": (6,),
    "positions/table": (5, 6),
    "attention_scale/layer_scale": (6,),
    "zero/kernel": (6, 3),
    "still/kernel": (3, 2),
    "logvar/kernel": (8, 1),
    "logvar/bias": (1,),
}
PLAIN = {"patch/bias", "norm/scale", "norm/bias"}
ADAPTED = set(SHAPES) - PLAIN


def make_params() -> dict[str, np.ndarray]:
    """Random parameters; `zero` starts at zero and `still` is zero and gets no gradient."""
    rng = np.random.default_rng(0)
    made = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    return made | {k: np.zeros(SHAPES[k], np.float32) for k in ("zero/kernel", "still/kernel")}


def make_gradients() -> list[dict[str, np.ndarray]]:
    """Twenty gradients over four orders of magnitude."""
    rng = np.random.default_rng(1)
    steps = []
    for _ in range(20):
        size = 10.0 ** rng.uniform(-3, 1)
        step = {k: (size * rng.normal(size=s)).astype(np.float32) for k, s in SHAPES.items()}
        steps.append(step | {"still/kernel": np.zeros(SHAPES["still/kernel"], np.float32)})
    return steps


def nest(flat):
    return traverse_util.unflatten_dict(flat, sep="/")


def flatten(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def run(optimizer, params, gradients):
    """Apply the optimizer to a tree under jit, once for each gradient; return the final tree."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params
