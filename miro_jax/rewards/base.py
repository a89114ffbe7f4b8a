"""What a reward is, and how several rewards score the same images together.

A reward works in three steps. `prepare` resizes and crops one image, on the processor and in
threads. `encode` runs the costly part, an image tower, over prepared images. `judge` compares the
features with captions, the cheap part. So one resize serves all rewards of equal preprocessing, and
one encoding serves all rewards of equal tower and all sets of captions. An image that cannot be
prepared changes no other one.

Letters: B images, H W image, R rewards.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miro_jax.rewards.card import Card
from miro_jax.rewards.failure import failing, naming, require_array, require_one_each
from miro_jax.rewards.inputs import Images, as_arrays, check_captions, check_image, is_one
from miro_jax.rewards.resize import BicubicCrop, FloatBicubicCrop

SYNTHETIC_FORMS = ("long", "short")
BATCH_SIZE = 32  # images whose features `score_all` holds at a time
_SHOWN = 40  # letters of a caption in a message


class Reward:
    """A judge of images; a subclass defines the attributes, `prepare`, `encode` and `judge`.

    Attributes:
      name: what configs and tables call it.
      version: changes whenever the same input gets another score.
      tower: rewards of equal tower encode equal prepared images into equal features; this is then
        done once for all. It names the weights by their digest.
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
        return f"{self.name}@{self.version}"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Bring an image, [H, W, 3] uint8 of any size, into the one shape that `encode` takes.

        Threads may call it at the same time. What is normalised later on the device stays uint8.
        """
        raise NotImplementedError

    def encode(self, prepared: np.ndarray) -> Any:
        """Encode prepared images [B, ...] into the features that `judge` takes."""
        raise NotImplementedError

    def judge(self, features: Any, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 of features, each with its caption."""
        raise NotImplementedError

    def read(self, images: Images) -> Any:
        """Prepare and encode images; see `as_arrays`."""
        prepared = []
        for number, image in enumerate(as_arrays(images)):
            with naming([f"images[{number}]"]), failing(self, "prepare"):
                prepared.append(self.prepare(image))
                require_array(self, prepared[-1])
        batch = stack(prepared)
        with failing(self, "encode"):
            return self.encode(batch)

    def score(self, images: Images, captions: str | Sequence[str] | None = None) -> np.ndarray:
        """Return the scores [B] float32 of images, on the raw scale.

        Args:
          images: paths, PIL images or [H, W, 3] uint8, of any sizes; one of them, or several.
          captions: one for each image. A reward that needs no caption takes None, too.

        Raises:
          TypeError, ValueError: see `as_arrays` and `check_captions`.
          RewardFailed: see `failure.failing`.
        """
        arrays = as_arrays(images)
        if captions is None and not self.needs_caption:
            captions = [""] * len(arrays)
        if isinstance(captions, str) and is_one(images):
            captions = [captions]
        if captions is None:
            raise ValueError(
                f"captions must hold one text for each image: {self.name} judges an image with "
                "its caption; got None."
            )
        check_captions(captions, len(arrays))
        captions = list(captions)  # an array of texts, too
        if not arrays:
            return np.zeros(0, np.float32)
        with naming(_names(len(arrays), captions)):
            scores = _judged(self, self.read(arrays), captions, stored=False)
        require_usable(scores[:, None], [self])
        return scores

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return the score as it is."""
        return score


Judge = Reward  # the name by which classes of users derive from it


class CroppedJudge(Reward):
    """What published rewards share whose images are resized and cropped.

    Args:
      card: of the reward. crop: brings an image to the network's size.
      tower: see `Reward`.
    """

    def __init__(self, card: Card, crop: BicubicCrop | FloatBicubicCrop, tower: str):
        self.card, self.name, self.version = card, card.name, card.version
        self.needs_caption, self.synthetic_form = card.needs_caption, card.synthetic_form
        self.preprocessing, self.tower = str(crop), tower
        self._crop = crop

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Resize and crop an image [H, W, 3] uint8 to [S, S, 3]."""
        check_image(image)
        return self._crop(image)

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return the score on the scale that records store."""
        return (score + np.float32(self.card.stored_offset)) / np.float32(self.card.stored_divisor)


def prepare_image(rewards: Sequence[Reward], image: np.ndarray) -> dict[str, np.ndarray]:
    """Prepare one image for all rewards, once for each preprocessing; for threads.

    Args:
      image: [H, W, 3] uint8.

    Returns:
      preprocessing -> prepared image. `stack_images` makes a batch of several.

    Raises:
      ValueError: a reward does not take the image. RewardFailed: see `failure.failing`.
    """
    check_image(image)
    prepared: dict[str, np.ndarray] = {}
    for reward in rewards:
        if reward.preprocessing not in prepared:
            with failing(reward, "prepare"):
                made = reward.prepare(_shared(image))
            require_array(reward, made)
            prepared[reward.preprocessing] = made
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
    """Score prepared images with several rewards; each image is encoded once for each tower.

    Args:
      rewards: the R rewards, in the order of the columns.
      prepared: preprocessing -> [B, ...], see `stack_images`.
      captions: sets of captions, see `score_all`.
      stored: return scores on the stored scale, else on the raw scale.

    Returns:
      See `score_all`.

    Raises:
      RewardFailed: see `failure.failing`.
    """
    count = len(next(iter(prepared.values()))) if prepared else 0
    _check_sets(captions, count)
    results = [np.full((count, len(rewards)), np.nan, np.float32) for _ in captions]
    encoded: dict[str, list[tuple[np.ndarray, Any]]] = {}
    for column, reward in enumerate(rewards):
        features = _features(reward, prepared[reward.preprocessing], encoded)
        without_caption = None
        for result, texts in zip(results, captions, strict=True):
            if reward.needs_caption:
                result[:, column] = _judged(reward, features, _form(reward, texts), stored)
                continue
            if without_caption is None:
                without_caption = _judged(reward, features, [""] * count, stored)
            result[:, column] = without_caption
    return results


def usable(scores: np.ndarray, rewards: Sequence[Reward]) -> np.ndarray:
    """Return [B, R] bool: which scores are finite, or NaN of a reward that may have none.

    Args:
      scores: [B, R] float32. rewards: R of them.
    """
    may_be_missing = np.array([getattr(r, "may_be_missing", False) for r in rewards], bool)
    return np.isfinite(scores) | (np.isnan(scores) & may_be_missing)


def require_built(reward: Any) -> None:
    """Raise TypeError unless a reward, or an objective of a search, is an object and no name."""
    if not isinstance(getattr(reward, "identity", None), str):
        raise TypeError(
            f"A reward must be an object, as load_reward('hpsv2') makes it; got {reward!r:.60}."
        )


def require_usable(scores: np.ndarray, rewards: Sequence[Reward], first: int = 0) -> None:
    """Raise unless all scores are `usable`.

    Args:
      scores: [B, R] float32. rewards: R of them. first: position of the first image.

    Raises:
      FloatingPointError: it names the reward, the position of the image and the score.
    """
    for row, column in np.argwhere(~usable(scores, rewards)):
        raise FloatingPointError(
            f"scores must be finite; {rewards[column].name} gives images[{first + row}] "
            f"{scores[row, column]}. Are its weights damaged?"
        )


def score_all(
    rewards: Sequence[Reward],
    images: Images,
    captions: Sequence[Mapping[str, Sequence[str]]],
) -> list[np.ndarray]:
    """Prepare and score images with several rewards.

    Args:
      rewards: the R rewards, in the order of the columns.
      images: B of them, see `as_arrays`.
      captions: sets of captions. A set is {"caption": [B texts]}, which all rewards judge, or
        {"long": [B texts], "short": [B texts]}, of which each reward judges its synthetic form.

    Returns:
      For each set of captions the scores [B, R] float32 on the stored scale.

    Raises:
      ValueError: a set has not B captions, or lacks the form that a reward judges.
      RewardFailed: it names the reward, the images and the cause.
    """
    images = as_arrays(images)
    _check_sets(captions, len(images))
    parts = [[np.empty((0, len(rewards)), np.float32)] for _ in captions]
    for start in range(0, len(images), BATCH_SIZE):
        rows = slice(start, start + BATCH_SIZE)
        texts = [{form: one[rows] for form, one in part.items()} for part in captions]
        first = next((one for part in texts for one in part.values()), ())
        names = _names(len(images[rows]), first, start)
        made = []
        for name, image in zip(names, images[rows], strict=True):
            with naming([name]):
                made.append(prepare_image(rewards, image))
        with naming(names):
            every = score_prepared(rewards, stack_images(made), texts)
        for part, scores in zip(parts, every, strict=True):
            require_usable(scores, rewards, start)
            part.append(scores)
    return [np.concatenate(part) for part in parts]


def stack(prepared: Sequence[np.ndarray]) -> np.ndarray:
    """Make a batch [B, ...] of prepared images.

    Raises:
      ValueError: there are none, or they differ in shape.
    """
    if len(shapes := sorted({x.shape for x in prepared})) > 1:
        raise ValueError(f"images of a batch must have one shape; got {shapes[0]} and {shapes[1]}.")
    if not prepared:
        raise ValueError("at least one image is needed; got none.")
    return np.stack(prepared)


def _names(count: int, captions: Sequence[str], start: int = 0) -> list[str]:
    """Name images by their positions, from `start` on, and by their captions, for messages."""
    texts = [f" {text[:_SHOWN]!r}" if text else "" for text in captions or [""] * count]
    return [f"images[{start + row}]{text}" for row, text in enumerate(texts)]


def _check_sets(captions: Sequence[Mapping[str, Sequence[str]]], count: int) -> None:
    for texts in captions:
        for form, one in texts.items():
            if len(one) != count:
                raise ValueError(
                    f"captions must hold one text for each of the {count} images; "
                    f"got {len(one)} of the form {form!r}."
                )


def _features(
    reward: Reward, prepared: np.ndarray, encoded: dict[str, list[tuple[np.ndarray, Any]]]
) -> Any:
    """Encode images, or take the features that the same tower made of equal images.

    Preprocessings that differ by the pixel where a crop begins agree on square images.
    """
    known = encoded.setdefault(reward.tower, [])
    for images, features in known:
        if images is prepared or np.array_equal(images, prepared):
            return features
    with failing(reward, "encode"):
        known.append((prepared, _shared(reward.encode(_shared(prepared)))))
    return known[-1][1]


def _shared(value: Any) -> Any:
    """Return an array as what other rewards get, too: none may write into it."""
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


def _form(reward: Reward, texts: Mapping[str, Sequence[str]]) -> Sequence[str]:
    for form in ("caption", reward.synthetic_form):
        if form in texts:
            return texts[form]
    raise ValueError(
        f"captions must hold 'caption' or the form {reward.synthetic_form!r} that {reward.name} "
        f"judges; got {', '.join(map(repr, texts)) or 'nothing'}."
    )


def _judged(reward: Reward, features: Any, texts: Sequence[str], stored: bool) -> np.ndarray:
    with failing(reward, "judge"):
        scores = reward.judge(features, list(texts))  # other rewards get the same texts
    require_one_each(reward, scores, len(texts))
    if stored:
        with failing(reward, "stored"):
            scores = reward.stored(scores)
        require_one_each(reward, scores, len(texts), "stored")
    with failing(reward, "stored" if stored else "judge"):  # texts, or None, are no numbers
        return np.asarray(scores, np.float32)
