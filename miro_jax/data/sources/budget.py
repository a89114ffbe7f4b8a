"""How much threads may hold together, of memory for example."""

import contextlib
import threading
from collections.abc import Iterator


class Budget:
    """Makes threads wait while what they hold together would be more than the budget.

    One that asks for more than all of it goes alone.
    """

    def __init__(self, total: int):
        self._total, self._used, self._changed = total, 0, threading.Condition()

    def take(self, amount: int) -> None:
        """Wait until there is room, and take it; to be given back by `give`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + amount <= self._total)
            self._used += amount

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    @contextlib.contextmanager
    def spend(self, amount: int) -> Iterator[None]:
        """Take an amount for a while."""
        self.take(amount)
        try:
            yield
        finally:
            self.give(amount)
