"""Oddities that every viewer reads over: the pixels come out and the log names them."""

import functools
import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from miro_jax.data.sources import image_headers, images
from miro_jax.data.sources.images import BadImage, load_rgb
from tests.forged import chunk
from tests.sources import encode


@functools.cache
def picture():
    y, x = np.mgrid[0:64, 0:80]
    return np.stack([x * 3, y * 3, x + y], -1).astype(np.uint8)


@functools.cache
def jpeg(**options):
    return encode(picture(), "JPEG", quality=90, **options)


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def without_spectrum(data):
    """Some phones write zeros where a sequential scan names its spectrum."""
    data, at = bytearray(data), data.index(b"\xff\xda")
    end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    data[end - 3 : end] = bytes(3)
    return bytes(data)


def behind_start(content, data=None):
    data = jpeg() if data is None else data
    return data[:2] + content + data[2:]


ADOBE = b"Adobe\0\x64\0\0\0\0"
NO_JFIF = jpeg()[:2] + jpeg()[20:]
EXIF = b"Exif\0\0II*\0" + b"\xff" * 4 + b"A" * 16
JPEGS = {  # name -> (file, whether the strict decoder complains)
    "spectrum of zeros": (without_spectrum(jpeg()), True),
    "spectrum of zeros, grey": (without_spectrum(encode(picture()[..., 0], "JPEG")), True),
    "JFIF of an unknown revision": (jpeg().replace(b"JFIF\0\1", b"JFIF\0\7"), True),
    "colour transform of Adobe that is none": (
        behind_start(segment(0xEE, ADOBE + b"\x09"), NO_JFIF),
        True,
    ),
    "zeros before the end": (jpeg()[:-2] + bytes(9) + jpeg()[-2:], True),
    "bytes between segments": (jpeg()[:20] + bytes(3) + jpeg()[20:], True),
    "a profile that is none": (behind_start(segment(0xE2, b"ICC_PROFILE\0\5\1" + bytes(20))), True),
    "two oddities": (without_spectrum(jpeg().replace(b"JFIF\0\1", b"JFIF\0\7")), True),
    "bytes behind the end": (jpeg() + b"junk" * 99, False),
    "another image behind the end": (jpeg() + jpeg(), False),
    "filling before the end": (jpeg()[:-2] + b"\xff" * 5 + jpeg()[-2:], False),
    "EXIF that is none": (behind_start(segment(0xE1, EXIF)), False),
    "density that is none": (jpeg()[:13] + b"\xff" * 5 + jpeg()[18:], False),
    "empty segments": (behind_start(segment(0xED, b"") * 30), False),
    "an unknown segment": (behind_start(segment(0xEF, b"x" * 60000)), False),
    "progressive": (jpeg(progressive=True), False),
}


@pytest.fixture
def noted(monkeypatch):
    """Reasons that the log is given."""
    reasons = []
    monkeypatch.setattr(images, "_note", reasons.append)
    return reasons


@pytest.mark.parametrize("name", JPEGS)
def test_odd_jpegs_have_the_pixels_that_pillow_gives_them(name, noted):
    data, is_odd = JPEGS[name]
    with Image.open(io.BytesIO(data)) as image:
        want = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(load_rgb(data), want)
    assert bool(noted) == is_odd


@pytest.mark.parametrize("name", [name for name in JPEGS if JPEGS[name][1]])
def test_an_odd_jpeg_that_is_cut_or_flipped_is_refused(name):
    data = JPEGS[name][0]
    flipped = bytearray(data)
    flipped[-120:-80] = b"\xff\x01" * 20
    in_scan = data[:-2].rstrip(b"\0")[:-4]
    for damaged in (data[:-40], data[: len(data) * 2 // 3], in_scan, bytes(flipped)):
        with pytest.raises(BadImage, match="damaged image"):
            load_rgb(damaged)


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
WHOLE = {
    "sequential": jpeg(),
    "progressive": jpeg(progressive=True),
    "grey": encode(picture()[..., 0], "JPEG"),
    "restarts": jpeg(restart_marker_rows=1),
    "of noise": encode(NOISE, "JPEG"),
    # These end in a byte that a lone 0xff behind their cut could be taken for.
    "of grey noise": encode(NOISE[..., 0], "JPEG", quality=100),
    "of noise, large": encode(NOISE, "JPEG", quality=100),
    "spectrum of zeros": without_spectrum(jpeg()),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.over_a_second
def test_a_jpeg_that_lacks_its_end_is_read_if_that_is_all_it_lacks(name, noted):
    data = WHOLE[name]
    want = load_rgb(data)
    for whole in (data[:-2], data[:-1], data[:-2] + bytes(9)):
        np.testing.assert_array_equal(load_rgb(whole), want)
    assert noted
    for cut in range(3, len(data) - 100):
        for tail in (b"", bytes(9), b"\xff"):
            try:
                rest = load_rgb(data[:-cut] + tail)
            except BadImage:
                continue
            assert cut == 3  # a byte that holds no pixel
            np.testing.assert_array_equal(rest, want)


def test_a_jpeg_that_lacks_its_end_and_perhaps_a_scan_is_refused():
    data = jpeg(progressive=True)
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    for at in scans[1:]:
        with pytest.raises(BadImage, match="damaged image"):
            load_rgb(data[:at])
    with pytest.raises(BadImage, match="damaged image"):  # Pillow's decoder fills what is missing
        load_rgb(encode(Image.fromarray(picture()).convert("CMYK"), "JPEG")[:-2])


def test_a_zero_that_belongs_to_the_scan_is_no_filling():
    rng = np.random.default_rng(0)
    while True:
        data = encode(rng.integers(0, 256, (16, 16, 3), np.uint8), "JPEG")
        if data[-4:-2] == b"\xff\0":
            break
    odd = without_spectrum(data)[:-2] + bytes(4) + data[-2:]
    np.testing.assert_array_equal(load_rgb(odd), load_rgb(data))


def test_bytes_before_the_end_that_are_no_filling_are_damage():
    with pytest.raises(BadImage, match="extraneous"):
        load_rgb(jpeg()[:-2] + b"\x12\x34\x56" + jpeg()[-2:])


def test_an_odd_jpeg_is_turned_as_its_exif_says(noted):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = without_spectrum(encode(picture(), "JPEG", exif=exif))
    assert load_rgb(data).shape == (80, 64, 3) and noted


def png_with(*chunks, data=None):
    data = encode(picture(), "PNG") if data is None else data
    return data[:33] + b"".join(chunks) + data[33:]


def wrong(kind, content=b"a\0b"):
    """A chunk whose checksum is wrong."""
    return chunk(kind, content)[:-4] + b"oops"


ZTXT = b"key\0\0" + zlib.compress(b"a" * 2_000_000)
PNGS = {
    "compressed text of 2 MB": (png_with(chunk(b"zTXt", ZTXT)), True),
    "international text of 2 MB": (png_with(chunk(b"iTXt", b"k\0\1\0\0\0" + ZTXT[5:])), True),
    "texts of 70 MB in all": (
        png_with(*[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)))] * 80),
        True,
    ),
    "a profile of 5 MB": (
        png_with(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(5_000_000)))),
        True,
    ),
    "a text with a wrong checksum": (png_with(wrong(b"tEXt")), True),
    "a time with a wrong checksum": (png_with(wrong(b"tIME")), True),
    "EXIF with a wrong checksum": (png_with(wrong(b"eXIf", EXIF[6:])), True),
    "a physical size of one byte": (png_with(chunk(b"pHYs", b"1")), True),
    "a gamma of no bytes": (png_with(chunk(b"gAMA", b"")), True),
    "chromaticities of one byte": (png_with(chunk(b"cHRM", b"1")), True),
    "a rendering intent of no bytes": (png_with(chunk(b"sRGB", b"")), True),
    "a profile that is none": (png_with(chunk(b"iCCP", b"p\0\0junk")), False),
    "EXIF that is none": (png_with(chunk(b"eXIf", b"zzz")), False),
    "an unknown chunk": (png_with(chunk(b"prVt", b"zzz")), False),
    "an animation of no frames": (png_with(chunk(b"acTL", bytes(8))), False),
    "bytes behind the end": (encode(picture(), "PNG") + b"junk" * 9, False),
}


@pytest.mark.parametrize("name", PNGS)
def test_chunks_beside_the_pixels_of_a_png_spoil_none(name, noted):
    data, is_odd = PNGS[name]
    np.testing.assert_array_equal(load_rgb(data), picture())
    assert bool(noted) == is_odd


def test_transparency_and_palette_outlive_an_oddity(noted):
    clear = Image.fromarray(picture()).quantize(16)
    data = encode(clear, "PNG", transparency=3)
    np.testing.assert_array_equal(load_rgb(png_with(wrong(b"tEXt"), data=data)), load_rgb(data))
    assert noted


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT", b"tRNS"])
def test_damage_of_a_pngs_pixels_is_not_read_over(kind):
    data = encode(Image.fromarray(picture()).quantize(16), "PNG", transparency=3)
    at = data.index(kind)
    length = struct.unpack(">I", data[at - 4 : at])[0]
    damaged = bytearray(png_with(chunk(b"zTXt", ZTXT), data=data))
    at = damaged.index(kind)
    damaged[at + 4 + length // 2] ^= 0x55
    with pytest.raises(BadImage):
        load_rgb(bytes(damaged))
    with pytest.raises(BadImage):
        load_rgb(bytes(damaged[: len(damaged) // 2]))


def rows_of(array, interlaced=False):
    """The bytes of a PNG's rows without filters, [H, W] or [H, W, C] uint8."""
    passes = image_headers._ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = [array[top::down, left::across] for left, top, across, down in passes]
    return b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3), (6, 4)])
@pytest.mark.parametrize("size", [(9, 11), (40, 24), (8, 8)])
def test_a_png_that_ends_before_its_rows_do_is_refused(interlaced, color, channels, size):
    """Decoders leave black, or nothing at all, where rows are missing."""
    array = np.zeros((*size, channels), np.uint8)
    array[::2] = 200
    rows = rows_of(array, interlaced)
    header = struct.pack(">IIBBBBB", size[1], size[0], 8, color, 0, 0, int(interlaced))

    def png(rows, cut=1):
        packed = zlib.compress(rows)
        pieces = [packed[:cut], packed[cut:]] if cut else [packed]
        chunks = [chunk(b"IHDR", header), *(chunk(b"IDAT", one) for one in pieces)]
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")

    whole = load_rgb(png(rows), min_side=1)
    assert whole.shape == (*size, 3) and (whole[::2] >= 200).all()
    for lost in (1, channels * size[1] + 1, len(rows) // 2):
        for cut in (0, 1):  # of two chunks Pillow itself says it
            with pytest.raises(BadImage, match=f"the last {lost} bytes of its rows .*|truncated"):
                load_rgb(png(rows[:-lost], cut), min_side=1)


@pytest.mark.parametrize("name", ["GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_bytes_behind_other_images_are_nothing(name):
    data = encode(picture(), name)
    np.testing.assert_array_equal(load_rgb(data + b"junk" * 9), load_rgb(data))


def test_a_gif_without_its_last_byte_is_whole():
    data = encode(picture(), "GIF")
    np.testing.assert_array_equal(load_rgb(data[:-1]), load_rgb(data))


def test_an_image_of_several_is_its_first():
    first = Image.fromarray(picture())
    data = encode(first, "MPO", save_all=True, append_images=[first.rotate(180)])
    np.testing.assert_array_equal(load_rgb(data), load_rgb(encode(first, "JPEG")))


def test_the_log_names_each_oddity_once(caplog):
    images._note.cache_clear()
    for data in (JPEGS["zeros before the end"][0], jpeg()[:-2] + bytes(30) + jpeg()[-2:]):
        load_rgb(data)
    load_rgb(PNGS["compressed text of 2 MB"][0])
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "Corrupt JPEG data: some extraneous bytes before marker 0xd9",
        "Decompressed data too large for PngImagePlugin.MAX_TEXT_CHUNK",
    ]


def test_files_of_very_many_parts_are_read_at_once_or_refused():
    empty = segment(0xED, b"")
    for data in (behind_start(empty * 150_000), behind_start(b"\xff" * 1_000_000)):
        begin = time.thread_time()
        np.testing.assert_array_equal(load_rgb(data), load_rgb(jpeg()))
        assert time.thread_time() - begin < 1
    with pytest.raises(BadImage, match="too large: a PNG of over 100,000 chunks"):
        load_rgb(png_with(chunk(b"prVt", b"") * 100_001))
    np.testing.assert_array_equal(load_rgb(png_with(chunk(b"prVt", b"") * 9000)), picture())
