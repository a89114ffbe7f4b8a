"""A sheet: the images of a request as rows (prompts) and columns (what is varied), with labels.

The verbs differ in their columns alone. Letters: P prompts, C columns, n images in a cell.
"""

import dataclasses
from collections.abc import Callable, Sequence

from miro_jax.sample.request import ImageRequest, Levels, Prompt, Request, slug
from miro_jax.sample.settings import Settings

MOST_IMAGES = 256  # on a grid; more are in the folder only
LONGEST_LABEL = 160  # letters of a prompt beside its row


@dataclasses.dataclass(frozen=True)
class Column:
    """What is requested in one column.

    Attributes:
      label: above the column. name: in file names, may be empty.
      targets, negative_targets: levels of all rewards.
      settings: how to sample; None is as the request says.
    """

    label: str
    name: str
    targets: Levels
    negative_targets: Levels
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
    def on_grid(self) -> tuple[ImageRequest, ...]:
        """The images of the first rows, as many as a grid shows."""
        per_row = len(self.columns) * self.num_images
        return self.images[: max(1, MOST_IMAGES // per_row) * per_row]

    def labels(self) -> tuple[list[str], str]:
        """Return the labels of the rows on the grid, not too long, and the title."""
        shown = self.rows[: len(self.on_grid) // (len(self.columns) * self.num_images)]
        rows = [
            text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 3] + "..."
            for text in shown
        ]
        cut = f"; the first {len(rows)} of {len(self.rows)} prompts"
        return rows, self.title + cut * (len(rows) < len(self.rows))


def make_sheet(
    request: Request,
    columns: Callable[[Prompt], Sequence[Column]],
    title: str,
    per_line: int | None = None,
    folder: str = "",
) -> Sheet:
    """Lay out a request.

    Args:
      request: prompts, number of images of each, settings.
      columns: those of a prompt; their labels are the same for all.
      title, per_line: see `Sheet`.
      folder: where the files stand, "" or "name/".
    """
    images, labels = [], []
    prompt_digits = max(4, len(str(len(request.prompts) - 1)))
    sample_digits = len(str(request.num_images - 1))
    for index, prompt in enumerate(request.prompts):
        of_prompt = columns(prompt)
        labels = [column.label for column in of_prompt]
        start = f"{folder}{index:0{prompt_digits}d}-{slug(prompt.text)}"
        images += [
            ImageRequest(
                f"{start}{f'-{column.name}' if column.name else ''}-{i:0{sample_digits}d}.png",
                prompt.text,
                index,
                i,
                request.seed if prompt.seed is None else prompt.seed,
                column.targets,
                column.negative_targets,
                column.settings or request.settings,
            )
            for column in of_prompt
            for i in range(request.num_images)
        ]
    rows = tuple(prompt.text for prompt in request.prompts)
    return Sheet(tuple(images), rows, tuple(labels), request.num_images, title, per_line)


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
