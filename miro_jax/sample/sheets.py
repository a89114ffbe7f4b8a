"""A sheet: the pictures of a request as rows (prompts) and columns (what is varied), with labels.

All verbs but `best` are a sheet: they differ in their columns alone. Letters: P prompts, C columns,
n pictures in a cell.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from miro_jax.report import grids
from miro_jax.sample.request import Asked, Levels, Picture, Prompt, slug

MOST_PICTURES = 256  # on a grid; more are in the folder only
LONGEST_LABEL = 160  # letters of a prompt beside its row


@dataclasses.dataclass(frozen=True)
class Column:
    """What is asked in one column.

    Attributes:
      label: above the column. name: in file names, may be empty.
      targets, negative_targets: levels of all rewards. guidance_scale: 0 is no guidance.
    """

    label: str
    name: str
    targets: Levels
    negative_targets: Levels
    guidance_scale: float


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Pictures asked for, and how they are laid out.

    Attributes:
      pictures: prompt by prompt, in it column by column.
      rows, columns: labels. num_images: n, pictures of a cell. title: above all.
      per_line: pictures side by side in a cell; None for a nearly square cell.
    """

    pictures: tuple[Picture, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    num_images: int
    title: str
    per_line: int | None = None

    @property
    def on_grid(self) -> tuple[Picture, ...]:
        """The pictures of the first rows, as many as a grid shows."""
        per_row = len(self.columns) * self.num_images
        return self.pictures[: max(1, MOST_PICTURES // per_row) * per_row]

    def grid(self, images: np.ndarray) -> np.ndarray:
        """Draw the labelled grid.

        Args:
          images: [on_grid, H, W, 3] uint8, those of `on_grid` in their order.

        Returns:
          [height, width, 3] uint8.
        """
        cells = images.reshape(-1, len(self.columns), self.num_images, *images.shape[1:])
        labels = [
            text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 3] + "..."
            for text in self.rows[: len(cells)]
        ]
        title = self.title
        if len(cells) < len(self.rows):
            title += f"; the first {len(cells)} of {len(self.rows)} prompts"
        return grids.labelled_grid(cells, labels, self.columns, title, self.per_line)


def make_sheet(
    asked: Asked,
    columns: Callable[[Prompt], Sequence[Column]],
    title: str,
    per_line: int | None = None,
    folder: str = "",
) -> Sheet:
    """Lay out a request.

    Args:
      asked: the request.
      columns: those of a prompt; their labels are the same for all.
      title, per_line: see `Sheet`.
      folder: where the files stand, "" or "name/".
    """
    pictures, labels = [], []
    prompt_digits = max(4, len(str(len(asked.prompts) - 1)))
    sample_digits = len(str(asked.num_images - 1))
    for index, prompt in enumerate(asked.prompts):
        found = columns(prompt)
        labels = [column.label for column in found]
        start = f"{folder}{index:0{prompt_digits}d}-{slug(prompt.text)}"
        pictures += [
            Picture(
                f"{start}{f'-{column.name}' if column.name else ''}-{i:0{sample_digits}d}.png",
                prompt.text,
                index,
                i,
                asked.seed if prompt.seed is None else prompt.seed,
                column.targets,
                column.negative_targets,
                column.guidance_scale,
            )
            for column in found
            for i in range(asked.num_images)
        ]
    rows = tuple(prompt.text for prompt in asked.prompts)
    return Sheet(tuple(pictures), rows, tuple(labels), asked.num_images, title, per_line)


def describe_levels(levels: Levels, everything: str = "all rewards") -> str:
    """Name the levels that are not 1, the others together.

    Args:
      everything: what all of `levels` together are called.
    """
    if not levels:
        return "no rewards"
    named = [
        f"{name} {'not asked' if level is None else format(level, 'g')}"
        for name, level in levels.items()
        if level != 1
    ]
    rest = "all others 1" if named else f"{everything} 1"
    return ", ".join(named + [rest] * (len(levels) > len(named)))
