"""Images: encoded bytes -> uint8 [H, W, 3], or one named cause why not.

`load_rgb` never raises anything but `BadImage`, whatever the bytes are; it looks at the size that a
header declares before it decodes a pixel, and it keeps no global state, so threads may share it.
Plain JPEG takes a fast and strict path (a truncated or bit-flipped scan is refused, not filled up
with grey); everything else goes through Pillow. Both decoders give the same pixels.

Letters: H W image.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

MAX_PIXELS = 64_000_000
MIN_SIDE = 16
MAX_BYTES = 1 << 26  # of a file: a byte for each pixel allowed
# Formats that run no other program and have a trustworthy size in their header.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_JPEG_START = b"\xff\xd8\xff"


class BadImage(ValueError):
    """Bytes that are no usable picture. `cause` is one of a few words, fit for counting."""

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause
        self.detail = detail


def load_rgb(data: bytes, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE) -> np.ndarray:
    """Decode a picture.

    Transparency is laid over white, EXIF rotation is applied, 16-bit grey is scaled to 8 bits, of
    an animation the first frame is taken.

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
    try:
        # The fast path neither rotates nor knows CMYK.
        if data.startswith(_JPEG_START) and b"Exif\0" not in data[:65536]:
            height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
            _check_size(width, height, max_pixels, min_side)
            if colorspace in ("YCbCr", "RGB", "Gray"):
                return simplejpeg.decode_jpeg(data, "RGB")
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:  # reads the header only
            _check_size(picture.width, picture.height, max_pixels, min_side)
            return _to_rgb(picture)
    except BadImage:
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImage("not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage("too large", str(error)) from error
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise BadImage("damaged image", f"{type(error).__name__}: {error}") from error


def _check_size(width: int, height: int, max_pixels: int, min_side: int) -> None:
    if width * height > max_pixels:
        raise BadImage("too large", f"{width} x {height} pixels, at most {max_pixels} in all")
    if min(width, height) < min_side:
        raise BadImage("too small", f"{width} x {height} pixels, each side at least {min_side}")


def _to_rgb(picture: Image.Image) -> np.ndarray:
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    elif picture.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip
        grey = np.asarray(picture, np.float32) / 257.0
        picture = Image.fromarray(np.clip(np.round(grey), 0, 255).astype(np.uint8))
    return np.array(picture.convert("RGB"))


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
