"""`sweep REWARD`: one reward asked for at levels from 0 to 1, all others as they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.sample.draw import draw_all
from miro_jax.sample.request import Asked, ask
from miro_jax.sample.sheets import Column, Sheet, describe_levels, make_sheet
from miro_jax.sample.tradeoff import check_levels


def sheet(asked: Asked, reward: str, levels: int = 5) -> Sheet:
    """Lay out the sweep: a row a prompt, a column a level.

    Args:
      reward: whose target rises. levels: evenly spaced from 0 to 1.

    Raises:
      ValueError: the network is not told the reward, or fewer than 2 levels.
    """
    asked.require(reward)
    check_levels(levels)

    def columns(prompt):
        positive, negative = asked.positive(prompt), asked.negative(prompt)
        return [
            Column(
                f"{reward} = {level:.3g}",
                f"{reward}-{level:.4f}",
                positive | {reward: level},
                negative,
                asked.settings.guidance_scale,
            )
            for level in map(float, np.linspace(0, 1, levels))
        ]

    others = {k: v for k, v in asked.positive(asked.prompts[0]).items() if k != reward}
    rest = f"{describe_levels(others, 'all others')}; " if others else ""
    title = f"s+ of {reward} from 0 to 1; {rest}{asked.settings.describe()}"
    return make_sheet(asked, columns, title)


def sweep_strip(
    pipe: Any, prompts: str | Sequence[str], reward: str, levels: int = 5, **request
) -> np.ndarray:
    """Draw prompts with one reward asked for at rising levels.

    Args:
      pipe: a `MiroPipeline`.
      prompts: rows. reward: whose target rises. levels: columns, from 0 to 1.
      request: see `isolation_grid`; `targets` are those of the other rewards.

    Returns:
      [height, width, 3] uint8, labelled with the level.

    Raises:
      ValueError: an unknown reward or solver, a level that is no number.
    """
    asked = ask(pipe.reward_names, prompts, **request)
    found = sheet(asked, reward, levels)
    return found.grid(draw_all(pipe, found.on_grid, asked.settings))
