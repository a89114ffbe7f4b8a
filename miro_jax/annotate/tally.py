"""Counts what is read and what fails, and stops a run in which too much does."""

import collections
from collections.abc import Sequence

from miro_jax.data.printable import counted
from miro_jax.data.sources.causes import OF_A_PIECE

# Before so many samples a rate means little, and a run should not end over its first bad images.
MIN_SAMPLES = 1000


class TooManyFailures(RuntimeError):
    """More samples failed than may; the text names the main causes."""


class Tally:
    """Counts what became of the samples.

    Args:
      max_failure_rate: share of samples in [0, 1] that may fail.
      remedy: what to do when more do, a sentence.
    """

    def __init__(self, max_failure_rate: float, remedy: str):
        self._limit, self._remedy = max_failure_rate, remedy
        self.samples, self.causes, self._first = 0, collections.Counter(), []
        self._lost, self._about_lost = 0, ""

    @property
    def failures(self) -> int:
        """Samples that failed so far; damage of a piece is none."""
        return self.causes.total() - self._damage

    @property
    def _damage(self) -> int:
        return sum(self.causes[cause] for cause in OF_A_PIECE)

    def add(self, samples: int, failures: Sequence[dict]) -> None:
        """Count samples, and the failures among them."""
        self.samples += samples
        self.causes.update(failure["cause"] for failure in failures)
        self._first += failures[: 3 - len(self._first)]

    def lose(self, samples: int, about: str) -> None:
        """Count samples that damage has swallowed, with a description of them."""
        self._lost, self._about_lost = samples, about

    def check(self, min_samples: int = 0) -> None:
        """Raise TooManyFailures where too large a share of at least `min_samples` failed.

        Damage of a piece counts as a sample, since what it cost may not be known.
        """
        lost = self._damage + self._lost
        rate = (self.failures + lost) / max(self.samples + lost, 1)
        if rate > self._limit and self.samples >= min_samples:
            causes = ", ".join(f"{cause} ({n})" for cause, n in self.causes.most_common(5))
            about = f" and {self._about_lost}" if self._lost else ""
            if self._damage and not about:
                about = f", beside {counted(self._damage, 'damaged part')} of the input"
            share = f"{self.failures} of {self.samples} did{about} ({rate:.2%})"
            raise TooManyFailures(
                f"At most {self._limit:.2%} of samples may fail; "
                f"{share if self.samples else 'none could be read'}: {causes}. First: "
                f"{_examples(self._first)}. {self._remedy}"
            )


def _examples(failures: Sequence[dict]) -> str:
    """Name failures with what is known of them, the same detail once."""
    said, texts = set(), []
    for failure in failures:
        text, detail = failure["key"], failure.get("detail")
        text += f" in {failure['piece']}" if failure.get("piece", text) != text else ""
        texts.append(text + (f" ({detail})" if detail and detail not in said else ""))
        said.add(detail)
    return ", ".join(texts)
