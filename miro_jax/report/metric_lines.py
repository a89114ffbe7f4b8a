"""`metrics.jsonl`: the numbers of a run over its steps, exact and easy to read.

One line is one call of `metrics.MetricsWriter.scalars`: a JSON object with `step` and the numbers.
A float is written so that reading it gives the same float; NaN and the infinities are written as
Python's json writes and reads them. `step` counts the updates done, so that a run that resumes
from the checkpoint of step s keeps the lines up to s and writes later ones again.
"""

import os
import pathlib
from typing import Any

from miro_jax.data.json_file import parse_json
from miro_jax.data.regular_file import read_regular
from miro_jax.data.storage.files import write_atomic

FILE = "metrics.jsonl"
MOST_BYTES = 2**30  # of the file


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, float]]:
    """Read what `metrics.MetricsWriter` wrote, also while it still writes.

    Returns:
      One dict for each step, ascending, with `step` and all numbers of its lines; where one step
      has a name twice, the later line counts.

    Raises:
      FileNotFoundError: no `metrics.jsonl` in `workdir`.
      ValueError: a damaged line, other than an unfinished last one.
    """
    path = pathlib.Path(workdir) / FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; a training run writes it.")
    steps: dict[int, dict[str, float]] = {}
    for _, values in _finished_lines(path):
        steps.setdefault(values["step"], {}).update(values)
    return [steps[step] for step in sorted(steps)]


def drop_after(path: pathlib.Path, step: int) -> None:
    """Take the lines after `step`, and an unfinished one, out of the file, all at once."""
    if not path.exists():
        return
    keep = b"".join(line for line, values in _finished_lines(path) if values["step"] <= step)
    write_atomic(path, keep)


def _finished_lines(path: pathlib.Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines that end in a newline, each with what it holds. A kill can only cut the last."""
    lines = []
    for number, line in enumerate(read_regular(path, MOST_BYTES).splitlines(True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            lines.append((line, parse_json(line, "it", {"step": int}, finite=False)))
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number} must be a JSON object with a step; got {line[:80]!r}. "
                "Remove the line, or move the file away to begin anew."
            ) from error
    return lines
