"""Suites by name: a new one is a file with `make_suite`, an entry here and a test."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from miro_jax.data.near import near_name, near_path
from miro_jax.evaluate.command import read_config
from miro_jax.evaluate.settings import Settings
from miro_jax.evaluate.suites import adapters, parti, shapes, texts
from miro_jax.evaluate.suites.base import Suite
from miro_jax.evaluate.suites.geneval import suite as geneval

SUITES: dict[str, Callable[[], Suite]] = {
    "geneval": geneval.make_suite,
    "parti": parti.make_suite,
    "shapes": shapes.make_suite,
}


def make_suite(name: str, run: Path | None = None) -> Suite:
    """Return a suite by its name, or that of a prompt file.

    Args:
      name: of SUITES, the path of a file, or NAME:PATH of a suite in `adapters`.
      run: folder of a run; the suite `shapes` then has the prompts of the run's own evaluation.

    Raises:
      ValueError: it is neither; the names are listed.
    """
    if name == "shapes" and run is not None:
        config = read_config(run)
        settings = Settings(**config.evaluate)
        suite = shapes.make_suite(
            settings.categories, settings.prompts_per_category, config.sample.seed
        )
        return dataclasses.replace(suite, samples_per_prompt=settings.images_per_prompt)
    if name in SUITES:
        return SUITES[name]()
    adapter, colon, path = name.partition(":")
    if colon and adapter in adapters.ADAPTERS:
        return adapters.make_suite(adapter, path)
    if Path(name).expanduser().is_file():
        return texts.make_suite(str(Path(name).expanduser()))
    known = (*SUITES, *(f"{one}:{path or 'PATH'}" for one in adapters.ADAPTERS))
    raise ValueError(
        f"--suite must be one of {', '.join(SUITES)}, or a file of prompts, or NAME:PATH with your "
        f"copy of the prompts of {', '.join(adapters.ADAPTERS)}; got {name!r}"
        f"{near_name(name, known, otherwise=near_path(name))}"
    )
