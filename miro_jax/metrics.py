"""What a run says about itself: `metrics.jsonl`, exact and easy to read, and TensorBoard events.

One line of `metrics.jsonl` is one call of `MetricsWriter.scalars`: a JSON object with `step` and
the numbers. A float is written so that reading it gives the same float; NaN and the infinities
are written as Python's json writes and reads them. `step` counts the updates done, so that a run
which goes on from the checkpoint of step s keeps the lines up to s and writes later ones again.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorboardX

FILE = "metrics.jsonl"


class MetricsWriter:
    """Writes the metrics of one run. On processes other than the first every method does nothing.

    Use it as a context manager, or call `close`.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int = 0):
        """Open the files for appending.

        Args:
          workdir: the run's folder; made when missing.
          resume_step: updates done so far. Lines of later steps, left by a run that died after its
            last checkpoint, are dropped, in one atomic exchange of the file; TensorBoard is told to
            forget them too.

        Raises:
          ValueError: a line that is no JSON object with a step, other than an unfinished last one.
        """
        self._lines = self._events = None
        if jax.process_index() != 0:
            return
        path = pathlib.Path(workdir) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_after(path, resume_step)
        self._lines = path.open("a", encoding="utf-8")
        self._events = tensorboardX.SummaryWriter(
            str(workdir), purge_step=resume_step + 1, flush_secs=30
        )

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write numbers of one step as one line, on disk when this returns.

        Args:
          step: updates done.
          values: name -> a number or an array of one element, on any device.

        Raises:
          ValueError: a value that is no single number, or one named `step`.
        """
        if self._lines is None:
            return
        if "step" in values:
            raise ValueError("'step' is an argument of its own; give the value another name.")
        # device_get, since the loop forbids implicit transfers.
        numbers = {
            name: _number(name, value) for name, value in jax.device_get(dict(values)).items()
        }
        self._lines.write(json.dumps({"step": int(step), **numbers}) + "\n")
        self._lines.flush()
        for name, number in numbers.items():
            self._events.add_scalar(name, number, int(step))

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Show pictures in TensorBoard under `name`: [H, W, 3] or [N, H, W, 3] uint8."""
        if self._lines is None:
            return
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3:
            raise ValueError(
                f"images of {name!r} must be uint8 [H, W, 3] or [N, H, W, 3]; "
                f"got {images.dtype} {list(images.shape)}."
            )
        batch = images if images.ndim == 4 else images[None]
        self._events.add_images(name, batch, int(step), dataformats="NHWC")

    def close(self) -> None:
        """Finish both files. Calling it again does nothing."""
        if self._lines is not None:
            self._lines.close()
            self._events.close()
            self._lines = self._events = None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, float]]:
    """Read what `MetricsWriter` wrote, also while it still writes.

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


def _number(name: str, value: Any) -> int | float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind in "OSUMmc":
        raise ValueError(
            f"metric {name!r} must be one number; got {array.dtype} of shape {list(array.shape)}."
        )
    return int(array.item()) if array.dtype.kind in "biu" else float(array.item())


def _finished_lines(path: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines that end in a newline, each with what it holds. A kill can only cut the last."""
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            values = json.loads(line)
            found.append((line, values | {"step": int(values["step"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number} must be a JSON object with a step; got {line[:80]!r}. "
                "Remove the line, or move the file away to begin anew."
            ) from error
    return found


def _drop_after(path: pathlib.Path, step: int) -> None:
    """Take the lines after `step`, and an unfinished one, out of the file, all at once."""
    if not path.exists():
        return
    keep = "".join(line for line, values in _finished_lines(path) if values["step"] <= step)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(keep)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
