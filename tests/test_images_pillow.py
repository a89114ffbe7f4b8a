"""Every kind of image file against Pillow's own pixels, and integers whose range tags tell."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from miro_jax.data.sources.images import BadImage, load_rgb
from tests.sources import encode

SIZE = 48, 64
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]
COLORS = np.stack([X * 3, Y * 4, X + Y], -1).astype(np.uint8)
CLEAR = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), np.uint8)
PHOTO, GREY, GHOST = (Image.fromarray(a) for a in (COLORS, COLORS[..., 0], CLEAR))
TURNED = {o: Image.Exif() for o in (0, 3, 5, 6, 8, 9)}
for _orientation, _exif in TURNED.items():
    _exif[0x0112] = _orientation


def many(kind, **options):
    """A file of two images, of which the first counts."""
    return encode(PHOTO, kind, save_all=True, append_images=[PHOTO.rotate(180)], **options)


def as_ycck(data):
    """Call the inks of a JPEG YCCK, as Photoshop writes them."""
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\2" + data[at + 1 :]


CMYK = encode(PHOTO.convert("CMYK"), "JPEG")
FILES = {
    **{f"JPEG {s}": encode(PHOTO, "JPEG", subsampling=s) for s in ("4:4:4", "4:2:2", "4:2:0")},
    "JPEG with restarts": encode(PHOTO, "JPEG", restart_marker_rows=1),
    "JPEG of RGB": encode(PHOTO, "JPEG", keep_rgb=True),
    "JPEG, grey and progressive": encode(GREY, "JPEG", progressive=True),
    "JPEG, CMYK": CMYK,
    "JPEG, CMYK, not Adobe's": CMYK.replace(b"Adobe", b"Other"),
    "JPEG, YCCK": as_ycck(CMYK),
    **{
        f"{kind} turned by {o}": encode(PHOTO, kind, exif=exif)
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")
        for o, exif in TURNED.items()
    },
    "animated PNG": many("PNG"),
    "animated PNG whose first is no frame": many("PNG", default_image=True),
    "animated WebP": many("WEBP", lossless=True),
    "AVIF of two": many("AVIF"),
    "TIFF of two": many("TIFF"),
    **{f"clear {kind}": encode(GHOST, kind) for kind in ("PNG", "GIF", "WEBP", "AVIF", "TIFF")},
    "clear JPEG 2000": encode(GHOST, "JPEG2000"),
    "GIF, clear colour": encode(PHOTO.quantize(64), "GIF", transparency=5),
    "PNG, half clear palette": encode(PHOTO.quantize(4), "PNG", transparency=b"\0\x80"),
    **{f"TIFF of {m}": encode(PHOTO.convert(m), "TIFF") for m in ("1", "L", "P", "CMYK")},
    "TIFF, white is 0": encode(GREY, "TIFF", tiffinfo={262: 0}),
    "TIFF, packed and predicted": encode(PHOTO, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
    "TIFF of 64 bits": encode(PHOTO, "TIFF", big_tiff=True),
    **{f"BMP of {m}": encode(PHOTO.convert(m), "BMP") for m in ("1", "L", "P")},
    "ICO of PNGs": encode(PHOTO, "ICO", sizes=[(16, 12), (64, 48)]),
    "ICO of bitmaps": encode(PHOTO, "ICO", sizes=[(64, 48), (16, 12)], bitmap_format="bmp"),
    "clear ICO": encode(GHOST, "ICO", sizes=[(64, 48)]),
    "clear ICO of bitmaps": encode(GHOST, "ICO", sizes=[(64, 48)], bitmap_format="bmp"),
    "PPM with remarks": b"P6 # hi\n64 # x\n48\n255\n" + COLORS.tobytes(),
    "PGM of 4 bits": b"P5\n64 48\n15\n" + (CLEAR[..., 0] % 16).tobytes(),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_pillow(name):
    with Image.open(io.BytesIO(FILES[name])) as image:
        want = ImageOps.exif_transpose(image)
        if want.has_transparency_data:
            want = Image.alpha_composite(
                Image.new("RGBA", want.size, "white"), want.convert("RGBA")
            )
        want = np.asarray(want.convert("RGB"))
    got = load_rgb(FILES[name]).astype(int)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1  # two ways to round where colours lie over white


def tiff(array, bits, white_is_zero=False, signed=False):
    """A grey TIFF of unpacked integers [H, W], or of packed bytes."""
    data, (height, width) = array.tobytes(), SIZE
    numbers = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8}
    numbers |= {277: 1, 278: height, 279: len(data), 339: 2 if signed else 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in numbers.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(numbers)) + entries + bytes(4)


RAMP = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) * 21


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_integers_of_a_tiff_are_scaled_by_the_range_that_its_tags_tell(white_is_zero):
    wide = RAMP.astype("<u2")
    pairs = (RAMP // 16).reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1]])
    narrow = (packed.T & 255).astype(np.uint8)
    for array, bits, numbers in ((wide, 16, RAMP), (narrow, 12, RAMP // 16)):
        if bits == 12 and white_is_zero:
            continue  # Pillow reads none
        want = np.round(numbers / (2**bits - 1) * 255).astype(int)
        got = load_rgb(tiff(array, bits, white_is_zero))
        assert np.array_equal(got[..., 0], 255 - want if white_is_zero else want)


@pytest.mark.parametrize("kind", ["<u4", "<i4", "<i2"])
def test_integers_whose_range_nobody_knows_are_refused(kind):
    data = tiff(RAMP.astype(kind), 8 * np.dtype(kind).itemsize, signed="i" in kind)
    with pytest.raises(BadImage, match="range is not known"):
        load_rgb(data)


def test_floats_are_refused_with_what_to_do():
    for floats in (RAMP / RAMP.max(), RAMP / RAMP.max() * 255):
        with pytest.raises(BadImage, match="floats, whose range is not known; save it as 8 bits"):
            load_rgb(encode(Image.fromarray(floats.astype(np.float32)), "TIFF"))


def test_the_image_of_an_icon_is_measured_before_it_is_decoded():
    data = bytearray(FILES["ICO of PNGs"])
    at = data.rindex(b"IHDR")
    data[at + 4 : at + 12] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(BadImage, match="too large: 60000 x 60000 pixels"):
        load_rgb(bytes(data))
    data = bytearray(FILES["ICO of bitmaps"])
    at = data.index(struct.pack("<iii", 40, 64, 96))
    data[at + 4 : at + 12] = struct.pack("<ii", 60_000, 120_000)
    with pytest.raises(BadImage, match="too large: 60000 x 60000 pixels"):
        load_rgb(bytes(data))
    for cut in (30, 200, 5000):
        with pytest.raises(BadImage, match="damaged image"):
            load_rgb(FILES["ICO of bitmaps"][:cut])


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(99), "HEIF"),
        (b"\xff\x0a" + bytes(99), "JPEG XL"),
        (b"8BPS\0\1" + bytes(99), "a Photoshop file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    ],
)
def test_formats_that_are_not_read_are_named(data, name):
    with pytest.raises(BadImage, match=f"not an image: {name}, which is not read; save it as JPEG"):
        load_rgb(data)
