"""Target search: the levels and the guidance that an objective likes best, and what they are worth.

Two thirds of the images have levels of their own, spread evenly over those that training knows; a
response surface is fitted to their scores and gives candidates (see `surface`). The others compare
these with the default (see `halving`). Then fresh prompts with fresh seeds are drawn at the default
and at the best candidate: the gain is the mean difference over prompts, with its interval. Where no
candidate is better, there or here, the preset is the default itself. The default gets as many
images as search and confirmation had together, so that best-of-n of equal compute stands beside it.
Letters: P prompts, N images, D coordinates.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.data.storage.files import to_json
from miro_jax.rewards import load_rewards
from miro_jax.rewards.base import require_built
from miro_jax.sample import draw, halving
from miro_jax.sample.best import Scores, score_batch
from miro_jax.sample.confirmation import best_candidate, compare, describe
from miro_jax.sample.folder import Folder
from miro_jax.sample.objective import (
    GENEVAL,
    Objective,
    RewardMean,
    ShapesCheck,
    read_weights,
)
from miro_jax.sample.preset import Preset
from miro_jax.sample.request import ImageRequest, Levels, Request
from miro_jax.sample.search_options import CANDIDATE, DEFAULT, FOUND, PRESET, SEARCHED, Search
from miro_jax.sample.sheets import Sheet
from miro_jax.sample.surface import Box, propose
from miro_jax.sample.trained import weights_name
from miro_jax.sample.usual import request_of

EXPLORING = 2 / 3  # of the budget; the rest compares candidates
_GUIDANCE_STEPS = 5  # values of the guidance scale in a round: images of one value share a batch
_SCALING = 16  # images, at least, whose standard deviations bring several rewards to one scale
_DIGITS = 3


@dataclasses.dataclass(frozen=True)
class Space:
    """The coordinates of a search.

    Attributes:
      rewards: positive targets that vary. negatives: negative targets that vary.
      guidance: lowest and highest scale; equal where it does not vary.
    """

    rewards: tuple[str, ...]
    negatives: tuple[str, ...]
    guidance: tuple[float, float]

    @property
    def box(self) -> Box:
        """All of it; the last coordinate is the guidance scale."""
        levels = len(self.rewards) + len(self.negatives)
        low = np.array([0.0] * levels + [self.guidance[0]])
        return Box(low, np.array([1.0] * levels + [self.guidance[1]]))

    @property
    def steps(self) -> np.ndarray:
        """How many values each coordinate takes, see `surface.spread`."""
        return np.array([0] * (len(self.box.low) - 1) + [_GUIDANCE_STEPS])

    def start(self, request: Request) -> np.ndarray:
        """Return the point of a request, or the nearest one: [D]."""
        positive = [request.targets.get(name, 1.0) for name in self.rewards]
        negative = [request.negative_targets.get(name, 0.0) for name in self.negatives]
        levels = [1.0 if level is None else level for level in positive]
        levels += [0.0 if level is None else level for level in negative]
        point = np.array([*levels, request.settings.guidance_scale])
        return np.clip(point, self.box.low, self.box.high)

    def read(self, point: np.ndarray) -> tuple[Levels, Levels, float]:
        """Return targets, negative targets and guidance scale of a point."""
        *levels, scale = np.round(point, _DIGITS).tolist()
        count = len(self.rewards)
        positive = dict(zip(self.rewards, levels[:count], strict=True))
        return positive, dict(zip(self.negatives, levels[count:], strict=True)), scale


class Measure:
    """Scores images by an objective; in a folder, it resumes and keeps some of the images.

    Attributes:
      files: those of the scores, as far as they are measured.
    """

    def __init__(self, pipe: Any, objective: Objective, folder: Folder | None, progress: bool):
        self.pipe, self.objective = pipe, objective
        self.folder, self.progress, self.files = folder, progress, set[str]()

    def __call__(
        self, title: str, images: Sequence[ImageRequest], keep: frozenset[str] = frozenset()
    ) -> np.ndarray:
        """Return the scores [N] float64 of images, each with its own prompt and sample index.

        Args:
          title: of the progress bar and of the file with the scores.
          keep: names of the images that the folder keeps.
        """
        name = f"{title}.jsonl"
        self.files.add(name)
        scores = Scores(self.folder.path / name if self.folder else None)

        def missing(image: ImageRequest) -> bool:
            lost = self.folder and image.file in keep and self.folder.lacks(image)
            return scores.lack(image) or bool(lost)

        for batch, drawn in draw.draw_batches(self.pipe, images, missing, self.progress, title):
            given = score_batch(self.objective, batch, drawn)
            for image, pixels in zip(batch, drawn, strict=True):
                if self.folder and image.file in keep:
                    self.folder.save(image.file, pixels)
            pairs = zip(batch, given, strict=True)
            scores.append([_line(image, score) for image, score in pairs if scores.lack(image)])
        return np.array([scores.of(image) for image in images])


def _line(image: ImageRequest, score: float) -> dict[str, Any]:
    """Return the line of a file of scores."""
    entry = image.to_entry()
    keys = ("prompt_index", "sample_index", "prompt", "targets", "negative_targets")
    return {key: entry[key] for key in (*keys, "guidance_scale")} | {"score": score}


def load_objective(pipe: Any, request: Request, verb: Search) -> Objective:
    """Return what the options of a search name.

    Several rewards are brought to one scale by images of the searched prompts at the default
    targets: one of each, more where the prompts are few.

    Raises:
      ValueError: one of several rewards gives all of these images the same score.
    """
    if verb.objective == (GENEVAL,):
        return ShapesCheck()
    loaded = load_rewards(verb.objective, weights=read_weights(verb))
    if len(loaded) == 1:
        return RewardMean(loaded)
    searched = verb.searched(request)
    each = -(-_SCALING // len(searched.prompts))
    usual = dataclasses.replace(searched, num_images=each)
    images = verb.images(usual, DEFAULT)
    return RewardMean(loaded, draw.draw_all(pipe, images), [image.prompt for image in images])


def find_preset(
    pipe: Any,
    prompts: Sequence[str],
    objective: Objective,
    budget: int = Search.budget,
    *,
    rewards: Sequence[str] | None = None,
    negative: bool = False,
    progress: bool = False,
    **request: Any,
) -> Preset:
    """Search the targets and the guidance that an objective likes best, and confirm them.

    Args:
      pipe: a `MiroPipeline`.
      prompts: two or more; every second one is kept for the confirmation.
      objective: see `objective.Objective`. budget: images of the search.
      rewards: whose targets vary; None is all. negative: vary the negative targets, too.
      progress: show bars on stderr.
      **request: see `calls.isolation_grid`.

    Raises:
      TypeError: the objective is a name. ValueError: an unknown reward, too few prompts.
      FloatingPointError: a score is not finite.
    """
    require_built(objective)
    made = request_of(pipe, prompts, **request)
    given = rewards if rewards is None or isinstance(rewards, str) else tuple(rewards)
    verb = Search((objective.identity,), budget=budget, rewards=given, negative=negative)
    verb.sheet(made)
    return _Searching(pipe, made, verb, Measure(pipe, objective, None, progress)).run()


def fill(
    folder: Folder,
    pipe: Any,
    request: Request,
    verb: Search,
    objective: Objective,
) -> Preset:
    """Fill a folder, resuming where it stopped.

    It gets `preset.json`, the scores of all images, those images of the confirmation that are
    compared, `grid.png` and `manifest.json`. See `find_preset`.
    """
    job = _Searching(pipe, request, verb, Measure(pipe, objective, folder, True))
    preset = job.run()
    if not folder.is_complete():
        folder.write(PRESET, preset.to_json())
        job.finish(folder, preset)
    return preset


@dataclasses.dataclass(frozen=True)
class _Searching:
    """One search; the arguments of `fill`."""

    pipe: Any
    request: Request
    verb: Search
    measure: Measure

    def run(self) -> Preset:
        """Search, and compare with the default."""
        r, objective = self.request, self.measure.objective
        space = Space(
            self.verb.varied(r) if r.names else (),
            self.verb.varied(r) if r.names and self.verb.negative else (),
            self.verb.scales(r),
        )
        points = self._explore(space)
        index = self._select(space, points)
        prompts = self.verb.searched(r).prompts
        found_on = {
            "checkpoint": weights_name(self.pipe.trained),
            "objective": objective.identity,
            "budget_images": self.verb.budget,
            "candidates": len(points),
            "prompts": len(prompts),
            "prompts_sha256": hashlib.sha256(to_json([p.text for p in prompts])).hexdigest(),
            "seed": r.seed,
            "default_targets": dict.fromkeys(r.names, 1.0) | r.targets,
            **r.settings.to_json(),
        }
        scale = r.settings.guidance_scale
        default = Preset(r.names, r.targets, r.negative_targets, scale, found_on)
        candidate, best = None, None
        if index:
            positive, negative, scale = space.read(points[index - 1])
            candidate = {"targets": r.targets | positive, "guidance_scale": scale}
            candidate["negative_targets"] = r.negative_targets | negative
            best = dataclasses.replace(default, **candidate)
        confirmed = self._confirm(best)
        preset = best if best is not None and confirmed["gain"]["mean"] > 0 else default
        return dataclasses.replace(preset, confirmed=confirmed | {"candidate": candidate})

    @property
    def _exploring(self) -> int:
        return round(self.verb.budget * EXPLORING)

    def _explore(self, space: Space) -> list[np.ndarray]:
        """Return the candidates of a response surface."""

        def evaluate(points: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            images = [
                self._image(number, SEARCHED, space.read(point))
                for point, number in zip(points, numbers.tolist(), strict=True)
            ]
            return self.measure(SEARCHED, images)

        num_prompts, seed = len(self.verb.searched(self.request).prompts), self.request.seed
        given = self._exploring, space.start(self.request), num_prompts, seed, space.steps
        return propose(evaluate, space.box, *given)

    def _select(self, space: Space, points: Sequence[np.ndarray]) -> int:
        """Return the number of the best candidate, from 1; 0 is the default."""

        def evaluate(index: int, numbers: np.ndarray) -> np.ndarray:
            title = CANDIDATE.format(index)
            found = space.read(points[index - 1]) if index else None
            images = [self._image(number, title, found) for number in numbers.tolist()]
            return self.measure(title, images)

        numbers = range(self._exploring, self.verb.budget)
        return halving.select(evaluate, len(points) + 1, numbers)

    def _image(
        self, number: int, folder: str, found: tuple[Levels, Levels, float] | None
    ) -> ImageRequest:
        """Return an image of the search at targets, negative targets and scale; None: default."""
        request = self.verb.searched(self.request)
        sample, index = divmod(number, len(request.prompts))
        prompt, settings = request.prompts[index], request.settings
        positive, negative, scale = found or ({}, {}, settings.guidance_scale)
        return ImageRequest(
            f"{folder}/{number}",
            prompt.text,
            index,
            sample,
            request.seed if prompt.seed is None else prompt.seed,
            request.positive(prompt, positive),
            request.negative(prompt, over=negative),
            dataclasses.replace(settings, guidance_scale=scale),
        )

    def _confirm(self, best: Preset | None) -> dict[str, Any]:
        """Draw fresh prompts at the default and at the best candidate, and compare their scores.

        Without a candidate the default is compared with itself.
        """
        fresh = self.verb.fresh(self.request)
        count, each = len(fresh.prompts), self.verb.confirming(self.request)
        many = each + -(-self.verb.budget // count)  # as many as search and confirmation
        usual = self._measure_fresh(DEFAULT, fresh, many)
        ours = usual if best is None else self._measure_fresh(FOUND, self._at(best), each)
        searched = {prompt.text for prompt in self.verb.searched(self.request).prompts}
        return compare(usual, ours) | {
            "prompts": count,
            "prompts_not_searched": sum(p.text not in searched for p in fresh.prompts),
            "seed": fresh.seed,
        }

    def _measure_fresh(self, title: str, request: Request, many: int) -> np.ndarray:
        """Return the scores [P, many] of a request; the folder keeps the images that it shows."""
        shown = {(i.prompt_index, i.sample_index): i for i in self.verb.images(request, title)}
        images = self.verb.images(dataclasses.replace(request, num_images=many), title)
        images = [shown.get((i.prompt_index, i.sample_index), i) for i in images]
        keep = frozenset(image.file for image in shown.values())
        return self.measure(title, images, keep).reshape(len(request.prompts), many)

    def _at(self, preset: Preset) -> Request:
        """Return the request that confirms, at the levels and the guidance of a preset."""
        fresh = self.verb.fresh(self.request)
        settings = dataclasses.replace(fresh.settings, guidance_scale=preset.guidance_scale)
        levels = {"targets": preset.targets, "negative_targets": preset.negative_targets}
        return dataclasses.replace(fresh, settings=settings, **levels)

    def finish(self, folder: Folder, preset: Preset) -> None:
        """Write the grid and the manifest."""
        fresh, columns = self.verb.fresh(self.request), ["default targets"]
        images = [self.verb.images(fresh, DEFAULT)]
        if (best := best_candidate(preset)) is not None:
            columns.append("preset" if preset.confirmed["gain"]["mean"] > 0 else "candidate")
            images.append(self.verb.images(self._at(best), FOUND))
        size = fresh.num_images
        cells = [
            image
            for start in range(0, len(images[0]), size)
            for column in images
            for image in column[start : start + size]
        ]
        rows = tuple(prompt.text for prompt in fresh.prompts)
        sheet = Sheet(tuple(cells), rows, tuple(columns), size, describe(preset)[0])
        shown = draw.write_grid(sheet, folder)
        entries = list(map(draw.entry_of(self.pipe.trained), cells))
        folder.finish(entries, [PRESET, *sorted(self.measure.files), *shown])
