"""A run whose folder is in an object store: `--workdir=gs://bucket/run`, or s3://.

Stages work in a local mirror of it, see `data.storage.mirror`, and are none the wiser. Process 0
alone holds the run's lease in the store and uploads; of the others their logs go up. Each process
has a mirror of its own.
"""

import contextlib
import functools
from pathlib import Path

import jax
import ml_collections
from jax.experimental import multihost_utils

from miro_jax.cli.exit import note
from miro_jax.data import storage
from miro_jax.data.storage.lease import Lease, locked
from miro_jax.data.storage.mirror import Mirror, local_folder, origin, wait_for_upload

TRAINING, LOCK_NAME = ("train", "distil", "extend"), ".lock-train"  # stages, and their lease


def is_url(workdir: str | Path) -> bool:
    """Return whether the folder of a run is in an object store."""
    return "://" in str(workdir)


def open_mirror(
    config: ml_collections.ConfigDict,
    url: str,
    stage: str,
    held: contextlib.ExitStack,
) -> Path:
    """Bring a run here, and upload what it becomes until `held` is closed.

    Args:
      config: of the run. url: of its folder. stage: that is run.
      held: gets what is to be closed at the end.

    Returns:
      The local folder.

    Raises:
      BlockingIOError: another process works on the run; the text names it.
      FileNotFoundError: no such run, for a stage that begins with what training wrote.
      ValueError: the stage cannot work there, or the package that talks to the store is missing.
    """
    if stage == "annotate" and not config.data.records:
        raise ValueError(
            f"--stage=annotate with --workdir={url} needs --config.data.records, the folder or URL "
            f"for the records, such as {url.rstrip('/')}-records."
        )
    store = storage.RemoteFolder(url)
    begins, first = stage not in ("sample", "evaluate"), jax.process_index() == 0
    lease: Lease | None = None
    if first:
        name = LOCK_NAME if begins else f".lock-{stage}"
        lease = held.enter_context(locked(store, name, f"the run {url}", exit_if_lost=True))
    local = held.enter_context(local_folder(str(store), jax.process_index()))
    mirror = Mirror(
        store,
        local,
        config.train.upload_every_seconds,
        config.train.keep_checkpoints if begins else 1,
        lease,
        () if begins else ("log.txt",),  # that of training, which may be under way elsewhere
        None if first else f"log-{jax.process_index()}.txt",
        functools.partial(_stays, stage, config.train),
    )
    if first:
        every = f"{config.train.upload_every_seconds:g}"
        note(f"{url}: working in {local}; what changes is uploaded every {every} s")
        mirror.fetch()
        if not begins and not (local / "config.json").exists():
            raise FileNotFoundError(
                f"--workdir must be the folder of a trained run; there is none in {url}."
            )
        mirror.push()  # what a killed process left here: the others read the store
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the run's folder")
    if not first:
        mirror.fetch()
    held.enter_context(mirror)
    return local


def _stays(stage: str, train: ml_collections.ConfigDict, step: int) -> bool:
    """Return whether a rule of `train.saving.Keep` may want a checkpoint that was not fetched.

    Which one is best is not known without its numbers, so none is deleted where that is a rule.
    """
    if stage not in TRAINING or train.keep_best:
        return True
    return train.keep_every_steps > 0 and step % train.keep_every_steps == 0


def share_checkpoint(workdir: Path) -> None:
    """Bring what process 0 has saved to the mirrors of the others; all make the same call.

    Nothing happens where the processes share a folder.
    """
    url = origin(workdir)
    if url is None or jax.process_count() == 1:
        return
    if jax.process_index() == 0:
        wait_for_upload(workdir)
    multihost_utils.sync_global_devices("the last checkpoint")
    if jax.process_index():
        ours = (f"log-{jax.process_index()}.txt",)  # which is still written
        Mirror(storage.RemoteFolder(url), workdir, 0, newest=1, ignored=ours).fetch()
