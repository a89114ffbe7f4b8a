"""What the best candidate of a search is worth on fresh prompts, in numbers and in words.

Letters: P prompts, N images.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from miro_jax.report.statistics import bootstrap_mean
from miro_jax.sample.curve import expected_best
from miro_jax.sample.preset import Preset


def compare(default: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """Compare scores of the same prompts.

    Args:
      default: [P, N] at the default targets. found: [P, n] at the best candidate.

    Returns:
      `default`, `preset` and `gain`, the mean difference over prompts, with intervals over prompts;
      `best_of_n` of the default: its `n` and mean, the gain of the candidate over it, and the least
      n whose mean reaches the candidate's (None where N does not).
    """
    curves = expected_best(default)
    before, after = default.mean(axis=1), found.mean(axis=1)
    reached = np.flatnonzero(curves.mean(axis=0) >= after.mean())
    return {
        "images_per_prompt": found.shape[1],
        "default": bootstrap_mean(before),
        "preset": bootstrap_mean(after),
        "gain": bootstrap_mean(after - before),
        "best_of_n": {
            "n": default.shape[1],
            "best": bootstrap_mean(curves[:, -1]),
            "gain_of_preset": bootstrap_mean(after - curves[:, -1]),
            "n_that_equals_preset": int(reached[0]) + 1 if reached.size else None,
        },
    }


def best_candidate(preset: Preset) -> Preset | None:
    """Return the candidate that was confirmed, which may have been rejected; None without one."""
    candidate = preset.confirmed["candidate"]
    return None if candidate is None else dataclasses.replace(preset, **candidate)


def describe(preset: Preset) -> list[str]:
    """Return a preset and its confirmation as lines of text."""
    c, best = preset.confirmed, best_candidate(preset)
    judge = f"{preset.found_on['objective']} on {c['prompts']} fresh prompts"
    if best is None:
        return [
            _levels(preset),
            f"These are the defaults: of {preset.found_on['candidates']} candidates none is better "
            "beyond chance on the prompts of the search. A larger --budget resolves smaller gains.",
            f"{judge}: {_interval(c['default'])}",
        ]
    lines = [
        _levels(best),
        f"{judge}: preset {_interval(c['preset'])}, default {_interval(c['default'])}, gain "
        f"{_interval(c['gain'])}",
    ]
    if c["gain"]["mean"] <= 0:
        return [
            *lines,
            "On fresh prompts these are no better than the defaults, so the defaults are kept: "
            f"{_levels(preset)}",
        ]
    many = c["best_of_n"]
    equal = many["n_that_equals_preset"] or f"more than {many['n']}"
    lines.append(
        f"best of {many['n']} at the default, as many images as search and confirmation: "
        f"{_interval(many['best'])}; the preset equals the best of {equal}"
    )
    if c["gain"]["low"] <= 0:
        lines.append("The gain is within chance: its interval holds 0.")
    return lines


def _levels(preset: Preset) -> str:
    levels = {name: preset.targets.get(name, 1.0) for name in preset.rewards}
    words = ", ".join(f"{k} {'none' if v is None else f'{v:g}'}" for k, v in levels.items())
    return f"{words + '; ' if words else ''}guidance {preset.guidance_scale:g}"


def _interval(mean: Mapping[str, float]) -> str:
    return f"{mean['mean']:.4g} [{mean['low']:.4g}, {mean['high']:.4g}]"
