"""Shards: many records in a file, and a folder of such files.

A shard is an ArrayRecord file. Beside `NAME.array_record` stand `NAME.array_record.scores.npy` (all
scores, so that statistics need not read the images again) and, written last, the sidecar
`NAME.array_record.json` (count, size, digest, key range). A shard is published once it has a
sidecar that names its size. A folder with a `manifest` is a finished data set.

Letters: N records, R rewards.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from miro_jax.data.records.manifest import MANIFEST_NAME, Manifest
from miro_jax.data.records.record import Record, decode_record, encode_record
from miro_jax.data.storage import Damaged, Folder, open_folder
from miro_jax.data.storage.base import ATTEMPTS
from miro_jax.data.storage.files import to_json

SHARD_SUFFIX = ".array_record"
SCORES_ENDING, SIDECAR_ENDING = ".scores.npy", ".json"  # after a shard's name
# One record per group: grouping makes random reads eight times slower. Levels above 1 do not shrink
# latents.
_WRITER_OPTIONS = "group_size:1,zstd:1"
_READ_AT_A_TIME = 64  # records


def sidecar_path(shard: str | os.PathLike) -> Path:
    """Path of a shard's sidecar."""
    return Path(f"{shard}{SIDECAR_ENDING}")


@dataclasses.dataclass(frozen=True)
class Written:
    """What stands in a finished ArrayRecord file of records.

    num_bytes, sha256: of the file. keys: of the records. scores: [N, 2, R] float32, see
    `read_scores`.
    """

    num_bytes: int
    sha256: str
    keys: list[str]
    scores: np.ndarray

    def sidecar(self) -> dict:
        """What the sidecar says of the file."""
        return {
            "count": len(self.keys),
            "bytes": self.num_bytes,
            "sha256": self.sha256,
            "first_key": self.keys[0] if self.keys else None,
            "last_key": self.keys[-1] if self.keys else None,
        }


def write_shard(
    folder: Folder,
    name: str,
    records: Iterable[Record],
    extra: dict | None = None,
    inside: str = "",
) -> dict:
    """Write one shard with its scores and sidecar; each appears whole or not at all.

    The name goes to the first of several writers; what stands beside the shard is made from the
    one that is there, so that writers whose floats differ in a last digit agree. One that was not
    published and holds other samples, which `extra` does not fit, is written anew.

    Args:
      folder: where it goes. name: ends in `.array_record`.
      records: in the order they shall have.
      extra: further JSON values for the sidecar, such as the failures of this piece; may be
        filled while `records` is read.
      inside: folder below `folder` for what is not finished.

    Returns:
      The sidecar: count, bytes, sha256, first_key, last_key, scores_sha256 and `extra`.

    Raises:
      ValueError: the name does not end in `.array_record`.
      OSError: the file cannot be written, or does not read back.
    """
    if not name.endswith(SHARD_SUFFIX):
        raise ValueError(f"A shard's name must end in {SHARD_SUFFIX!r}; got {folder / name}.")
    with folder.scratch(inside) as scratch:
        written = _write_records(str(scratch / name), records)
        for _ in range(ATTEMPTS):
            is_ours, stamp = folder.create(name, scratch / name), _stamp(folder, name)
            found = written
            if not is_ours:
                if is_published(folder, name):
                    return folder.read_json(name + SIDECAR_ENDING)
                found = _read_present(folder, name, scratch, written)
                if found is None:  # deleted meanwhile
                    continue
                if found.keys != written.keys:  # of a writer that was killed
                    folder.remove(name)
                    continue
            sidecar = _write_beside(folder, name, found, extra or {})
            if _stamp(folder, name) == stamp:
                return sidecar
            folder.remove(name + SIDECAR_ENDING)  # another worker has replaced the shard
    raise OSError(f"{folder / name} can be neither written nor read.")


def _stamp(folder: Folder, name: str) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return folder.stamp(name)
    return None


def _write_beside(folder: Folder, name: str, written: Written, extra: dict) -> dict:
    """Write the scores and the sidecar of a shard; return the sidecar."""
    scores = _npy_bytes(written.scores)
    sidecar = written.sidecar() | {"scores_sha256": hashlib.sha256(scores).hexdigest()} | extra
    folder.write(name + SCORES_ENDING, scores)
    folder.write(name + SIDECAR_ENDING, to_json(sidecar))
    return sidecar


def _write_records(path: str, records: Iterable[Record]) -> Written:
    """Write an ArrayRecord file and read its index back."""
    keys, scores = [], []
    writer = ArrayRecordWriter(path, _WRITER_OPTIONS)
    for record in records:
        _or_os_error(path, writer.write, encode_record(record))
        keys.append(record.key)
        scores.append(_both_scores(record))
    _or_os_error(path, writer.close)  # the only call that writes the index
    count = _count_records(path)
    if count != len(keys):
        raise OSError(f"{path} must hold {len(keys)} records; reads back {count}.")
    return Written(os.path.getsize(path), _digest_file(path), keys, _table(scores))


def is_published(folder: Folder, name: str) -> bool:
    """Return whether a shard is there with its scores and its sidecar, which must name its size."""
    try:
        sidecar = folder.read_json(name + SIDECAR_ENDING)
        return folder.exists(name + SCORES_ENDING) and folder.size(name) == sidecar["bytes"]
    except (FileNotFoundError, Damaged, KeyError, TypeError):
        return False


def _read_present(folder: Folder, name: str, scratch: Path, ours: Written) -> Written | None:
    """Read the shard that has the name, if it differs from ours; None if it is gone meanwhile."""
    try:
        path = folder.local(name, scratch)
        return ours if _digest_file(path) == ours.sha256 else _read_records(path, folder / name)
    except FileNotFoundError:
        return None


def _read_records(path: Path, name: str) -> Written:
    """Read a finished file back.

    Raises:
      Damaged: it is none; `name` is what it is called.
    """
    keys, scores = [], []
    try:
        reader = ArrayRecordReader(str(path))
        if not reader.ok():
            raise ValueError("its index cannot be read")
        count = reader.num_records()
        for start in range(0, count, _READ_AT_A_TIME):
            for data in reader.read(start, min(start + _READ_AT_A_TIME, count)):
                record = decode_record(data)
                keys.append(record.key)
                scores.append(_both_scores(record))
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise Damaged(f"{name} is damaged: {error}. {_remedy(name)}") from error
    return Written(path.stat().st_size, _digest_file(path), keys, _table(scores))


def _both_scores(record: Record) -> np.ndarray:
    """Return [2, R], those of the synthetic caption NaN where there is none."""
    missing = np.full_like(record.scores, np.nan)
    return np.stack(
        [
            record.scores,
            missing if record.synthetic_scores is None else record.synthetic_scores,
        ]
    )


def _table(scores: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(scores) if scores else np.zeros((0, 2, 0), np.float32)


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


def _digest_file(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sidecar(shard: str | os.PathLike) -> dict:
    """Read a shard's sidecar.

    Raises:
      FileNotFoundError: there is none.
      Damaged: it holds something else.
    """
    path = sidecar_path(shard)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. {_remedy(shard)}")
    try:
        found = json.loads(path.read_bytes())
        if not {"bytes", "count", "sha256"} <= set(found):
            raise ValueError("it is no sidecar")
    except (ValueError, TypeError) as error:
        raise Damaged(f"{path} is damaged: {error}. {_remedy(shard)}") from error
    return found


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
      ValueError, Damaged: a shard or sidecar is; the text names the file and the remedy.
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


def read_published(folder: Folder, name: str) -> tuple[dict, np.ndarray]:
    """Read what stands beside a shard; of the shard itself only its size is asked.

    Returns:
      The sidecar, and scores [N, 2, R] float32: [:, 0] of the captions, [:, 1] of the synthetic
      captions (NaN where there is none).

    Raises:
      FileNotFoundError: a file is missing.
      Damaged: one does not hold what it should, or they do not belong to each other.
    """
    remedy = _remedy(folder / name)
    try:
        sidecar = folder.read_json(name + SIDECAR_ENDING)
        data = folder.read(name + SCORES_ENDING)
        size = folder.size(name)
    except FileNotFoundError as error:
        missing = [
            end for end in (SIDECAR_ENDING, SCORES_ENDING, "") if not folder.exists(name + end)
        ]
        raise FileNotFoundError(
            f"{', '.join(folder / name + end for end in missing)} is missing. {remedy}"
        ) from error
    except Damaged as error:
        raise Damaged(f"{error} {remedy}") from error
    try:
        digest = sidecar.get("scores_sha256")  # sidecars of the first sets have none
        if digest not in (None, hashlib.sha256(data).hexdigest()):
            raise ValueError("the scores do not have their digest")
        scores = np.load(io.BytesIO(data), allow_pickle=False)
        found, wanted = (size, len(scores)), (sidecar["bytes"], sidecar["count"])
    except (ValueError, KeyError, EOFError, AttributeError, TypeError) as error:
        raise Damaged(
            f"{folder / name}{SIDECAR_ENDING} or {SCORES_ENDING} is damaged: "
            f"{type(error).__name__}: {error}. {remedy}"
        ) from error
    if found != wanted:
        raise Damaged(
            f"{folder / name} must be {wanted[0]} bytes with {wanted[1]} records; got {found[0]} "
            f"bytes and {found[1]} scores. {remedy}"
        )
    return sidecar, scores


def read_scores(folder: str | os.PathLike) -> np.ndarray:
    """Read the scores of all shards of a finished set without reading images.

    Returns:
      [N, 2, R] float32, see `read_published`.

    Raises:
      FileNotFoundError: a shard or its scores are missing.
    """
    place = open_folder(folder)
    names = sorted(Manifest.load(folder).shards)
    return join_scores([read_published(place, name)[1] for name in names])


def join_scores(tables: Iterable[np.ndarray]) -> np.ndarray:
    """Join the scores of shards; those without a record do not know R."""
    filled = [table for table in tables if len(table)]
    return np.concatenate(filled) if filled else np.zeros((0, 2, 0), np.float32)
