"""Shards: many records in a file, a folder of such files, and the manifest of a complete folder.

A shard is an ArrayRecord file. Beside `NAME.array_record` stand `NAME.array_record.json` (the
sidecar: count, size, digest, key range) and `NAME.array_record.scores.npy` (all scores, so that
statistics need not read the images again). The shard is renamed into place after both: it exists if
and only if it is complete. `manifest.json` is written last of all: a folder that has one is a
finished data set.

Letters: N records, R rewards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from miro_jax.files import fresh_temporary, publish, to_json, write_atomic
from miro_jax.records import SCHEMA_VERSION, decode_record

SHARD_SUFFIX = ".array_record"
MANIFEST_NAME = "manifest.json"
# One record per group: grouping makes random reads eight times slower. Levels above 1 do not shrink
# latents.
_WRITER_OPTIONS = "group_size:1,zstd:1"


def sidecar_path(shard: str | os.PathLike) -> Path:
    """Path of a shard's sidecar."""
    return Path(f"{shard}.json")


def scores_path(shard: str | os.PathLike) -> Path:
    """Path of a shard's scores."""
    return Path(f"{shard}.scores.npy")


def write_shard(
    path: str | os.PathLike, entries: Iterable[tuple[str, bytes]], extra: dict | None = None
) -> dict:
    """Write one shard with its sidecar and scores, atomically.

    Args:
        path: the shard's final name, ending in `.array_record`.
        entries: (key, encoded record) in the order they shall have.
        extra: further JSON values for the sidecar, such as the failures of this piece; may be
            filled while `entries` is read.

    Returns:
        The sidecar: count, bytes, sha256, first_key, last_key and `extra`.

    Raises:
        ValueError: the name does not end in `.array_record`, or an entry is not a record.
        OSError: the file cannot be written, or does not read back.
    """
    path = str(path)
    if not path.endswith(SHARD_SUFFIX):
        raise ValueError(f"A shard's name must end in {SHARD_SUFFIX!r}; got {path}.")
    temporary = fresh_temporary(path)
    try:
        keys, scores = _write_records(temporary, entries)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)  # perhaps the disk is full
        raise
    sidecar = {
        "count": len(keys),
        "bytes": os.path.getsize(temporary),
        "sha256": _digest_file(temporary),
        "first_key": keys[0] if keys else None,
        "last_key": keys[-1] if keys else None,
        **(extra or {}),
    }
    table = np.stack(scores) if scores else np.zeros((0, 2, 0), np.float32)
    write_atomic(scores_path(path), _npy_bytes(table))
    write_atomic(sidecar_path(path), to_json(sidecar))
    publish(temporary, path)
    return sidecar


def _write_records(
    path: str, entries: Iterable[tuple[str, bytes]]
) -> tuple[list[str], list[np.ndarray]]:
    """Write an ArrayRecord file and read its index back; return keys and scores [2, R] of all."""
    keys, scores = [], []
    writer = ArrayRecordWriter(path, _WRITER_OPTIONS)
    for key, data in entries:
        record = decode_record(data)
        missing = np.full_like(record.scores, np.nan)
        synthetic = missing if record.synthetic_scores is None else record.synthetic_scores
        _or_os_error(path, writer.write, data)
        keys.append(key)
        scores.append(np.stack([record.scores, synthetic]))
    _or_os_error(path, writer.close)  # the only call that writes the index
    count = _count_records(path)
    if count != len(keys):
        raise OSError(f"{path} must hold {len(keys)} records; reads back {count}.")
    return keys, scores


def _or_os_error(path: str, action: Callable, *arguments: object) -> None:
    """Call a writer's method; it raises RuntimeError where the system refuses to write."""
    try:
        action(*arguments)
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _count_records(path: str) -> int:
    """Return the number of records, or -1 for a file without a readable index."""
    reader = ArrayRecordReader(path)
    if not reader.ok():  # opening such a file is no error by itself; closing it is
        return -1
    count = reader.num_records()
    reader.close()
    return count


def _digest_file(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sidecar(shard: str | os.PathLike) -> dict:
    """Read a shard's sidecar.

    Raises:
        FileNotFoundError: there is none.
    """
    path = sidecar_path(shard)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. {_remedy(shard)}")
    return json.loads(path.read_bytes())


def _remedy(shard: str | os.PathLike) -> str:
    return f"Delete {shard} and run the annotate stage again: it makes what is missing."


def verify_shards(folder: str | os.PathLike, full: bool = False) -> list[Path]:
    """Check every shard of a folder and return their paths in order.

    Opens each shard and compares its size and number of records with the sidecar, and the set of
    shards with the manifest where there is one. Temporary files of a killed writer are ignored.

    Args:
        folder: where the shards are.
        full: also compare digests, which reads every byte.

    Raises:
        FileNotFoundError: no shard at all, or one that the manifest names is missing, or a sidecar.
        ValueError: a shard is damaged; the text names the file and the remedy.
    """
    folder = Path(folder)
    shards = sorted(folder.glob("*" + SHARD_SUFFIX))
    expected = {}
    if (folder / MANIFEST_NAME).exists():
        expected = Manifest.load(folder).shards
        for name in expected:
            if not (folder / name).exists():
                raise FileNotFoundError(
                    f"{folder / name} is missing. Run the annotate stage again: it makes it."
                )
        shards = [folder / name for name in sorted(expected)]
    if not shards:
        raise FileNotFoundError(f"{folder} holds no {SHARD_SUFFIX} files; annotate writes them.")
    for shard in shards:
        sidecar = read_sidecar(shard)
        size, count = shard.stat().st_size, _count_records(str(shard))
        if (size, count) != (sidecar["bytes"], sidecar["count"]):
            raise ValueError(
                f"{shard} must be {sidecar['bytes']} bytes with {sidecar['count']} records; got "
                f"{size} bytes with {max(count, 0)} readable records. {_remedy(shard)}"
            )
        if expected and expected[shard.name] != count:
            raise ValueError(
                f"{shard} must hold the {expected[shard.name]} records of the manifest; "
                f"got {count}. {_remedy(shard)}"
            )
        if full and _digest_file(str(shard)) != sidecar["sha256"]:
            raise ValueError(
                f"{shard} differs from its sha256 {sidecar['sha256']}. {_remedy(shard)}"
            )
    return shards


def read_scores(folder: str | os.PathLike) -> np.ndarray:
    """Read the scores of all shards without reading images.

    Returns:
        [N, 2, R] float32: [:, 0] of the captions, [:, 1] of the synthetic captions (NaN where there
        is none).

    Raises:
        FileNotFoundError: a shard or its scores are missing.
    """
    tables = []
    for shard in verify_shards(folder):
        path = scores_path(shard)
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing. {_remedy(shard)}")
        table = np.load(path, allow_pickle=False)
        if len(table):
            tables.append(table)
    return np.concatenate(tables) if tables else np.zeros((0, 2, 0), np.float32)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a finished data set is.

    configuration: what it was made from and with: source, rewards (identities in order),
        image_encoder, caption_encoder (identities), latent_shape, caption_width, image_size. Two
        sets of equal configuration, source files and versions are equal byte by byte.
    shards: name -> number of records. num_samples, num_failures: read in all, and lost.
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
    def caption_width(self) -> int:
        """Width of a caption token."""
        return self.configuration["caption_width"]

    @property
    def num_records(self) -> int:
        """Number of records in all shards."""
        return sum(self.shards.values())

    def to_bytes(self) -> bytes:
        """The content of manifest.json."""
        return to_json(dataclasses.asdict(self))

    @property
    def digest(self) -> str:
        """sha256 of manifest.json."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, folder: str | os.PathLike) -> None:
        """Write manifest.json, which declares the folder complete."""
        write_atomic(Path(folder) / MANIFEST_NAME, self.to_bytes())

    @classmethod
    def load(cls, folder: str | os.PathLike) -> Manifest:
        """Read manifest.json.

        Raises:
            FileNotFoundError: there is none, so the set is not complete.
            ValueError: it is of another schema version.
        """
        path = Path(folder) / MANIFEST_NAME
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing: these records are not complete. Run the annotate stage."
            )
        values = json.loads(path.read_bytes())
        if values.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"{path} must have schema version {SCHEMA_VERSION}; got "
                f"{values.get('schema_version')}. Annotate again into another folder."
            )
        return cls(**values)


def require_rewards(manifest: Manifest, identities: Sequence[str]) -> None:
    """Raise ValueError unless the records hold exactly these rewards in this order."""
    if manifest.rewards != tuple(identities):
        raise ValueError(
            f"The records must hold the rewards of the config {list(identities)}; they hold "
            f"{list(manifest.rewards)}. Change config.rewards, or annotate into another folder."
        )
