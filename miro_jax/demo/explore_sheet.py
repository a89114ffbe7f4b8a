"""The images of the explorer: for each prompt, all views of it side by side.

A view is what one slider moves through: a sweep of one reward, a trade-off of two, guidance by one
reward after another, a walk through reward space. Its columns are those of the verb of the same
name in `sample.verbs`; here they stand in one sheet, so that one folder holds them and resumes.
"""

import dataclasses
import itertools
from typing import Any

from miro_jax.cli.flags import option
from miro_jax.sample.request import Request
from miro_jax.sample.sheets import Column
from miro_jax.sample.verb import Verb
from miro_jax.sample.verbs import Isolate, Loop, Sweep, Tradeoff


@dataclasses.dataclass(frozen=True)
class View:
    """One way to move through images.

    Attributes:
      kind: "sweep", "tradeoff", "isolate" or "loop". rewards: what varies.
      columns: one for each position of the slider.
    """

    kind: str
    rewards: tuple[str, ...]
    columns: tuple[Column, ...]


@dataclasses.dataclass(frozen=True)
class Explore(Verb):
    """A row a prompt; the columns of every view, one view after another."""

    summary = "a static page of images at many levels"
    makes = "index.html, images/*.png, data/*.js, manifest.json"
    example = "--checkpoint=runs/base --prompt='a red circle' --out=explorer"
    folder = "images/"

    dials: tuple[str, ...] | None = option(
        None, metavar="A,B", help="rewards that vary (default: all of the model)"
    )
    levels: int = option(
        9, at_least=2, at_most=64, metavar="N", help="levels of a sweep, from 0 to 1"
    )
    tradeoff_levels: int = option(
        5, at_least=0, at_most=64, metavar="N", help="values of u of each pair; 0: no trade-offs"
    )
    frames: int = option(
        24, at_least=0, at_most=256, metavar="N", help="frames of the loop; 0: no loop"
    )

    def views(self, request: Request) -> list[View]:
        """Return the views, in the order of their columns.

        Raises:
          ValueError: a reward that the network does not know or that is named twice, or none;
            a network without rewards.
        """
        if not request.names:
            raise ValueError("the network knows no rewards: there is nothing to explore.")
        names = request.names if self.dials is None else request.find(*self.dials)
        if not names or len(set(names)) != len(names):
            raise ValueError(f"dials must be one or more different rewards; got {list(names)}.")
        verbs: list[tuple[str, tuple[str, ...], Verb]] = [
            ("sweep", (name,), Sweep(name, self.levels)) for name in names
        ]
        if self.tradeoff_levels:
            verbs += [
                ("tradeoff", pair, Tradeoff(*pair, max(2, self.tradeoff_levels)))
                for pair in itertools.combinations(names, 2)
            ]
        verbs.append(("isolate", names, Isolate(names)))
        if self.frames:
            verbs.append(("loop", names, Loop(names, max(2, self.frames))))
        return [self._view(request, *each) for each in verbs]

    def _view(self, request: Request, kind: str, names: tuple[str, ...], verb: Verb) -> View:
        """Name the columns of a verb after the view, with the negative branch that it has alone."""
        columns = []
        for column in verb.columns(request):
            settings = column.settings or request.settings
            if verb.negative_prompt is not None:
                settings = dataclasses.replace(settings, negative_prompt=verb.negative_prompt)
            word = "-".join((kind, *names)) if kind == "tradeoff" else kind
            name = f"{word}-{column.name}"
            columns.append(dataclasses.replace(column, name=name, settings=settings))
        return View(kind, names, tuple(columns))

    def columns(self, request: Request) -> list[Column]:
        return [column for view in self.views(request) for column in view.columns]

    def title(self, request: Request) -> str:
        return request.settings.describe()

    def facts(self, request: Request) -> dict[str, Any]:
        own = {"levels": self.levels, "tradeoff_levels": self.tradeoff_levels}
        return {"dials": list(self.dials or request.names), "frames": self.frames} | own
