"""Frames of an animation: images side by side, below them a bar for each reward's level."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from miro_jax.data.storage.files import write_atomic
from miro_jax.report.grids import INK, PAPER, QUIET, enlarged, legible
from miro_jax.sample.sheets import Sheet

FORMATS = {"webp": "WEBP", "gif": "GIF", "apng": "PNG"}  # ending -> Pillow's name
_TRACK, _BAR = (226, 230, 235), (29, 99, 183)
_FONT_SIZE = 14  # pixels
_LINE = 20  # pixels of a line of text, or of a bar
_MARGIN, _GAP = 14, 10  # pixels around all, between images
_SMALLEST_SIDE = 192  # pixels; smaller images are shown enlarged by a whole factor
_SHORTEST_BAR = 90  # pixels
_PER_LINE = 4  # images side by side


def draw_frames(sheet: Sheet, images: np.ndarray, rewards: Sequence[str]) -> list[np.ndarray]:
    """Label the frames of a loop.

    Args:
      sheet: of `verbs.Loop`. images: [images of the sheet, H, W, 3] uint8, in its order.
      rewards: whose bars are drawn.

    Returns:
      One [height, width, 3] uint8 for each frame.
    """
    shape = (len(sheet.rows), len(sheet.columns), sheet.num_images)
    by_frame = images.reshape(*shape, *images.shape[1:]).swapaxes(0, 1)
    levels = [sheet.images[i * sheet.num_images].targets for i in range(shape[1])]
    return [
        draw_frame(cells, sheet.rows, {name: targets[name] for name in rewards}, sheet.title)
        for cells, targets in zip(by_frame, levels, strict=True)
    ]


def draw_frame(
    cells: np.ndarray, prompts: Sequence[str], levels: Mapping[str, float], title: str
) -> np.ndarray:
    """Draw one frame.

    Args:
      cells: [P, n, H, W, 3] uint8, n images of each prompt.
      prompts: P texts, written below the first image of each, as `legible` has them.
      levels: reward -> level in [0, 1], a bar each.
      title: at the bottom.

    Returns:
      [height, width, 3] uint8; the same size for the same number of everything.
    """
    count, each = cells.shape[:2]
    images = enlarged(cells.reshape(count * each, *cells.shape[2:]), _SMALLEST_SIDE)
    texts = [text for prompt in prompts for text in (prompt, *[""] * (each - 1))]
    height, width = images.shape[1:3]
    font = ImageFont.load_default(_FONT_SIZE)
    per_line = min(_PER_LINE, len(images))
    row = height + _LINE + _GAP
    names = max((int(font.getlength(name)) + 1 for name in levels), default=0)
    value = int(font.getlength("0.00")) + 1
    inner = max(per_line * (width + _GAP) - _GAP, names + _SHORTEST_BAR + value + 2 * _GAP)
    inner = max(inner, int(font.getlength(title)) + 1)
    y = _MARGIN + -(-len(images) // per_line) * row  # of the first bar
    total = y + _MARGIN + (len(levels) + 1) * _LINE + _GAP
    canvas = Image.new("RGB", (inner + 2 * _MARGIN, total), PAPER)
    pen = ImageDraw.Draw(canvas)
    for index, (image, text) in enumerate(zip(images, texts, strict=True)):
        corner = _MARGIN + (index % per_line) * (width + _GAP), _MARGIN + index // per_line * row
        canvas.paste(Image.fromarray(image), corner)
        pen.text((corner[0], corner[1] + height + 3), _cut(text, width, font), INK, font)
    left, right = _MARGIN + names + _GAP, _MARGIN + inner - value - _GAP
    for name, level in levels.items():
        middle = y + _LINE // 2
        pen.text((_MARGIN, middle), name, INK, font, anchor="lm")
        pen.rectangle((left, middle - 4, right, middle + 4), _TRACK)
        if level > 0:
            share = min(max(level, 0.0), 1.0)
            pen.rectangle((left, middle - 4, left + share * (right - left), middle + 4), _BAR)
        pen.text((_MARGIN + inner, middle), f"{level:.2f}", QUIET, font, anchor="rm")
        y += _LINE
    pen.text((_MARGIN, y + _GAP // 2), title, QUIET, font)
    return np.asarray(canvas)


def save_animation(
    frames: Sequence[np.ndarray], path: Path | str, frames_per_second: float = 12.0
) -> Path:
    """Write frames as an endless animation.

    Args:
      frames: each [height, width, 3] uint8, of one size, or a PIL image.
      path: ends in .webp (smallest), .gif (256 colours, plays everywhere) or .apng.
      frames_per_second: above 0; GIF keeps hundredths of a second.

    Raises:
      ValueError: another ending, no frames, or frames of several sizes or of another kind.
    """
    path = Path(path)
    write_atomic(path, encode_animation(frames, path.name, frames_per_second))
    return path


def encode_animation(
    frames: Sequence[np.ndarray], name: str, frames_per_second: float = 12.0
) -> bytes:
    """Return the file that `save_animation` writes; `name` is that of the file."""
    kind = FORMATS.get(Path(name).suffix.removeprefix("."))
    if kind is None or not len(frames):
        raise ValueError(
            f"an animation needs frames and a name that ends in {', '.join(FORMATS)}; got "
            f"{len(frames)} frames and {name}."
        )
    arrays = [np.asarray(frame) for frame in frames]
    kinds = {(array.shape, array.dtype.name) for array in arrays}
    if len(kinds) > 1 or any(len(s) != 3 or s[2] != 3 or d != "uint8" for s, d in kinds):
        got = ", ".join(f"{list(shape)} {dtype}" for shape, dtype in sorted(kinds))
        raise ValueError(f"frames must be [height, width, 3] uint8, all of one size; got {got}.")
    if not frames_per_second > 0:
        raise ValueError(f"frames_per_second must be above 0; got {frames_per_second}.")
    first, *rest = map(Image.fromarray, arrays)
    data = io.BytesIO()
    more = {"quality": 90, "method": 4} if kind == "WEBP" else {}
    duration = round(1000 / frames_per_second)
    first.save(data, kind, save_all=True, append_images=rest, duration=duration, loop=0, **more)
    return data.getvalue()


def _cut(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Put a text on one line, shortened to a width in pixels."""
    text = " ".join(legible(text).split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."
