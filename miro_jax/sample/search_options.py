"""The verb `search`: its options, and which images are of the search and which confirm."""

import dataclasses
from typing import Any

from miro_jax.cli.flags import option
from miro_jax.sample.request import ImageRequest, Request
from miro_jax.sample.settings import MOST_GUIDANCE, MOST_SEEDS
from miro_jax.sample.sheets import GRID, Sheet
from miro_jax.sample.verb import Verb

PRESET = "preset.json"
SEARCHED, DEFAULT, FOUND = "search", "default", "preset"  # images, and files of their scores
CANDIDATE = "candidate-{}"  # 0 is the default
_CONFIRMING = 8  # images of the search for one that confirms


def _parse_range(text: str) -> tuple[float, float]:
    """Read LOW,HIGH."""
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise ValueError(f"must be LOW,HIGH; got {text!r}") from error
    if not -MOST_GUIDANCE <= low <= high <= MOST_GUIDANCE:
        raise ValueError(f"must be LOW,HIGH with LOW <= HIGH; got {text!r}")
    return low, high


@dataclasses.dataclass(frozen=True)
class Search(Verb):
    """Half of the prompts for the search, half for the confirmation; see `sample.search`."""

    summary = "the targets and the guidance that an objective likes best, as a preset"
    makes = (
        "preset.json, scores of all images (*.jsonl), default/*.png and preset/*.png (the "
        "confirmation), grid.png, manifest.json"
    )
    example = "--objective=pick_score --prompts-file=prompts.txt --budget=4096 --out=search"
    folder = f"{DEFAULT}/"
    beside = (
        PRESET,
        *(f"{name}.jsonl" for name in (SEARCHED, CANDIDATE.format(0), DEFAULT, FOUND)),
        GRID,
    )

    objective: tuple[str, ...] = option(
        metavar="NAMES",
        help="a reward, several with commas between (their mean in standard deviations), or "
        "geneval: the share of images that show their prompt, in the shapes world",
    )
    budget: int = option(
        2048,
        at_least=64,
        metavar="N",
        help="images of the search: two thirds explore, one third compares candidates with the "
        "defaults; the confirmation takes as many again, and a quarter more",
    )
    rewards: tuple[str, ...] | None = option(
        None, metavar="A,B", help="rewards whose targets vary (default: all rewards of the model)"
    )
    negative: bool = option(False, help="vary the negative targets, too")
    guidance_range: tuple[float, ...] = option(
        (),
        parse=_parse_range,
        metavar="LOW,HIGH",
        help="guidance scales (default: 0 to twice --guidance-scale)",
    )
    categories: tuple[str, ...] = option(
        (), metavar="A,B", help="prompts of these GenEval categories of the shapes world"
    )
    prompts_per_category: int = option(32, at_least=2, metavar="N", help="of the shapes world")
    reward_weights: tuple[str, ...] = option(
        (),
        repeat=True,
        parse=str,
        metavar="NAME=DIR_OR_ID",
        help="weights of a reward of the objective (default: the published ones)",
    )

    def sheet(self, request: Request) -> Sheet:
        """Lay out the images at the default targets that the confirmation keeps."""
        if len(request.prompts) < 2:
            raise ValueError(
                "a search needs two or more prompts, of which every second one is kept for the "
                f"confirmation; got {len(request.prompts)}."
            )
        low, high = self.scales(request)
        if not (request.names and self.varied(request)) and low == high:
            raise ValueError("a search needs a target or the guidance scale to vary; none does.")
        return super().sheet(self.fresh(request))

    def images(self, request: Request, folder: str) -> list[ImageRequest]:
        """Return the images of a request with their files in another folder."""
        images = super().sheet(request).images
        return [
            dataclasses.replace(i, file=i.file.replace(self.folder, f"{folder}/", 1))
            for i in images
        ]

    def searched(self, request: Request) -> Request:
        """Return the part of a request that the search sees: the first of each two prompts."""
        return dataclasses.replace(request, prompts=request.prompts[::2])

    def fresh(self, request: Request) -> Request:
        """Return the part that confirms: the other prompts, with another seed."""
        seed = (request.seed + 1) % MOST_SEEDS
        prompts = tuple(dataclasses.replace(p, seed=None) for p in request.prompts[1::2])
        return dataclasses.replace(request, prompts=prompts, seed=seed)

    def scales(self, request: Request) -> tuple[float, float]:
        """Return the lowest and the highest guidance scale."""
        twice = 2 * request.settings.guidance_scale
        twice = min(max(twice, -MOST_GUIDANCE), MOST_GUIDANCE)
        low, high = self.guidance_range or sorted((0.0, twice))
        return low, high

    def confirming(self, request: Request) -> int:
        """Return how many images of each fresh prompt confirm the best candidate.

        One image a prompt would leave an interval wider than any gain: an eighth of the budget.
        """
        prompts = len(self.fresh(request).prompts)
        return max(request.num_images, -(-self.budget // (_CONFIRMING * prompts)))

    def facts(self, request: Request) -> dict[str, Any]:
        how = {"objective": self.objective, "budget": self.budget, "negative": self.negative}
        how["method"] = "surface and halving"  # folders of another are another request
        return how | {"rewards": self.varied(request), "guidance_range": self.scales(request)}
