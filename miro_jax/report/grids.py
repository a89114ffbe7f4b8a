"""Labelled grids of images, drawn with Pillow: so that a glance at a folder is enough.

Labels are drawn with the font that Pillow carries, so that a grid looks alike on every machine. It
has the letters of ASCII and a few signs: `legible` writes all others with them.
"""

import collections
import io
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from miro_jax.data.printable import counted

INK, QUIET, PAPER = (28, 30, 34), (98, 104, 112), (255, 255, 255)
_FONT_SIZE = 13  # pixels
_GAP, _MARGIN = 10, 14  # pixels between cells, around all
_LABEL_WIDTH = 132  # pixels for the labels of rows
_WIDEST_WORD = 160  # pixels; a longer word of a heading is broken
_SMALLEST_SIDE = 64  # pixels; smaller images are shown enlarged by a whole factor
_IN_FONT = " -~©«°±´·»‘’“”…‹›⁄™"  # a class of `re`
_MOST = 8192  # pixels of images side by side or below each other; viewers open twice as many
_OTHERS = re.compile(f"[^{_IN_FONT}]+(?:[ ,.]+[^{_IN_FONT}]+)*")


def labelled_grid(
    cells: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    title: str,
    per_line: int | None = None,
) -> np.ndarray:
    """Draw a grid of cells, each with one or more images.

    Args:
      cells: [rows, columns, n, H, W, 3] uint8.
      row_labels, column_labels: one text each; long ones are wrapped, see also `legible`.
      title: stands above all.
      per_line: images side by side in a cell; None for a nearly square cell.

    Returns:
      [height, width, 3] uint8. Small images are enlarged without smoothing; those that would take
      more than 8192 pixels in a direction are reduced by a whole factor, which the title says.

    Raises:
      ValueError: cells are of another rank, or the labels of another number.
    """
    cells = np.asarray(cells)
    if cells.ndim != 6 or cells.shape[:2] != (len(row_labels), len(column_labels)):
        raise ValueError(
            f"cells must be [{len(row_labels)} rows, {len(column_labels)} columns, n, H, W, 3]; "
            f"got {cells.shape}."
        )
    cells, factor = _reduced(cells, per_line)
    title += f"; images at 1/{factor} of their width" * (factor > 1)
    title, columns = legible(title), [legible(text) for text in column_labels]
    blocks = [[tile(enlarged(cell), per_line, gap=2) for cell in row] for row in cells]
    block_height, block_width = blocks[0][0].shape[:2]
    font = ImageFont.load_default(_FONT_SIZE)
    line = _FONT_SIZE + 4
    words = [font.getlength(word) for text in columns for word in text.split()]
    pitch = max(block_width, min(int(max(words, default=0)) + 1, _WIDEST_WORD))
    heads = [_wrap(text, pitch, font) for text in columns]
    sides = [_wrap(legible(text), _LABEL_WIDTH, font) for text in row_labels]
    row_heights = [max(block_height, line * len(side)) for side in sides]
    left = _MARGIN + _LABEL_WIDTH + _GAP
    width = max(
        left + len(column_labels) * (pitch + _GAP) - _GAP + _MARGIN,
        2 * _MARGIN + int(font.getlength(title)) + 1,
    )
    top = _MARGIN + line + _GAP + line * max(len(head) for head in heads) + 4
    height = top + sum(row_heights) + len(sides) * _GAP - _GAP + _MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), title, INK, font)
    for column, head in enumerate(heads):
        at = (left + column * (pitch + _GAP), _MARGIN + line + _GAP)
        draw.multiline_text(at, "\n".join(head), QUIET, font, spacing=4)
    for row, side in enumerate(sides):
        y = top + sum(row_heights[:row]) + row * _GAP
        draw.multiline_text((_MARGIN, y), "\n".join(side), INK, font, spacing=4)
        for column in range(len(column_labels)):
            at = (left + column * (pitch + _GAP), y)
            block = Image.fromarray(blocks[row][column])
            canvas.paste(block, at, block)
    return np.asarray(canvas)


def tile(images: np.ndarray, per_line: int | None = None, gap: int = 0) -> np.ndarray:
    """Lay out images in lines.

    Args:
      images: [n, H, W, 3] uint8.
      per_line: images in a line; None for a nearly square block.
      gap: pixels between them.

    Returns:
      [height, width, 4] uint8, transparent where there is no image.
    """
    count, height, width = images.shape[:3]
    lines, per_line = _layout(count, per_line)
    out = np.zeros((lines * (height + gap) - gap, per_line * (width + gap) - gap, 4), np.uint8)
    for index, image in enumerate(images):
        y, x = (index // per_line) * (height + gap), (index % per_line) * (width + gap)
        out[y : y + height, x : x + width, :3] = image
        out[y : y + height, x : x + width, 3] = 255
    return out


def _layout(count: int, per_line: int | None) -> tuple[int, int]:
    """Return the lines of a block, and how many images stand in each."""
    per_line = min(per_line or int(np.ceil(np.sqrt(count))), count)
    return -(-count // per_line), per_line


def _reduced(cells: np.ndarray, per_line: int | None) -> tuple[np.ndarray, int]:
    """Reduce images by a whole factor, to means of their pixels, where a grid would be too large.

    Args:
      cells: [rows, columns, n, H, W, 3] uint8.
    """
    rows, columns, count, height, width = cells.shape[:5]
    lines, per_line = _layout(count, per_line)
    factor = -(-max(rows * lines * height, columns * per_line * width) // _MOST)
    factor = min(factor, max(height, width) // _SMALLEST_SIDE)  # or they would be enlarged again
    if factor <= 1:
        return cells, 1
    images = cells.reshape(-1, height, width, 3)
    small = np.stack([np.asarray(Image.fromarray(image).reduce(factor)) for image in images])
    return small.reshape(*cells.shape[:3], *small.shape[1:]), factor


def encode_png(image: np.ndarray, optimize: bool = False) -> bytes:
    """Return the PNG file of an image [H, W, 3 or 4] uint8."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG", optimize=optimize)
    return data.getvalue()


def enlarged(images: np.ndarray, smallest_side: int = _SMALLEST_SIDE) -> np.ndarray:
    """Repeat the pixels of [..., H, W, 3] until the larger side has `smallest_side` of them."""
    factor = max(1, -(-smallest_side // max(images.shape[-3:-1])))
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)


def legible(text: str) -> str:
    """Return a text as the font of labels can write it, without empty boxes.

    Accents go (`cafe`), letters of other scripts are counted (`[4 Hebrew letters]`), signs are
    named (`[cat face]`).
    """
    return _OTHERS.sub(_name_others, "".join(map(_plain, text)))


def _plain(character: str) -> str:
    """Return what the font has of a character: itself, its base letter, or nothing for a mark."""
    if character.isspace():
        return " "
    parts = unicodedata.normalize("NFKD", character)
    base = "".join(part for part in parts if not unicodedata.combining(part))
    if base and not _OTHERS.search(base):
        return base
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category == "Pd" or character == "\N{MINUS SIGN}":
        return "-"
    if name.startswith("LATIN "):  # "LATIN SMALL LETTER O WITH STROKE"
        letter = name.split(" WITH ")[0].split()[-1]
        return letter.lower() if "SMALL" in name else letter
    return "" if category[0] == "M" or category in ("Cc", "Cf", "Sk") else character


def _name_others(match: re.Match) -> str:
    """Name characters that the font lacks: letters by script and number, signs one by one."""
    others = [c for c in match[0] if not re.match(f"[{_IN_FONT}]", c)]
    names = {c: unicodedata.name(c, "unknown sign") for c in others}
    scripts = [names[c].split()[0].title() for c in others if c.isalpha()]
    letters = collections.Counter("CJK" if name == "Cjk" else name for name in scripts)
    words = [counted(number, f"{name} letter") for name, number in letters.items()]
    words += [name.lower() for c, name in names.items() if not c.isalpha()]
    return f"[{', '.join(words)}]"


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Break a text into lines of at most `width` pixels, at spaces where there are any."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        while font.getlength(word) > width and len(word) > 1:
            fits = max(
                n for n in range(1, len(word)) if n == 1 or font.getlength(word[:n]) <= width
            )
            lines[-1], word = word[:fits], word[fits:]
            lines.append("")
        lines[-1] = word
    return lines
