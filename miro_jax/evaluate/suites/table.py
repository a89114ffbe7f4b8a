"""Suites by name: a new one is a file with `make_suite`, an entry here and a test."""

from collections.abc import Callable
from pathlib import Path

from miro_jax.evaluate.suites import parti, shapes, texts
from miro_jax.evaluate.suites.base import Suite
from miro_jax.evaluate.suites.geneval import suite as geneval

SUITES: dict[str, Callable[[], Suite]] = {
    "geneval": geneval.make_suite,
    "parti": parti.make_suite,
    "shapes": shapes.make_suite,
}


def make_suite(name: str) -> Suite:
    """Return a suite by its name, or that of a prompt file.

    Raises:
      ValueError: it is neither; the names are listed.
    """
    if name in SUITES:
        return SUITES[name]()
    if Path(name).expanduser().is_file():
        return texts.make_suite(str(Path(name).expanduser()))
    raise ValueError(
        f"--suite must be one of {', '.join(SUITES)}, or a file of prompts; got {name!r}."
    )
