"""Images: encoded bytes -> uint8 [H, W, 3], or one named cause why not.

`load_rgb` never raises anything but `BadImage`, whatever the bytes are; it looks at the size that a
header declares before it decodes a pixel. Threads may share it; they wait for each other only where
images together would take gigabytes. JPEG takes a fast and strict path (a truncated or
bit-flipped scan is refused, not filled up with grey); everything else, and CMYK, goes through
Pillow. Both decoders give the same pixels. Where a decoder refuses what every viewer reads over, a
file is decoded without its oddity, see `image_headers.mend`, and the log says which it was.

Letters: H W image.
"""

import functools
import io
import logging
import re
from collections.abc import Callable

import numpy as np
import simplejpeg
from PIL import Image, TiffImagePlugin

from miro_jax.data.sources import causes, image_headers
from miro_jax.data.sources.budget import Budget
from miro_jax.data.sources.foreign import name_foreign

MAX_PIXELS = 64_000_000
MIN_SIDE = 16
MAX_BYTES = 1 << 26  # of a file: a byte for each pixel allowed
# Beyond a megapixel, a file of so few bytes is a bomb: photographs have some ten pixels a byte,
# drawings a hundred, and a JPEG cannot have over 512.
MAX_PIXELS_PER_BYTE = 1024
_NEVER_A_BOMB = 1 << 20
_MAX_SCANNED_PIXELS = 1 << 30  # of a progressive JPEG, which is worked through again for each scan
_MAX_SCANS = 100
# Formats that run no other program and have a trustworthy size in their header.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_BITS, _PHOTOMETRIC, _SAMPLES = 258, 262, 339  # tags of TIFF
_JPEG_START = b"\xff\xd8\xff"
_PIXELS_AT_A_TIME = 1 << 22
log = logging.getLogger("miro_jax")


class BadImage(ValueError):
    """Bytes that are no usable image. `cause` is one of `causes.CAUSES`."""

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = causes.check(cause)
        self.detail = detail


# Decoders take so many bytes a pixel, with which many threads would fill any memory: a progressive
# JPEG is held as coefficients, as an image and as that turned; Pillow's WebP takes the most.
_JPEG_BYTES, _MOST_BYTES = 12, 24
_BUDGET = Budget(MAX_PIXELS * _MOST_BYTES)


def load_rgb(data: bytes, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE) -> np.ndarray:
    """Decode an image.

    Transparency is laid over white, EXIF rotation is applied, 16-bit grey is scaled to 8 bits, of
    an animation the first frame is taken, of an icon the largest image. Colour profiles are not
    applied.

    Args:
      data: a file of one of `FORMATS`.
      max_pixels: refuse more, before decoding.
      min_side: refuse a smaller width or height, in pixels.

    Returns:
      [H, W, 3] uint8.

    Raises:
      BadImage: for any other bytes; its causes are "empty file", "not an image", "too large",
        "too small" and "damaged image".
    """
    if not data:
        raise BadImage("empty file")
    if len(data) > MAX_BYTES:
        raise BadImage("too large", f"a file of {len(data)} bytes, at most {MAX_BYTES}")

    def check(width: int, height: int) -> None:
        _check_size(width, height, len(data), max_pixels, min_side)

    try:
        try:
            return _decode(data, check)
        except BadImage:
            raise
        except Exception as error:
            if (mended := image_headers.mend(data)) == data:
                raise
            image = _decode(mended, check)
            unknown = isinstance(error, Image.UnidentifiedImageError)  # Pillow keeps the reason
            reason = "a chunk beside the pixels of a PNG is damaged" if unknown else str(error)
            _note(re.sub(r"\b\d+\b", "some", reason))
            return image
    except BadImage:
        raise
    except Image.UnidentifiedImageError as error:
        kind = name_foreign(data) or image_headers.name_format(data)
        raise BadImage("not an image", kind) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too large", str(error)) from error
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise BadImage("damaged image", f"{type(error).__name__}: {error}") from error


def _decode(data: bytes, check: Callable[[int, int], None]) -> np.ndarray:
    """Decode an image whose size passes `check`; raise anything where it is damaged."""
    if data.startswith(_JPEG_START):
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        height, width = int(height), int(width)
        check(width, height)
        _check_scans(data, width * height)
        if colorspace in ("YCbCr", "RGB", "Gray"):
            with _BUDGET.spend(width * height * _JPEG_BYTES):
                image = simplejpeg.decode_jpeg(data, "RGB")
                return _turned(image, image_headers.jpeg_orientation(data))
    if size := image_headers.webp_size(data):
        check(*size)
    if icon := image_headers.icon_image(data):
        width, height, data = icon
        check(width, height)
        if data.startswith(image_headers.PNG_START):
            return _decode(data, check)
    if image_headers.has_many_chunks(data):
        raise BadImage("too large", "a PNG of over 100,000 chunks")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # reads the header only
        check(*image.size)
        with _BUDGET.spend(image.width * image.height * _MOST_BYTES):
            rgb = from_pillow(image)
            if image.format == "PNG" and _may_lack_rows(image):
                image_headers.check_rows(data)
            return rgb


def _may_lack_rows(image: Image.Image) -> bool:
    """Return whether the last pixel is what decoders leave where a PNG ends before its rows do."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return "interlace" in image.info or not any(last if isinstance(last, tuple) else (last,))


@functools.cache
def _note(oddity: str) -> None:
    """Log why a strict decoder refused images that are whole; once for each reason."""
    log.warning("Images are read over a harmless oddity: %s", oddity[:200])


def from_pillow(image: Image.Image) -> np.ndarray:
    """Return a Pillow image as [H, W, 3] uint8: upright, transparency laid over white."""
    return _turned(_to_rgb(image), image_headers.orientation(image))


def _check_size(width: int, height: int, length: int, max_pixels: int, min_side: int) -> None:
    pixels = width * height
    if pixels > max_pixels:
        raise BadImage("too large", f"{width} x {height} pixels, at most {max_pixels} in all")
    if pixels > max(MAX_PIXELS_PER_BYTE * length, _NEVER_A_BOMB):
        raise BadImage("too large", f"{width} x {height} pixels in {length} bytes")
    if min(width, height) < min_side:
        raise BadImage("too small", f"{width} x {height} pixels, each side at least {min_side}")


def _check_scans(data: bytes, pixels: int) -> None:
    scans = image_headers.count_scans(data)
    if scans > _MAX_SCANS or scans * pixels > _MAX_SCANNED_PIXELS:
        raise BadImage("too large", f"{scans} scans of {pixels} pixels")


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Decode; in bands, since each conversion makes a copy."""
    if image.mode == "F":
        raise BadImage("not an image", "floats, whose range is not known; save it as 8 bits")
    full, inverted = _range_of(image)
    image.load()
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(_PIXELS_AT_A_TIME // width, 1)
    for top in range(0, height, rows):
        band = rgb[top : top + rows]
        part = image.crop((0, top, width, top + len(band))) if rows < height else image
        band[:] = _convert(part, full, inverted)
    return rgb


def _range_of(image: Image.Image) -> tuple[int, bool]:
    """Return what is white in an image of integers, and whether that is black; see TIFF's tags."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.mode.startswith("I"):
        return 65535, False
    bits, kinds = (image.tag_v2.get(tag) or (1,) for tag in (_BITS, _SAMPLES))
    if max(bits) > 16 or max(kinds) != 1:
        raise BadImage(
            "not an image",
            "signed or 32-bit integers, whose range is not known; save it as 8 or 16 bits",
        )
    return 2 ** max(bits) - 1, image.tag_v2.get(_PHOTOMETRIC) == 0


def _convert(image: Image.Image, full: int, inverted: bool) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip
        wide = np.asarray(image, np.float32)
        wide = full - wide if inverted else wide
        grey = np.clip(np.round(wide / np.float32(full / 255)), 0, 255).astype(np.uint8)
        grey[wide == image.info.get("transparency", -1)] = 255
        return grey[..., None]
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.new("RGB", clear.size, "white")
        image.paste(clear, mask=clear)
    return np.asarray(image.convert("RGB"))


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn or mirror an image as EXIF's orientation says."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def center_crop_resize(image: np.ndarray, size: int, filter: str = "bicubic") -> np.ndarray:
    """Cut the largest central square and resize it to size x size, antialiased (Pillow).

    A square of the right size comes back unchanged.

    Args:
      image: [H, W, 3] uint8.
      size: pixels, at least 1.
      filter: "bicubic" or "bilinear".

    Returns:
      [size, size, 3] uint8.

    Raises:
      ValueError: the filter is unknown.
    """
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    if filter not in filters:
        raise ValueError(f"filter must be one of {', '.join(filters)}; got {filter!r}.")
    height, width, _ = image.shape
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)  # ties to even: torchvision
    square = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    return np.asarray(Image.fromarray(square).resize((size, size), filters[filter]))
