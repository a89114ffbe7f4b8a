"""What a folder of records is made with, before, while and after it is made.

    manifest.partial.json    the configuration of a set in the making
    parts/GROUP.json         the models of a group, known when they were loaded
    manifest.json            both, of a set that is complete

Nothing is made in a folder whose origin is another one, or not known.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Mapping
from typing import Any

from miro_jax.annotate import parts
from miro_jax.data.records.manifest import MANIFEST_NAME, Manifest, same_models
from miro_jax.data.records.shards import SCORES_ENDING, SHARD_SUFFIX, SIDECAR_ENDING
from miro_jax.data.storage import Folder
from miro_jax.data.storage.files import brief, to_json

PARTIAL_NAME = "manifest.partial.json"
_MODELS = ("rewards", "image_encoder", "caption_encoder")
_ABSENT = (FileNotFoundError, NotADirectoryError)
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)


def is_complete(folder: Folder) -> bool:
    """Tell whether a set has all of its files, and nobody makes any of it again."""
    return has_all(folder) and not folder.exists(PARTIAL_NAME)


def has_all(folder: Folder) -> bool:
    """Tell whether there is a manifest, and every file that belongs to the shards it names."""
    try:
        shards = Manifest.load(str(folder)).shards
    except _ABSENT:
        return False
    wanted = {name + end for name in shards for end in ("", SIDECAR_ENDING, SCORES_ENDING)}
    return wanted <= set(folder.names())


def check(folder: Folder, asked: Mapping[str, Any]) -> None:
    """Raise ValueError if a folder holds, or is to hold, records of another configuration."""
    present = _read(folder)
    if present is None:
        used = folder.is_used(parts.FOLDER) or any(n.endswith(SHARD_SUFFIX) for n in folder.names())
        present = _read(folder)  # another process may have begun, or ended, in between
        if present is None and used:
            raise ValueError(
                f"{folder} holds shards or a folder {parts.FOLDER!r}, but neither {MANIFEST_NAME} "
                f"nor {PARTIAL_NAME} that say what they were made with. Delete the folder or name "
                "another."
            )
    if present is None:
        return
    # An older set may not say all that is asked today.
    differing = [n for n in asked if n in present and not _same(n, present[n], asked[n])]
    if differing:
        details = "; ".join(_difference(n, present[n], asked[n]) for n in differing)
        raise ValueError(
            f"{folder} must hold records of the configuration asked for, but differs in "
            f"{', '.join(differing)} ({details}). Delete the folder or name another."
        )


def _read(folder: Folder) -> dict[str, Any] | None:
    """Return what a folder says it is made with, if it does."""
    # The one is there before the other goes, so this order could miss both; hence twice.
    for _ in range(2):
        with contextlib.suppress(*_ABSENT):
            return {"encode_512": False} | Manifest.load(str(folder)).configuration
        with contextlib.suppress(*_ABSENT):
            return folder.read_json(PARTIAL_NAME)
    return None


def _same(name: str, present: Any, asked: Any) -> bool:
    """Compare what is there with what is asked for, which may be known by name only."""
    if name not in _MODELS or present is None:
        return present == asked
    pair = (present, asked) if name == "rewards" else ([present], [asked])
    return same_models(*pair)


def _difference(name: str, present: Any, asked: Any) -> str:
    """Say in what two values of the configuration differ."""
    if not isinstance(present, Mapping) or not isinstance(asked, Mapping):
        return f"{name} there {brief(present)}, asked {brief(asked)}"
    changes = {
        "changed": [key for key in asked if key in present and present[key] != asked[key]],
        "only there": [key for key in present if key not in asked],
        "only asked": [key for key in asked if key not in present],
    }
    listed = [
        f"{len(keys)} {kind}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}"
        for kind, keys in changes.items()
        if keys
    ]
    return f"{name}: {'; '.join(listed)}"


def begin(folder: Folder, configuration: Mapping[str, Any]) -> None:
    """Say what a folder is being made with, before the first part of it.

    Raises:
        ValueError: another process began at the same time, with another configuration.
    """
    folder.claim(PARTIAL_NAME, to_json(configuration), parts.FOLDER)
    check(folder, configuration)


def claim_models(folder: Folder, group: str, facts: Mapping[str, Any]) -> None:
    """Note which models a group has, or compare them with those that other runs had.

    Raises:
        Damaged: that note cannot be read.
        ValueError: parts of this folder were made with other ones.
    """
    name = parts.models_name(group)
    _require_as_before(folder, facts)
    present = folder.parse_json(name, folder.claim(name, to_json(facts), parts.FOLDER))
    if present != json.loads(to_json(facts)):
        raise ValueError(
            f"{folder / name} must name the models of the group {group} that are loaded; it has "
            f"{brief(present, 600)}, loaded are {brief(facts, 600)}. Use the same weights and "
            "settings, or name another folder."
        )


def _require_as_before(folder: Folder, facts: Mapping[str, Any]) -> None:
    """Raise ValueError where part of a complete set is made again with other models."""
    try:
        made = Manifest.load(str(folder)).configuration
    except _ABSENT:
        return
    before = {kind: made[kind] for kind in ("image_encoder", "caption_encoder") if kind in facts}
    now = {kind: facts[kind] for kind in before}
    for reward in facts["rewards"].values():
        before[reward["identity"]] = made.get("towers", {}).get(reward["identity"])
        now[reward["identity"]] = reward["tower"]
    differing = [name for name in now if before[name] not in (None, now[name])]
    if differing:
        name = differing[0]
        raise ValueError(
            f"The records in {folder} were made with {before[name]} for {name}; loaded is "
            f"{now[name]}. Use the same weights and settings, or name another folder."
        )


def clean(folder: Folder) -> None:
    """Delete what only a set in the making has, and what killed writers left."""
    try:
        for name in (PARTIAL_NAME, *folder.leftovers(), parts.FOLDER):
            folder.remove(name)
    except OSError as error:
        if error.errno not in _NOT_OURS:  # a complete set may be shared and read-only
            raise
