"""`loop`: a closed walk through reward space, as an animation.

R rewards take turns on a circle: at the angle a, reward j = 0..R-1 is asked for at

    level_j = (1 + cos(a - a_j)) / 2,    a_j = 2 pi j / R

which is smooth, in [0, 1], and the same at a = 0 and a = 2 pi; each reward is at 1 where its turn
comes. Of two rewards the second is a quarter turn away instead, so that they walk a circle in
their plane and not a line. The noise stays the same: what moves is what the levels move.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.sample.animation import draw_frame
from miro_jax.sample.draw import draw_all
from miro_jax.sample.request import Asked, Levels, ask
from miro_jax.sample.sheets import Column, Sheet, describe_levels, make_sheet

MOST_FRAMES = 1000


def walk(rewards: Sequence[str], frames: int) -> list[Levels]:
    """Return the levels of the rewards in each frame."""
    turn = math.pi / 2 if len(rewards) == 2 else 2 * math.pi / len(rewards)
    angles = [2 * math.pi * frame / frames for frame in range(frames)]
    return [
        {name: (1 + math.cos(a - j * turn)) / 2 for j, name in enumerate(rewards)} for a in angles
    ]


def sheet(asked: Asked, rewards: Sequence[str] | None = None, frames: int = 36) -> Sheet:
    """Lay out the frames: a row a prompt, a column a frame.

    Args:
      rewards: those that take turns; None is all rewards of the network.
      frames: of one round.

    Raises:
      ValueError: the network is not told one of them, one stands twice, or fewer than 2 frames.
    """
    rewards = asked.names if rewards is None else tuple(rewards)
    if not rewards or len(set(rewards)) != len(rewards):
        raise ValueError(f"a loop needs one or more different rewards; got {list(rewards)}.")
    for name in rewards:
        asked.require(name)
    if not 2 <= frames <= MOST_FRAMES:
        raise ValueError(f"frames must be in 2..{MOST_FRAMES}; got {frames}.")
    steps = walk(rewards, frames)

    def columns(prompt):
        positive, negative = asked.positive(prompt), asked.negative(prompt)
        return [
            Column("", f"{index:03d}", positive | levels, negative, asked.settings.guidance_scale)
            for index, levels in enumerate(steps)
        ]

    others = {k: v for k, v in asked.positive(asked.prompts[0]).items() if k not in rewards}
    told = f"{describe_levels(others, 'all others')}; " if others else ""
    return make_sheet(asked, columns, told + asked.settings.describe(), folder="frames/")


def draw_frames(found: Sheet, images: np.ndarray, rewards: Sequence[str]) -> list[np.ndarray]:
    """Label the frames of a loop.

    Args:
      found: from `sheet`. images: [pictures, H, W, 3] uint8, in its order.
      rewards: whose bars are drawn.

    Returns:
      A picture [height, width, 3] uint8 for each frame.
    """
    shape = (len(found.rows), len(found.columns), found.num_images)
    by_frame = images.reshape(*shape, *images.shape[1:]).swapaxes(0, 1)
    asked = [found.pictures[i * found.num_images].targets for i in range(shape[1])]
    return [
        draw_frame(cells, found.rows, {name: levels[name] for name in rewards}, found.title)
        for cells, levels in zip(by_frame, asked, strict=True)
    ]


def reward_loop(
    pipe: Any,
    prompts: str | Sequence[str],
    rewards: Sequence[str] | None = None,
    frames: int = 36,
    **request,
) -> list[np.ndarray]:
    """Draw the frames of a closed walk through reward space; `save_animation` makes a file of them.

    Args:
      pipe: a `MiroPipeline`.
      prompts: side by side in every frame. rewards: those that take turns; None is all.
      frames: of one round.
      request: see `isolation_grid`; `targets` are those of the other rewards.

    Returns:
      A picture [height, width, 3] uint8 for each frame, labelled with the levels.

    Raises:
      ValueError: an unknown reward or solver, a level that is no number.
    """
    asked = ask(pipe.reward_names, prompts, **request)
    found = sheet(asked, rewards, frames)
    images = draw_all(pipe, found.pictures, asked.settings)
    return draw_frames(found, images, pipe.reward_names if rewards is None else rewards)
