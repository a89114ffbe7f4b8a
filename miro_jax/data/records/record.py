"""Records: one annotated example as bytes.

A record is in the safetensors format (`miro_jax.data.safetensors`): equal records are equal bytes,
and decoding is a handful of views without a copy.

Letters: h w c image latents, n tokens of a caption, d caption width, R rewards.
"""

import dataclasses
from typing import Any

import numpy as np

from miro_jax.data.safetensors import NAMES, pack, unpack

# Version 2 has the optional image latents at 512 pixels; a record of version 1 is one without.
SCHEMA_VERSION = 2
KNOWN_VERSIONS = (1, 2)
# Name -> allowed dtypes and rank. Wider dtypes come first, so that every array starts on a multiple
# of its size.
_FIELDS = {
    "scores": (("F32",), 1),
    "synthetic_scores": (("F32",), 1),
    "image_mean": (("F16",), 3),
    "image_std": (("F16",), 3),
    "image_mean_512": (("F16",), 3),
    "image_std_512": (("F16",), 3),
    "caption_tokens": (("F16", "BF16"), 2),
    "synthetic_caption_tokens": (("F16", "BF16"), 2),
}
_SYNTHETIC_FIELDS = ("synthetic_scores", "synthetic_caption_tokens")
_FIELDS_OF_512 = ("image_mean_512", "image_std_512")


@dataclasses.dataclass(frozen=True)
class Record:
    """One example.

    key: name of the sample inside its piece of the source. caption, synthetic_caption: texts.
    width, height: pixels of the original image.
    image_mean, image_std: [h, w, c] float16, the image encoder's posterior.
    image_mean_512, image_std_512: the same of the image at 512 pixels a side, both or none.
    caption_tokens, synthetic_caption_tokens: [n, d] float16 or bfloat16, without padding.
    scores, synthetic_scores: [R] float32, as `Reward.stored` gives them, NaN is missing.
    The three synthetic fields are all None or all given.
    """

    key: str
    caption: str
    synthetic_caption: str | None
    width: int
    height: int
    image_mean: np.ndarray
    image_std: np.ndarray
    caption_tokens: np.ndarray
    synthetic_caption_tokens: np.ndarray | None
    scores: np.ndarray
    synthetic_scores: np.ndarray | None
    image_mean_512: np.ndarray | None = None
    image_std_512: np.ndarray | None = None


def encode_record(record: Record) -> bytes:
    """Turn a record into safetensors bytes; equal records give equal bytes.

    Raises:
      ValueError: a dtype, rank or length is not that of `Record`.
    """
    arrays = {name: getattr(record, name) for name in _FIELDS}
    arrays = {name: np.asarray(a, order="C") for name, a in arrays.items() if a is not None}
    _check_arrays(record.key, arrays, record.synthetic_caption)
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "key": record.key,
        "caption": record.caption,
        "width": str(record.width),
        "height": str(record.height),
    }
    if record.synthetic_caption is not None:
        metadata["synthetic_caption"] = record.synthetic_caption
    return pack(arrays, metadata)


def decode_record(data: bytes) -> Record:
    """Read a record; its arrays are read-only views of `data`.

    Raises:
      ValueError: the bytes are not a record of this schema version.
    """
    try:
        arrays, metadata = unpack(data)
        version = metadata["schema_version"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"Not a record: {error}") from error
    if version not in map(str, KNOWN_VERSIONS):
        raise ValueError(
            f"Records must have a schema version of {KNOWN_VERSIONS}; got {version}. "
            "Annotate again."
        )
    synthetic_caption = metadata.get("synthetic_caption")
    _check_arrays(metadata["key"], arrays, synthetic_caption)
    fields: dict[str, Any] = {name: arrays.get(name) for name in _FIELDS}
    return Record(
        key=metadata["key"],
        caption=metadata["caption"],
        synthetic_caption=synthetic_caption,
        width=int(metadata["width"]),
        height=int(metadata["height"]),
        **fields,
    )


def _check_arrays(key: str, arrays: dict[str, np.ndarray], synthetic_caption: str | None) -> None:
    """Raise ValueError unless names, dtypes, ranks and lengths fit together."""
    for name, (dtypes, rank) in _FIELDS.items():
        if name not in arrays:
            if name not in _SYNTHETIC_FIELDS + _FIELDS_OF_512:
                raise ValueError(f"Record {key!r} lacks {name}.")
            continue
        array = arrays[name]
        if NAMES.get(array.dtype) not in dtypes or array.ndim != rank:
            raise ValueError(
                f"Record {key!r}: {name} must have rank {rank} and a dtype of {dtypes}; "
                f"got shape {array.shape}, dtype {array.dtype}."
            )
    for end in ("", "_512"):
        mean, std = (arrays.get(f"image_{part}{end}") for part in ("mean", "std"))
        if getattr(mean, "shape", None) != getattr(std, "shape", None):
            raise ValueError(
                f"Record {key!r}: image_mean{end} {getattr(mean, 'shape', None)} and "
                f"image_std{end} {getattr(std, 'shape', None)} must have one shape."
            )
    given = {name in arrays for name in _SYNTHETIC_FIELDS} | {synthetic_caption is not None}
    if len(given) != 1:
        raise ValueError(
            f"Record {key!r}: synthetic_caption, its tokens and its scores come all or none."
        )
