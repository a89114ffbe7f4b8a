"""What a reward is, and how many of them score the same pictures together.

A reward works in three steps. It prepares each picture by itself, at its native size: decode,
resize, crop, on the processor, in threads where the caller likes. It encodes prepared pictures (the
costly part: an image tower). It judges what it encoded against captions (the cheap part). So one
resize serves all rewards of equal preprocessing, one encoding serves all rewards of one tower and
all sets of captions, and a picture that cannot be prepared concerns no other one.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

SYNTHETIC_FORMS = ("long", "short")
BATCH_SIZE = 32  # pictures that `score_all` holds the features of

Images = np.ndarray | Sequence[np.ndarray]  # [B, H, W, 3] uint8, or B of [H, W, 3], any sizes


class Reward(Protocol):
    """A judge of pictures.

    Attributes:
        name: what configs and tables call it.
        version: changes whenever the same input gets another score.
        tower: rewards of equal tower encode equal prepared pictures into equal features; that is
            then done once for all. It names the weights, by their digest.
        preprocessing: rewards of equal preprocessing give equal results of `prepare`.
        needs_caption: False if the score does not depend on the caption.
        synthetic_form: "long" or "short": which synthetic caption this reward judges.
    """

    name: str
    version: str
    tower: str
    preprocessing: str
    needs_caption: bool
    synthetic_form: str

    @property
    def identity(self) -> str:
        """`name@version`; scores of different identity do not enter one table."""
        ...

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Bring a picture, [H, W, 3] uint8 of any size, into the one shape that `encode` takes.

        Threads may call it at the same time. What is normalised later on the device stays uint8.
        """
        ...

    def encode(self, prepared: np.ndarray) -> Any:
        """Read prepared pictures [B, ...] into whatever `judge` takes."""
        ...

    def read(self, images: Images) -> Any:
        """Prepare and encode."""
        ...

    def judge(self, features: Any, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of what was read, each with its caption."""
        ...

    def score(self, images: Images, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of pictures, each with its caption."""
        ...

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return the score on the scale that records keep."""
        ...


class Judge:
    """What rewards share; one that derives from it defines `prepare`, `encode` and `judge`."""

    name: str
    version: str

    @property
    def identity(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    def read(self, images: Images) -> Any:
        """Prepare and encode pictures, [B, H, W, 3] uint8 or a list of differing sizes."""
        check_images(images)
        return self.encode(stack([self.prepare(image) for image in images]))

    def score(self, images: Images, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of pictures (see `read`), each with its caption."""
        check_images(images)
        check_captions(captions, len(images))
        if not len(images):
            return np.zeros(0, np.float32)
        return self.judge(self.read(images), captions)

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return the score as it is."""
        return score


def prepare_image(rewards: Sequence[Reward], image: np.ndarray) -> dict[str, np.ndarray]:
    """Prepare one picture for all rewards, once per preprocessing; for threads.

    Args:
        image: [H, W, 3] uint8.

    Returns:
        preprocessing -> prepared picture. `stack_images` makes a batch of several.
    """
    check_image(image)
    prepared: dict[str, np.ndarray] = {}
    for reward in rewards:
        if reward.preprocessing not in prepared:
            prepared[reward.preprocessing] = reward.prepare(image)
    return prepared


def stack_images(images: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Make the batch {preprocessing: [B, ...]} of B results of `prepare_image`, B >= 1."""
    return {name: stack([image[name] for image in images]) for name in images[0]}


def score_prepared(
    rewards: Sequence[Reward],
    prepared: Mapping[str, np.ndarray],
    captions: Sequence[Mapping[str, Sequence[str]]],
    stored: bool = True,
) -> list[np.ndarray]:
    """Score prepared pictures with several rewards, each picture encoded once per tower.

    Args:
        rewards: the R rewards, in the order of the columns.
        prepared: preprocessing -> [B, ...], see `stack_images`.
        captions: sets of captions, see `score_all`.
        stored: scores are on the scale that records keep; else on the model's own.

    Returns:
        See `score_all`.
    """
    count = len(next(iter(prepared.values()))) if prepared else 0
    _check_sets(captions, count)
    results = [np.full((count, len(rewards)), np.nan, np.float32) for _ in captions]
    known: dict[str, list[tuple[np.ndarray, Any]]] = {}
    for column, reward in enumerate(rewards):
        features = _features(reward, prepared[reward.preprocessing], known)
        blind = None
        for result, texts in zip(results, captions, strict=True):
            if reward.needs_caption:
                result[:, column] = _judged(reward, features, _form(reward, texts), stored)
                continue
            if blind is None:
                blind = _judged(reward, features, [""] * count, stored)
            result[:, column] = blind
    return results


def usable(scores: np.ndarray, rewards: Sequence[Reward]) -> np.ndarray:
    """Tell which scores are what they may be: finite, or NaN where a reward may have none.

    Args:
        scores: [B, R] float32. rewards: R of them.

    Returns:
        [B, R] bool.
    """
    may_be_missing = np.array([getattr(r, "may_be_missing", False) for r in rewards], bool)
    return np.isfinite(scores) | (np.isnan(scores) & may_be_missing)


def score_all(
    rewards: Sequence[Reward],
    images: Images,
    captions: Sequence[Mapping[str, Sequence[str]]],
    batch_size: int = BATCH_SIZE,
) -> list[np.ndarray]:
    """Prepare and score pictures with several rewards.

    Args:
        rewards: the R rewards, in the order of the columns.
        images: [B, H, W, 3] uint8, or a list of B pictures [H, W, 3] of differing sizes.
        captions: sets of captions. A set is either {"caption": [B texts]}, judged by all rewards,
            or {"long": [B texts], "short": [B texts]}, of which each reward judges its synthetic
            form.
        batch_size: pictures at a time.

    Returns:
        For each set of captions the scores [B, R] float32 on the scale that records keep.

    Raises:
        ValueError: a set has not B captions, or lacks the form that a reward asks for.
    """
    _check_sets(captions, len(images))
    parts = [[np.empty((0, len(rewards)), np.float32)] for _ in captions]
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        prepared = stack_images([prepare_image(rewards, image) for image in images[rows]])
        texts = [{form: one[rows] for form, one in part.items()} for part in captions]
        for part, scores in zip(parts, score_prepared(rewards, prepared, texts), strict=True):
            part.append(scores)
    return [np.concatenate(part) for part in parts]


def stack(prepared: Sequence[np.ndarray]) -> np.ndarray:
    """Make a batch [B, ...] of prepared pictures.

    Raises:
        ValueError: there are none, or they differ in shape.
    """
    if len(shapes := sorted({x.shape for x in prepared})) > 1:
        raise ValueError(
            f"pictures of a batch must have one shape; got {shapes[0]} and {shapes[1]}."
        )
    if not prepared:
        raise ValueError("at least one picture is needed; got none.")
    return np.stack(prepared)


def check_images(images: Images) -> None:
    """Raise unless images is [B, H, W, 3] uint8, or a sequence of [H, W, 3] uint8.

    Raises:
        TypeError: not arrays of uint8.
        ValueError: another rank or number of channels.
    """
    if not isinstance(images, np.ndarray):
        if not isinstance(images, Sequence) or isinstance(images, str | bytes):
            kind = type(images).__name__
            raise TypeError(
                f"images must be a numpy array of uint8, or a list of them; got {kind}."
            )
        for image in images:
            check_image(image)
        return
    if images.dtype != np.uint8:
        raise TypeError(f"images must be a numpy array of uint8 in [0, 255]; got {images.dtype}.")
    if images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"images must have the shape [B, H, W, 3]; got {images.shape}.")


def check_image(image: np.ndarray) -> None:
    """Raise unless image is [H, W, 3] uint8 with at least one pixel.

    Raises:
        TypeError: not an array of uint8.
        ValueError: another rank or number of channels, or no pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"an image must be a numpy array of uint8 in [0, 255]; got {kind}.")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"an image must have the shape [H, W, 3], H and W not 0; got {image.shape}."
        )


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


def _check_sets(captions: Sequence[Mapping[str, Sequence[str]]], count: int) -> None:
    for texts in captions:
        for form, one in texts.items():
            if len(one) != count:
                raise ValueError(
                    f"captions must hold one text for each of the {count} images; "
                    f"got {len(one)} of the form {form!r}."
                )


def _features(
    reward: Reward, prepared: np.ndarray, known: dict[str, list[tuple[np.ndarray, Any]]]
) -> Any:
    """Encode pictures, or find them encoded by the same tower.

    Preprocessings that differ by the pixel where a crop begins agree on square pictures.
    """
    encoded = known.setdefault(reward.tower, [])
    for pictures, features in encoded:
        if pictures is prepared or np.array_equal(pictures, prepared):
            return features
    encoded.append((prepared, reward.encode(prepared)))
    return encoded[-1][1]


def _form(reward: Reward, texts: Mapping[str, Sequence[str]]) -> Sequence[str]:
    for form in ("caption", reward.synthetic_form):
        if form in texts:
            return texts[form]
    raise ValueError(
        f"captions must hold 'caption' or the form {reward.synthetic_form!r} that {reward.name} "
        f"judges; got {', '.join(map(repr, texts)) or 'nothing'}."
    )


def _judged(reward: Reward, features: Any, texts: Sequence[str], stored: bool) -> np.ndarray:
    scores = reward.judge(features, texts)
    return reward.stored(scores) if stored else scores
