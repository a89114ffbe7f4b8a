"""What a folder of records is made with, before, while and after it is made.

    manifest.partial.json    the request of a set in the making
    parts/GROUP.json         the models of a group, known once they are loaded
    manifest.json            both, of a set that is complete

Nothing is made in a folder of another request, or of none.
"""

import errno
import json
from collections.abc import Mapping
from typing import Any

from miro_jax.annotate import parts
from miro_jax.data.printable import some
from miro_jax.data.records.manifest import MANIFEST_NAME, Manifest, same_models
from miro_jax.data.records.shards import (
    BASE_NAME,
    SCORES_ENDING,
    SHARD_SUFFIX,
    SIDECAR_ENDING,
    home_of,
)
from miro_jax.data.storage import Damaged, Folder
from miro_jax.data.storage.claim import PARTIAL_NAME, Claim, describe_difference, same
from miro_jax.data.storage.files import to_json, to_sealed_json

_MODELS = ("rewards", "image_encoder", "caption_encoder")
_ABSENT = (FileNotFoundError, NotADirectoryError)
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)


def make_claim(folder: Folder) -> Claim:
    """Return the claim on a folder of records."""
    return Claim(
        folder=folder,
        # Sets of the first version do not say so.
        request_of=lambda _: {"encode_512": False} | Manifest.load(str(folder)).configuration,
        matches=_matches,
        scratch=parts.FOLDER,
    )


def is_complete(folder: Folder) -> bool:
    """Return whether a set has all of its files, and nobody makes any of it again."""
    return has_all(folder) and not folder.exists(PARTIAL_NAME)


def has_all(folder: Folder) -> bool:
    """Return whether there is a manifest, and every file that belongs to the shards it names."""
    try:
        shards = Manifest.load(str(folder)).shards
    except _ABSENT:
        return False
    wanted = {name + end for name in shards for end in ("", SIDECAR_ENDING, SCORES_ENDING)}
    names = set(folder.names())
    if BASE_NAME in names:  # the shards are those of another set
        names |= set(home_of(folder).names())
    return wanted <= names


def check(claim: Claim, request: Mapping[str, Any]) -> None:
    """Raise ValueError if a folder holds, or is to hold, anything but records of this request."""
    folder = claim.folder
    if claim.present() is None:
        names = [name for name in folder.names() if not name.startswith(".")]
        used = folder.is_used(parts.FOLDER) or any(n.endswith(SHARD_SUFFIX) for n in names)
        # Another process may have begun, or ended, in between.
        if (used or names) and claim.present() is None:
            if not used:  # the images themselves, perhaps
                raise ValueError(
                    f"The folder of the records must be new or empty; {folder} holds "
                    f"{some(names)}. Name another."
                )
            raise ValueError(
                f"{folder} holds shards or a folder {parts.FOLDER!r}, but neither {MANIFEST_NAME} "
                f"nor {PARTIAL_NAME} that say what they were made with. Delete the folder or name "
                "another."
            )
    claim.check(request)


def _matches(name: str, present: Any, requested: Any) -> bool:
    """Compare two values of a request; models may be known by name only."""
    if name not in _MODELS or present is None:
        return same(present, requested)
    pair = (present, requested) if name == "rewards" else ([present], [requested])
    return same_models(*pair)


def claim_models(folder: Folder, group: str, facts: Mapping[str, Any]) -> None:
    """Note which models a group has, or compare them with those that other processes had.

    Raises:
      Damaged: that note cannot be read.
      ValueError: parts of this folder were made with other ones.
    """
    name, facts = parts.models_name(group), json.loads(to_json(facts))
    _require_as_before(folder, facts)
    noted = folder.claim(name, to_sealed_json(facts), parts.FOLDER)
    try:
        present = folder.parse_json(name, noted, parts.MODELS)
    except Damaged as error:
        raise Damaged(f"{error} Delete it and run again.") from error
    if present != facts:
        raise ValueError(
            f"{folder / name} must name the models of the group {group} that are loaded: "
            f"{describe_difference(group, present, facts)}. Use the same weights and settings, or "
            "name another folder."
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
