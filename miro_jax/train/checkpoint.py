"""Checkpoints: the training state and the position in the data, whole or not at all.

A checkpoint is a folder `<folder>/<step>` of Orbax items: one for each top-level part of the
state (`params`, `ema_params`, `opt_state`, ...), so that sampling reads the EMA alone, and `host`,
a JSON with the data iterator's state. An item is a flat dict from a leaf's name
(`params/blocks/0/kernel`) to its array: no class of NNX or optax is in the files.

Three things guard against damage. A checkpoint counts only once its commit file is there, which
is written last. `host` keeps a digest of every array, since Orbax would restore flipped bits
without an error, and a checksum of itself. And when the newest checkpoint cannot be used, the one
before it is.
"""

import dataclasses
import json
import logging
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from miro_jax.cli import processes
from miro_jax.data.storage import check_writable
from miro_jax.models import sharding
from miro_jax.train import background, one_folder
from miro_jax.train.agreement import processes_that
from miro_jax.train.digest import examine, layout
from miro_jax.train.leaks import without_leaks
from miro_jax.train.saving import Keep
from miro_jax.train.state import leaf_name

HOST = "host"
log = logging.getLogger("miro_jax")


def _take_over(record: logging.LogRecord) -> bool:
    """Keep from the terminal what Orbax warns of though intended, and tracebacks of its threads."""
    if record.exc_info and not log.propagate:  # to log.txt alone; `wait` raises it, too
        for handler in log.handlers:  # not through `log`: the command may end meanwhile
            handler.handle(record)
    return not record.exc_info and "directory is read only" not in str(record.msg)


logging.getLogger("absl").addFilter(_take_over)


@dataclasses.dataclass
class _Preserve(checkpoint_managers.PreservationPolicy):
    """What Orbax asks which checkpoints to keep. values: by step, see `Keep.kept`."""

    keep: Keep
    values: Mapping[int, float | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        kept = self.keep.kept({one.step: self.values.get(one.step) for one in checkpoints})
        return [one.step in kept for one in checkpoints]


class LayoutMismatch(ValueError):
    """A checkpoint is whole but holds other names, shapes or dtypes than the caller needs."""


class UnusableError(ValueError):
    """There are checkpoints, and none can be used. causes: a text for each."""

    def __init__(self, folder: object, causes: Sequence[str]):
        self.causes = "; ".join(causes)
        super().__init__(
            f"no checkpoint in {folder} can be used. {self.causes}. Move the folder away to begin "
            "anew."
        )


class Checkpoints:
    """The checkpoints of one run. Use it as a context manager, or call `close`.

    In a run of several processes each of them makes the same calls with the same arguments. They
    share the folder, or each has a copy of it: then process 0 gathers the arrays and saves alone.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        keep: int | Keep = 2,
        *,
        read_only: bool = False,
        shared: bool = True,
    ):
        """Open the folder, and make it where it is missing.

        Args:
          folder: of this run's checkpoints.
          keep: which are kept, or how many of the newest; 2 or more leave something to fall back
            on.
          read_only: nothing is made, saved, renamed or removed: for sampling and evaluation.
          shared: the processes of the run see one folder; otherwise each has its own copy.

        Raises:
          ValueError: keep below 1.
          FileNotFoundError: read_only, and no such folder.
          OSError: the folder cannot be made or written.
        """
        self._keep = keep if isinstance(keep, Keep) else Keep(keep)
        self.folder = epath.Path(folder).resolve()
        if re.search(r"\[.*\]|\\", str(self.folder)):
            raise ValueError(
                "A folder of checkpoints must have neither brackets nor backslashes in its path, "
                f"which Orbax takes for a pattern; got {self.folder}. Give the run another folder."
            )
        self._read_only, self._shared = read_only, shared or jax.process_count() == 1
        self._done: int | None = None  # the step saved or restored last
        if read_only and not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is missing; a training run writes it.")
        if not read_only:
            check_writable(self.folder)
        without_leaks()
        self._values: dict[int, float | None] = {}  # by which the best is chosen
        self._manager = self._reader = self._open(read_only, self._shared)
        if self._shared and jax.process_count() > 1:
            # Waits for no other process, which may have failed to read what this one can.
            self._reader = self._open(True, shared=False)
        if self._keep.best and not read_only:
            self._values |= {step: self._read_value(step) for step in self.steps()}

    def _open(self, read_only: bool, shared: bool) -> ocp.CheckpointManager:
        saved_by = background.saved_by(shared)
        return ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if read_only else _Preserve(self._keep, self._values),
                atomicity_options=ocp.options.AtomicityOptions(
                    mode=ocp.options.AtomicityMode.COMMIT_FILE
                ),
                cleanup_tmp_directories=not read_only,
                create=False,
                save_interval_steps=0,  # `save` alone decides
                read_only=read_only,
                multiprocessing_options=saved_by,
                async_options=background.options(self.folder, saved_by),
            ),
        )

    def steps(self) -> list[int]:
        """Return the steps of the committed checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def prepare(self, state: Any) -> None:
        """Compile what `save` runs, so that the first one, as on a signal, takes no longer."""
        examine(_flatten(state)[0])

    def save(
        self,
        step: int,
        state: Any,
        data_state: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Save the state, unless it is saved already.

        Copies the arrays off the devices and returns; files are written meanwhile, see `wait`. The
        state may be donated right after.

        Args:
          step: updates done.
          state: tree of jax arrays with names at its top level, a dict or a registered dataclass.
          data_state: the data iterator's state, plain JSON.
          metrics: newest numbers of the run, by which the best checkpoint is chosen.

        Returns:
          Whether it was saved. Not, when this step was saved or restored last.

        Raises:
          FloatingPointError: a float leaf holds NaN or infinity; nothing is saved.
          ValueError: a checkpoint of this or a later step is there already.
        """
        if step == self._done:
            return False
        latest = self._manager.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(
                f"checkpoints must be saved in ascending steps; got {step} where {self.folder} "
                f"holds {latest}. Restore it first, or give the run a new folder."
            )
        arrays, _ = _flatten(state)
        examined = examine(arrays)
        bad = [name for name, (_, finite) in examined.items() if not finite]
        if bad:
            raise FloatingPointError(
                f"a checkpoint must be finite; at step {step} {len(bad)} of {len(arrays)} leaves "
                f"are not: {', '.join(bad[:5])}. Nothing was saved; go back to step {latest}."
            )
        leaves = {
            name: {"layout": layout(arrays[name]), "digest": digest}
            for name, (digest, _) in examined.items()
        }
        host = {"step": step, "data_state": dict(data_state), "leaves": leaves}
        if self._keep.best:
            host["metrics"] = {self._keep.metric: (metrics or {}).get(self._keep.metric)}
            self._values[step] = self._keep.value(metrics or {})
        self._done = step
        if not self._shared:
            arrays = sharding.gather(arrays)
            if jax.process_index():
                return True
        items: dict[str, Any] = {
            part: ocp.args.StandardSave(tree) for part, tree in _by_part(arrays).items()
        }
        items[HOST] = ocp.args.JsonSave(host | {"checksum": _checksum(host)})
        if not self._manager.save(step, args=ocp.args.Composite(**items), force=True):
            raise RuntimeError(f"Orbax refused to save step {step} into {self.folder}.")
        return True

    def restore_latest(
        self, abstract_state: Any, step: int | None = None
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Restore the newest checkpoint that can be used, or the one of `step`.

        What stands after it is renamed to `unusable-<step>`, and one line in the log says why.

        Args:
          abstract_state: the tree to fill, of jax.ShapeDtypeStruct with the shardings to restore
            to, on any mesh. A dict with some of the state's parts reads only those.
          step: of the only checkpoint to try; None for the newest.

        Returns:
          (step, state, data_state), or None where there is no checkpoint yet.

        Raises:
          LayoutMismatch: `abstract_state` is not the state that was saved.
          FileNotFoundError: no checkpoint of `step`.
          UnusableError: there are checkpoints, and none can be used.
        """
        steps = one_folder.agreed(self.steps, self._manager.reload)
        if step is not None and step not in steps:
            raise FileNotFoundError(f"{self.folder} must hold step {step}; it holds {steps}.")
        wanted, structure = _flatten(abstract_state)
        for name, leaf in wanted.items():
            if leaf.sharding is None:
                raise ValueError(f"{name} must carry the sharding to restore to; got none.")
        causes: dict[int, str] = {}
        for tried in reversed(steps) if step is None else [step]:
            try:
                arrays, data_state = self._read(tried, wanted)
            except LayoutMismatch:
                raise
            except Exception as error:  # damage shows in many ways; each is reported below
                text = " ".join(str(error).split())[:200]
                causes[tried] = f"step {tried}: {type(error).__name__}: {text}"
                continue
            if causes:
                self._set_aside(causes, tried)
            self._done = tried
            leaves = [arrays[name] for name in wanted]
            return tried, jax.tree.unflatten(structure, leaves), data_state
        if causes:
            raise UnusableError(self.folder, [*causes.values()])
        return None

    def wait(self) -> None:
        """Return when what was saved is committed; raise what went wrong meanwhile."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and give up the folder."""
        if self._reader is not self._manager:
            self._reader.close()
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _read(self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]):
        """Read the wanted leaves and the data state of one step; raise at any sign of damage.

        Of several processes each reads parts of its own: what one cannot read, all refuse.
        """
        failed: Exception | None = None
        try:
            arrays, host = self._read_files(step, wanted)
        except Exception as error:  # not before the others know
            failed = error
        others = processes_that(failed is not None)
        if failed is not None:
            raise failed
        if others:
            raise ValueError(f"{' and '.join(map(processes.name, others))} cannot read it")
        examined = examine(arrays)
        damaged = [name for name in arrays if examined[name][0] != host["leaves"][name]["digest"]]
        if damaged:
            raise ValueError(f"{len(damaged)} arrays do not match their digest, as {damaged[0]}")
        return arrays, host["data_state"]

    def _read_files(self, step: int, wanted: dict[str, jax.ShapeDtypeStruct]):
        """Read the wanted leaves, whose digests are not compared yet, and the item `host`."""
        host = self._reader.restore(step, args=ocp.args.Composite(**{HOST: ocp.args.JsonRestore()}))
        host = dict(host[HOST])
        checksum = host.pop("checksum")
        if checksum != _checksum(host) or host["step"] != step:
            raise ValueError(f"item {HOST!r} does not match its checksum")
        parts = _by_part(wanted)
        saved = {k: v for k, v in host["leaves"].items() if k.split("/")[0] in parts}
        _check_layout(step, saved, wanted)
        restored = self._reader.restore(
            step,
            args=ocp.args.Composite(
                **{part: ocp.args.StandardRestore(tree) for part, tree in parts.items()}
            ),
        )
        return {name: array for part in parts for name, array in restored[part].items()}, host

    def _read_value(self, step: int) -> float | None:
        """Return by what a checkpoint is compared; None where it is damaged or does not hold it."""
        try:
            host = json.loads((self.folder / str(step) / HOST / "metadata").read_text())
            numbers = {k: v for k, v in host["metrics"].items() if isinstance(v, float)}
            return self._keep.value(numbers)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _set_aside(self, causes: Mapping[int, str], step: int) -> None:
        """Log why the steps after `step` cannot be used, and move them out of the way."""
        fate = "they stay" if self._read_only else "they are renamed to unusable-*"
        log.warning(
            "Checkpoints in %s cannot be used, resuming from step %d; %s. %s",
            *(self.folder, step, fate, "; ".join(causes.values())),
        )
        if self._read_only:
            return
        if jax.process_index() == 0 or not self._shared:
            for unusable in causes:
                aside = self.folder / f"unusable-{unusable}"
                if aside.exists():
                    aside.rmtree()
                (self.folder / str(unusable)).rename(aside)
        if jax.process_count() > 1:  # the others look at the folder only then
            multihost_utils.sync_global_devices("unusable checkpoints")
        self._manager.reload()


def _flatten(tree: Any) -> tuple[dict[str, Any], Any]:
    """A tree as a dict from names to leaves, and what puts it together again."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {leaf_name(path): leaf for path, leaf in pairs}
    if len(leaves) != len(pairs) or "" in leaves:
        raise ValueError("each leaf of a state must have a name of its own, below a named part.")
    return leaves, structure


def _by_part(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Group leaves by the first key of their name, in the order of the leaves."""
    parts: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        parts.setdefault(name.split("/")[0], {})[name] = leaf
    return parts


def _check_layout(step: int, saved: Mapping[str, dict], wanted: Mapping[str, Any]) -> None:
    needed = {name: layout(leaf) for name, leaf in wanted.items()}
    differing = [
        f"{name}: {saved[name]['layout'] if name in saved else 'nothing'} saved, "
        f"{needed.get(name, 'nothing')} needed"
        for name in sorted(saved.keys() | needed.keys())
        if name not in saved or saved[name]["layout"] != needed.get(name)
    ]
    if differing:
        raise LayoutMismatch(
            f"checkpoint {step} must hold the state of this config; {len(differing)} leaves "
            f"differ: {'; '.join(differing[:5])}. Use the config of that run, or a new work folder."
        )


def _checksum(host: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(host, sort_keys=True).encode())
