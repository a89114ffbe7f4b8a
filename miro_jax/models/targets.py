"""Reward targets: the levels that are asked for when sampling, in the forms that people write.

{"aesthetic": 0.6, "clip": None}, one such mapping for each picture, an array, or the text
"aesthetic=0.6,clip=none". A level is a number in [0, 1], 1 is best; None (NaN in arrays, "none" in
texts) is not asked for. Letters: B pictures, R rewards.
"""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

Targets = (
    Mapping[str, float | None]
    | Sequence[Mapping[str, float | None]]
    | np.ndarray
    | jax.Array
    | None
)


def to_levels(
    targets: Targets,
    count: int,
    names: Sequence[str],
    default: float | Sequence[float | None],
) -> np.ndarray:
    """Turn targets into levels.

    Args:
      targets: see the module.
      count: B.
      names: the R rewards that the network knows, in order.
      default: of the names that are left out, one level or one for each reward.

    Returns:
      [B, R] float32, NaN = not asked.

    Raises:
      ValueError: an unknown reward, a level that is no finite number, a wrong length or shape.
      TypeError: another kind of targets.
    """
    width = len(names)
    if isinstance(targets, np.ndarray | jax.Array):
        if targets.shape != (count, width):
            raise ValueError(f"targets must be [{count}, {width}]; got {targets.shape}.")
        levels = np.asarray(targets, np.float32)
        if np.isinf(levels).any():
            raise ValueError("targets must be finite, or NaN for not asked; got infinity.")
        return levels
    if targets is None or isinstance(targets, Mapping):
        targets = [targets or {}] * count
    if not isinstance(targets, Sequence) or not all(isinstance(m, Mapping) for m in targets):
        raise TypeError(
            "targets must be {name: level}, a list of such, one for each picture, or an array "
            f"[{count}, {width}]; got {targets!r}."
        )
    if len(targets) != count:
        raise ValueError(
            f"one mapping of targets a picture is needed: {count}; got {len(targets)}."
        )
    out = np.full((count, width), default, np.float32)
    for row, mapping in zip(out, targets, strict=True):
        for name, level in mapping.items():
            row[_index(name, names)] = np.nan if level is None else _number(name, level)
    return out


def parse_targets(text: str) -> dict[str, float | None]:
    """Read "beauty=0.6,count=none" into {name: level or None}; ValueError on other forms."""
    out: dict[str, float | None] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, level = (w.strip() for w in part.partition("="))
        if not equals:
            raise ValueError(f"targets must read NAME=LEVEL,NAME=LEVEL; got {part!r}.")
        out[name] = None if level.lower() == "none" else _number(name, level)
    return out


def _index(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ValueError(
            f"Unknown reward {name!r}; this model knows: {', '.join(names) or 'none'}."
        )
    return names.index(name)


def _number(name: str, level) -> float:
    try:
        value = float(level)
    except (TypeError, ValueError):
        raise ValueError(
            f"The level of {name!r} must be a number in [0, 1]; got {level!r}."
        ) from None
    if not np.isfinite(value):
        raise ValueError(f"The level of {name!r} must be finite; got {level!r}.")
    return value
