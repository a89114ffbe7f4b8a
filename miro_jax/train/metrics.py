"""The metrics of a run: lines of `metrics.jsonl`, and TensorBoard events."""

import contextlib
import io
import json
import logging
import os
import pathlib
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from miro_jax.data.regular_file import check_regular
from miro_jax.pretrained.weights.hf import without
from miro_jax.report.metric_lines import FILE, drop_after
from miro_jax.train.trackers import Trackers

# tensorboardX imports them where they are installed, in half a second, for what is not used here.
with without("torch", "boto3", "google.cloud.storage"):
    from tensorboardX import summary
    from tensorboardX.proto import event_pb2  # its classes are made when it is imported
    from tensorboardX.record_writer import masked_crc32c

Event, SessionLog = (getattr(event_pb2, name) for name in ("Event", "SessionLog"))
log = logging.getLogger("miro_jax")


class MetricsWriter:
    """Writes the metrics of one run. On processes other than the first every method does nothing.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        resume_step: int = 0,
        make_trackers: Callable[[], Trackers] | None = None,
    ):
        """Open the files for appending.

        Args:
          workdir: the run's folder; made when missing.
          resume_step: updates done so far. Lines of later steps, left by a run that died after its
            last checkpoint, are dropped, in one atomic exchange of the file; TensorBoard drops
            them too.
          make_trackers: starts those that get a copy of the numbers.

        Raises:
          ValueError: a line that is no JSON object with a step, other than an unfinished last one.
        """
        self._path = pathlib.Path(workdir) / FILE
        self._lines: io.FileIO | None = None
        self._trackers: Trackers | None = None
        if jax.process_index() != 0:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        drop_after(self._path, resume_step)
        check_regular(self._path)
        self._lines = io.FileIO(self._path, "a")
        self._events = _Events(workdir, resume_step)
        if make_trackers is not None:
            self._trackers = make_trackers()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write numbers of one step as one line, on disk when this returns.

        Args:
          step: updates done.
          values: name -> a number or an array of one element, on any device.

        Raises:
          ValueError: a value that is no single number, or one named `step`.
          OSError: the line cannot be written; names the file.
        """
        if self._lines is None:
            return
        if "step" in values:
            raise ValueError("'step' is an argument of its own; give the value another name.")
        # device_get, since the loop forbids implicit transfers.
        numbers = {
            name: _number(name, value) for name, value in jax.device_get(dict(values)).items()
        }
        line = json.dumps({"step": int(step), **numbers}) + "\n"
        try:
            _write_all(self._lines, line.encode("utf-8"))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        shown = [v for name, number in numbers.items() for v in summary.scalar(name, number).value]
        self._events.add(step, summary.Summary(value=shown))
        if self._trackers is not None:
            self._trackers.scalars(int(step), numbers)

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Show images in TensorBoard under `name`: [H, W, 3] or [N, H, W, 3] uint8."""
        if self._lines is None:
            return
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[-1] != 3:
            raise ValueError(
                f"images of {name!r} must be uint8 [H, W, 3] or [N, H, W, 3]; "
                f"got {images.dtype} {list(images.shape)}."
            )
        layout = "NHWC" if images.ndim == 4 else "HWC"
        self._events.add(step, summary.image(name, images, dataformats=layout))

    def close(self) -> None:
        """Finish the files and the trackers. Calling it again does nothing."""
        if self._lines is not None:
            self._lines.close()
            self._events.close()
            self._lines = None
        if self._trackers is not None:
            self._trackers.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Events:
    """TensorBoard's file, a copy for looking at: what goes wrong with it is one warning, no more.

    It is written by the calling thread. tensorboardX's own writer has a thread, which a full disk
    kills without a word, and a queue, which then fills up and stops the run.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file: io.FileIO | None = None
        with self._only_a_warning():
            self._file = io.FileIO(os.path.join(workdir, name), "a")
        self._write(Event(file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=resume_step + 1, session_log=start))

    def add(self, step: int, content: Any) -> None:
        """Add the summary of a step."""
        self._write(Event(step=int(step), summary=content))

    def _write(self, event: Any) -> None:
        if self._file is None:
            return
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        with self._only_a_warning():
            _write_all(self._file, b"".join((length, sums[0], data, sums[1])))

    @contextlib.contextmanager
    def _only_a_warning(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.close()
            log.warning(
                "TensorBoard gets nothing more of this run, %s goes on: %s", FILE, error.strerror
            )

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()
        self._file = None


def _write_all(file: io.FileIO, data: bytes) -> None:
    """Write all of it: a disk that is nearly full takes a part, and says so at the next call."""
    while data:
        data = data[file.write(data) :]


def _number(name: str, value: Any) -> int | float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind in "OSUMmc":
        raise ValueError(
            f"metric {name!r} must be one number; got {array.dtype} of shape {list(array.shape)}."
        )
    return int(array.item()) if array.dtype.kind in "biu" else float(array.item())
