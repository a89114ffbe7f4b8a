"""Target search: the levels and the guidance that an objective likes best, and what they are worth.

Each image of the search has levels of its own, spread evenly over those that training knows; a
response surface is fitted to their scores (see `surface`). Then fresh prompts with fresh seeds are
drawn at the default targets and at those found: the gain is the mean difference over prompts, with
its interval. The default gets as many images as search and confirmation had together, so that
best-of-n of equal compute stands beside it. Letters: P prompts, N images, D coordinates.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miro_jax.data.storage.files import to_json
from miro_jax.report.statistics import bootstrap_mean
from miro_jax.rewards import load_rewards
from miro_jax.sample import draw
from miro_jax.sample.best import Scores
from miro_jax.sample.curve import expected_best
from miro_jax.sample.folder import Folder
from miro_jax.sample.objective import (
    GENEVAL,
    Objective,
    RewardMean,
    ShapesCheck,
    read_weights,
)
from miro_jax.sample.preset import Preset
from miro_jax.sample.request import ImageRequest, Levels, Request, make_request
from miro_jax.sample.search_options import Search
from miro_jax.sample.sheets import Sheet
from miro_jax.sample.surface import Box, maximise
from miro_jax.sample.trained import weights_name

PRESET = "preset.json"
SEARCHED, DEFAULT, FOUND = "search", "default", "preset"  # images, and files of their scores
_GUIDANCE_STEPS = 5  # values of the guidance scale in a round: images of one value share a batch
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

    def read(self, point: np.ndarray) -> tuple[Levels, Levels, float]:
        """Return targets, negative targets and guidance scale of a point."""
        *levels, scale = np.round(point, _DIGITS).tolist()
        count = len(self.rewards)
        positive = dict(zip(self.rewards, levels[:count], strict=True))
        return positive, dict(zip(self.negatives, levels[count:], strict=True)), scale


class Measure:
    """Scores images by an objective; in a folder, it resumes and keeps some of the images."""

    def __init__(self, pipe: Any, objective: Objective, folder: Folder | None, progress: bool):
        self.pipe, self.objective = pipe, objective
        self.folder, self.progress = folder, progress

    def __call__(
        self, title: str, images: Sequence[ImageRequest], keep: frozenset[str] = frozenset()
    ) -> np.ndarray:
        """Return the scores [N] float64 of images, each with its own prompt and sample index.

        Args:
          title: of the progress bar and of the file with the scores.
          keep: names of the images that the folder keeps.
        """
        scores = Scores(self.folder.path / f"{title}.jsonl" if self.folder else None)

        def missing(image: ImageRequest) -> bool:
            lost = self.folder and image.file in keep and self.folder.lacks(image)
            return scores.lack(image) or bool(lost)

        for batch, drawn in draw.draw_batches(self.pipe, images, missing, self.progress, title):
            given = self._score(batch, drawn)
            for image, pixels in zip(batch, drawn, strict=True):
                if self.folder and image.file in keep:
                    self.folder.save(image.file, pixels)
            pairs = zip(batch, given, strict=True)
            scores.append([_line(image, score) for image, score in pairs if scores.lack(image)])
        return np.array([scores.of(image) for image in images])

    def _score(self, batch: Sequence[ImageRequest], drawn: np.ndarray) -> list[float]:
        scores = self.objective.score(drawn, [image.prompt for image in batch]).tolist()
        for image, score in zip(batch, scores, strict=True):
            if not math.isfinite(score):
                raise FloatingPointError(
                    f"a score must be finite; {self.objective.identity} gave {score} to an image "
                    f"of {image.prompt!r}."
                )
        return scores


def _line(image: ImageRequest, score: float) -> dict[str, Any]:
    """Return the line of a file of scores."""
    entry = image.to_entry()
    keys = ("prompt_index", "sample_index", "prompt", "targets", "negative_targets")
    return {key: entry[key] for key in (*keys, "guidance_scale")} | {"score": score}


def load_objective(pipe: Any, request: Request, verb: Search) -> Objective:
    """Return what the options of a search name.

    Several rewards are brought to one scale by an image of each searched prompt at the default
    targets.
    """
    if verb.objective == (GENEVAL,):
        return ShapesCheck()
    loaded = load_rewards(verb.objective, weights=read_weights(verb))
    if len(loaded) == 1:
        return RewardMean(loaded)
    usual = dataclasses.replace(verb.searched(request), num_images=1)
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
      ValueError: an unknown reward, too few prompts. FloatingPointError: a score is not finite.
    """
    made = make_request(pipe.reward_names, list(prompts), **request)
    given = None if rewards is None else tuple(rewards)
    verb = Search((objective.identity,), budget=budget, rewards=given, negative=negative)
    verb.sheet(made)
    return _Searching(pipe, made, verb, Measure(pipe, objective, None, progress)).run()


def fill(
    folder: Folder,
    pipe: Any,
    request: Request,
    verb: Search,
    objective: Objective,
    progress: bool = False,
) -> Preset:
    """Fill a folder, resuming where it stopped.

    It gets `preset.json`, the scores of all images, those images of the confirmation that are
    compared, `grid.png` and `manifest.json`. See `find_preset`.
    """
    job = _Searching(pipe, request, verb, Measure(pipe, objective, folder, progress))
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
        prompts = self.verb.searched(r).prompts
        point = maximise(
            lambda points, numbers: self._evaluate(space, points, numbers),
            space.box,
            self.verb.budget,
            len(prompts),
            r.seed,
            space.steps,
        )
        positive, negative, scale = space.read(point)
        found_on = {
            "checkpoint": weights_name(self.pipe.trained),
            "objective": objective.identity,
            "budget_images": self.verb.budget,
            "prompts": len(prompts),
            "prompts_sha256": hashlib.sha256(to_json([p.text for p in prompts])).hexdigest(),
            "seed": r.seed,
            "default_targets": dict.fromkeys(r.names, 1.0) | r.targets,
            **r.settings.to_json(),
        }
        levels = r.targets | positive, r.negative_targets | negative
        preset = Preset(r.names, *levels, scale, found_on)
        return dataclasses.replace(preset, confirmed=self._confirm(preset))

    def _evaluate(self, space: Space, points: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Draw one image at each point of a round, and score it."""
        request = self.verb.searched(self.request)
        images = []
        for point, number in zip(points, numbers.tolist(), strict=True):
            sample, index = divmod(number, len(request.prompts))
            prompt, (positive, negative, scale) = request.prompts[index], space.read(point)
            seed = request.seed if prompt.seed is None else prompt.seed
            images.append(
                ImageRequest(
                    f"{SEARCHED}/{number}",
                    prompt.text,
                    index,
                    sample,
                    seed,
                    request.positive(prompt) | positive,
                    request.negative(prompt) | negative,
                    dataclasses.replace(request.settings, guidance_scale=scale),
                )
            )
        return self.measure(SEARCHED, images)

    def _confirm(self, preset: Preset) -> dict[str, Any]:
        """Draw fresh prompts at the default and at the preset, and compare their scores."""
        fresh = self.verb.fresh(self.request)
        count, many = len(fresh.prompts), self.verb.equal_candidates(self.request)
        shown = self.verb.images(fresh, DEFAULT)
        named = {(image.prompt_index, image.sample_index): image for image in shown}
        default = self.verb.images(dataclasses.replace(fresh, num_images=many), DEFAULT)
        default = [named.get((i.prompt_index, i.sample_index), i) for i in default]
        files = frozenset(image.file for image in shown)
        usual = self.measure(DEFAULT, default, files).reshape(count, many)
        found = self.found_images(preset)
        ours = self.measure(FOUND, found, frozenset(i.file for i in found)).reshape(count, -1)
        searched = {prompt.text for prompt in self.verb.searched(self.request).prompts}
        return compare(usual, ours) | {
            "prompts": count,
            "prompts_not_searched": sum(p.text not in searched for p in fresh.prompts),
            "seed": fresh.seed,
        }

    def found_images(self, preset: Preset) -> list[ImageRequest]:
        """Return the images of the confirmation that are drawn at the preset."""
        fresh = self.verb.fresh(self.request)
        settings = dataclasses.replace(fresh.settings, guidance_scale=preset.guidance_scale)
        levels = {"targets": preset.targets, "negative_targets": preset.negative_targets}
        return self.verb.images(dataclasses.replace(fresh, settings=settings, **levels), FOUND)

    def finish(self, folder: Folder, preset: Preset) -> None:
        """Write the grid and the manifest."""
        fresh = self.verb.fresh(self.request)
        default, found = self.verb.images(fresh, DEFAULT), self.found_images(preset)
        size = fresh.num_images
        cells = [
            image
            for start in range(0, len(default), size)
            for image in (*default[start : start + size], *found[start : start + size])
        ]
        rows = tuple(prompt.text for prompt in fresh.prompts)
        title = describe(preset)[0]
        sheet = Sheet(tuple(cells), rows, ("default targets", "preset"), size, title)
        draw.write_grid(sheet, folder)
        entries = list(map(draw.entry_of(self.pipe.trained), cells))
        scores = [f"{name}.jsonl" for name in (SEARCHED, DEFAULT, FOUND)]
        folder.finish(entries, [PRESET, *scores, "grid.png"])


def compare(default: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """Compare scores of the same prompts.

    Args:
      default: [P, N] at the default targets. found: [P, n] at the preset.

    Returns:
      `default`, `preset` and `gain`, the mean difference over prompts, with intervals over prompts;
      `best_of_n` of the default: its `n` and mean, the gain of the preset over it, and the least n
      whose mean reaches the preset's (None where N does not).
    """
    curves = expected_best(default)
    before, after = default.mean(axis=1), found.mean(axis=1)
    reached = np.flatnonzero(curves.mean(axis=0) >= after.mean())
    return {
        "images_per_prompt": found.shape[1],
        "default": bootstrap_mean(before),
        "preset": bootstrap_mean(after),
        "gain": bootstrap_mean(after - before),
        "best_of_n": {
            "n": default.shape[1],
            "best": bootstrap_mean(curves[:, -1]),
            "gain_of_preset": bootstrap_mean(after - curves[:, -1]),
            "n_that_equals_preset": int(reached[0]) + 1 if reached.size else None,
        },
    }


def describe(preset: Preset) -> list[str]:
    """Return a preset and its confirmation as lines of text."""
    levels = {name: preset.targets.get(name, 1.0) for name in preset.rewards}
    words = ", ".join(f"{k} {'none' if v is None else f'{v:g}'}" for k, v in levels.items())
    c = preset.confirmed
    best = c["best_of_n"]

    def interval(mean: Mapping[str, float]) -> str:
        return f"{mean['mean']:.4g} [{mean['low']:.4g}, {mean['high']:.4g}]"

    lines = [
        f"{words + '; ' if words else ''}guidance {preset.guidance_scale:g}",
        f"{preset.found_on['objective']} on {c['prompts']} fresh prompts: preset "
        f"{interval(c['preset'])}, default {interval(c['default'])}, gain {interval(c['gain'])}",
        f"best of {best['n']} at the default, as many images as search and confirmation: "
        f"{interval(best['best'])}; the preset equals the best of "
        f"{best['n_that_equals_preset'] or 'more than ' + str(best['n'])}",
    ]
    if c["gain"]["mean"] <= 0:
        lines.append(
            "On fresh prompts this preset is no better than the defaults: keep these, or search "
            "with a larger --budget."
        )
    return lines
