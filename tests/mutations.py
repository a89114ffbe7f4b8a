"""Small pictures that something happened to: flipped, cut, spliced, with headers that lie."""

import random
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.hostile_corpus import chunk, picture
from tests.sources import encode


def mutated(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield small JPEG, PNG and WebP files that something happened to."""
    rgb = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = 5
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray(picture()[..., 1]))
    frames = {"save_all": True, "append_images": [rgb.rotate(90)]}
    good = [
        *(encode(rgb, "JPEG", **o) for o in ({}, {"progressive": True}, {"subsampling": 0})),
        *(encode(rgb, "JPEG", **o) for o in ({"exif": exif}, {"quality": 20, "optimize": True})),
        *(encode(rgb.convert(mode), "JPEG") for mode in ("L", "CMYK")),
        *(encode(p, "PNG") for p in (rgb, alpha, rgb.quantize(16), rgb.convert("1"))),
        encode(Image.fromarray(picture()[..., 0].astype(np.uint16) * 257), "PNG"),
        *(encode(rgb, "WEBP", **o) for o in ({}, {"lossless": True}, {"exif": exif}, frames)),
        encode(alpha, "WEBP"),
    ]
    changes = (flip_bits, truncate, edit_header, splice, repeat, mend_checksums)
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        data = rng.choice(good)
        for change in rng.choices(changes, k=rng.choice((1, 1, 2, 3))):
            data = change(data, good, rng)
        yield data


def flip_bits(data: bytes, good: list[bytes], rng: random.Random) -> bytes:
    """Flip one bit, or some."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 30)) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def truncate(data: bytes, good: list[bytes], rng: random.Random) -> bytes:
    """Cut the end off."""
    return data[: rng.randrange(len(data) + 1)]


def edit_header(data: bytes, good: list[bytes], rng: random.Random) -> bytes:
    """Write extreme numbers near the beginning."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(min(len(out), 300) + 1)
        value = rng.choice(
            (b"\0\0", b"\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\x80", b"\xff")
        )
        out[at : at + len(value)] = value
    return bytes(out)


def splice(data: bytes, good: list[bytes], rng: random.Random) -> bytes:
    """Put the end of another file, often of another format, behind a beginning."""
    other = rng.choice(good)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def repeat(data: bytes, good: list[bytes], rng: random.Random) -> bytes:
    """Repeat a part in its place."""
    begin = rng.randrange(len(data) + 1)
    part = data[begin : begin + rng.randrange(1, 2000)]
    return data[:begin] + part * rng.randrange(2, 20) + data[begin:]


def mend_checksums(data: bytes, good: list[bytes], rng: random.Random) -> bytes:
    """Change chunks of a PNG and give them the right checksum again."""
    if data[:4] != b"\x89PNG":
        return flip_bits(data, good, rng)
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if rng.random() < 0.4:
            body = rng.choice((flip_bits, truncate, edit_header))(body, good, rng)
        out += [chunk(kind, body)] * rng.choice((1, 1, 1, 2))
        at += 12 + length
    return b"".join(out)
