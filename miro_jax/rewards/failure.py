"""What a reward raises while it scores, as one error that names reward, images and cause.

What was raised is the `__cause__`, so a traceback shows the line of the class that failed.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

_READ_ONLY = "read-only"  # numpy's word where a method writes into what it was given
# With these the rewards of the package say what is wrong with an image, a file or a number.
_WORDED = (ValueError, TypeError, OSError, ArithmeticError)


class RewardFailed(RuntimeError):
    """A reward failed while it scored.

    Attributes:
      images: which ones, in words; whoever knows their names sets it, see `naming`.
      remedy: what to do about it, a sentence or "".
    """

    images = remedy = ""

    def __str__(self) -> str:
        images = f"; images: {self.images}" if self.images else ""
        return f"{super().__str__()}{images}" + (f". {self.remedy}" if self.remedy else "")


@contextlib.contextmanager
def failing(reward: Any, method: str) -> Iterator[None]:
    """Name a reward in what one of its methods raises inside.

    Args:
      reward: at work. method: "prepare", "encode", "judge" or "stored".

    Raises:
      RewardFailed: for every exception of a class that is not of this package, and for those of
        its own rewards that are no message for a user. `sys.exit` counts as one: the command would
        end as if all were done.
      ValueError: `prepare` does not take an image, which is no failure of the reward.
    """
    try:
        yield
    except RewardFailed:
        raise
    except (Exception, SystemExit) as error:
        is_own = not type(reward).__module__.startswith("miro_jax.")
        if not is_own and isinstance(error, _WORDED):
            raise
        name = _name(reward)
        if method == "prepare" and isinstance(error, ValueError) and _READ_ONLY not in str(error):
            raise ValueError(f"{name} does not take the image: {error}") from error
        failed = RewardFailed(
            f"The reward {name} failed in {method}: {type(error).__name__}: {error}"
            f"{_line(reward, error)}"
        )
        failed.remedy = f"Mend {type(reward).__name__}.{method}." if is_own else ""
        cause = error
        if isinstance(error, StopIteration):  # contextlib would raise a cause of that kind instead
            cause = RuntimeError("StopIteration").with_traceback(error.__traceback__)
        raise failed from cause


def require_array(reward: Any, prepared: Any) -> None:
    """Raise RewardFailed unless `prepare` returned an array."""
    if hasattr(prepared, "shape") and hasattr(prepared, "dtype"):
        return
    failed = RewardFailed(
        f"The reward {_name(reward)} failed in prepare: it must return a numpy array; got "
        f"{type(prepared).__name__}"
    )
    failed.remedy = f"Mend {type(reward).__name__}.prepare."
    raise failed


def require_one_each(reward: Any, scores: Any, count: int, method: str = "judge") -> None:
    """Raise RewardFailed unless a method returned a real number for each image it was given.

    Args:
      method: "judge" or "stored".
    """
    if np.iscomplexobj(scores):
        given = f"real numbers; got {np.asarray(scores).dtype}"
    elif np.ma.is_masked(scores):  # what lies under the mask would be taken for scores
        given = "an array without a mask, NaN where a score is missing; got a masked one"
    elif np.shape(scores) != (count,):  # a single one would become that of every image
        given = (
            f"one score for each of the images that it is given, [{count}], of its batch (the last "
            f"one is filled up with repeated images); got {list(np.shape(scores))}"
        )
    else:
        return
    failed = RewardFailed(f"The reward {_name(reward)} failed in {method}: it must return {given}")
    failed.remedy = f"Mend {type(reward).__name__}.{method}."
    raise failed


@contextlib.contextmanager
def naming(images: Sequence[str]) -> Iterator[None]:
    """Name the images, one at least, in a `RewardFailed` that is raised inside and names none."""
    try:
        yield
    except RewardFailed as failed:
        if not failed.images:
            first, last = images[0], images[-1]
            several = f"{first} to {last} ({len(images)})"
            failed.images = first if len(images) == 1 else several
        raise


def _name(reward: Any) -> str:
    return getattr(reward, "name", type(reward).__name__)


def _line(reward: Any, error: BaseException) -> str:
    """Return the last line of the reward's own file that an error passed, in brackets."""
    file = getattr(sys.modules.get(type(reward).__module__), "__file__", None)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    return f" ({os.path.basename(file)}, line {lines[-1]})" if file and lines else ""
