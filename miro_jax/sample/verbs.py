"""The verbs of `miro-jax sample`: the options of each, and the columns of images it makes of them.

    images      images of prompts, with one set of levels for all or a set for each prompt
    isolate     v = v+ + w (v+ - v-),  s- = s+ except 0 at one reward         MIRO section 3
    tradeoff    s- = s+ except  s-_A = u  and  s-_B = 1 - u,  u in [0, 1]     MIRO section 3
    sweep       one reward requested at levels from 0 to 1, all others as they are
    best        many candidates of each prompt; a reward chooses
    loop        a closed walk through reward space, see `walk`
    search      the targets and the guidance that an objective likes best, as a preset

In isolate and tradeoff both branches have the same prompt by default, so that what pushes is the
rewards alone: at u = 0 guidance pushes away from low A, at u = 1 from low B. Beside the rewards,
isolate has a column without guidance and one where s- is 0 at all of them.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.cli.flags import option
from miro_jax.rewards.names import REWARD_NAMES
from miro_jax.sample.request import Levels, Request
from miro_jax.sample.search_options import Search
from miro_jax.sample.sheets import GRID, Column, describe_levels
from miro_jax.sample.verb import Verb

ANIMATIONS = ("webp", "gif", "apng")  # those of `animation.FORMATS`
CANDIDATES = "candidates/"
SCORES, CURVE, NUMBERS = "scores.jsonl", "curve.svg", "curve.json"  # of best


@dataclasses.dataclass(frozen=True)
class Images(Verb):
    """Images of prompts, those of a prompt in a row."""

    summary = "images of prompts (the default)"
    example = "--prompt='a red fox in snow' --target aesthetic=0.6 --images=4 --out=fox"
    per_line = 8

    def title(self, request: Request) -> str:
        return _describe_others(request, ())


@dataclasses.dataclass(frozen=True)
class Isolate(Verb):
    """A row a prompt, a column a reward; None is all rewards of the network."""

    summary = "a grid of what guidance by each reward alone does"
    makes = "a PNG for each image, grid.png (a column a reward), manifest.json"
    example = "--prompt='a red fox in snow' --rewards=clip,aesthetic --out=isolate"
    negative_prompt = "same"

    rewards: tuple[str, ...] | None = option(
        None, metavar="A,B", help="columns (default: all rewards of the model)"
    )

    def columns(self, request: Request) -> list[Column]:
        rewards = self.varied(request)
        if not rewards:
            raise ValueError(
                "isolating rewards needs some that the network is conditioned on, of "
                f"{', '.join(request.names) or 'none'}; got none."
            )
        if len(set(rewards)) != len(rewards):
            raise ValueError(f"rewards to isolate must be different ones; got {list(rewards)}.")
        without = dataclasses.replace(request.settings, guidance_scale=0.0)
        return [
            Column("no guidance", "no-guidance", settings=without),
            *(
                Column(f"{name} alone", f"only-{name}", {}, {name: 0.0}, equal=True)
                for name in rewards
            ),
            Column("all rewards", "all-rewards"),
        ]

    def title(self, request: Request) -> str:
        return f"guidance by one reward: s- = s+ except 0 there; {request.settings.describe()}"

    def facts(self, request: Request) -> dict[str, Any]:
        return {"rewards": self.varied(request)}


@dataclasses.dataclass(frozen=True)
class Tradeoff(Verb):
    """A row a prompt, a column a value of u."""

    summary = "a strip from one reward to another"
    makes = "a PNG for each image, grid.png (a column a value of u), manifest.json"
    example = "aesthetic clip --prompt='a red fox in snow' --levels=7 --out=tradeoff"
    negative_prompt = "same"

    a: str = option(positional=True, metavar="A", help="the reward at u = 0")
    b: str = option(positional=True, metavar="B", help="the reward at u = 1")
    levels: int = option(
        5, at_least=2, at_most=256, metavar="N", help="values of u, from 0 to 1, evenly spaced"
    )

    def varied(self, request: Request) -> tuple[str, ...]:
        return request.find(self.a, self.b)

    def columns(self, request: Request) -> list[Column]:
        a, b = self.varied(request)
        if a == b:
            raise ValueError(f"a trade-off needs two rewards; got {a!r} twice.")
        ends = {0.0: f": {a} alone", 1.0: f": {b} alone"}
        return [
            Column(f"u = {u:.3g}{ends.get(u, '')}", f"u{u:.4f}", {}, {a: u, b: 1 - u}, equal=True)
            for u in np.linspace(0, 1, self.levels).tolist()
        ]

    def title(self, request: Request) -> str:
        a, b = self.varied(request)
        return f"s- = s+ except {a} = u, {b} = 1 - u; {request.settings.describe()}"

    def facts(self, request: Request) -> dict[str, Any]:
        return {"rewards": self.varied(request), "levels": self.levels}


@dataclasses.dataclass(frozen=True)
class Sweep(Verb):
    """A row a prompt, a column a level."""

    summary = "one reward's target from 0 to 1"
    makes = "a PNG for each image, grid.png (a column a level), manifest.json"
    example = "aesthetic --prompt='a red fox in snow' --levels=9 --out=sweep"

    reward: str = option(positional=True, metavar="REWARD", help="whose target goes from 0 to 1")
    levels: int = option(
        5, at_least=2, at_most=256, metavar="N", help="targets, from 0 to 1, evenly spaced"
    )

    def varied(self, request: Request) -> tuple[str, ...]:
        return request.find(self.reward)

    def columns(self, request: Request) -> list[Column]:
        (name,) = self.varied(request)
        return [
            Column(f"{name} = {level:.3g}", f"{name}-{level:.4f}", {name: level})
            for level in np.linspace(0, 1, self.levels).tolist()
        ]

    def title(self, request: Request) -> str:
        (name,) = self.varied(request)
        return f"s+ of {name} from 0 to 1; {_describe_others(request, (name,))}"

    def facts(self, request: Request) -> dict[str, Any]:
        return {"rewards": self.varied(request), "levels": self.levels}


@dataclasses.dataclass(frozen=True)
class Best(Verb):
    """The candidates of each prompt, of which `sample.best` keeps the best."""

    summary = "the best of N candidates by a reward"
    makes = (
        "best/*.png, scores.jsonl, curve.svg and curve.json (expected best of n), grid.png, "
        "manifest.json"
    )
    example = "pick_score --prompt='a red fox in snow' --candidates=64 --out=best"
    folder = CANDIDATES
    beside = (SCORES, CURVE, NUMBERS, GRID)

    reward: str = option(
        positional=True,
        metavar="REWARD",
        help=f"the judge, one of {', '.join(REWARD_NAMES)}; FILE.py:Class; process:COMMAND",
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

    def facts(self, request: Request) -> dict[str, Any]:
        return {"reward_name": self.reward, "keep_candidates": self.keep_candidates}


@dataclasses.dataclass(frozen=True)
class Loop(Verb):
    """A row a prompt, a column a frame of a closed walk through reward space."""

    summary = "an animation of a closed walk through reward space"
    makes = "frames/*.png, loop.webp, manifest.json"
    example = "--rewards=clip,aesthetic,hpsv2 --prompt='a red fox in snow' --frames=48 --out=loop"
    folder = "frames/"
    beside = tuple(f"loop.{ending}" for ending in ANIMATIONS)

    rewards: tuple[str, ...] | None = option(
        None,
        metavar="A,B,C",
        help="rewards that take turns, in this order (default: all rewards of the model)",
    )
    frames: int = option(36, at_least=2, at_most=1000, metavar="N", help="of one round")
    fps: int = option(12, at_least=1, metavar="N", help="frames a second")
    format: str = option("webp", choices=ANIMATIONS, help="of the file")

    def columns(self, request: Request) -> list[Column]:
        rewards = self.varied(request)
        if not rewards or len(set(rewards)) != len(rewards):
            raise ValueError(f"a loop needs one or more different rewards; got {list(rewards)}.")
        steps = walk(rewards, self.frames)
        return [Column("", f"{index:03d}", levels) for index, levels in enumerate(steps)]

    def title(self, request: Request) -> str:
        return _describe_others(request, self.varied(request))

    def facts(self, request: Request) -> dict[str, Any]:
        own = {"rewards": self.varied(request), "frames": self.frames}
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


def _describe_others(request: Request, rewards: Sequence[str]) -> str:
    """Return the levels of the other rewards and the settings in words."""
    every = [request.positive(prompt) for prompt in request.prompts]
    first, *more = [{k: v for k, v in one.items() if k not in rewards} for one in every]
    words = describe_levels(first, "all others" if rewards else "all rewards")
    if any(other != first for other in more):
        words = "levels by prompt"
    how = request.settings.describe()
    return f"{words}; {how}" if first or not rewards else how


VERBS: dict[str, type[Verb]] = {
    "images": Images,
    "isolate": Isolate,
    "tradeoff": Tradeoff,
    "sweep": Sweep,
    "best": Best,
    "loop": Loop,
    "search": Search,
}
