"""Which folder or hub id is meant by the name of a checkpoint."""

import contextlib
import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from miro_jax.data.near import runs_here
from miro_jax.data.printable import some
from miro_jax.pretrained.weights import hub, official

# The hub's names of the models trained on fewer rewards: miro-no-pickscore, miro-only-clip, ...
HUB_WORDS = {"pick_score": "pickscore", "sci_score": "sciscore"}


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run with checkpoints."""
    return (folder / "checkpoints").is_dir()


@contextlib.contextmanager
def open_release(
    source: str | Path, variant: str | None, copy: Path, revision: str | None
) -> Iterator[hub.Repository]:
    """Open a folder in the released layout, or a hub id where it cannot be meant as a folder.

    Args:
      source, variant, revision: see `trained.load`.
      copy: of that folder, opened where it is in a store.

    Raises:
      FileNotFoundError: it looks like the path of a folder, and there is none; the text names
        checkpoints that are called nearly so. Offline, the text names both possibilities.
    """
    source, variant = (copy, None) if "://" in str(source) else (source, variant)
    text = os.path.expanduser(source)
    folder = Path(text)
    if variant is None and folder.exists() and not (folder / official.CONFIG).is_file():
        raise FileNotFoundError(_describe_other(folder))
    if folder.is_dir():
        yield hub.open(text, _subfolder(folder, variant), revision)
        return
    beside = [
        str(path)
        for path in folder.parent.glob("*/")
        if is_run(path) or (path / _subfolder(path, variant) / official.CONFIG).is_file()
    ]
    near = difflib.get_close_matches(str(folder), sorted({*runs_here(), *beside}), 3, 0.75)
    looks_local = str(source).startswith(("./", "../", "/", "~")) or len(folder.parts) != 2
    if looks_local or near or Path(folder.parts[0]).is_dir():
        hint = f"; did you mean {' or '.join(near)}?" if near else ". A hub id reads owner/name."
        raise FileNotFoundError(f"there is no folder {source}{hint}")
    try:
        yield hub.open(text, _subfolder(folder, variant), revision)
    except (hub.OfflineError, hub.UnreachableError) as error:
        raise type(error)(f"there is no folder {source}; as a hub id: {error}") from error


def _describe_other(path: Path) -> str:
    """Say that a path is no checkpoint, and which ones are below it or around it."""
    text = f"{path} must be the folder of a run, or one in the released layout with config.json; it"
    below = [p.parent for p in (*path.glob("*/checkpoints"), *path.glob(f"*/{official.CONFIG}"))]
    around = [p for p in path.parents[:2] if is_run(p) or (p / official.CONFIG).is_file()]
    near = sorted({str(one) for one in below or around})
    if not near:
        return f"{text} {'has neither' if path.is_dir() else 'is a file'}."
    advice = "one of these" if len(near) > 1 else near[0]
    return f"{text} {'holds' if below else 'is part of'} {some(near, most=5)}. Give {advice}."


def variants(variant: str | None) -> Sequence[str]:
    """Return the names that the sub-folder of a variant may have, ours first."""
    if variant is None:
        return ()
    if not isinstance(variant, str):
        raise TypeError(f"variant must be a text, as 'no_clip'; got {variant!r}.")
    if variant.startswith("miro-"):
        return (variant,)
    theirs = variant
    for word, of_the_hub in HUB_WORDS.items():
        theirs = theirs.replace(word, of_the_hub)
    return variant, "miro-" + theirs.replace("_", "-")


def _subfolder(folder: Path, variant: str | None) -> str:
    names = variants(variant)
    return next((name for name in names if (folder / name).is_dir()), names[-1] if names else "")
