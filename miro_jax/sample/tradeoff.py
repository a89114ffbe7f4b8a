"""`tradeoff A B`: from one reward to another.

    s+ all 1,  s- all 1 except  s-_A = u  and  s-_B = 1 - u,  u in [0, 1]      MIRO section 3

At u = 0 guidance pushes away from low A alone, at u = 1 from low B alone. Both branches have the
same prompt, unless asked otherwise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.sample.draw import draw_all
from miro_jax.sample.request import Asked, ask
from miro_jax.sample.sheets import Column, Sheet, make_sheet


def sheet(asked: Asked, a: str, b: str, levels: int = 5) -> Sheet:
    """Lay out the strip: a row a prompt, a column a value of u.

    Args:
      a, b: two rewards. levels: values of u, evenly spaced from 0 to 1.

    Raises:
      ValueError: the network is not told a reward, both are the same, or fewer than 2 levels.
    """
    for name in (a, b):
        asked.require(name)
    if a == b:
        raise ValueError(f"a trade-off needs two rewards; got {a!r} twice.")
    check_levels(levels)
    ends = {0.0: f": {a} alone", 1.0: f": {b} alone"}

    def columns(prompt):
        positive = asked.positive(prompt)
        equal = asked.negative(prompt, positive)
        return [
            Column(
                f"u = {u:.3g}{ends.get(u, '')}",
                f"u{u:.4f}",
                positive,
                equal | {a: u, b: 1.0 - u},
                asked.settings.guidance_scale,
            )
            for u in map(float, np.linspace(0, 1, levels))
        ]

    title = f"s- = s+ except {a} = u, {b} = 1 - u; {asked.settings.describe()}"
    return make_sheet(asked, columns, title)


def check_levels(levels: int) -> None:
    """Raise ValueError unless there are at least two levels, and not too many to label."""
    if not 2 <= levels <= 256:
        raise ValueError(f"levels must be in 2..256; got {levels}.")


def tradeoff_strip(
    pipe: Any,
    prompts: str | Sequence[str],
    a: str,
    b: str,
    levels: int = 5,
    *,
    negative_prompt: str = "same",
    **request,
) -> np.ndarray:
    """Draw the trade-off strip of two rewards.

    Args:
      pipe: a `MiroPipeline`.
      prompts: rows. a, b: rewards. levels: columns, values of u from 0 to 1.
      negative_prompt, request: see `isolation_grid`.

    Returns:
      [height, width, 3] uint8, labelled with u.

    Raises:
      ValueError: an unknown reward or solver, a level that is no number.
    """
    asked = ask(pipe.reward_names, prompts, negative_prompt=negative_prompt, **request)
    found = sheet(asked, a, b, levels)
    return found.grid(draw_all(pipe, found.on_grid, asked.settings))
