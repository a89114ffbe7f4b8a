"""Images of every kind that a file may hold, of odd sizes."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIZE = 56
KINDS = ("rgb", "grey", "palette", "alpha", "cmyk", "rotated", "thin", "exact", "high contrast")


def pictures(count: int = 200) -> Iterator[tuple[str, Image.Image]]:
    """(kind, picture as a file holds it) of odd sizes, larger and smaller than the result."""
    rng = np.random.default_rng(5)
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        height, width = (int(n) for n in rng.integers(3, 400, 2))
        if kind == "thin":
            height, width = (1, width) if i % 2 else (height, 1)
        if kind == "exact":
            height = SIZE
        channels = {"cmyk": 4, "alpha": 4}.get(kind, 3)
        x = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
        if kind == "high contrast":
            x = x // 128 * 255
        mode = {"cmyk": "CMYK", "alpha": "RGBA"}.get(kind, "RGB")
        picture = Image.frombytes(mode, (width, height), x.tobytes())
        if kind == "grey":
            picture = picture.convert("L")
        yield kind, picture.quantize(9) if kind == "palette" else picture


def encoded(kind: str, picture: Image.Image) -> bytes:
    """The picture as the bytes of a file."""
    buffer, options = io.BytesIO(), {}
    if kind == "rotated":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    picture.save(buffer, "TIFF" if kind == "cmyk" else "PNG", **options)
    return buffer.getvalue()
