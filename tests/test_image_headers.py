"""Headers of pictures: read as Pillow reads them, and no error for any bytes."""

import io
import random
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from miro_jax.data.sources.image_headers import count_scans, jpeg_orientation, webp_size
from miro_jax.data.sources.images import load_rgb
from tests.sources import encode


def smooth(height=40, width=48):
    """A picture that survives lossy coding: [H, W, 3] uint8."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([255 * x, 255 * y, 127 * (x + y)], axis=-1).astype(np.uint8)


def with_orientation(name, value):
    exif = Image.Exif()
    exif[0x0112] = value
    return encode(smooth(), name, exif=exif)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_all_orientations_are_applied_as_pillow_does(name, value):
    data = with_orientation(name, value)
    with Image.open(io.BytesIO(data)) as picture:
        want = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    np.testing.assert_array_equal(load_rgb(data), want)
    if name == "JPEG":
        assert jpeg_orientation(data) == value


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(value):
    assert jpeg_orientation(with_orientation("JPEG", value)) == 1
    assert load_rgb(with_orientation("JPEG", value)).shape == (40, 48, 3)


def test_both_byte_orders_of_exif_are_read():
    def picture(order, mark):
        entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0)
        tiff = mark + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4)
        segment = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
        data = encode(smooth(), "JPEG")
        return data[:2] + segment + data[2:]

    for order, mark in (("<", b"II"), (">", b"MM")):
        data = picture(order, mark)
        assert jpeg_orientation(data) == 6 and load_rgb(data).shape == (48, 40, 3)
        long = data.replace(
            struct.pack(order + "HHIHH", 0x0112, 3, 1, 6, 0),
            struct.pack(order + "HHII", 0x0112, 4, 1, 6),
        )
        assert long != data and jpeg_orientation(long) == 6
    assert jpeg_orientation(picture("<", b"MM")) == 1
    assert jpeg_orientation(picture("<", b"??")) == 1


def segment(content, marker=0xE1):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


EXIF = b"Exif\0\0II" + struct.pack("<HIHHHIHH", 42, 8, 1, 0x0112, 3, 1, 6, 0) + bytes(4)
NO_TURN = b"Exif\0\0II" + struct.pack("<HIHHHIHH", 42, 8, 1, 0x0100, 3, 1, 6, 0) + bytes(4)
XMP = b'http://ns.adobe.com/xap/1.0/\0<rdf tiff:Orientation="8"/>'


@pytest.mark.parametrize(
    ("before", "turn"),
    [
        (segment(bytes(60_000), 0xE2) * 2 + segment(EXIF), 6),  # behind a large profile
        (b"\xff\xff" + segment(EXIF), 6),  # filling between segments
        (segment(XMP), 8),
        (segment(XMP) + segment(EXIF), 6),
        (segment(NO_TURN) + segment(XMP), 8),
        (segment(XMP.replace(b'="8"', b">3<")), 3),
        (segment(XMP.replace(b"8", b"9")), 1),
    ],
)
def test_orientations_are_found_where_pillow_finds_them(before, turn):
    data = encode(smooth(), "JPEG")
    data = data[:2] + before + data[2:]
    assert jpeg_orientation(data) == turn
    with Image.open(io.BytesIO(data)) as picture:
        want = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    np.testing.assert_array_equal(load_rgb(data), want)


def test_scans_are_counted():
    assert count_scans(encode(smooth(), "JPEG")) == 1
    progressive = encode(smooth(200, 200), "JPEG", progressive=True)
    exact = count_scans(progressive)
    assert 5 <= exact <= 12
    end = progressive.rindex(b"\xff\xd9")
    start = progressive.rindex(b"\xff\xda")
    many = progressive[:end] + progressive[start:end] * 500 + progressive[end:]
    assert count_scans(many) == exact + 500
    # What stands in a comment or behind the end is none.
    comment = b"\xff\xfe" + struct.pack(">H", 4002) + b"\xff\xda" * 2000
    assert count_scans(progressive[:2] + comment + progressive[2:] + many) == exact


@pytest.mark.parametrize(
    "options", [{}, {"lossless": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}, {"quality": 5}]
)
@pytest.mark.parametrize("size", [(16, 16), (333, 77)])
def test_canvas_of_webp_is_read(options, size):
    data = encode(smooth(*size), "WEBP", **options)
    assert webp_size(data) == size[::-1]
    transparent = encode(Image.fromarray(smooth(*size)).convert("RGBA"), "WEBP", **options)
    assert webp_size(transparent) == size[::-1]
    assert webp_size(encode(smooth(), "PNG")) is None and webp_size(data[:29]) is None


@pytest.mark.over_a_second
def test_no_bytes_are_an_error():
    exif = with_orientation("JPEG", 6)
    progressive = encode(smooth(), "JPEG", progressive=True) * 8
    for seed in range(3000):
        rng = random.Random(seed)
        data = bytearray(rng.choice((exif, progressive, encode(smooth(16, 16), "WEBP"))))
        for _ in range(rng.randrange(1, 8)):
            data[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        data = bytes(data[: rng.randrange(len(data) + 1)])
        assert 1 <= jpeg_orientation(data) <= 8 and count_scans(data) >= 0
        webp_size(data)
