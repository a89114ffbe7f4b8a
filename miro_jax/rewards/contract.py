"""What a reward promises, as a test that anyone can run on their own class.

    from miro_jax.rewards.contract import check_reward
    check_reward(MyReward())

The images are noise of many sizes and the captions of many kinds, all drawn from fixed seeds. The
first broken promise is raised as `BrokenPromise`, which names the promise and the result.

Letters: B images.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from miro_jax.rewards import base
from miro_jax.rewards.failure import RewardFailed, failing

# Height and width, in pixels: square, wide, tall, odd, smaller than any network reads.
SIZES = ((64, 64), (48, 120), (131, 57), (17, 16), (300, 301))
CAPTIONS = (
    "a red circle",
    "two blue squares above a green triangle",
    "",
    "caf\u00e9 \U0001f98a \u732b &amp; <b>bold</b> \u202eright to left\u202c\nnew line\ttab",
    "a very long caption that goes on and on " * 200,
)
_ATTRIBUTES = ("name", "version", "tower", "preprocessing", "synthetic_form", "identity")
_THREADS = 8
# What may differ where features are shared.
_OF_THE_JUDGE = (*_ATTRIBUTES, "needs_caption", "may_be_missing")
_PROBE_SIDE, _SAME = 64, 1e-3  # of what two rewards share: pixels, and by how much results differ


class BrokenPromise(ValueError):
    """A reward does not do what `rewards.base.Reward` says."""


def check_reward(
    reward: base.Reward,
    sizes: Sequence[tuple[int, int]] = SIZES,
    captions: Sequence[str] = CAPTIONS,
    tolerance: float = 1e-5,
    images: Sequence[np.ndarray] | None = None,
) -> None:
    """Raise at the first promise that a reward breaks.

    Args:
      reward: to be checked.
      sizes: height and width of the images; the shapes rewards take those of one size alone.
      captions: as many as images, or more; with a reward that needs captions, two of them must
        change some score.
      tolerance: by which a score may depend on the batch it is in, relative to the score where
        that is above 1.
      images: [H, W, 3] uint8 each, in place of noise of those sizes.

    Raises:
      BrokenPromise: with the promise and the result.
      Exception: whatever the reward itself raises on an input that it must take.
    """
    if images is None:
        rng = np.random.default_rng(0)
        images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    texts = [captions[i % len(captions)] for i in range(len(images))]
    check_attributes(reward)
    _check_prepare(reward, images)
    _check_scores(reward, images, texts)
    _check_batches(reward, images, texts, tolerance)
    _check_captions(reward, images, captions, tolerance)
    _check_stored(reward, reward.score(images, texts))


def check_shared(rewards: Sequence[base.Reward]) -> None:
    """Raise where a reward of your own shares a word with another, and not what it stands for.

    Of equal `preprocessing` or `tower` one reward works for both, so that the other one would judge
    what was never made for it. Where the code or its values differ, noise is put through both; who
    does not take that is not checked.

    Raises:
      BrokenPromise: it names both, and the word.
    """
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (_PROBE_SIDE, _PROBE_SIDE, 3), dtype=np.uint8)
    for pair in itertools.combinations(rewards, 2):
        pair = sorted(pair, key=_is_own)  # the last one is to get other words
        if not _is_own(pair[-1]):
            continue
        prepares, encodes = (
            _shares(pair, "preprocessing", "prepare"),
            _shares(pair, "tower", "encode"),
        )
        if not (prepares or encodes):
            continue
        try:
            made = [base.prepare_image([one], image)[one.preprocessing] for one in pair]
            alike = _alike(*made)
            features = [_encode(*one) for one in zip(pair, made, strict=True) if encodes and alike]
        except (ValueError, RewardFailed):  # of this image; of others they will say it themselves
            continue
        if prepares:
            _require_shared(alike, pair, "preprocessing", "prepare")
        if features:
            _require_shared(_alike(*features), pair, "tower", "encode")


def _is_own(reward: base.Reward) -> bool:
    return not type(reward).__module__.startswith("miro_jax.")


def _shares(pair: Sequence[base.Reward], word: str, method: str) -> bool:
    """Return whether two rewards share a word, but not the code and the values behind it."""
    if len({getattr(reward, word) for reward in pair}) > 1:
        return False
    values = [
        {method: getattr(type(reward), method)}
        | {name: value for name, value in vars(reward).items() if name not in _OF_THE_JUDGE}
        for reward in pair
    ]
    try:
        return bool(values[0] != values[1])
    except ValueError:  # arrays, which are not compared so
        return True


def _encode(reward: base.Reward, prepared: np.ndarray) -> Any:
    with failing(reward, "encode"):
        return reward.encode(base.stack([prepared]))


def _require_shared(holds: bool, pair: Sequence[base.Reward], word: str, method: str) -> None:
    first, second = (reward.name for reward in pair)
    shared = getattr(pair[0], word)
    _require(
        holds,
        f"{first} and {second} have the same {word} {shared!r}, so their {method} must give the "
        f"same; give {second} a word of its own",
        "different results for one image",
    )


def _alike(first: Any, second: Any) -> bool:
    """Return whether two results are nearly the same numbers, as far as they are numbers."""
    pairs = list(zip(*map(jax.tree.leaves, (first, second)), strict=False))
    same = jax.tree.structure(first) == jax.tree.structure(second)
    return same and all(_alike_arrays(*map(np.asarray, pair)) for pair in pairs)


def _alike_arrays(first: np.ndarray, second: np.ndarray) -> bool:
    if first.shape != second.shape:
        return False
    if not {first.dtype.kind, second.dtype.kind} <= set("biuf"):
        return True
    return np.allclose(first, second, _SAME, _SAME * np.abs(second).max(initial=0), equal_nan=True)


def _require(holds: Any, promise: str, result: object) -> None:
    if not holds:
        raise BrokenPromise(f"{promise}; got {result}.")


def check_attributes(reward: base.Reward) -> None:
    for name in _ATTRIBUTES:
        value = getattr(reward, name, None)
        _require(isinstance(value, str) and value, f"{name} must be a text", repr(value))
    name, version, identity = reward.name, reward.version, reward.identity
    _require(
        re.fullmatch(r"[a-z][a-z0-9_]*", name),
        "name must be of small letters, digits and underscores",
        repr(name),
    )
    _require(
        re.fullmatch(r"[^\s@,]+", version), "version must hold no space, '@' or ','", repr(version)
    )
    _require(identity == f"{name}@{version}", "identity must be name@version", repr(identity))
    needs = getattr(reward, "needs_caption", None)
    _require(isinstance(needs, bool), "needs_caption must be True or False", repr(needs))
    forms = ", ".join(base.SYNTHETIC_FORMS)
    _require(
        reward.synthetic_form in base.SYNTHETIC_FORMS,
        f"synthetic_form must be one of {forms}",
        repr(reward.synthetic_form),
    )


def _check_prepare(reward: base.Reward, images: Sequence[np.ndarray]) -> None:
    prepared = []
    for image in images:
        frozen = image.copy()
        frozen.flags.writeable = False
        result = reward.prepare(frozen)
        _require(isinstance(result, np.ndarray), "prepare must return an array", type(result))
        prepared.append(result)
    first = prepared[0]
    for image, result in zip(images, prepared, strict=True):
        _require(
            (result.shape, result.dtype) == (first.shape, first.dtype),
            f"prepare must bring all sizes to one shape and dtype, {first.shape} {first.dtype}",
            f"{result.shape} {result.dtype} from an image of {image.shape[:2]}",
        )
    with ThreadPoolExecutor(_THREADS) as pool:
        again = list(pool.map(reward.prepare, list(images) * _THREADS))
    for number, result in enumerate(again):
        _require(
            np.array_equal(result, prepared[number % len(images)]),
            "prepare must give the same result each time, in several threads too",
            f"another one for an image of {images[number % len(images)].shape[:2]}",
        )
    square = np.zeros((32, 32, 3), np.uint8)
    wrong = {
        "floats": square.astype(np.float32),
        "grey [H, W]": square[..., 0],
        "RGBA [H, W, 4]": np.zeros((32, 32, 4), np.uint8),
        "no pixels": square[:0],
    }
    for what, image in wrong.items():
        _refuses(lambda image=image: reward.prepare(image), f"prepare must refuse {what}")


def _refuses(action: Callable[[], object], promise: str) -> None:
    try:
        result = action()
    except (TypeError, ValueError):
        return
    _require(False, f"{promise} with a TypeError or ValueError", type(result).__name__)


def _check_scores(reward: base.Reward, images: Sequence[np.ndarray], texts: list[str]) -> None:
    features = reward.read(images)
    with failing(reward, "judge"):
        judged = [reward.judge(features, texts) for _ in range(2)]
    _require_float32(judged[0], "judge", len(images))
    try:
        scores = reward.score(images, texts)
    except FloatingPointError as error:
        raise BrokenPromise(str(error)) from error
    _require_float32(scores, "score", len(images))
    may_be_missing = getattr(reward, "may_be_missing", False)
    fine = np.isfinite(scores) | (np.isnan(scores) & may_be_missing)
    _require(fine.all(), "scores must be finite (NaN only with may_be_missing)", scores)
    again = reward.score(images, texts)
    _require(_equal(scores, again), f"score must repeat itself, {scores}", again)
    for times, one in zip(("once", "twice"), judged, strict=True):
        _require(
            _equal(scores, one),
            f"prepare, encode, judge ({times} on the same features) must give the score {scores}",
            one,
        )
    empty = reward.score([], [])
    _require(np.shape(empty) == (0,), "the score of no images must be [0]", np.shape(empty))
    _refuses(lambda: reward.score(images, texts[1:]), "score must refuse a missing caption")
    _refuses(lambda: reward.score(images[:1], "x"), "score must refuse captions that are one str")


def _require_float32(scores: Any, method: str, count: int) -> None:
    _require(
        isinstance(scores, np.ndarray), f"{method} must return a numpy array", type(scores).__name__
    )
    _require(
        scores.shape == (count,) and scores.dtype == np.float32,
        f"{method} must return [{count}] float32",
        f"{list(scores.shape)} {scores.dtype}",
    )


def _check_batches(
    reward: base.Reward, images: Sequence[np.ndarray], texts: list[str], tolerance: float
) -> None:
    together = reward.score(images, texts)
    for row, (image, text) in enumerate(zip(images, texts, strict=True)):
        alone = reward.score([image], [text])
        _require(
            _close(alone[0], together[row], tolerance),
            f"a score must not depend on its batch; image {row} alone has {alone[0]}",
            f"{together[row]} in a batch of {len(images)}",
        )
    order = np.arange(len(images))[::-1]
    turned = reward.score([images[i] for i in order], [texts[i] for i in order])
    _require(
        _close(turned[order], together, tolerance),
        f"scores must follow the order of the images; {together}",
        f"{turned} for the reverse",
    )
    same = np.stack([images[0]] * 3)
    as_array, as_list = reward.score(same, texts[:1] * 3), reward.score(list(same), texts[:1] * 3)
    _require(
        _equal(as_array, as_list),
        f"images in one array must have the scores of a list, {as_list}",
        as_array,
    )


def _check_captions(
    reward: base.Reward, images: Sequence[np.ndarray], captions: Sequence[str], tolerance: float
) -> None:
    scores = np.stack([reward.score(images, [text] * len(images)) for text in captions])
    changes = any(not _close(row, scores[0], tolerance) for row in scores[1:])
    if reward.needs_caption:
        _require(
            changes,
            "needs_caption is True, so some of the captions must change some score",
            f"the same scores for all {len(captions)}",
        )
    else:
        _require(
            not changes, "needs_caption is False, so no caption may change a score", scores.tolist()
        )


def _check_stored(reward: base.Reward, scores: np.ndarray) -> None:
    present = scores[np.isfinite(scores)]
    low, high = (present.min(), present.max()) if len(present) else (0.0, 1.0)
    room = max(high - low, 1e-2)
    grid = np.linspace(low - room, high + room, 33, dtype=np.float32)
    stored = reward.stored(grid)
    _require(
        np.shape(stored) == grid.shape and stored.dtype == np.float32,
        f"stored must return [{len(grid)}] float32",
        f"{list(np.shape(stored))} {getattr(stored, 'dtype', type(stored))}",
    )
    _require((np.diff(stored) > 0).all(), "stored must rise with the score", stored)
    missing = reward.stored(np.array([np.nan], np.float32))
    _require(np.isnan(missing).all(), "stored must leave a missing score (NaN) missing", missing)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=True)


def _close(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    room = tolerance * np.maximum(1, np.abs(b))
    return bool(np.all((np.abs(a - b) <= room) | (np.isnan(a) & np.isnan(b))))
