"""What draws for the page: a pipeline, the rewards that measure, presets and dial curves.

N images, R measured rewards.
"""

import dataclasses
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from miro_jax import rewards
from miro_jax.cli.compile_cache import keep_compiled
from miro_jax.cli.stored_checkpoint import locate
from miro_jax.data.json_file import read_json
from miro_jax.data.records.bins import Bins
from miro_jax.demo.form import make_form, to_values
from miro_jax.demo.levels import measured_levels
from miro_jax.demo.options import AUTO, NONE, Options
from miro_jax.report.facts import EVALUATIONS, read_facts
from miro_jax.report.results import Dials
from miro_jax.rewards.base import Reward, score_all
from miro_jax.sample.batches import check_finite
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.preset import read_preset
from miro_jax.sample.request import Request
from miro_jax.sample.trained import peek, weights_name
from miro_jax.sample.usual import read_usual, request_of

_LOADING = ("dtype", "text_encoder", "vae", "revision")  # of `Options`
NUM_BINS = 64  # of the released networks
_EVERY = 0.15  # seconds between two previews, at least
_SHARE = 0.2  # of the time that previews may take
FIRST_PROMPTS = (
    "a red circle",
    "two blue squares",
    "a green triangle and a yellow circle",
    "three cyan circles",
)
OTHER_PROMPTS = ("a red fox in snow", "a lighthouse at dusk, oil on canvas", "a bowl of ramen")


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a drawing shows while it goes on.

    Attributes:
      step, num_steps: steps done, of how many.
      images: [N, H, W, 3] uint8 of where the steps lead to; None where they were not decoded.
    """

    step: int
    num_steps: int
    images: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What a form requested.

    Attributes:
      form: the request. images: [N, H, W, 3] uint8. seconds: it took.
      scores: reward -> [N] raw scores. levels: reward -> [N] as training would have seen them.
      notes: what the pipeline warned of, as a prompt that was cut.
    """

    form: Request
    images: np.ndarray
    seconds: float
    scores: Mapping[str, np.ndarray]
    levels: Mapping[str, np.ndarray]
    notes: Sequence[str] = ()


@dataclasses.dataclass
class Studio:
    """Draws and measures for the page.

    Attributes:
      pipe: a `MiroPipeline`. measures: the rewards that score.
      bins: of training; None where they are not known.
      presets: name -> what they set of a form. dials: curves of the evaluation, None without one.
      usual: the settings that the page begins with.
      examples: prompts to try.
      checkpoint, variant: as they were given. most_images: that may be requested.
      first: what the page shows before anything is requested.
      loading: how the pipeline was loaded besides, by arguments of `from_pretrained`.
    """

    pipe: MiroPipeline
    measures: Sequence[Reward]
    bins: Bins | None
    presets: Mapping[str, Mapping[str, Any]]
    dials: Dials | None
    usual: Request
    examples: Sequence[str]
    checkpoint: str
    variant: str | None = None
    most_images: int = 8
    first: Drawn | None = None
    loading: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def num_bins(self) -> int:
        """Levels that training knew."""
        return self.bins.num_bins if self.bins is not None else NUM_BINS

    def draw(self, form: Request) -> Iterator[Frame | Drawn]:
        """Yield a frame now and then, and last what was drawn.

        Raises:
          ValueError: the pipeline cannot draw this. NotFinite: the latents of an image.
        """
        begin = last = time.perf_counter()
        cost, call = 0.0, to_values(form)
        frame, step = Frame(0, form.settings.num_steps, None), None
        yield frame
        with warnings.catch_warnings(record=True) as warned:  # prompts are encoded by the call
            warnings.simplefilter("always", UserWarning)
            steps = self.pipe.stream(call.pop("prompt"), **call)
        for step in steps:
            now = time.perf_counter()
            if now - last < max(_EVERY, cost / _SHARE) or step.t_next == 0:
                continue
            images = self._decode(step.denoised, step.used)
            yield Frame(step.index + 1, form.settings.num_steps, images)
            last = time.perf_counter()
            cost = last - now
        if step is None:
            raise ValueError("num_steps must be at least 1.")
        check_finite(list(zip(step.latents, step.used, strict=True)), form.num_images)
        images = self._decode(step.latents, step.used)
        scores, achieved = self._measure(images, form)
        notes = [str(warning.message) for warning in warned]
        yield Drawn(form, images, time.perf_counter() - begin, scores, achieved, notes)

    def compile_other(self) -> None:
        """Compile what a slider can request beside the usual: no guidance, or guidance."""
        values = to_values(self.usual) | {"num_steps": 1, "num_images": 1}
        values["guidance_scale"] = 0.0 if self.usual.settings.guidance_scale else 1.0
        for _ in self.draw(make_form(self.pipe.reward_names, values)):
            pass

    def _decode(self, latents: Sequence[Any], used: Sequence[int]) -> np.ndarray:
        pairs = zip(latents, used, strict=True)
        return np.concatenate([self.pipe.decode(z)[:count] for z, count in pairs])

    def _measure(
        self, images: np.ndarray, form: Request
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return scores and levels of images by reward; levels where training's are known."""
        if not self.measures:
            return {}, {}
        captions = [form.prompts[0].text] * len(images)
        scores = score_all(self.measures, images, [{"caption": captions}])[0].astype(np.float64)
        names = [reward.name for reward in self.measures]
        achieved = {}
        if self.bins is not None:
            made = measured_levels(self.bins, self.measures, scores)
            achieved = {
                reward.name: column
                for reward, column in zip(self.measures, made.T, strict=True)
                if reward.identity in self.bins.names
            }
        return dict(zip(names, scores.T, strict=True)), achieved


def check_options(options: Options) -> None:
    """Check what can be known before a device is touched; raises what `peek` and others raise."""
    names, sample, *_ = peek(options.checkpoint, options.variant, options.revision)
    for path in options.preset:
        read_preset(path).check_rewards(names)
    if tuple(options.rewards) not in ((AUTO,), (NONE,)):
        rewards.check_names(options.rewards)
    elif tuple(options.rewards) == (AUTO,) and sample is not None:
        try:
            rewards.check_names(_rewards_of(locate(options.checkpoint, weights=False)))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error} --rewards=none measures nothing, and --rewards=NAMES by others."
            ) from error


def open_studio(options: Options) -> Studio:
    """Load the network, the rewards, presets and curves, and draw what the page shows first."""
    sample = peek(options.checkpoint, options.variant, options.revision).sample
    run = None if sample is None else locate(options.checkpoint, weights=False)
    keep_compiled(run)
    # One program for any number of images. A release has the first device, a run all of them.
    devices = 1 if sample is None else jax.device_count()
    rows = 1 if sample is None and jax.default_backend() == "cpu" else 4
    given = {name: getattr(options, name) for name in _LOADING}
    pipe = MiroPipeline.from_pretrained(
        options.checkpoint,
        options.variant,
        batch_size=-(-rows // devices) * devices,
        **given,
    )
    shapes = run is not None and _source(run) == "shapes"
    examples = FIRST_PROMPTS if shapes else OTHER_PROMPTS
    first = request_of(pipe, examples[0], min(4, options.most_images))
    dials = None
    if run is not None and (run / EVALUATIONS).exists():
        dials = read_facts(run).result(Dials)
    studio = Studio(
        pipe,
        load_measures(options, run),
        pipe.trained.bins,
        make_presets(pipe, options, sample),
        dials,
        first,
        examples,
        options.checkpoint,
        options.variant,
        options.most_images,
        loading={name: value for name, value in given.items() if value is not None},
    )
    *_, last = studio.draw(studio.usual)
    studio.first = cast(Drawn, last)
    return studio


def _source(run: Path) -> str:
    spec = read_json(run / "config.json", {"source": {"spec": str}})["source"]["spec"]
    return spec.partition(":")[0]


def load_measures(options: Options, run: Path | None) -> Sequence[Reward]:
    """Load the rewards that measure; by default those of a run that need no weights."""
    names = tuple(options.rewards)
    if names == (NONE,):
        return ()
    if names != (AUTO,):
        return rewards.load_rewards(names)
    if run is None:
        return ()
    return rewards.load_rewards([x for x in _rewards_of(run) if not rewards.has_weights(x)])


def _rewards_of(run: Path) -> list[str]:
    return read_json(run / "config.json", {"rewards": [str]})["rewards"]


def make_presets(
    pipe: MiroPipeline, options: Options, sample: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """Return the presets by name: what each sets of a form.

    Raises:
      ValueError: a preset is of other weights.
    """
    every = pipe.reward_names
    best = {"targets": dict.fromkeys(every, 1.0), "negative_targets": dict.fromkeys(every, 0.0)}
    none = {key: dict.fromkeys(every, None) for key in best}
    presets: dict[str, dict[str, Any]] = {"all at their best": best}
    usual = read_usual(sample)
    targets, refused = usual.levels(every)
    if sample is not None and targets != best["targets"]:
        own = {"targets": targets, "negative_targets": refused}
        presets["of the run"] = own | {"guidance_scale": usual.settings.guidance_scale}
    presets["not conditioned"] = none
    for path in options.preset:
        preset = read_preset(path)
        preset.check_weights(weights_name(pipe.trained))
        presets[f"{preset.found_on['objective']} ({Path(path).stem})"] = {
            "targets": best["targets"] | dict(preset.targets),
            "negative_targets": best["negative_targets"] | dict(preset.negative_targets),
            **preset.sampling(),
        }
    return presets
