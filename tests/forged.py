"""Image files that lie: headers, chunks and scans that no encoder would write."""

import functools
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw

from tests.sources import encode


@functools.cache
def picture(height: int = 64, width: int = 72) -> np.ndarray:
    """A picture with edges and slopes: [H, W, 3] uint8."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    slopes = np.stack([255 * x, 255 * y, 127 * (x + y)], axis=-1).astype(np.uint8)
    drawn = Image.fromarray(slopes)
    ImageDraw.Draw(drawn).ellipse((0, 0, width // 2, height // 2), fill=(200, 30, 90))
    return np.asarray(drawn)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG, with the right checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, color: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG whose header says whatever it is told."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    data = bytearray(encode(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    """A small lossless WebP whose header claims another size."""
    data = bytearray(encode(picture(), "WEBP", lossless=True))
    data[21:25] = (width - 1 | height - 1 << 14).to_bytes(4, "little")
    return bytes(data)


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes many times."""
    data = encode(picture(), "JPEG", progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[start:end] * count + data[end:]
