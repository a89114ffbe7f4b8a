"""Grids, strips and frames as arrays: the verbs as calls from Python."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.sample.animation import draw_frames
from miro_jax.sample.draw import draw_all, draw_grid
from miro_jax.sample.usual import request_of
from miro_jax.sample.verbs import Isolate, Loop, Sweep, Tradeoff


def isolation_grid(
    pipe: Any,
    prompts: str | Sequence[str],
    rewards: Sequence[str] | None = None,
    *,
    negative_prompt: str = "same",
    **request: Any,
) -> np.ndarray:
    """Draw what guidance by each reward alone does.

    Args:
      pipe: a `MiroPipeline`.
      prompts: rows. rewards: columns; None is all.
      negative_prompt: "same" (the paper's formula), "empty" or a text.
      **request: `num_images` of a cell, `seed`, `targets`, `negative_targets`, `guidance_scale`,
        `guidance_interval`, `guidance_rule`, `guidance_schedule`, `num_steps`, `solver`, with the
        defaults of `MiroPipeline.__call__`.

    Returns:
      [height, width, 3] uint8, labelled.

    Raises:
      TypeError: a prompt or a name of another kind, or an unknown argument.
      ValueError: an unknown reward or solver, a level outside of [0, 1].
    """
    return _grid(pipe, prompts, Isolate(rewards), request | {"negative_prompt": negative_prompt})


def tradeoff_strip(
    pipe: Any,
    prompts: str | Sequence[str],
    a: str,
    b: str,
    levels: int = Tradeoff.levels,
    *,
    negative_prompt: str = "same",
    **request: Any,
) -> np.ndarray:
    """Draw the strip from one reward to another.

    Args:
      pipe: a `MiroPipeline`.
      prompts: rows. a, b: rewards. levels: columns, values of u from 0 to 1.
      negative_prompt, request, result, errors: see `isolation_grid`.
    """
    verb = Tradeoff(a, b, levels)
    return _grid(pipe, prompts, verb, request | {"negative_prompt": negative_prompt})


def sweep_strip(
    pipe: Any, prompts: str | Sequence[str], reward: str, levels: int = Sweep.levels, **request: Any
) -> np.ndarray:
    """Draw prompts with one reward requested at rising levels.

    Args:
      pipe: a `MiroPipeline`.
      prompts: rows. reward: whose target rises. levels: columns, from 0 to 1.
      request, result, errors: see `isolation_grid`; `targets` are those of the other rewards.
    """
    return _grid(pipe, prompts, Sweep(reward, levels), request)


def _grid(pipe: Any, prompts: Any, verb: Any, request: dict[str, Any]) -> np.ndarray:
    own = verb.negative_prompt is not None  # the verb defines the negative branch
    sheet = verb.sheet(request_of(pipe, prompts, negative=not own, **request))
    return draw_grid(sheet, draw_all(pipe, sheet.on_grid))


def reward_loop(
    pipe: Any,
    prompts: str | Sequence[str],
    rewards: Sequence[str] | None = None,
    frames: int = Loop.frames,
    **request: Any,
) -> list[np.ndarray]:
    """Draw the frames of a closed walk through reward space; `save_animation` makes a file of them.

    Args:
      pipe: a `MiroPipeline`.
      prompts: side by side in every frame. rewards: those that take turns; None is all.
      frames: of one round.
      **request: see `isolation_grid`; `targets` are those of the other rewards.

    Returns:
      One [height, width, 3] uint8 for each frame, labelled with the levels.

    Raises:
      ValueError: an unknown reward or solver, a level outside of [0, 1].
    """
    made = request_of(pipe, prompts, **request)
    verb = Loop(rewards, frames)
    sheet = verb.sheet(made)
    return draw_frames(sheet, draw_all(pipe, sheet.images), verb.varied(made))
