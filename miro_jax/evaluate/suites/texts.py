"""Prompts of any file as a suite: rewards are all that is measured."""

import hashlib
from pathlib import Path

from miro_jax.evaluate.suites.base import Suite, SuitePrompt
from miro_jax.sample.request import read_texts


def make_suite(path: str) -> Suite:
    """Read a prompt file, see `sample.request`; prompts may not ask for targets or seeds.

    Raises:
      FileNotFoundError: there is no such file. ValueError: it cannot be used.
    """
    texts = read_texts(path)
    prompts = tuple(SuitePrompt(f"{n:05d}", text) for n, text in enumerate(texts))
    digest = hashlib.sha256("\0".join(texts).encode("utf-8")).hexdigest()
    return Suite(f"{Path(path).stem}@{digest[:8]}", prompts, samples_per_prompt=1)
