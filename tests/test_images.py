"""Images: good files of every format decode right, bad ones give `BadImage` with a cause."""

import functools
import io
import random
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from miro_jax.data.sources import images
from miro_jax.data.sources.budget import Budget
from miro_jax.data.sources.images import BadImage, center_crop_resize, load_rgb
from tests import forged
from tests.sources import encode


def smooth(height=40, width=48):
    """A picture that survives lossy coding: [H, W, 3] uint8."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.stack([255 * x, 255 * y, 127 * (x + y)], axis=-1).astype(np.uint8)


LOSSLESS = ("PNG", "BMP", "TIFF", "PPM")


@pytest.mark.parametrize("name", [*LOSSLESS, "JPEG", "WEBP", "AVIF", "GIF", "JPEG2000"])
def test_formats_decode(name):
    got = load_rgb(encode(smooth(), name))
    assert got.dtype == np.uint8 and got.shape == (40, 48, 3) and got.flags.c_contiguous
    difference = np.abs(got.astype(int) - smooth())
    assert difference.max() == 0 if name in LOSSLESS else difference.mean() < 6


@pytest.mark.parametrize("options", [{"quality": 90}, {"progressive": True}, {"subsampling": 0}])
def test_fast_jpeg_path_equals_pillow(options):
    data = encode(smooth(), "JPEG", **options)
    np.testing.assert_array_equal(load_rgb(data), np.asarray(Image.open(io.BytesIO(data))))


def test_grey_palette_and_cmyk_become_rgb():
    grey = smooth()[..., 0]
    want = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_array_equal(load_rgb(encode(grey, "PNG")), want)
    assert np.abs(load_rgb(encode(grey, "JPEG")).astype(int) - want).mean() < 3
    palette = Image.fromarray(smooth()).quantize(64)
    np.testing.assert_array_equal(
        load_rgb(encode(palette, "PNG")), np.asarray(palette.convert("RGB"))
    )
    cmyk = load_rgb(encode(Image.fromarray(smooth()).convert("CMYK"), "JPEG"))
    assert np.abs(cmyk.astype(int) - smooth()).mean() < 8


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = (np.arange(32 * 32).reshape(32, 32) * 64).astype(np.uint16)
    got = load_rgb(encode(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(got[..., 0], np.round(grey / 257))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "palette"])
def test_transparency_is_laid_over_white(mode):
    alpha = np.zeros((32, 32), np.uint8)
    alpha[:, 16:] = 255
    if mode == "palette":
        picture = Image.new("P", (32, 32), 0)
        picture.putpalette([10, 20, 30, 40, 50, 60])
        picture.paste(1, (16, 0, 32, 32))
        data, opaque = encode(picture, "PNG", transparency=0), (40, 50, 60)
    else:
        picture = Image.new("RGB" if mode == "RGBA" else "L", (32, 32), 0)
        picture.putalpha(Image.fromarray(alpha))
        data, opaque = encode(picture, "PNG"), (0, 0, 0)
    got = load_rgb(data)
    assert (got[:, :16] == 255).all() and (got[:, 16:] == opaque).all()


def test_transparent_shade_of_sixteen_bit_grey_becomes_white():
    rows = b"".join(b"\0" + struct.pack(">32H", *range(0, 64000, 2000)) for _ in range(32))
    data = forged.png(32, 32, 16, 0, rows, forged.chunk(b"tRNS", struct.pack(">H", 4000)))
    got = load_rgb(data)
    assert (got[:, 2] == 255).all() and (got[:, 3] == round(6000 / 257)).all()


def test_floats_of_unknown_range_are_refused():
    floats = encode(Image.fromarray(np.zeros((32, 32), np.float32)), "TIFF")
    with pytest.raises(BadImage, match="not an image.*range"):
        load_rgb(floats)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "I;16", "CMYK", "1"])
def test_large_pictures_are_converted_in_bands_to_the_same_pixels(mode, monkeypatch):
    if mode == "I;16":
        picture = Image.fromarray((np.arange(50 * 40).reshape(50, 40) * 30).astype(np.uint16))
    else:
        picture = Image.fromarray(smooth(50, 40)).convert(mode)
        if mode in ("RGBA", "LA"):
            picture.putalpha(Image.fromarray(smooth(50, 40)[..., 0]))
    data = encode(picture, "TIFF" if mode in ("CMYK",) else "PNG")
    want = load_rgb(data)
    for pixels in (1, 40 * 7, 40 * 49):
        monkeypatch.setattr(images, "_PIXELS_AT_A_TIME", pixels)
        np.testing.assert_array_equal(load_rgb(data), want)


def test_threads_share_a_budget():
    budget, running, most, lock = Budget(100), [], [], threading.Lock()

    def work(pixels):
        with budget.spend(pixels):
            with lock:
                running.append(pixels)
                most.append(list(running))
            time.sleep(0.001)
            with lock:
                running.remove(pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [30, 60, 90, 10, 200, 50] * 10))
    assert all(sum(together) <= 100 or len(together) == 1 for together in most)
    assert max(map(len, most)) > 1 and not running


@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_a_picture_that_fails_gives_its_budget_back(name, monkeypatch):
    data, spent, take = encode(smooth(), name), [], images._BUDGET.take
    monkeypatch.setattr(images._BUDGET, "take", lambda n: (spent.append(n), take(n)))
    for _ in range(3):
        with pytest.raises(BadImage):
            load_rgb(data[:-100])
    assert images._BUDGET._used == 0
    pixels = smooth().shape[0] * smooth().shape[1]
    # A JPEG is tried again with an end, which might be all that it lacks.
    assert spent == [pixels * 24] * 3 if name == "PNG" else [pixels * 12] * 6


@functools.cache
def bad_images():
    """Name -> (bytes, cause)."""
    rng = random.Random(0)
    jpeg, png, webp = (encode(smooth(), name) for name in ("JPEG", "PNG", "WEBP"))
    gif, tiff, bmp = (encode(smooth(), name) for name in ("GIF", "TIFF", "BMP"))
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 255
    damaged = "damaged image"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    scan = bytearray(encode(noise, "JPEG"))
    scan[len(scan) // 2 : len(scan) // 2 + 40] = b"\xff\x01" * 20
    exif = b"\xff\xe1\0\x10Exif\0\0MM\0*\0\0\0\x08"
    return {
        "empty": (b"", "empty file"),
        "one byte": (b"\xff", "not an image"),
        "html": (b"<!DOCTYPE html><html><body>404</body></html>" * 9, "not an image"),
        "json": (b'{"error": "not found"}', "not an image"),
        "random": (rng.randbytes(5000), "not an image"),
        "zeros": (bytes(5000), "not an image"),
        "svg": (
            b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>',
            "not an image",
        ),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not an image"),
        "jpeg start only": (jpeg[:3], damaged),
        "jpeg cut in the header": (jpeg[:100], damaged),
        "jpeg cut in the scan": (jpeg[: len(jpeg) * 2 // 3], damaged),
        "jpeg without its last bytes": (jpeg[:-40], damaged),
        "jpeg with a damaged scan": (bytes(scan), damaged),
        "jpeg of 1 x 1": (encode(smooth(1, 1), "JPEG"), "too small"),
        "jpeg with exif and a damaged scan": (bytes(scan[:2] + exif + scan[2:]), damaged),
        "jpeg that claims 60000 x 60000": (forged.jpeg_claiming(60000, 60000), "too large"),
        "jpeg that claims 7000 x 7000": (forged.jpeg_claiming(7000, 7000), "too large"),
        "jpeg of a thousand scans": (forged.jpeg_of_scans(1000), "too large"),
        "png start only": (png[:8], "not an image"),
        "png cut": (png[: len(png) // 2], damaged),
        "png with a flipped byte": (bytes(flipped), damaged),
        "png of 15 x 100": (encode(smooth(100, 15), "PNG"), "too small"),
        "png of 0 x 0": (forged.png(0, 0, 8, 2, bytes(1000)), "not an image"),
        "png bomb of 100 megapixels": (forged.png(10000, 10000, 8, 2, bytes(1000)), "too large"),
        "png bomb of 900 megapixels": (forged.png(30000, 30000, 8, 2, bytes(1000)), "too large"),
        "png with too few pixels": (forged.png(300, 300, 8, 2, bytes(1000)), damaged),
        "webp cut": (webp[: len(webp) // 2], damaged),
        "webp that claims 16383 x 16383": (forged.webp_claiming(16383, 16383), "too large"),
        "webp of one shade, 7000 x 7000": (forged.webp_claiming(7000, 7000), "too large"),
        "file of over 64 megabytes": (jpeg + bytes(1 << 26), "too large"),
        "gif cut": (gif[: len(gif) * 2 // 3], damaged),
        "tiff cut": (tiff[: len(tiff) // 2], damaged),
        "bmp cut": (bmp[: len(bmp) // 2], damaged),
    }


@pytest.mark.parametrize("name", bad_images())
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_image_is_refused_fast_with_its_cause(name):
    data, cause = bad_images()[name]
    start = time.perf_counter()
    with pytest.raises(BadImage) as caught:
        load_rgb(data)
    assert time.perf_counter() - start < 1
    assert caught.value.cause == cause


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_decode_or_raise_bad_image():
    formats = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000")
    good = [encode(smooth(), name) for name in formats]

    def attempt(seed):
        rng = random.Random(seed)
        data = bytearray(rng.choice(good))
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
        try:
            image = load_rgb(bytes(data[: rng.randrange(1, 2 * len(data))]))
        except BadImage as error:
            return error.cause
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        return "good"

    with ThreadPoolExecutor(2) as pool:
        causes = set(pool.map(attempt, range(1500)))
    assert causes >= {"good", "damaged image", "not an image"}


def test_threads_give_the_pixels_of_one_thread():
    files = [
        encode(np.roll(smooth(), i, axis=1), name) for i in range(20) for name in ("JPEG", "PNG")
    ]
    with ThreadPoolExecutor(8) as pool:
        for got, data in zip(pool.map(load_rgb, files), files, strict=True):
            np.testing.assert_array_equal(got, load_rgb(data))


def test_scans_over_many_pixels_are_refused(monkeypatch):
    data = encode(smooth(200, 200), "JPEG", progressive=True)
    assert load_rgb(data).shape == (200, 200, 3)
    monkeypatch.setattr(images, "_MAX_SCANNED_PIXELS", 2 * 200 * 200)
    with pytest.raises(BadImage, match="too large: .* scans of 40000 pixels"):
        load_rgb(data)


def test_limits_can_be_chosen():
    data = encode(smooth(20, 30), "PNG")
    assert load_rgb(data, max_pixels=600, min_side=20).shape == (20, 30, 3)
    with pytest.raises(BadImage, match="600|599"):
        load_rgb(data, max_pixels=599)
    with pytest.raises(BadImage, match="at least 21"):
        load_rgb(data, min_side=21)


@pytest.mark.parametrize(
    ("height", "width"), [(40, 64), (64, 40), (41, 64), (64, 41), (43, 40), (40, 43), (40, 40)]
)
def test_crop_takes_the_central_square(height, width):
    image = smooth(height, width)
    top, left = round((height - min(height, width)) / 2), round((width - min(height, width)) / 2)
    side = min(height, width)
    got = center_crop_resize(image, side)
    np.testing.assert_array_equal(got, image[top : top + side, left : left + side])
    assert got.flags.c_contiguous


@pytest.mark.parametrize("filter", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [16, 40, 100])
def test_resize_is_that_of_pillow_on_the_square(size, filter):
    image = smooth(60, 100)
    pillow = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[filter]
    want = Image.fromarray(image[:, 20:80]).resize((size, size), pillow)
    np.testing.assert_array_equal(center_crop_resize(image, size, filter), np.asarray(want))


def test_bicubic_is_what_nothing_said_means_and_other_filters_are_refused():
    image = smooth(60, 100)
    np.testing.assert_array_equal(
        center_crop_resize(image, 16), center_crop_resize(image, 16, "bicubic")
    )
    with pytest.raises(ValueError, match="bicubic, bilinear; got 'nearest'"):
        center_crop_resize(image, 16, "nearest")
