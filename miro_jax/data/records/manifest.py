"""The manifest of a finished data set: what it was made from and with, and the shards it has.

`manifest.json` is written last of all: a folder that has one is complete.
"""

import dataclasses
import fnmatch
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from miro_jax.data.json_file import check_fields
from miro_jax.data.near import near_path
from miro_jax.data.records.record import KNOWN_VERSIONS, SCHEMA_VERSION
from miro_jax.data.storage import Damaged, LocalFolder, open_folder
from miro_jax.data.storage.claim import AnotherRequest
from miro_jax.data.storage.files import to_json, to_sealed_json

MANIFEST_NAME = "manifest.json"
_SCHEMA = {
    "configuration": {
        "rewards": [str],
        "latent_shape": [int],
        "latent_shape_512?": ([int], None),
        "caption_width": int,
        "image_encoder?": str,
        "caption_encoder?": str,
        "towers?": {str: (str, None)},
        "extends?": str,
    },
    "shards": {str: int},
    "num_samples": int,
    "num_failures": int,
    "versions": {str: str},
}
_NUMBERED = re.compile(r"(?<=^shard-)\d{5,}(?=\.array_record$)")  # as annotate names them
_REMEDY = "Bring it back, or annotate into another folder."


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a finished data set is.

    configuration: what it was made from and with: source, pieces (fingerprints by id), rewards
        (identities in order), image_encoder, caption_encoder (identities), latent_shape,
        caption_width, image_size, encode_512; since schema version 2 also towers (names with weight
        digests) and synthetic_forms (which caption was judged) of the rewards, and where there are
        second image latents, those of 512; where it adds scores to another set, extends. Two sets
        of equal configuration, source files and versions are equal byte by byte.
    shards: name -> number of records. num_samples, num_failures: read in all, and that are no
        record.
    versions: package -> version.
    """

    configuration: dict
    shards: dict[str, int]
    num_samples: int
    num_failures: int
    versions: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    @property
    def rewards(self) -> tuple[str, ...]:
        """Reward identities, in the order of the scores."""
        return tuple(self.configuration["rewards"])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of image_mean: height, width, channels."""
        return tuple(self.configuration["latent_shape"])

    @property
    def latent_shape_512(self) -> tuple[int, int, int] | None:
        """Shape of image_mean_512, or None if the records have none."""
        shape = self.configuration.get("latent_shape_512")
        return None if shape is None else tuple(shape)

    @property
    def extends(self) -> str:
        """Digest of the set whose shards this one uses, with scores of more rewards; or ""."""
        return self.configuration.get("extends", "")

    @property
    def caption_width(self) -> int:
        """Width of a caption token."""
        return self.configuration["caption_width"]

    @property
    def shard_names(self) -> list[str]:
        """Names of the shards in the order of the records, see `in_order`."""
        return in_order(self.shards)

    @property
    def num_records(self) -> int:
        """Number of records in all shards."""
        return sum(self.shards.values())

    @property
    def digest(self) -> str:
        """sha256 of all that manifest.json says; identifies the set."""
        return hashlib.sha256(to_json(dataclasses.asdict(self))).hexdigest()

    def save(self, folder: str | os.PathLike) -> None:
        """Write manifest.json, which declares the folder complete."""
        open_folder(folder).write(MANIFEST_NAME, to_sealed_json(dataclasses.asdict(self)))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Manifest":
        """Read manifest.json.

        Raises:
          FileNotFoundError: there is none, so the set is not complete; or no such folder.
          Damaged: it holds something else.
          ValueError: it is of another schema version.
        """
        place = open_folder(folder)
        path = place / MANIFEST_NAME
        try:
            values = place.read_json(MANIFEST_NAME, {"schema_version": int})
        except FileNotFoundError as error:
            if isinstance(place, LocalFolder) and not place.path.is_dir():
                raise FileNotFoundError(
                    f"there are no records: the folder {place} does not exist"
                    f"{near_path(place.path, MANIFEST_NAME)} Run the annotate stage "
                    "(--stage=annotate), or name others by config.data.records."
                ) from error
            raise FileNotFoundError(
                f"{path} is missing: these records are not complete. Run the annotate stage "
                "(--stage=annotate) to its end."
            ) from error
        except Damaged as error:
            raise Damaged(f"{error} {_REMEDY}") from error
        if values["schema_version"] not in KNOWN_VERSIONS:
            raise ValueError(
                f"{path} must have a schema version of {KNOWN_VERSIONS}; got "
                f"{values['schema_version']}. Annotate again into another folder."
            )
        try:
            check_fields(values, _SCHEMA, "it")
            manifest = cls(**values)
            manifest._check()
        except (TypeError, ValueError) as error:
            raise Damaged(f"{path} is damaged: {error} {_REMEDY}") from error
        return manifest

    def _check(self) -> None:
        """Raise ValueError for sizes and names that no set can have."""
        shapes = [self.latent_shape, self.latent_shape_512 or self.latent_shape]
        if any(len(shape) != 3 or min(shape) < 1 for shape in shapes) or self.caption_width < 1:
            raise ValueError(
                f"image latents must be of three sizes, caption tokens of one; got {shapes} and "
                f"{self.caption_width}."
            )
        for name, count in self.shards.items():
            if count < 0 or not re.fullmatch(r"[^/\\]+\.array_record", name):
                raise ValueError(
                    f"a shard must be NAME.array_record: count; got {name!r}: {count}."
                )


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of shards as records follow each other: by text, and by the number that it has.

    Annotate numbers shards with five digits, and with six from shard-100000 on, which as a text
    comes before shard-99999.
    """
    return sorted(names, key=lambda name: (_NUMBERED.sub(lambda m: m[0].zfill(20), name), name))


def require_rewards(manifest: Manifest, labels: Sequence[str]) -> None:
    """Raise AnotherRequest, a ValueError, unless records hold exactly these rewards in this order.

    Args:
      manifest: of the records.
      labels: identities `name@version`, or names, which any version has.
    """
    if not same_models(manifest.rewards, labels):
        raise AnotherRequest(
            f"The records must hold exactly the rewards of the config, in order, {list(labels)}; "
            f"they hold {list(manifest.rewards)}. Change config.rewards, or annotate into another "
            "folder."
        )


def same_models(identities: Sequence[str], labels: Sequence[str]) -> bool:
    """Return whether identities are what labels ask for, each an identity, a pattern or a name."""
    return len(identities) == len(labels) and all(
        label in (identity, identity.partition("@")[0]) or fnmatch.fnmatchcase(identity, label)
        for identity, label in zip(identities, labels, strict=True)
    )


def check_encoders(image_encoder: Any, caption_encoder: Any, manifest: Manifest) -> None:
    """Raise ValueError unless records were made with the encoders of a run.

    Names and versions are compared; weights too, where their folder is given.
    """
    made = manifest.configuration
    for key, encoder in (("image", image_encoder), ("caption", caption_encoder)):
        repository = getattr(encoder, "repository", None)
        fields = 2 if repository is not None and repository.is_local else 1
        ours = encoder.identity if fields == 2 or repository is None else encoder.declared
        theirs = made[f"{key}_encoder"]
        if ours.split("-")[:fields] != theirs.split("-")[:fields]:
            raise ValueError(
                f"The records must be made with the {key} encoder of the config, {ours}; they were "
                f"with {theirs}. Change config.encoder.{key} or config.weights.{key}_encoder, or "
                "annotate again."
            )
