"""A sheet: the images of a request as rows (prompts) and columns (what is varied), with labels.

The verbs differ in their columns alone. Letters: P prompts, C columns, n images in a cell.
"""

import dataclasses
import math

from miro_jax.sample.request import ImageRequest, Levels
from miro_jax.sample.settings import Settings

GRID = "grid.png"  # the file that shows a sheet
# Of images, and of lines of them, on a grid that viewers still open; more are in the folder only.
MOST_IMAGES, MOST_LINES = 256, 32
LONGEST_LABEL = 160  # letters of a prompt beside its row


@dataclasses.dataclass(frozen=True)
class Column:
    """In what the images of one column differ from what is requested of all.

    Attributes:
      label: above the column. name: in file names, may be empty.
      targets, negative_targets: levels of some rewards.
      equal: the other levels of the negative branch are those of the positive one.
      settings: how to sample; None is as the request says.
    """

    label: str = ""
    name: str = ""
    targets: Levels = dataclasses.field(default_factory=dict)
    negative_targets: Levels = dataclasses.field(default_factory=dict)
    equal: bool = False
    settings: Settings | None = None


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Requested images, and how they are laid out.

    Attributes:
      images: prompt by prompt, in it column by column.
      rows, columns: labels. num_images: n, images of a cell. title: above all.
      per_line: images side by side in a cell; None for a nearly square cell.
    """

    images: tuple[ImageRequest, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    num_images: int
    title: str
    per_line: int | None = None

    @property
    def files(self) -> list[str]:
        """Names of the images."""
        return [image.file for image in self.images]

    @property
    def on_grid(self) -> tuple[ImageRequest, ...]:
        """The images of the first rows, as many as a grid shows."""
        per_row = len(self.columns) * self.num_images
        lines = -(-self.num_images // (self.per_line or math.ceil(math.sqrt(self.num_images))))
        rows = max(1, min(MOST_IMAGES // per_row, MOST_LINES // lines))
        return self.images[: rows * per_row]

    def labels(self) -> tuple[list[str], str]:
        """Return the labels of the rows on the grid, not too long, and the title."""
        count = len(self.on_grid) // (len(self.columns) * self.num_images)
        rows = [row_label(text) for text in self.rows[:count]]
        cut = f"; the first {len(rows)} of {len(self.rows)} prompts"
        return rows, self.title + cut * (len(rows) < len(self.rows))


def row_label(prompt: str, note: str = "") -> str:
    """Return the label of a row: a prompt, not too long, and behind it a note in full."""
    most = LONGEST_LABEL - len(note)
    return (prompt if len(prompt) <= most else prompt[: most - 3] + "...") + note


def describe_levels(levels: Levels, everything: str = "all rewards") -> str:
    """Name the levels that are not 1, the others together.

    Args:
      everything: what all of `levels` together are called.
    """
    if not levels:
        return "no rewards"
    named = [
        f"{name} {'not requested' if level is None else format(level, 'g')}"
        for name, level in levels.items()
        if level != 1
    ]
    rest = "all others 1" if named else f"{everything} 1"
    return ", ".join(named + [rest] * (len(levels) > len(named)))
