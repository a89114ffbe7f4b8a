"""Sources: where pictures and captions come from, one piece (file) at a time.

A tar piece is a shard as img2dataset and webdataset write it: members `KEY.jpg`, `KEY.txt` and
`KEY.json` stand next to each other. The key is the member's path up to the first dot of its name.
`txt` is the caption (else the JSON's `caption`), the JSON may hold `synthetic_caption` and
`synthetic_caption_short`.

`tarfile` stops without an error at a damaged header, and at a cut between members. So whatever
follows the last member is checked to be the end marker; if it is not, everything readable is
yielded first and then `DamagedTar` is raised.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import tarfile
from collections.abc import Iterator

KINDS = ("tar",)
IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm")
_END_MARKER_BYTES = 1024
_FINGERPRINT_BYTES = 1 << 16


class DamagedTar(OSError):
    """A tar file that ends before its end marker. `path` names it, `offset` is the byte."""

    def __init__(self, path: str, offset: int, reason: str):
        super().__init__(f"{path} is damaged at byte {offset}: {reason}. Fetch or make it again.")
        self.path = path
        self.offset = offset
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Sample:
    """One picture with its captions, not decoded.

    key: its name inside the piece. image: the encoded file, or None if there is none.
    caption: or None. synthetic: {"long": text, "short": text}, or empty.
    meta: the JSON's values. problem: why the sample is unusable, or "".
    """

    key: str
    image: bytes | None
    caption: str | None
    synthetic: dict[str, str]
    meta: dict
    problem: str = ""


def list_pieces(spec: str) -> list[str]:
    """Find the pieces that a source spec names.

    Args:
        spec: `tar:PATTERN`, for instance `tar:/data/cc12m/*.tar`; `**` matches any depth.

    Returns:
        Paths, sorted.

    Raises:
        ValueError: unknown kind of source.
        FileNotFoundError: the pattern matches nothing.
    """
    kind, colon, pattern = spec.partition(":")
    if not colon or kind not in KINDS:
        raise ValueError(
            f"A source must be KIND:PATTERN with a kind of {KINDS}, such as 'tar:/data/*.tar'; "
            f"got {spec!r}."
        )
    paths = sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise FileNotFoundError(f"{pattern!r} must match at least one file; it matches none.")
    return paths


def fingerprint(path: str) -> str:
    """Return a short digest of a file's size, beginning and end: cheap, to notice a changed file.

    Raises:
        FileNotFoundError: no such file.
    """
    size = os.path.getsize(path)
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for offset in (0, max(0, size - _FINGERPRINT_BYTES)):
            file.seek(offset)
            digest.update(file.read(_FINGERPRINT_BYTES))
    return digest.hexdigest()[:16]


def tar_samples(path: str) -> Iterator[Sample]:
    """Read the samples of a tar file in order.

    Yields:
        Samples. One that the damage may have cut short (it lacks a member that the sample before it
        had) comes with a `problem`, and not with its synthetic caption silently missing.

    Raises:
        FileNotFoundError: no such file.
        DamagedTar: after the last readable sample, if the archive does not end as it should.
    """
    key, members, usual = "", {}, None
    try:
        for next_key, extension, content in _members(path):
            if members and (next_key != key or extension in members):
                yield _sample(key, members)
                usual, members = set(members), {}
            key = next_key
            members[extension] = content
    except DamagedTar:
        if members:
            whole = usual is not None and usual <= set(members)
            yield _sample(key, members, "" if whole else "cut short by damage")
        raise
    if members:
        yield _sample(key, members)


def _members(path: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield (key, extension, content) of each file in the archive; raise DamagedTar at damage."""
    offset = 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                offset = member.offset
                folder, slash, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if member.isfile() and stem:  # a hidden file has no stem
                    content = archive.extractfile(member).read()
                    yield folder + slash + stem, extension.lower(), content
            end = archive.offset
    except (tarfile.TarError, ValueError) as error:
        raise DamagedTar(path, offset, str(error)) from error
    with open(path, "rb") as file:
        file.seek(end)
        length, clean = 0, True
        while block := file.read(1 << 20):
            length, clean = length + len(block), clean and not any(block)
    if length < _END_MARKER_BYTES or not clean:
        raise DamagedTar(path, end, f"the {length} bytes from there on are not an end marker")


def _sample(key: str, members: dict[str, bytes], problem: str = "") -> Sample:
    """Interpret the members of one key."""
    image = next((members[e] for e in IMAGE_EXTENSIONS if e in members), None)
    meta, caption = {}, None
    try:
        if "json" in members:
            meta = json.loads(members["json"])
        if not isinstance(meta, dict):
            raise ValueError(f"the json must be an object; got {type(meta).__name__}")
        caption = meta.get("caption")
        if "txt" in members:
            caption = members["txt"].decode("utf-8")
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        meta, problem = {}, problem or "unreadable caption or json"
    texts = {
        "long": meta.get("synthetic_caption"),
        "short": meta.get("synthetic_caption_short"),
    }
    synthetic = {form: text for form, text in texts.items() if isinstance(text, str) and text}
    if synthetic:  # one form stands in for the other
        text = next(iter(synthetic.values()))
        synthetic = {"long": text, "short": text} | synthetic
    return Sample(
        key, image, caption if isinstance(caption, str) else None, synthetic, meta, problem
    )
