"""The verbs of `python -m miro_jax.sample`: their own flags, and the work that each one plans."""

import dataclasses
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from miro_jax.rewards import check_names, has_weights, load_reward
from miro_jax.rewards.names import REWARD_NAMES
from miro_jax.sample import best, images, isolate, loop, make, sweep, tradeoff
from miro_jax.sample.animation import FORMATS, save_animation
from miro_jax.sample.flags import Parser, at_least, names
from miro_jax.sample.folder import Folder
from miro_jax.sample.request import Asked, Picture
from miro_jax.sample.sheets import Sheet


class SheetJob:
    """Work that is a sheet of pictures, and a picture of it.

    Args:
      verb: the verb. asked: the request. sheet: what is made. compose: see `make.fill`.
      facts: what else the files depend on, plain JSON.
    """

    def __init__(
        self,
        verb: str,
        asked: Asked,
        sheet: Sheet,
        compose: Callable[[Folder], Sequence[str]] | None = None,
        **facts,
    ):
        self.asked, self.sheet, self.compose = asked, sheet, compose
        self.request = make.describe(verb, asked, sheet.pictures, **facts)

    @property
    def files(self) -> list[str]:
        """Names of the pictures."""
        return [picture.file for picture in self.sheet.pictures]

    def load(self) -> dict[str, Any]:
        """Read what the work needs besides the pipeline; returns what it adds to the request."""
        return {}

    def fill(self, folder: Folder, pipe: Any) -> None:
        """Fill the folder."""
        make.fill(folder, pipe, self.sheet, self.asked.settings, True, self.compose)


class BestJob:
    """Best-of-N; the same methods as `SheetJob`."""

    def __init__(self, asked: Asked, flags: Namespace):
        self.asked, self.flags, self.reward = asked, flags, None
        pictures: tuple[Picture, ...] = best.candidates(asked)
        self.files = [picture.file for picture in pictures]
        self.request = make.describe(
            "best", asked, pictures, reward_name=flags.reward, keep_candidates=flags.keep_candidates
        )

    def load(self) -> dict[str, Any]:
        """Load the reward."""
        weights = self.flags.reward_weights
        arguments = {} if weights is None else {"weights": weights}
        self.reward = load_reward(self.flags.reward, **arguments)
        return {"reward": self.reward.identity}

    def fill(self, folder: Folder, pipe: Any) -> None:
        """Fill the folder."""
        best.fill(folder, pipe, self.asked, self.reward, self.flags.keep_candidates, True)


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
      summary: a line for the list of verbs. makes: what the folder holds afterwards.
      example: flags of an example.
      add: adds its own flags to a parser.
      plan: (request, flags) -> job; ValueError for what the network cannot be asked.
      negative_prompt: its default; None is what the checkpoint does.
      count: flag that says how many pictures of each there are.
    """

    summary: str
    makes: str
    example: str
    add: Callable[[Parser], None]
    plan: Callable[[Asked, Namespace], SheetJob | BestJob]
    negative_prompt: str | None = None
    count: str = "images"


def _no_flags(parser: Parser) -> None:
    """`images` has the shared flags only."""


def _plan_images(asked: Asked, flags: Namespace) -> SheetJob:
    return SheetJob("images", asked, images.sheet(asked))


def _add_isolate(parser: Parser) -> None:
    parser.add_argument(
        "--rewards", type=names, metavar="A,B", help="columns (default: all rewards of the model)"
    )


def _plan_isolate(asked: Asked, flags: Namespace) -> SheetJob:
    return SheetJob("isolate", asked, isolate.sheet(asked, flags.rewards))


def _add_tradeoff(parser: Parser) -> None:
    parser.add_argument("a", metavar="A", help="the reward at u = 0")
    parser.add_argument("b", metavar="B", help="the reward at u = 1")
    _add_levels(parser, "values of u, from 0 to 1")


def _plan_tradeoff(asked: Asked, flags: Namespace) -> SheetJob:
    return SheetJob("tradeoff", asked, tradeoff.sheet(asked, flags.a, flags.b, flags.levels))


def _add_sweep(parser: Parser) -> None:
    parser.add_argument("reward", metavar="REWARD", help="whose target goes from 0 to 1")
    _add_levels(parser, "targets, from 0 to 1")


def _plan_sweep(asked: Asked, flags: Namespace) -> SheetJob:
    return SheetJob("sweep", asked, sweep.sheet(asked, flags.reward, flags.levels))


def _add_levels(parser: Parser, what: str) -> None:
    parser.add_argument(
        "--levels", type=at_least(2), default=5, metavar="N", help=f"{what} (default: 5)"
    )


def _add_best(parser: Parser) -> None:
    parser.add_argument("reward", metavar="REWARD", help=f"one of {', '.join(REWARD_NAMES)}")
    parser.add_argument(
        "--candidates",
        type=at_least(1),
        default=16,
        metavar="N",
        help="pictures of each prompt, 1 to 128 in the paper (default: 16)",
    )
    parser.add_argument(
        "--reward-weights",
        metavar="DIR_OR_ID",
        help="folder or hub id of the reward's weights (default: the published ones)",
    )
    parser.add_argument(
        "--keep-candidates", action="store_true", help="keep all pictures, not only the best"
    )


def _plan_best(asked: Asked, flags: Namespace) -> BestJob:
    check_names([flags.reward])
    if flags.reward_weights is not None and not has_weights(flags.reward):
        raise ValueError(f"--reward-weights: the reward {flags.reward!r} has no weights.")
    return BestJob(asked, flags)


def _add_loop(parser: Parser) -> None:
    parser.add_argument(
        "--rewards",
        type=names,
        metavar="A,B,C",
        help="rewards that take turns, in this order (default: all rewards of the model)",
    )
    parser.add_argument(
        "--frames", type=at_least(2), default=36, metavar="N", help="of one round (default: 36)"
    )
    parser.add_argument(
        "--fps", type=at_least(1), default=12, metavar="N", help="frames a second (default: 12)"
    )
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default="webp", help="of the file (default: webp)"
    )


def _plan_loop(asked: Asked, flags: Namespace) -> SheetJob:
    sheet = loop.sheet(asked, flags.rewards, flags.frames)
    shown = flags.rewards or asked.names

    def compose(folder: Folder) -> list[str]:
        pictures = folder.read([picture.file for picture in sheet.pictures])
        name = f"loop.{flags.format}"
        save_animation(loop.draw_frames(sheet, pictures, shown), folder.path / name, flags.fps)
        return [name]

    return SheetJob("loop", asked, sheet, compose, format=flags.format, frames_per_second=flags.fps)


VERBS = {
    "images": Verb(
        "pictures of prompts (the default)",
        "a PNG for each picture, grid.png, manifest.json",
        "--prompt='a red fox in snow' --target aesthetic=0.6 --images=4 --out=fox",
        _no_flags,
        _plan_images,
    ),
    "isolate": Verb(
        "a grid of what guidance by each reward alone does",
        "a PNG for each picture, grid.png (a column a reward), manifest.json",
        "--prompt='a red fox in snow' --rewards=clip,aesthetic --out=isolate",
        _add_isolate,
        _plan_isolate,
        negative_prompt="same",
    ),
    "tradeoff": Verb(
        "a strip from one reward to another",
        "a PNG for each picture, grid.png (a column a value of u), manifest.json",
        "aesthetic clip --prompt='a red fox in snow' --levels=7 --out=tradeoff",
        _add_tradeoff,
        _plan_tradeoff,
        negative_prompt="same",
    ),
    "sweep": Verb(
        "one reward's target from 0 to 1",
        "a PNG for each picture, grid.png (a column a level), manifest.json",
        "aesthetic --prompt='a red fox in snow' --levels=9 --out=sweep",
        _add_sweep,
        _plan_sweep,
    ),
    "best": Verb(
        "the best of N candidates by a reward",
        "best/*.png, scores.jsonl, curve.svg and curve.json (expected best of n), grid.png, "
        "manifest.json",
        "pick_score --prompt='a red fox in snow' --candidates=64 --out=best",
        _add_best,
        _plan_best,
        count="candidates",
    ),
    "loop": Verb(
        "an animation of a closed walk through reward space",
        "frames/*.png, loop.webp, manifest.json",
        "--rewards=clip,aesthetic,hpsv2 --prompt='a red fox in snow' --frames=48 --out=loop",
        _add_loop,
        _plan_loop,
    ),
}
