"""Checkpoints in an object store: `--checkpoint=gs://bucket/run`, or s3://; runs and releases.

`locate` gives a local folder with what sampling needs of one, and fetches what is not here yet:

    a run        the averaged weights of its newest finished checkpoint, config, evaluation
    a release    config, weights, empty prompt

Older checkpoints, the optimizer's state, images and records stay where they are. The folder is
named after the URL and after what the store says of the large files, so these never change in it,
and another checkpoint has another folder. A file appears there whole: what a killed process has
fetched is not fetched again.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from miro_jax.cli.exit import note
from miro_jax.cli.progress import Progress
from miro_jax.data.json_file import parse_json
from miro_jax.data.storage import Damaged, RemoteFolder
from miro_jax.data.storage.files import naming, published, remove_leftovers, to_json, write_atomic
from miro_jax.data.storage.mirror import CHECKPOINTS, COMMIT, MARKER, finished_steps, scratch_root
from miro_jax.data.storage.remote import SCHEMES, errors_of_stores
from miro_jax.pretrained.weights import hub, official

FOLDER = "checkpoints"  # below the scratch folder
_OF_A_RUN = ("run.json", "evaluation.json", "records/manifest.json")  # beside its config, if there
_NOT_SAMPLED = ("params", "opt_state")  # parts of a checkpoint
_THREADS = 8  # each fetches a file
_KEPT = 2  # copies of a URL: others may still read the one before
_Tree = Mapping[str, tuple[int, str]]


def locate(
    location: str | os.PathLike,
    variants: Sequence[str] = (),
    step: int | None = None,
    weights: bool = True,
) -> Path:
    """Return the local folder of a checkpoint; of one in an object store a copy.

    Args:
      location: a path, a URL, or a hub id, which is returned as if it were a path.
      variants: names of a sub-folder of a release in a store, of which the first that is there is
        what is copied.
      step: of a run's checkpoint in a store; None is the newest.
      weights: False copies the small files alone.

    Raises:
      FileNotFoundError: the store has no such run or release, variant or finished checkpoint.
      OSError: it cannot be read. ValueError: the URL cannot be opened, or there is no text.
      TypeError: it is no text and no path.
    """
    if not isinstance(location, str | os.PathLike):
        raise TypeError(f"A checkpoint must be a folder, a URL or a hub id; got {location!r:.60}.")
    if not os.fspath(location):  # which as a path would be the folder that one is in
        raise ValueError(
            "A checkpoint must be a folder, a URL or a hub id; got an empty text. Is a variable of "
            "the shell not set?"
        )
    scheme, is_url, _ = os.fspath(location).partition("://")
    if not is_url:
        return Path(location).expanduser()
    if scheme not in SCHEMES:
        raise ValueError(
            "The URL of a checkpoint must begin with gs:// or s3://; others are given by the path "
            f"of their folder, or by a hub id, owner/name. Got {location}."
        )
    with errors_of_stores():
        store, config = _find(RemoteFolder(os.fspath(location)), variants)
        tree = store.tree()
        is_run = any(name.startswith(f"{CHECKPOINTS}/") for name in tree)
        names = _names_of_run(store, tree, step) if is_run else _names_of_release(store, tree)
        copy = _copy_of(store, {name: tree[name] for name in names})
        (copy / names[-1]).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(copy / official.CONFIG, config)
        if is_run:
            for name in (name for name in _OF_A_RUN if name in tree):
                (copy / name).parent.mkdir(exist_ok=True)
                write_atomic(copy / name, store.read(name))
        write_atomic(copy / MARKER, to_json({"url": str(store), "files": {}}))
        if weights:
            _fetch(store, {name: tree[name][0] for name in names}, copy)
            _remove_others(copy)
    return copy


def steps_of(location: str) -> list[int]:
    """Return the steps of the finished checkpoints of a run in an object store, ascending.

    Raises:
      FileNotFoundError: there is no run. OSError: it cannot be read.
    """
    with errors_of_stores():
        store, _ = _find(RemoteFolder(location), ())
        return sorted(finished_steps(store.tree()))


def step_of(copy: Path) -> int:
    """Return the step of the only checkpoint in a copy of a run, also where it has no weights."""
    (folder,) = (copy / CHECKPOINTS).iterdir()
    return int(folder.name)


def forget(folder: Path) -> str:
    """Delete a copy whose weights are damaged; return what to do, for a message."""
    if scratch_root() / FOLDER not in folder.parents:
        raise ValueError(f"{folder} must be a copy of a checkpoint in a store; it is none.")
    shutil.rmtree(folder.parent, ignore_errors=True)
    return "Its copy here was deleted: the same command fetches it again."


def _find(store: RemoteFolder, variants: Sequence[str]) -> tuple[RemoteFolder, bytes]:
    """Return the folder of a run or release, and its config."""
    for inside in variants or ("",):
        one = RemoteFolder(store / inside) if inside else store
        with contextlib.suppress(FileNotFoundError), _explained(one):
            return one, one.read(official.CONFIG)
    there = f" with a folder {' or '.join(variants)}" if variants else ""
    raise FileNotFoundError(
        f"{store} must be the folder of a run or of a release{there}; it has no "
        f"{official.CONFIG}. Training with --workdir=URL makes one, or a copy of runs/NAME or of "
        "what miro-jax export wrote."
    )


@contextlib.contextmanager
def _explained(store: RemoteFolder) -> Iterator[None]:
    """Let an error of the first contact with a store name the URL."""
    try:
        with errors_of_stores():
            yield
    except FileNotFoundError:
        raise
    except OSError as error:
        kind = PermissionError if isinstance(error, PermissionError) else OSError
        raise kind(f"{store} cannot be read: {error}") from error


def _names_of_run(store: RemoteFolder, tree: _Tree, step: int | None) -> list[str]:
    """Return the files of a checkpoint that sampling reads, what commits it last."""
    steps = finished_steps(tree)
    if not steps or step not in (None, *steps):
        wanted = "a finished checkpoint" if step is None else f"the checkpoint of step {step}"
        raise FileNotFoundError(
            f"{store / CHECKPOINTS} must hold {wanted}; it holds "
            f"{', '.join(map(str, sorted(steps))) or 'none'}. Training uploads one after each save."
        )
    top = f"{CHECKPOINTS}/{max(steps) if step is None else step}/"
    inside = [name for name in tree if name.startswith(top)]
    names = [n for n in inside if n[len(top) :].split("/")[0] not in _NOT_SAMPLED]
    return sorted(names, key=lambda name: (name == top + COMMIT, name))


def _names_of_release(store: RemoteFolder, tree: _Tree) -> list[str]:
    """Return the files of a release that `official.read` reads."""
    names = [name for name in (official.CONFIG, official.EMPTY) if name in tree]
    for name in hub.weight_files("model"):
        if name not in tree:
            continue
        if hub.is_index(name):
            listed = parse_json(store.read(name), store / name, {"weight_map": {str: str}})
            parts = sorted(set(listed["weight_map"].values()))
            if missing := [part for part in parts if part not in tree]:
                raise FileNotFoundError(f"{store / missing[0]} is missing; {name} lists it.")
            names += parts
        return [*names, name]
    raise FileNotFoundError(
        f"{store} must hold {CHECKPOINTS}/ of a run, or {official.WEIGHTS} of a release; it holds "
        "neither."
    )


def _copy_of(store: RemoteFolder, large: _Tree) -> Path:
    """Return the folder for so many files; its name ends as the URL does."""
    url, files = (hashlib.sha256(x).hexdigest()[:16] for x in (str(store).encode(), to_json(large)))
    return scratch_root() / FOLDER / url / files / str(store).rpartition("/")[2]


def _fetch(store: RemoteFolder, sizes: Mapping[str, int], folder: Path) -> None:
    """Bring files here that are not; the last one after all others."""
    missing = [n for n, size in sizes.items() if not _is_here(folder / n, size)]
    if not missing:
        return
    total, come = sum(sizes[name] for name in missing), 0
    guard, stopped = threading.Lock(), threading.Event()
    note(f"{store}: fetching {total / 1e6:,.1f} MB into {folder}")
    with Progress("fetch", "MB", total / 1e6) as progress:

        def count(some: int) -> None:
            nonlocal come
            if stopped.is_set():
                raise InterruptedError("another file could not be fetched")
            with guard:
                before, come = come, come + some
                if more := come // 10**6 - before // 10**6:
                    progress.update(more)

        def fetch(name: str) -> None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
            with published(path) as file, naming(path, file.name):
                store.fetch(name, file.name, count)
                if (got := os.path.getsize(file.name)) != sizes[name]:
                    raise Damaged(f"{store / name} must have {sizes[name]} bytes; {got} came.")

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            pending = [pool.submit(fetch, name) for name in missing[:-1]]
            try:
                for done in concurrent.futures.as_completed(pending):
                    done.result()
            except BaseException:  # Ctrl-C among them
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        fetch(missing[-1])


def _is_here(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except FileNotFoundError:
        return False


def _remove_others(copy: Path) -> None:
    """Delete older copies of the same URL but for the newest."""
    os.utime(copy.parent)  # it is used now
    ages = {}
    for other in copy.parent.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process deletes, too
            ages[other] = other.stat().st_mtime
    for other in sorted(ages, key=lambda one: ages[one])[:-_KEPT]:
        if other != copy.parent:
            shutil.rmtree(other, ignore_errors=True)


def digest_of(identity: str) -> str:
    """Return the digest of weights, "NAME sha256:DIGEST", whose folder may be called otherwise."""
    return identity.rpartition("sha256:")[2]
