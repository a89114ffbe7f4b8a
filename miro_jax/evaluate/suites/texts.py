"""Prompts of any file as a suite: rewards are all that is measured."""

import hashlib
from pathlib import Path

from miro_jax.evaluate.suites.base import Suite, SuitePrompt
from miro_jax.sample.request import read_prompts


def make_suite(path: str) -> Suite:
    """Read a prompt file, see `sample.request`; prompts may not ask for targets or seeds.

    Raises:
      FileNotFoundError: there is no such file. ValueError: it cannot be used.
    """
    read = read_prompts(path)
    if special := [p for p in read if p.targets or p.negative_targets or p.seed is not None]:
        raise ValueError(
            f"{path} must hold prompts alone: targets and seeds are flags here. The prompt "
            f"{special[0].text[:60]!r} has its own; remove them."
        )
    prompts = tuple(SuitePrompt(f"{n:05d}", prompt.text) for n, prompt in enumerate(read))
    digest = hashlib.sha256("\0".join(p.text for p in prompts).encode("utf-8")).hexdigest()
    return Suite(f"{Path(path).stem}@{digest[:8]}", prompts, samples_per_prompt=1)
