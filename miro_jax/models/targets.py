"""Reward targets: the levels requested when sampling, in the forms that people write.

{"aesthetic": 0.6, "clip": None}, one such mapping for each image, an array, or the text
"aesthetic=0.6,clip=none". A level is a number in [0, 1], 1 is best; None (NaN in arrays, "none" in
texts) requests nothing of that reward. Letters: B images, R rewards.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from miro_jax.data.near import near_name

Targets = Mapping[str, float | None] | Sequence[Mapping[str, float | None]] | np.ndarray | None


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
      default: level of the rewards that are not named, one number or one for each reward.

    Returns:
      [B, R] float32 in [0, 1], NaN = not requested.

    Raises:
      ValueError: an unknown reward, a level outside [0, 1], a wrong length or shape.
      TypeError: another kind of targets, or of a name in them.
    """
    width = len(names)
    shape = getattr(targets, "shape", None)
    if hasattr(targets, "columns"):  # whose order need not be that of the rewards
        raise TypeError(
            "targets of a table must be given by name, and not by the order of its columns; got "
            f"{type(targets).__name__}. Write table.to_dict('records')."
        )
    if shape is not None:
        if tuple(shape) != (count, width):
            raise ValueError(f"targets must be [{count}, {width}]; got {tuple(shape)}.")
        try:
            levels = np.asarray(targets, np.float32)
        except (TypeError, ValueError) as error:
            kind = np.asarray(targets).dtype
            raise TypeError(f"targets must be an array of numbers; got one of {kind}.") from error
        return _check(levels)
    if targets is None or isinstance(targets, Mapping):
        targets = [targets or {}] * count
    if not isinstance(targets, Sequence) or not all(isinstance(m, Mapping) for m in targets):
        raise TypeError(
            "targets must be {name: level}, a list of such, one for each image, or an array "
            f"[{count}, {width}]; got {targets!r}."
        )
    if len(targets) != count:
        raise ValueError(
            f"targets must be one mapping for each of {count} images; got {len(targets)}."
        )
    out = _check(np.full((count, width), default, np.float32))
    for row, mapping in zip(out, targets, strict=True):
        for name, level in mapping.items():
            row[_index(name, names)] = np.nan if level is None else _number(name, level)
    return out


def parse_targets(text: str) -> dict[str, float | None]:
    """Read "beauty=0.6,count=none" into {name: level or None}; ValueError on other forms, and
    where a reward is named twice.
    """
    pairs = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, level = (w.strip() for w in part.partition("="))
        if not equals:
            raise ValueError(f"targets must read NAME=LEVEL,NAME=LEVEL; got {part!r}.")
        name = name.partition("@")[0]  # a version, as in hpsv2@2.1, does not matter
        pairs.append((name, None if level.lower() == "none" else _number(name, level)))
    return name_once(pairs)


def _check(levels: np.ndarray) -> np.ndarray:
    wrong = levels[(levels < 0) | (levels > 1)]
    if wrong.size:
        raise ValueError(
            "targets must be in [0, 1], where 1 is best, or NaN for not requested; "
            f"got {wrong[0]:g}."
        )
    return levels


def _index(name: str, names: Sequence[str]) -> int:
    if not isinstance(name, str):
        raise TypeError(f"The name of a reward in targets must be a text; got {name!r}.")
    name = name if name in names else name.partition("@")[0]
    if name not in names:
        raise unknown_reward(name, names)
    return names.index(name)


def unknown_reward(name: str, names: Sequence[str]) -> ValueError:
    """Return the error about a reward that a model, which knows `names`, was not trained with."""
    known = ", ".join(names) or "none"
    return ValueError(f"Unknown reward {name!r}; this model knows: {known}{near_name(name, names)}")


def name_once(pairs: Iterable[tuple[str, float | None]]) -> dict[str, float | None]:
    """Return {name: level}; ValueError where a reward has two: one would count silently."""
    levels: dict[str, float | None] = {}
    for name, level in pairs:
        if name in levels:
            raise ValueError(f"targets must name each reward once; got two levels of {name!r}.")
        levels[name] = level
    return levels


def _number(name: str, level: object) -> float:
    try:
        value = float(level)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        value = np.nan
    if not 0 <= value <= 1:  # also refuses NaN
        raise ValueError(
            f"The level of {name!r} must be a number in [0, 1], where 1 is best; got {level!r}."
        )
    return value
