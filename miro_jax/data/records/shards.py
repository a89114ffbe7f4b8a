"""Shards: many records in a file, and a folder of such files.

A shard is an ArrayRecord file. Beside `NAME.array_record` stand `NAME.array_record.scores.npy` (all
scores, so that statistics need not read the images again) and, written last, the sidecar
`NAME.array_record.json` (count, size, digest, key range). A shard is published once it has a
sidecar that names its size. A folder with a `manifest` is a finished data set.

A set may extend another one by scores of more rewards: it has scores and sidecars of its own, and
its `base.json` names the folder with the shards, which stay as they are.

Letters: N records, R rewards.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from miro_jax.data.records.manifest import MANIFEST_NAME, Manifest, in_order
from miro_jax.data.records.record import Record, decode_record, encode_record
from miro_jax.data.regular_file import digest_regular
from miro_jax.data.storage import Damaged, Folder, LocalFolder, open_folder
from miro_jax.data.storage.base import ATTEMPTS
from miro_jax.data.storage.files import to_sealed_json

SHARD_SUFFIX = ".array_record"
SCORES_ENDING, SIDECAR_ENDING = ".scores.npy", ".json"  # after a shard's name
# One record per group: grouping makes random reads eight times slower. Not compressed: zstd takes
# 8 % off latents and captions, and reading costs it half of the records a second.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_READ_AT_A_TIME = 64  # records
BASE_NAME = "base.json"
COPY_NAME = ".copy.json"  # of a copy of a set in a store, whose shards come as they are read
_SIDECAR = {"count": int, "bytes": int, "sha256": str, "scores_sha256?": str}
_ONE_HEADER = threading.Lock()  # Python 3.11 at times fails where two threads parse literals
_NO_SCORES = np.zeros((0, 2, 0), np.float32)  # without a record, R is not known


@dataclasses.dataclass(frozen=True)
class Written:
    """What stands in an ArrayRecord file: keys, and scores [2, R] of both captions, by record."""

    keys: list[str] = dataclasses.field(default_factory=list)
    scores: list[np.ndarray] = dataclasses.field(default_factory=list)
    num_bytes: int = 0
    sha256: str = ""

    def add(self, record: Record) -> None:
        """Note a record."""
        own, synthetic = record.scores, record.synthetic_scores
        missing = np.full_like(own, np.nan)
        self.keys.append(record.key)
        self.scores.append(np.stack([own, missing if synthetic is None else synthetic]))

    def of_file(self, path: str | os.PathLike) -> "Written":
        """Return the same with size and digest of the finished file."""
        digest = digest_regular(path)
        return dataclasses.replace(self, num_bytes=os.path.getsize(path), sha256=digest)


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
            is_ours, stamp = folder.create(name, scratch / name), stamp_of(folder, name)
            found = written
            if not is_ours:
                if is_published(folder, name):
                    return read_sidecar(folder, name)
                try:
                    path = folder.local(name, scratch)
                    if digest_regular(path) != written.sha256:
                        found = read_back(path, folder / name)
                except FileNotFoundError:  # deleted meanwhile
                    continue
                except ValueError as error:
                    raise Damaged(f"{error} {_remedy(folder / name)}") from error
                if found.keys != written.keys:  # of a writer that was killed
                    folder.remove(name)
                    continue
            sidecar = write_beside(folder, name, found, extra or {})
            if stamp_of(folder, name) == stamp:
                return sidecar
            folder.remove(name + SIDECAR_ENDING)  # another worker has replaced the shard
    raise OSError(f"{folder / name} can be neither written nor read.")


def stamp_of(folder: Folder, name: str) -> str | None:
    """Return the stamp of a file, see `Folder.stamp`; None where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return folder.stamp(name)
    return None


def write_beside(folder: Folder, name: str, written: Written, extra: dict) -> dict:
    """Write the scores and the sidecar of a shard, with further values; return the sidecar."""
    table = io.BytesIO()
    np.save(table, np.stack(written.scores) if written.keys else _NO_SCORES, allow_pickle=False)
    sidecar = {
        "count": len(written.keys),
        "bytes": written.num_bytes,
        "sha256": written.sha256,
        "first_key": written.keys[0] if written.keys else None,
        "last_key": written.keys[-1] if written.keys else None,
        "scores_sha256": hashlib.sha256(table.getvalue()).hexdigest(),
    } | extra
    folder.write(name + SCORES_ENDING, table.getvalue())
    folder.write(name + SIDECAR_ENDING, to_sealed_json(sidecar))
    return sidecar


def _write_records(path: str, records: Iterable[Record]) -> Written:
    """Write an ArrayRecord file and read its index back."""
    written = Written()
    writer = ArrayRecordWriter(path, _WRITER_OPTIONS)
    for record in records:
        _or_os_error(path, writer.write, encode_record(record))
        written.add(record)
    _or_os_error(path, writer.close)  # the only call that writes the index
    if (count := _count_records(path)) != len(written.keys):
        raise OSError(f"{path} must hold {len(written.keys)} records; reads back {count}.")
    return written.of_file(path)


def home_of(folder: Folder) -> Folder:
    """Return the folder that holds the shards of a set: itself, or that of the set it extends.

    Raises:
      FileNotFoundError: a set that extends another one, which is not where it was.
    """
    try:
        base = folder.read_json(BASE_NAME, {"records": str})["records"]
    except (FileNotFoundError, NotADirectoryError):
        return folder
    if isinstance(folder, LocalFolder):
        base = os.path.normpath(folder.path / base)
    home = open_folder(base)
    if not home.exists(MANIFEST_NAME):
        raise FileNotFoundError(
            f"{folder} extends the records in {home}, which are not there. Bring them back, or "
            f"write where they are into {folder / BASE_NAME}."
        )
    return home


def is_published(folder: Folder, name: str) -> bool:
    """Return whether a shard is there with its scores and its sidecar, which must name its size."""
    try:
        return (
            folder.exists(name + SCORES_ENDING)
            and folder.size(name) == read_sidecar(folder, name)["bytes"]
        )
    except (FileNotFoundError, Damaged):
        return False


def read_back(path: Path, name: str) -> Written:
    """Read a finished file back: every byte of it.

    Raises:
      Damaged: it is none; `name` is what it is called.
    """
    written = Written()
    try:
        reader = ArrayRecordReader(str(path))
        if not reader.ok():
            raise ValueError("its index cannot be read")
        count = reader.num_records()
        for start in range(0, count, _READ_AT_A_TIME):
            for data in reader.read(start, min(start + _READ_AT_A_TIME, count)):
                written.add(decode_record(data))
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise Damaged(f"{name} is damaged: {error}. {_remedy(name)}") from error
    return written.of_file(path)


def _or_os_error(path: str, action: Callable, *arguments: object) -> None:
    """Call a writer's method; it raises RuntimeError where the system refuses to write."""
    try:
        action(*arguments)
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def _count_records(path: str) -> int:
    """Return the number of records, or -1 for a file without a readable index."""
    reader = ArrayRecordReader(path)
    if not reader.ok():  # opening such a file is no error by itself; closing it is
        return -1
    count = reader.num_records()
    reader.close()
    return count


def read_sidecar(folder: Folder, name: str) -> dict:
    """Read the sidecar of a shard, see `Folder.once`.

    Raises:
      FileNotFoundError: there is none.
      Damaged: it holds something else.
    """
    path, remedy = name + SIDECAR_ENDING, _remedy(folder / name)
    try:
        return folder.once(path, lambda: folder.read_json(path, _SIDECAR))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder / path} is missing. {remedy}") from error
    except Damaged as error:
        raise Damaged(f"{error} {remedy}") from error


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
      Damaged: a shard or sidecar is; the text names the file and the remedy.
    """
    folder = Path(folder)
    names, expected = in_order(path.name for path in folder.glob("*" + SHARD_SUFFIX)), {}
    place = home = LocalFolder(folder)
    if (folder / MANIFEST_NAME).exists():
        manifest = Manifest.load(folder)
        expected, names = manifest.shards, manifest.shard_names
        home = home_of(place)
    if not names:
        raise FileNotFoundError(f"{folder} holds no {SHARD_SUFFIX} files; annotate writes them.")
    home = home.listed()
    for name in names:
        shard, remedy = home / name, _remedy(home / name)
        if not home.exists(name):  # a named pipe, which would be waited for, does not count
            raise FileNotFoundError(f"{shard} is missing. Run annotate again: it makes it.")
        sidecar = read_sidecar(place, name)
        size, count = home.size(name), _count_records(shard)
        if (size, count) != (sidecar["bytes"], sidecar["count"]):
            raise Damaged(
                f"{shard} must be {sidecar['bytes']} bytes with {sidecar['count']} records; got "
                f"{size} bytes with {max(count, 0)} readable records. {remedy}"
            )
        if expected and expected[name] != count:
            raise Damaged(
                f"{shard} must hold the {expected[name]} records of the manifest; got {count}. "
                f"{remedy}"
            )
        if full and digest_regular(shard) != sidecar["sha256"]:
            raise Damaged(f"{shard} differs from its sha256 {sidecar['sha256']}. {remedy}")
    return [Path(home / name) for name in names]


def read_published(folder: Folder, name: str) -> tuple[dict, np.ndarray]:
    """Read what stands beside a shard; of the shard itself only its size is asked.

    Returns:
      The sidecar, and scores [N, 2, R] float32: [:, 0] of the captions, [:, 1] of the synthetic
      captions (NaN where there is none).

    Raises:
      FileNotFoundError: a file is missing.
      Damaged: one does not hold what it should, or they do not belong to each other.
    """
    sidecar, remedy = read_sidecar(folder, name), _remedy(folder / name)
    try:
        data = folder.read(name + SCORES_ENDING)
        size = sidecar["bytes"] if folder.exists(COPY_NAME) else _size_of(folder, name)
    except FileNotFoundError as error:
        missing = [
            folder / name + end for end in (SCORES_ENDING, "") if not folder.exists(name + end)
        ]
        raise FileNotFoundError(f"{', '.join(missing)} is missing. {remedy}") from error
    try:
        # Sidecars of the first sets have no digest of the scores.
        if sidecar.get("scores_sha256") not in (None, hashlib.sha256(data).hexdigest()):
            raise ValueError("the scores do not have their digest")
        with _ONE_HEADER:
            scores = np.load(io.BytesIO(data), allow_pickle=False)
        found = (size, len(scores))
    except (ValueError, EOFError, TypeError) as error:
        raise Damaged(f"{folder / name}{SCORES_ENDING} is damaged: {error}. {remedy}") from error
    if found != (sidecar["bytes"], sidecar["count"]):
        raise Damaged(
            f"{folder / name} must be {sidecar['bytes']} bytes with {sidecar['count']} records; "
            f"got {found[0]} bytes and {found[1]} scores. {remedy}"
        )
    return sidecar, scores


def _size_of(folder: Folder, name: str) -> int:
    try:
        return folder.size(name)
    except FileNotFoundError:
        return home_of(folder).size(name)


def read_scores(folder: str | os.PathLike) -> np.ndarray:
    """Read the scores of all shards of a finished set without reading images.

    Returns:
      [N, 2, R] float32, see `read_published`.

    Raises:
      FileNotFoundError: a shard or its scores are missing.
    """
    place = open_folder(folder)
    names = Manifest.load(folder).shard_names
    return join_scores([read_published(place, name)[1] for name in names])


def read_added(records_dir: str | os.PathLike, manifest: Manifest) -> np.ndarray:
    """Read the scores [N, 2, A] that a set adds to the records which it extends.

    Raises:
      ValueError: other records are there now.
    """
    if not manifest.extends:
        return np.zeros((manifest.num_records, 2, 0), np.float32)
    home = home_of(LocalFolder(records_dir))
    base = Manifest.load(str(home))
    if base.digest != manifest.extends:
        raise ValueError(
            f"{records_dir} extends other records than those that are in {home} now. Bring those "
            "back, or annotate the new reward again into another folder."
        )
    return read_scores(records_dir)[..., len(base.rewards) :]


def join_scores(tables: Iterable[np.ndarray]) -> np.ndarray:
    """Join the scores of shards; those without a record do not know R."""
    filled = [table for table in tables if len(table)]
    return np.concatenate(filled or [_NO_SCORES])
