"""Many requests at a time, with the results in order: what waits for a store waits once for all."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 32  # that wait for answers
S = TypeVar("S")
T = TypeVar("T")


def map_ahead(function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Apply a function to each item, to many at a time, and yield the results in order.

    At most as many results wait as there are threads. Of several errors the first one, in the order
    of the items, is raised where its result would come; calls that have not begun are cancelled.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(THREADS) as pool:
        begun = collections.deque(
            pool.submit(function, item) for item in itertools.islice(waiting, THREADS)
        )
        try:
            while begun:
                result = begun.popleft().result()
                begun.extend(pool.submit(function, item) for item in itertools.islice(waiting, 1))
                yield result
        finally:
            for future in begun:
                future.cancel()
