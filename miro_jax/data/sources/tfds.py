"""Data sets as TensorFlow Datasets prepares them in ArrayRecord files, read without TensorFlow.

    DIR/NAME/CONFIG/VERSION/dataset_info.json       splits, number of examples in each shard
                            features.json           what an example holds
                            NAME-train.array_record-00000-of-00010

A piece is a shard. The image is the feature of that kind, the caption the first of its texts.
"""

import functools
import re
from collections.abc import Iterator

from array_record.python.array_record_module import ArrayRecordReader

from miro_jax.data.json_file import check_fields, parse_json
from miro_jax.data.sources import examples, reading
from miro_jax.data.sources.foreign import LONGEST, name_foreign
from miro_jax.data.sources.sample import Piece, Sample, Tables, damage, make_sample
from miro_jax.data.sources.spec import Spec
from miro_jax.data.sources.texts import interpret

CAPTION_FEATURES = ("captions/text", "captions", "caption", "text", "prompt")
NAME_FEATURES = ("image/filename", "file_name", "filename", "key", "id", "image/id")
DEFAULT_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_SPLIT = {"name": str, "shardLengths?": [(str, int)], "filepathTemplate?": str}
_INFO = {"name": str, "fileFormat?": str, "splits?": [_SPLIT]}
_FEATURE = {"featuresDict?": {"features?": {str: dict}}, "sequence?": {"feature": dict}}
_NAME = re.compile(r"(?P<name>[\w/.-]+):(?P<version>\d+\.\d+\.\d+)@(?P<folder>.+)")
_RECORDS_AT_A_TIME = 32


def list_shards(spec: Spec, tables: Tables) -> list[Piece]:
    """Return one piece for each shard of a split.

    Raises:
      FileNotFoundError: the data set, or a shard of it, is not there.
      ValueError: the name is not complete, or it is prepared in another format, or has no such
        split, or not the features that are needed, or its description is damaged.
    """
    match = _NAME.fullmatch(spec.path)
    if not match:
        raise ValueError(
            "A source of TensorFlow Datasets must be tfds:NAME/CONFIG:VERSION@DIR, such as "
            f"'tfds:coco_captions/2014:1.1.0@/data/tfds'; got {spec.path!r}."
        )
    folder = reading.join(match["folder"], f"{match['name']}/{match['version']}")
    info_path = reading.join(folder, "dataset_info.json")
    info = _read_json(info_path, match["name"], _INFO)
    kind = info.get("fileFormat", "tfrecord")
    if kind != "array_record":
        raise ValueError(
            f"{folder} must be prepared as array_record; it is {kind}. {_remedy(match['name'])}"
        )
    features_path = reading.join(folder, "features.json")
    features = _read_json(features_path, match["name"], {})
    image, caption = _choose(dict(_leaves(features, features_path)), spec, folder)
    splits = {split["name"]: split for split in info.get("splits", [])}
    wanted = spec.options.get("split", "train")
    if wanted not in splits:
        raise ValueError(f"split must be one of {', '.join(splits)} of {folder}; got {wanted!r}.")
    split = splits[wanted]
    counts = [_count(length, info_path) for length in split.get("shardLengths", [])]
    template = split.get("filepathTemplate", DEFAULT_TEMPLATE)
    pieces = []
    for number, count in enumerate(counts):
        try:
            name = _shard_name(template, info["name"], wanted, number, len(counts))
        except ValueError as error:
            raise ValueError(f"{info_path}: {error}") from error
        path = reading.join(folder, name)
        size = reading.size_of(path)  # raises where it is missing
        read = functools.partial(_samples, path, name, count, image, caption)
        sign = functools.partial(reading.fingerprint, path)
        pieces.append(Piece(number, name, count, size, read, sign, tables))
    return pieces


def _remedy(name: str) -> str:
    dataset = name.split("/")[0]
    return f"Prepare it with `tfds build {dataset} --file_format=array_record`."


def _read_json(path: str, name: str, schema: dict) -> dict:
    if not reading.is_file(path):
        raise FileNotFoundError(f"{path} is missing. {_remedy(name)}")
    with reading.open_read(path) as file:
        content = file.read()
    if other := name_foreign(content):
        raise ValueError(f"{path} is {other}.")
    return parse_json(content, path, schema)


def _count(length: str | int, path: str) -> int:
    """Return a number of examples; JSON of protocol buffers writes it as text."""
    if not re.fullmatch("[0-9]{1,18}", str(length)):
        raise ValueError(f"{path}: shardLengths must be numbers of examples; got {length!r}.")
    return int(length)


def _shard_name(template: str, dataset: str, split: str, number: int, count: int) -> str:
    """Fill in a template of names as data sets carry it.

    Raises:
      ValueError: it has an unknown word, or names a file elsewhere.
    """
    values = {
        "DATASET": dataset,
        "SPLIT": split,
        "FILEFORMAT": "array_record",
        "SHARD_INDEX": f"{number:05d}",
        "NUM_SHARDS": f"{count:05d}",
        "SHARD_X_OF_Y": f"{number:05d}-of-{count:05d}",
    }
    if unknown := set(re.findall(r"\{(\w+)\}", template)) - set(values):
        raise ValueError(
            f"filepathTemplate may hold {', '.join(values)} in braces; got {{{min(unknown)}}}."
        )
    name = re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)
    if "/" in name or name in ("", ".", ".."):
        raise ValueError(f"filepathTemplate must name a file beside it; got {name!r}.")
    return name


def _leaves(feature: dict, path: str, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name in an example, kind) of features.json: `image`, `text`, `tensor`, ..."""
    check_fields(feature, _FEATURE, path)
    if "featuresDict" in feature:
        for part, inner in feature["featuresDict"].get("features", {}).items():
            yield from _leaves(inner, path, f"{name}/{part}" if name else part)
    elif "sequence" in feature:
        yield from _leaves(feature["sequence"]["feature"], path, name)
    else:
        yield name, next((kind for kind in feature if kind != "pythonClassName"), "")


def _choose(features: dict[str, str], spec: Spec, folder: str) -> tuple[str, str | None]:
    """Return the names of the features that hold image and caption."""
    images = [name for name, kind in features.items() if kind == "image"]
    texts = [name for name, kind in features.items() if kind == "text"]
    image = spec.options.get("image") or ("image" if "image" in images else None)
    if image is None and len(images) == 1:
        image = images[0]
    if image not in images:
        raise ValueError(
            f"{folder} must have a feature that is the image; its images are "
            f"{', '.join(images) or 'none'}, requested is {image!r}. Name one with ?image=NAME."
        )
    requested = spec.options.get("caption")
    if requested is not None and requested.replace(".", "/") not in texts:
        raise ValueError(
            f"caption must be a feature of text of {folder}, which are {', '.join(texts)}; got "
            f"{requested!r}."
        )
    if requested is not None:
        return image, requested.replace(".", "/")
    return image, next((name for name in CAPTION_FEATURES if name in texts), None)


def _samples(path: str, name: str, count: int, image: str, caption: str | None) -> Iterator[Sample]:
    with reading.local_copy(path) as local:
        reader = ArrayRecordReader(local)
        if not reader.ok():  # opening such a file is no error by itself; closing it is
            with open(local, "rb") as file:
                other = name_foreign(file.read(LONGEST))
            reason = f"it is {other}" if other else "its index cannot be read"
            yield damage(name, "damaged shard", reason)
            return
        count_there = reader.num_records()
        for begin in range(0, count_there, _RECORDS_AT_A_TIME):
            numbers = list(range(begin, min(begin + _RECORDS_AT_A_TIME, count_there)))
            for number, record in zip(numbers, _read(reader, numbers), strict=True):
                yield _sample(f"{name}/{number:08d}", record, image, caption)
        reader.close()
    if count_there != count:
        yield damage(name, "damaged shard", f"must hold {count} records; it holds {count_there}")


def _read(reader: ArrayRecordReader, numbers: list[int]) -> list[bytes | None]:
    """Read records at once, or one by one if one is damaged; that one is None."""
    try:
        return reader.read(numbers)
    except RuntimeError:  # its bytes do not fit its hash
        if len(numbers) == 1:
            return [None]
        return [_read(reader, [number])[0] for number in numbers]


def _sample(key: str, record: bytes | None, image: str, caption: str | None) -> Sample:
    """Interpret an example."""
    try:
        if record is None:
            raise ValueError("its bytes do not fit their hash")
        values = examples.decode(record)
    except ValueError as error:
        return Sample(key, None, None, {}, {}, "damaged record", str(error))
    data = next((v for v in values.pop(image, []) if isinstance(v, bytes)), None)
    captions = values.pop(caption, None) if caption else None
    # The meta holds no lists.
    texts = interpret(captions or None, None, {n: v[0] for n, v in values.items() if len(v) == 1})
    names = [str(texts.meta[name]) for name in NAME_FEATURES if name in texts.meta]
    return make_sample(key, data, texts, names)
