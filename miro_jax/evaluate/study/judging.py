"""Judge images in several processes, while the device draws and trains.

The detector of the shapes world runs on the host, at some thousand images a second of a core: what
dozens of networks that train side by side draw would otherwise take longer to judge than to draw.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import numpy as np

from miro_jax.rewards.base import Reward, score_all
from miro_jax.rewards.shapes import ShapesReward

Scores = Callable[[], np.ndarray]  # waits for the scores [N, R] of N images
Submit = Callable[[np.ndarray, Sequence[str]], Scores]
MOST = 32  # processes; each takes 0.3 GB

_rewards: list[Reward] = []  # of a process that judges


@contextlib.contextmanager
def judging(rewards: Sequence[Reward], processes: int) -> Iterator[Submit]:
    """Yield a function that takes images [N, H, W, 3] uint8 and their N captions.

    Args:
      rewards: R of them. Only those of the shapes world are judged elsewhere: others have a network
        on the device.
      processes: 0 or 1 judges at once, here.

    Raises:
      RewardFailed: from the function that waits, or at once where this process judges.
      OSError: a process that judges has ended.
    """
    if processes < 2 or not all(isinstance(reward, ShapesReward) for reward in rewards):
        yield lambda images, captions: partial(np.asarray, _score(rewards, images, captions))
        return
    names = [(type(reward), reward.name, reward.version) for reward in rewards]
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of JAX's threads
    with ProcessPoolExecutor(processes, spawn, _begin, (names,)) as pool:
        try:
            yield lambda images, captions: pool.submit(_score_there, images, list(captions)).result
        except BrokenProcessPool as error:
            raise OSError(
                f"a process that judges images ended; {processes} of them take "
                f"{processes * 0.3:.0f} GB of memory, and the system ends one where that is short"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _score(rewards: Sequence[Reward], images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    return score_all(rewards, images, [{"caption": list(captions)}])[0]


def _begin(names: Sequence[tuple[Callable[..., Reward], str, str]]) -> None:
    """Make the rewards of this process, which ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    _rewards[:] = [kind(name, version) for kind, name, version in names]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score_there(images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    return _score(_rewards, images, captions)
