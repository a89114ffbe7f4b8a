"""The verbs of `miro-jax sample`: the options of each, and the sheet of images it makes of them.

    images      images of prompts, with one set of levels for all or a set for each prompt
    isolate     v = v+ + w (v+ - v-),  s- = s+ except 0 at one reward         MIRO section 3
    tradeoff    s- = s+ except  s-_A = u  and  s-_B = 1 - u,  u in [0, 1]     MIRO section 3
    sweep       one reward requested at levels from 0 to 1, all others as they are
    best        many candidates of each prompt; a reward chooses
    loop        a closed walk through reward space, see `walk`

In isolate and tradeoff both branches have the same prompt by default, so that what pushes is the
rewards alone: at u = 0 guidance pushes away from low A, at u = 1 from low B. Beside the rewards,
isolate has a column without guidance and one where s- is 0 at all of them.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from miro_jax.cli.flags import check, option
from miro_jax.rewards.names import REWARD_NAMES
from miro_jax.sample.request import Levels, Prompt, Request
from miro_jax.sample.sheets import Column, Sheet, describe_levels, make_sheet

ANIMATIONS = ("webp", "gif", "apng")  # those of `animation.FORMATS`
CANDIDATES = "candidates/"
_PER_LINE = 8


@dataclasses.dataclass(frozen=True)
class Images:
    """Images of prompts, those of a prompt in a row."""

    def sheet(self, request: Request) -> Sheet:
        """Lay out the request."""
        alike = not any(prompt.targets for prompt in request.prompts)
        levels = describe_levels(request.positive(request.prompts[0]))
        title = f"{levels if alike else 'levels by prompt'}; {request.settings.describe()}"
        return make_sheet(request, _one(request), title, min(request.num_images, _PER_LINE))

    def facts(self, request: Request) -> dict[str, Any]:
        """Return what else the files depend on; the same of every verb."""
        return {}


def _one(request: Request):
    """Return the columns of a request whose images differ in nothing but their noise."""
    return lambda prompt: [Column("", "", request.positive(prompt), request.negative(prompt))]


@dataclasses.dataclass(frozen=True)
class Isolate:
    """A row a prompt, a column a reward; None is all rewards of the network."""

    rewards: tuple[str, ...] | None = option(
        None, metavar="A,B", help="columns (default: all rewards of the model)"
    )

    def sheet(self, request: Request) -> Sheet:
        """Lay out the grid; ValueError for a reward that the network is not conditioned on."""
        rewards = _rewards(request, self.rewards)
        if not rewards:
            raise ValueError(
                "isolating rewards needs a network that is conditioned on rewards; it knows none."
            )
        without = dataclasses.replace(request.settings, guidance_scale=0.0)

        def columns(prompt: Prompt) -> list[Column]:
            positive = request.positive(prompt)
            equal = request.negative(prompt, positive)
            nothing = request.negative(prompt)
            return [
                Column("no guidance", "no-guidance", positive, nothing, without),
                *(
                    Column(f"{name} alone", f"only-{name}", positive, equal | {name: 0.0})
                    for name in rewards
                ),
                Column("all rewards", "all-rewards", positive, nothing),
            ]

        title = f"guidance by one reward: s- = s+ except 0 there; {request.settings.describe()}"
        return make_sheet(request, columns, title)

    def facts(self, request: Request) -> dict[str, Any]:
        return {"rewards": _rewards(request, self.rewards)}


@dataclasses.dataclass(frozen=True)
class Tradeoff:
    """A row a prompt, a column a value of u."""

    a: str = option(positional=True, metavar="A", help="the reward at u = 0")
    b: str = option(positional=True, metavar="B", help="the reward at u = 1")
    levels: int = option(
        5, at_least=2, at_most=256, metavar="N", help="values of u, from 0 to 1, evenly spaced"
    )

    def sheet(self, request: Request) -> Sheet:
        """Lay out the strip; ValueError for a reward the network does not know, or the same."""
        check(self)
        a, b = request.find(self.a, self.b)
        if a == b:
            raise ValueError(f"a trade-off needs two rewards; got {a!r} twice.")
        ends = {0.0: f": {a} alone", 1.0: f": {b} alone"}

        def columns(prompt: Prompt) -> list[Column]:
            positive = request.positive(prompt)
            equal = request.negative(prompt, positive)
            return [
                Column(
                    f"u = {u:.3g}{ends.get(u, '')}",
                    f"u{u:.4f}",
                    positive,
                    equal | {a: u, b: 1.0 - u},
                )
                for u in spaced(self.levels)
            ]

        title = f"s- = s+ except {a} = u, {b} = 1 - u; {request.settings.describe()}"
        return make_sheet(request, columns, title)

    def facts(self, request: Request) -> dict[str, Any]:
        return {"rewards": request.find(self.a, self.b), "levels": self.levels}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A row a prompt, a column a level."""

    reward: str = option(positional=True, metavar="REWARD", help="whose target goes from 0 to 1")
    levels: int = option(
        5, at_least=2, at_most=256, metavar="N", help="targets, from 0 to 1, evenly spaced"
    )

    def sheet(self, request: Request) -> Sheet:
        """Lay out the strip; ValueError for a reward that the network is not conditioned on."""
        check(self)
        (reward,) = request.find(self.reward)

        def columns(prompt: Prompt) -> list[Column]:
            positive, negative = request.positive(prompt), request.negative(prompt)
            return [
                Column(
                    f"{reward} = {level:.3g}",
                    f"{reward}-{level:.4f}",
                    positive | {reward: level},
                    negative,
                )
                for level in spaced(self.levels)
            ]

        title = f"s+ of {reward} from 0 to 1; {_describe_others(request, [reward])}"
        return make_sheet(request, columns, title)

    def facts(self, request: Request) -> dict[str, Any]:
        return {"rewards": request.find(self.reward), "levels": self.levels}


@dataclasses.dataclass(frozen=True)
class Best:
    """The candidates of each prompt, of which `sample.best` keeps the best."""

    reward: str = option(
        positional=True,
        metavar="REWARD",
        help=f"the judge, one of {', '.join(REWARD_NAMES)}; or FILE.py:Class",
    )
    candidates: int = option(
        16, at_least=1, metavar="N", help="images of each prompt, 1 to 128 in the paper"
    )
    reward_weights: str | None = option(
        None,
        metavar="DIR_OR_ID",
        help="folder or hub id of the reward's weights (default: the published ones)",
    )
    keep_candidates: bool = option(False, help="keep all images, not only the best")

    def sheet(self, request: Request) -> Sheet:
        """Lay out the candidates; `request.num_images` of each prompt."""
        return make_sheet(request, _one(request), "", folder=CANDIDATES)

    def facts(self, request: Request) -> dict[str, Any]:
        return {"reward_name": self.reward, "keep_candidates": self.keep_candidates}


@dataclasses.dataclass(frozen=True)
class Loop:
    """A row a prompt, a column a frame of a closed walk through reward space."""

    rewards: tuple[str, ...] | None = option(
        None,
        metavar="A,B,C",
        help="rewards that take turns, in this order (default: all rewards of the model)",
    )
    frames: int = option(36, at_least=2, at_most=1000, metavar="N", help="of one round")
    fps: int = option(12, at_least=1, metavar="N", help="frames a second")
    format: str = option("webp", choices=ANIMATIONS, help="of the file")

    def sheet(self, request: Request) -> Sheet:
        """Lay out the frames; ValueError for a reward the network does not know, or one twice."""
        check(self)
        rewards = self.shown(request)
        if not rewards or len(set(rewards)) != len(rewards):
            raise ValueError(f"a loop needs one or more different rewards; got {list(rewards)}.")
        steps = walk(rewards, self.frames)

        def columns(prompt: Prompt) -> list[Column]:
            positive, negative = request.positive(prompt), request.negative(prompt)
            return [
                Column("", f"{index:03d}", positive | levels, negative)
                for index, levels in enumerate(steps)
            ]

        return make_sheet(request, columns, _describe_others(request, rewards), folder="frames/")

    def shown(self, request: Request) -> tuple[str, ...]:
        """Return the rewards that take turns."""
        return _rewards(request, self.rewards)

    def facts(self, request: Request) -> dict[str, Any]:
        own = {"rewards": self.shown(request), "frames": self.frames}
        return own | {"format": self.format, "frames_per_second": self.fps}


def walk(rewards: Sequence[str], frames: int) -> list[Levels]:
    """Return the levels of rewards in each frame of a loop.

    R rewards take turns on a circle: at the angle a, reward j = 0..R-1 is requested at

        level_j = (1 + cos(a - a_j)) / 2,    a_j = 2 pi j / R

    which is smooth, in [0, 1], and the same at a = 0 and a = 2 pi; each reward is at 1 where its
    turn comes. Of two rewards the second is a quarter turn away instead, so that they walk a circle
    in their plane and not a line. The noise stays the same: what moves is what the levels move.
    """
    turn = math.pi / 2 if len(rewards) == 2 else 2 * math.pi / len(rewards)
    angles = [2 * math.pi * frame / frames for frame in range(frames)]
    return [
        {name: (1 + math.cos(a - j * turn)) / 2 for j, name in enumerate(rewards)} for a in angles
    ]


def spaced(count: int) -> list[float]:
    """Return `count` numbers from 0 to 1, evenly spaced: those of `numpy.linspace`."""
    return [*(index * (1 / (count - 1)) for index in range(count - 1)), 1.0]


def _rewards(request: Request, rewards: Sequence[str] | None) -> tuple[str, ...]:
    return request.names if rewards is None else request.find(*rewards)


def _describe_others(request: Request, rewards: Iterable[str]) -> str:
    """Return the levels of the other rewards and the settings in words."""
    levels = request.positive(request.prompts[0])
    others = {name: level for name, level in levels.items() if name not in rewards}
    words = f"{describe_levels(others, 'all others')}; " if others else ""
    return words + request.settings.describe()


@dataclasses.dataclass(frozen=True)
class Verb:
    """An entry of the table of verbs.

    Attributes:
      options: dataclass of its own flags. summary: a line for the list of verbs.
      makes: what the folder holds afterwards. example: flags of an example.
      negative_prompt: its default; None is what the checkpoint says.
    """

    options: type
    summary: str
    makes: str
    example: str
    negative_prompt: str | None = None


VERBS = {
    "images": Verb(
        Images,
        "images of prompts (the default)",
        "a PNG for each image, grid.png, manifest.json",
        "--prompt='a red fox in snow' --target aesthetic=0.6 --images=4 --out=fox",
    ),
    "isolate": Verb(
        Isolate,
        "a grid of what guidance by each reward alone does",
        "a PNG for each image, grid.png (a column a reward), manifest.json",
        "--prompt='a red fox in snow' --rewards=clip,aesthetic --out=isolate",
        negative_prompt="same",
    ),
    "tradeoff": Verb(
        Tradeoff,
        "a strip from one reward to another",
        "a PNG for each image, grid.png (a column a value of u), manifest.json",
        "aesthetic clip --prompt='a red fox in snow' --levels=7 --out=tradeoff",
        negative_prompt="same",
    ),
    "sweep": Verb(
        Sweep,
        "one reward's target from 0 to 1",
        "a PNG for each image, grid.png (a column a level), manifest.json",
        "aesthetic --prompt='a red fox in snow' --levels=9 --out=sweep",
    ),
    "best": Verb(
        Best,
        "the best of N candidates by a reward",
        "best/*.png, scores.jsonl, curve.svg and curve.json (expected best of n), grid.png, "
        "manifest.json",
        "pick_score --prompt='a red fox in snow' --candidates=64 --out=best",
    ),
    "loop": Verb(
        Loop,
        "an animation of a closed walk through reward space",
        "frames/*.png, loop.webp, manifest.json",
        "--rewards=clip,aesthetic,hpsv2 --prompt='a red fox in snow' --frames=48 --out=loop",
    ),
}
