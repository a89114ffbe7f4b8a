"""Draw the images of a run under one setting after the other, and judge each with all rewards.

All runs get the same prompts and the same noise: what differs between two cells comes from the
training or from the setting alone.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from miro_jax.data.shapes import scene, world
from miro_jax.data.shapes.detect import Reading
from miro_jax.evaluate.base import Judges, Sampling
from miro_jax.evaluate.prompts import prompts_in_turn
from miro_jax.evaluate.study.measured import BEST_OF, DEFAULT, DIAL, REPORT, SEARCH, Cell
from miro_jax.evaluate.study.settings import BASELINE, MIRO, Run, Study
from miro_jax.models.targets import to_levels
from miro_jax.rewards.base import Reward
from miro_jax.rewards.shapes import ShapesReward
from miro_jax.sample.pipeline import MiroPipeline


@dataclasses.dataclass(frozen=True)
class Request:
    """What is drawn for one cell.

    Attributes:
      setting: its name, see `measured.Cell`. prompts: those of its set.
      targets: of rewards that are not at the run's default. num_images: of each prompt.
      seed: of the noise.
    """

    setting: str
    prompts: Sequence[str]
    targets: Mapping[str, float]
    num_images: int
    seed: int


def make_prompts(study: Study, seed: int) -> tuple[dict, dict]:
    """Return the prompts of each set, and their categories, all six in turn."""
    prompts, categories = {}, {}
    sizes = {
        REPORT: study.prompts_per_category,
        SEARCH: study.search_per_category,
        BEST_OF: study.best_of_per_category,
        DIAL: study.dial_per_category,
    }
    for number, (name, count) in enumerate(sizes.items()):
        categories[name] = scene.CATEGORIES * count
        in_turn = prompts_in_turn(scene.CATEGORIES, len(categories[name]), seed + number)
        prompts[name] = tuple(in_turn)
    return prompts, categories


def requests(
    study: Study,
    run: Run,
    is_last: bool,
    prompts: Mapping[str, Sequence[str]],
    rewards: Sequence[str],
    chased: str,
    seed: int,
) -> Iterator[Request]:
    """Yield what is measured of a run: its defaults, and at the end sweeps, dials, best of many.

    Args:
      is_last: training has ended. chased: the reward whose target is swept.
      seed: of the noise of the set `report`; the other sets have others.
    """
    yield Request(DEFAULT, prompts[REPORT], {}, 1, seed)
    if not is_last:
        return
    if run.variant == MIRO:
        for level in study.sweep_levels:
            yield Request(f"sweep:{level:g}", prompts[REPORT], {chased: level}, 1, seed)
            yield Request(f"search:{level:g}", prompts[SEARCH], {chased: level}, 1, seed + 1)
        for name in rewards:
            for level in study.dial_levels:
                yield Request(f"dial:{name}={level:g}", prompts[DIAL], {name: level}, 1, seed + 3)
    if run.variant in (MIRO, BASELINE):
        # As in the paper, whose single image of MIRO has what target 1 gives: nothing is held back.
        highest = dict.fromkeys(rewards, 1.0)
        yield Request(BEST_OF, prompts[BEST_OF], highest, study.best_of, seed + 2)


class Verdict(ShapesReward):
    """Whether an image shows its prompt, as a reward: 1 or 0."""

    def judge(self, features: list[Reading], captions: Sequence[str]) -> np.ndarray:
        """Return `world.check_readings` of B readings and their captions, [B] float32."""
        return np.array(world.check_readings(features, captions), np.float32)


def draw(
    pipeline: MiroPipeline,
    run: Run,
    request: Request,
    sampling: Sampling,
    rewards: Sequence[str],
) -> tuple[np.ndarray, list[str]]:
    """Draw the images of one cell.

    Args:
      pipeline: with the weights of the run; it knows all rewards of the study.
      sampling: guidance and steps; its targets, of both branches, are the
        defaults of the rewards of the run.
      rewards: [R], the names of all.

    Returns:
      N images [N, H, W, 3] uint8, those of a prompt one after the other, and their N prompts.
    """
    count = len(request.prompts) * request.num_images
    # A specialist chases its only reward.
    one = run.rewards.sum() == 1
    usual = ({}, {}) if one else (sampling.targets, sampling.negative_targets)
    positive = to_levels({**usual[0], **request.targets}, 1, rewards, 1.0)[0]
    negative = to_levels(usual[1], 1, rewards, 0.0)[0]
    levels = [np.where(run.rewards, row, np.nan) for row in (positive, negative)]
    images = pipeline(
        list(request.prompts),
        request.num_images,
        targets=np.tile(levels[0], (count, 1)),
        negative_targets=np.tile(levels[1], (count, 1)),
        output_type="numpy",
        seed=request.seed,
        **dataclasses.asdict(sampling.settings),
    )
    return images, [text for text in request.prompts for _ in range(request.num_images)]


def judged_by(judges: Judges) -> list[Reward]:
    """Return what images are scored by: the rewards and, last, the verdict.

    The verdict is one more reward: of its tower, the detector, each image is read once.
    """
    return [*judges.rewards, Verdict("objects")]


def to_cell(run: Run, step: int, request: Request, scores: np.ndarray) -> Cell:
    """Make a cell of the scores [N, R + 1] of its images, the verdict last."""
    scores, right = scores[:, :-1], scores[:, -1] > 0
    if request.setting == BEST_OF:
        right = right.reshape(-1, request.num_images)
        scores = scores.reshape(*right.shape, -1)
    return Cell(run.variant, run.seed, step, request.setting, right, scores)
