"""Stand-ins for a trained network, for the tests of evaluators: pictures that obey in a known way.

`Meter` pictures carry the achieved level of each reward in a row of pixels, and `Gauge` rewards
read it off. A `Painter` draws shapes that a prompt asks for.
"""

import dataclasses

import numpy as np

from miro_jax.data.records.bins import fit_bins
from miro_jax.data.shapes import captions, render, scene
from miro_jax.evaluate.base import Inputs, Judges, Sampling, make_sampling
from miro_jax.evaluate.prompts import make_prompts
from miro_jax.evaluate.settings import Settings, choose, evaluator_of
from miro_jax.rewards import base
from miro_jax.rewards.names import short_name
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.settings import Settings as HowToSample

SAMPLING = Sampling(HowToSample(guidance_scale=2.0, num_steps=3), seed=7)


class Gauge(base.Judge):
    """A reward that reads row `index` of a Meter's picture."""

    version, tower, preprocessing, synthetic_form = "1", "gauge", "none", "long"

    def __init__(self, name, index, needs_caption=False):
        self.name, self.index, self.needs_caption = name, index, needs_caption

    def prepare(self, image):
        return image

    def encode(self, images):
        return images

    def judge(self, features, captions):
        return (features[:, self.index, 0, 0] / 255).astype(np.float32)


class Meter:
    """A pipeline whose pictures have the levels that `behave` makes of the levels asked for.

    behave: (asked [n, R], refused [n, R], guidance scale) -> achieved [n, R]; NaN = not asked.
    `calls` keeps the arguments of each call.
    """

    batch_size = 8

    def __init__(self, names, behave=lambda asked, refused, scale: asked):
        self.reward_names, self.behave, self.calls = tuple(names), behave, []

    def __call__(self, prompts, num_images=1, targets=None, negative_targets=None, **settings):
        self.calls.append(
            dict(
                prompts=list(prompts),
                targets=targets,
                negative_targets=negative_targets,
                **settings,
            )
        )
        count = len(prompts) * num_images
        asked = self.levels(targets, count, 1.0)
        refused = self.levels(negative_targets, count, 0.0)
        achieved = self.behave(asked, refused, settings["guidance_scale"])
        rows = np.round(255 * np.nan_to_num(achieved, nan=0.5)).astype(np.uint8)
        return np.broadcast_to(rows[:, :, None, None], (*rows.shape, 8, 3)).copy()

    levels = MiroPipeline.levels


def gauges(names, captioned=()):
    """One Gauge for each name, and bins under which the level is nearly the score."""
    rewards = [Gauge(name, i, name in captioned) for i, name in enumerate(names)]
    scores = np.repeat(np.linspace(0, 1, 6401)[:, None], len(names), axis=1)
    return rewards, fit_bins(scores, [r.identity for r in rewards], 64)


def judges(names, captioned=()):
    """A Gauge for each name, as evaluators take them."""
    rewards, bins = gauges(names, captioned)
    return Judges(rewards, bins)


def inputs(config, folder, rewards=None):
    """What evaluators of a config are built from; None measures with gauges."""
    settings = Settings(**config.evaluate)
    measured = judges([short_name(name) for name in config.rewards])
    return Inputs(
        settings,
        make_sampling(config),
        measured if rewards is None else Judges(rewards, measured.bins),
        make_prompts(settings, True, folder, config.sample.seed),
        config.sample.prompts,
        config.sample.images_per_prompt,
        {short_name(name): {"mean": 0.5, "std": 0.1} for name in config.rewards},
        folder,
    )


def build_all(config, folder, rewards=None):
    """All evaluators of a config of the shapes world."""
    given = inputs(config, folder, rewards)
    return {name: evaluator_of(name).build(given) for name in choose(config, True)}


def paint(prompt, index=0, size=32, **changes):
    """A clean picture [size, size, 3] uint8 of the first object that a prompt asks for."""
    rng = np.random.default_rng((3, index))
    wanted = captions.parse(prompt).objects[0]
    drawn = scene.sample_scene(rng, size, "colors")
    thing = dataclasses.replace(
        drawn.objects[0], **{"shape": wanted.shape, "color": wanted.color or "red"} | changes
    )
    clean = dataclasses.replace(drawn, objects=(thing,), blur=0.2, noise=0.0, vividness=1.0)
    return render.render(clean, rng)


class Painter:
    """A pipeline that paints what it is asked for, with `changes(guidance scale)` to the object."""

    batch_size = 8

    levels = MiroPipeline.levels

    def __init__(self, names=(), changes=lambda scale: {}):
        self.reward_names, self.changes = tuple(names), changes

    def __call__(self, prompts, num_images=1, guidance_scale=0.0, **settings):
        texts = [p for p in prompts for _ in range(num_images)]
        changes = self.changes(guidance_scale)
        return np.stack([paint(text, i, **changes) for i, text in enumerate(texts)])
