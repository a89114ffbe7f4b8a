"""What a reward is, and how many of them score the same pictures together.

A reward reads pictures once (the costly part: an image tower) and judges what it read against
captions (the cheap part), so that two sets of captions, and all rewards of one tower, share one
reading.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

SYNTHETIC_FORMS = ("long", "short")


class Reward(Protocol):
    """A judge of pictures.

    Attributes:
        name: what configs and tables call it.
        version: changes whenever the same input gets another score.
        tower: rewards of equal tower give equal results of `read`, which is then called once for
            all.
        needs_caption: False if the score does not depend on the caption.
        synthetic_form: "long" or "short": which synthetic caption this reward judges.
    """

    name: str
    version: str
    tower: str
    needs_caption: bool
    synthetic_form: str

    @property
    def identity(self) -> str:
        """`name@version`; scores of different identity do not enter one table."""
        ...

    def read(self, images: np.ndarray) -> Any:
        """Read pictures, [B, H, W, 3] uint8, into whatever `judge` takes."""
        ...

    def judge(self, features: Any, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of what was read, each with its caption."""
        ...

    def score(self, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of pictures [B, H, W, 3] uint8, each with its caption."""
        ...

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return the score on the scale that records keep."""
        ...


def score_all(
    rewards: Sequence[Reward],
    images: np.ndarray,
    captions: Sequence[Mapping[str, Sequence[str]]],
) -> list[np.ndarray]:
    """Score pictures with several rewards, each picture read once per tower.

    Args:
        rewards: the R rewards, in the order of the columns.
        images: [B, H, W, 3] uint8.
        captions: sets of captions. A set is either {"caption": [B texts]}, judged by all rewards,
            or {"long": [B texts], "short": [B texts]}, of which each reward judges its synthetic
            form.

    Returns:
        For each set of captions the scores [B, R] float32 on the scale that records keep.

    Raises:
        ValueError: a set has not B captions, or lacks the form that a reward asks for.
    """
    for texts in captions:
        for form, one in texts.items():
            if len(one) != len(images):
                raise ValueError(
                    f"captions must hold one text for each of the {len(images)} images; "
                    f"got {len(one)} of the form {form!r}."
                )
    results = [np.full((len(images), len(rewards)), np.nan, np.float32) for _ in captions]
    features: dict[str, Any] = {}
    for column, reward in enumerate(rewards):
        if reward.tower not in features:
            features[reward.tower] = reward.read(images)
        blind = None
        for result, texts in zip(results, captions, strict=True):
            if reward.needs_caption:
                result[:, column] = _judged(reward, features[reward.tower], _form(reward, texts))
                continue
            if blind is None:
                blind = _judged(reward, features[reward.tower], [""] * len(images))
            result[:, column] = blind
    return results


def check_images(images: np.ndarray) -> None:
    """Raise unless images is [B, H, W, 3] uint8.

    Raises:
        TypeError: not an array of uint8.
        ValueError: another rank or number of channels.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        kind = getattr(images, "dtype", type(images).__name__)
        raise TypeError(f"images must be a numpy array of uint8 in [0, 255]; got {kind}.")
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must have the shape [B, H, W, 3]; got {images.shape}.")


def check_captions(captions: Sequence[str], count: int) -> None:
    """Raise unless captions is a sequence of `count` strings.

    Raises:
        TypeError: one string instead of a sequence, or a member that is no string.
        ValueError: another number of captions.
    """
    if isinstance(captions, str):
        raise TypeError("captions must be a sequence of str; got one str. Put it in a list.")
    if len(captions) != count:
        raise ValueError(
            f"captions must hold one text for each of {count} images; got {len(captions)}."
        )
    for position, text in enumerate(captions):
        if not isinstance(text, str):
            raise TypeError(f"captions[{position}] must be a str; got {type(text).__name__}.")


def _form(reward: Reward, texts: Mapping[str, Sequence[str]]) -> Sequence[str]:
    for form in ("caption", reward.synthetic_form):
        if form in texts:
            return texts[form]
    raise ValueError(
        f"captions must hold 'caption' or the form {reward.synthetic_form!r} that {reward.name} "
        f"judges; got {', '.join(map(repr, texts)) or 'nothing'}."
    )


def _judged(reward: Reward, features: Any, texts: Sequence[str]) -> np.ndarray:
    return reward.stored(reward.judge(features, texts))
