"""`isolate`: what guidance by a single reward does.

    v = v+ + w (v+ - v-),    s- = s+ except 0 at one reward       MIRO section 3, isolation

Both branches have the same prompt, unless asked otherwise, so that what pushes is the one reward
alone. Beside the rewards stand a column without guidance and one where s- is 0 at all of them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.sample.draw import draw_all
from miro_jax.sample.request import Asked, ask
from miro_jax.sample.sheets import Column, Sheet, make_sheet


def sheet(asked: Asked, rewards: Sequence[str] | None = None) -> Sheet:
    """Lay out the isolation grid: a row a prompt, a column a reward.

    Args:
      rewards: columns; None is all rewards of the network.

    Raises:
      ValueError: the network is not told one of them, or none at all.
    """
    rewards = asked.names if rewards is None else tuple(rewards)
    if not rewards:
        raise ValueError("isolating rewards needs a network that is told rewards; it knows none.")
    for name in rewards:
        asked.require(name)
    scale = asked.settings.guidance_scale

    def columns(prompt):
        positive = asked.positive(prompt)
        equal = asked.negative(prompt, positive)
        nothing = asked.negative(prompt)
        return [
            Column("no guidance", "no-guidance", positive, nothing, 0.0),
            *(
                Column(f"{name} alone", f"only-{name}", positive, equal | {name: 0.0}, scale)
                for name in rewards
            ),
            Column("all rewards", "all-rewards", positive, nothing, scale),
        ]

    title = f"guidance by one reward: s- = s+ except 0 there; {asked.settings.describe()}"
    return make_sheet(asked, columns, title)


def isolation_grid(
    pipe: Any,
    prompts: str | Sequence[str],
    rewards: Sequence[str] | None = None,
    *,
    negative_prompt: str = "same",
    **request,
) -> np.ndarray:
    """Draw the reward isolation grid.

    Args:
      pipe: a `MiroPipeline`.
      prompts: rows. rewards: columns; None is all.
      negative_prompt: "same" (the paper's formula), "empty" or a text.
      request: `num_images` of a cell, `seed`, `targets`, `negative_targets`, `guidance_scale`,
        `guidance_interval`, `num_steps`, `solver`, as in `MiroPipeline.__call__`.

    Returns:
      [height, width, 3] uint8, labelled.

    Raises:
      ValueError: an unknown reward or solver, a level that is no number.
    """
    asked = ask(pipe.reward_names, prompts, negative_prompt=negative_prompt, **request)
    found = sheet(asked, rewards)
    return found.grid(draw_all(pipe, found.on_grid, asked.settings))
