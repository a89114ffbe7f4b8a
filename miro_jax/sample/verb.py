"""What the verbs of `miro-jax sample` share: from columns to the images of a sheet."""

from collections.abc import Iterable
from typing import Any, ClassVar

from miro_jax.cli.flags import check
from miro_jax.sample.request import ImageRequest, Request, slug
from miro_jax.sample.sheets import GRID, Column, Sheet


class Verb:
    """What the verbs share. A verb is a dataclass of its options, with the columns of its sheet.

    Attributes:
      summary: a line for the list of verbs.
      makes: what the folder holds afterwards. example: flags of an example.
      negative_prompt: its default; None is what the checkpoint says.
      folder: where the images stand, "" or "name/". per_line: see `Sheet`.
      beside: names of the files that stand beside the folders of images.
    """

    summary: ClassVar[str]
    makes: ClassVar[str] = "a PNG for each image, grid.png, manifest.json"
    example: ClassVar[str]
    negative_prompt: ClassVar[str | None] = None
    folder: ClassVar[str] = ""
    beside: ClassVar[tuple[str, ...]] = (GRID,)
    per_line: ClassVar[int | None] = None
    rewards: tuple[str, ...] | None = ()

    def sheet(self, request: Request) -> Sheet:
        """Lay out the images of a request.

        Raises:
          ValueError: an option out of its range, or a reward that the network does not know.
        """
        check(self)
        columns, images = self.columns(request), []
        prompt_digits = max(4, len(str(len(request.prompts) - 1)))
        sample_digits = len(str(request.num_images - 1))
        for index, prompt in enumerate(request.prompts):
            start = f"{self.folder}{index:0{prompt_digits}d}-{slug(prompt.text)}"
            positive = request.positive(prompt)
            negative = request.negative(prompt), request.negative(prompt, positive)
            images += [
                ImageRequest(
                    f"{start}{f'-{column.name}' if column.name else ''}-{i:0{sample_digits}d}.png",
                    prompt.text,
                    index,
                    i,
                    request.seed if prompt.seed is None else prompt.seed,
                    positive | column.targets,
                    negative[column.equal] | column.negative_targets,
                    column.settings or request.settings,
                )
                for column in columns
                for i in range(request.num_images)
            ]
        rows = tuple(prompt.text for prompt in request.prompts)
        labels, title = tuple(column.label for column in columns), self.title(request)
        return Sheet(tuple(images), rows, labels, request.num_images, title, self.per_line)

    def columns(self, request: Request) -> list[Column]:
        """Return the columns of the sheet; by default one, of images that differ in their noise."""
        return [Column()]

    def title(self, request: Request) -> str:
        """Return what stands above the grid."""
        return ""

    def varied(self, request: Request) -> tuple[str, ...]:
        """Return the network's names of the rewards that differ between columns.

        Raises:
          TypeError: no list of names. ValueError: the network does not know a reward.
        """
        if isinstance(self.rewards, str):
            raise TypeError(f"rewards must be a list of names; got the one text {self.rewards!r}.")
        if self.rewards is not None and not isinstance(self.rewards, Iterable):
            raise TypeError(f"rewards must be a list of names; got {self.rewards!r:.60}.")
        return request.names if self.rewards is None else request.find(*self.rewards)

    def facts(self, request: Request) -> dict[str, Any]:
        """Return what else the files depend on."""
        return {}
