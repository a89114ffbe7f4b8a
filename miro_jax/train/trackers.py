"""Trackers: Weights & Biases, or Trackio, get a copy of the metrics; `metrics.jsonl` is the source.

Both packages speak one dialect, `init(project, name, config, resume)`, `log(values, step)` and
`finish()`, and are installed by whoever wants them. A tracker that is missing, refuses or fails
costs one warning and gets nothing more; the run does not notice. After a resume a tracker may
ignore the steps that it has seen.
"""

import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lazy_loader

from miro_jax.data.storage.mirror import origin

NAMES = ("wandb", "trackio")
PROJECT = "miro_jax"
log = logging.getLogger("miro_jax")


def run_name(workdir: Path) -> str:
    """Name a run after its folder: the same when it resumes, another one in another folder."""
    digest = hashlib.sha256((origin(workdir) or str(workdir.absolute())).encode()).hexdigest()
    return f"{workdir.name}-{digest[:8]}"


class Trackers:
    """The trackers of one run. On processes other than the first there are none to be given.

    Args:
      names: of NAMES. run: name of the run, the same when it resumes. config: plain values.
    """

    def __init__(self, names: Sequence[str], run: str, config: Mapping[str, Any]):
        self._modules: dict[str, Any] = dict.fromkeys(names)
        for name in names:
            self._try(name, functools.partial(self._start, name, run, config))

    def _start(self, name: str, run: str, config: Mapping[str, Any]) -> None:
        self._modules[name] = lazy_loader.load(name)  # fails when it is used, if it is missing
        own = {"id": run} if name == "wandb" else {}  # it resumes by an id, the other by the name
        self._modules[name].init(
            project=PROJECT, name=run, config=dict(config), resume="allow", **own
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on the numbers of a step."""
        for name, module in list(self._modules.items()):
            self._try(name, functools.partial(module.log, dict(values), step=step))

    def close(self) -> None:
        """Finish the run at every tracker. Calling it again does nothing."""
        for name, module in list(self._modules.items()):
            self._try(name, functools.partial(module.finish))
        self._modules.clear()

    def _try(self, name: str, call: Callable[[], Any]) -> None:
        """Call a tracker; drop it where it fails, also by an exit that it asks for."""
        try:
            call()
        except (Exception, SystemExit) as error:
            del self._modules[name]
            why = " ".join(str(error).split())[:200] or type(error).__name__
            log.warning("%s gets nothing more of this run, metrics.jsonl goes on: %s", name, why)
