"""The metrics of a run: lines of `metrics.jsonl`, and TensorBoard events."""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax
import numpy as np

from miro_jax.report.metric_lines import FILE, drop_after


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Hide PyTorch: tensorboardX imports it where it is installed, for arguments we never give."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # `import torch` raises
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


with _without_torch():
    import tensorboardX


class MetricsWriter:
    """Writes the metrics of one run. On processes other than the first every method does nothing.

    Use it as a context manager, or call `close`.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int = 0):
        """Open the files for appending.

        Args:
          workdir: the run's folder; made when missing.
          resume_step: updates done so far. Lines of later steps, left by a run that died after its
            last checkpoint, are dropped, in one atomic exchange of the file; TensorBoard drops
            them too.

        Raises:
          ValueError: a line that is no JSON object with a step, other than an unfinished last one.
        """
        self._lines: TextIO | None = None
        self._events: tensorboardX.SummaryWriter | None = None
        if jax.process_index() != 0:
            return
        path = pathlib.Path(workdir) / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_after(path, resume_step)
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
        if self._lines is None or self._events is None:
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
        """Show images in TensorBoard under `name`: [H, W, 3] or [N, H, W, 3] uint8."""
        if self._lines is None or self._events is None:
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
        if self._lines is not None and self._events is not None:
            self._lines.close()
            self._events.close()
            self._lines = self._events = None

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _number(name: str, value: Any) -> int | float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind in "OSUMmc":
        raise ValueError(
            f"metric {name!r} must be one number; got {array.dtype} of shape {list(array.shape)}."
        )
    return int(array.item()) if array.dtype.kind in "biu" else float(array.item())
