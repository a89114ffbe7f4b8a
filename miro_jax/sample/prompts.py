"""Prompt files: a prompt a line, or JSON lines with what is asked for each prompt.

    {"prompt": "a red fox in snow", "targets": {"aesthetic": 0.6, "clip": null}, "seed": 7}

`targets`, `negative_targets` and `seed` are optional; null is not asked for. Other keys are left
alone, so that files of benchmarks can be given as they are.
"""

import difflib
import json
from pathlib import Path
from typing import Any

from miro_jax.sample.request import Prompt

JSON_LINES = (".jsonl", ".ndjson")
KEYS = ("prompt", "targets", "negative_targets", "seed")
_LIKELY_MISTAKE = 0.8  # how much alike two keys are, 1 is equal


def read_prompts(path: Path | str) -> tuple[Prompt, ...]:
    """Read a prompt file; lines without text are skipped.

    Args:
      path: JSON lines if it ends in .jsonl or .ndjson, else plain text, in UTF-8.

    Raises:
      FileNotFoundError: there is no such file. ValueError: a line cannot be understood, with its
        number; or there is no prompt.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file of prompts; there is none.")
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text: {error}.") from error
    prompts = []
    for number, line in enumerate(lines, 1):
        if not (line := line.strip()):
            continue
        if path.suffix not in JSON_LINES:
            prompts.append(Prompt(line))
            continue
        try:
            prompts.append(_read_line(line))
        except ValueError as error:
            raise ValueError(f"line {number} of {path}: {error}") from error
    if not prompts:
        raise ValueError(f"{path} must hold at least one prompt; it is empty.")
    return tuple(prompts)


def _read_line(line: str) -> Prompt:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error}).") from error
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str):
        raise ValueError(f'must read {{"prompt": "...", ...}}; got {line[:60]}.')
    for key in found.keys() - set(KEYS):
        if near := difflib.get_close_matches(key, KEYS, 1, _LIKELY_MISTAKE):
            raise ValueError(f"unknown key {key!r}; did you mean {near[0]!r}?")
    seed = found.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise ValueError(f"seed must be an integer; got {seed!r}.")
    levels = [_levels(found.get(key), key) for key in ("targets", "negative_targets")]
    return Prompt(found["prompt"], *levels, seed)


def _levels(value: Any, key: str) -> dict[str, float | None]:
    value = {} if value is None else value
    good = isinstance(value, dict) and all(
        level is None or (isinstance(level, int | float) and not isinstance(level, bool))
        for level in value.values()
    )
    if not good:
        raise ValueError(f"{key} must be an object of reward: level or null; got {value!r}.")
    return value
