"""A studio for the tests of the demo's page: no network; images show what was asked for."""

import dataclasses
import socket
import threading
from types import SimpleNamespace

import numpy as np

from miro_jax.data.records.bins import Bins
from miro_jax.demo.form import make_form
from miro_jax.demo.studio import Drawn, Studio
from miro_jax.models.targets import to_levels
from miro_jax.report.results import Dials
from miro_jax.sample.batches import Step
from tests.sampling import NAMES

BINS = 64


class Painter:
    """A pipeline whose latents are images: stripes of the targets, of the scale, and of noise.

    `gate` holds every step while it is clear; `calls` keeps what was asked for.
    """

    def __init__(self, names=NAMES):
        self.reward_names, self.calls = names, []
        self.trained = SimpleNamespace(step=40)
        self.gate = threading.Event()
        self.gate.set()
        self.steps_done = 0

    def stream(self, prompt, num_images, num_steps, **call):
        self.calls.append({"prompt": prompt, "num_images": num_images} | call)
        if prompt == "fail":
            raise ValueError("this prompt must not be drawn; got 'fail'.")
        levels = to_levels(call["targets"], num_images, self.reward_names, 1.0)
        noise = np.random.default_rng(call["seed"]).random((num_images, 8, 8, 3))
        x = np.repeat(np.nan_to_num(levels), 8, 0).reshape(num_images, 8, -1)
        noise[:, :, : x.shape[2]] = x[..., None]
        noise[:, 7] = call["guidance_scale"] / 15
        for index in range(num_steps):
            self.gate.wait(60)
            self.steps_done += 1
            t, t_next = 1 - index / num_steps, 1 - (index + 1) / num_steps
            z = [noise.astype(np.float32)]
            yield Step(index, t, t_next, z, z, [num_images])

    def decode(self, latents):
        return np.round(255 * np.clip(latents, 0, 1)).astype(np.uint8)


@dataclasses.dataclass
class Column:
    """A reward that reads the level of its column back from an image."""

    name: str
    column: int
    needs_caption: bool = False

    @property
    def identity(self):
        return f"{self.name}@1"

    def prepare(self, image):
        return image

    def encode(self, prepared):
        return prepared[:, 0, self.column, 0] / 255


def make_bins(names=NAMES):
    edges = np.tile((np.arange(BINS - 1) + 0.5) / (BINS - 1), (len(names), 1))
    identities = tuple(f"{name}@1" for name in names)
    return Bins(identities, edges, BINS, "quantile", (100,) * len(names), "")


class Painted(Studio):
    """A studio whose scores are read from the columns of its images."""

    def _measure(self, images, form):
        levels = {n: images[:, 0, i, 0] / 255 for i, n in enumerate(self.pipe.reward_names)}
        return {name: 10 * values for name, values in levels.items()}, levels


def make_studio(names=NAMES, dials=True):
    pipe = Painter(names)
    first = {"prompt": "a red circle", "num_images": 2, "num_steps": 5}
    usual = make_form(names, first)
    ones = dict.fromkeys(names, 1.0)
    presets = {
        "all at their best": {"targets": ones},
        "not conditioned": {"targets": dict.fromkeys(names, None)},
        "found": {"targets": ones | {names[0]: 0.25}, "guidance_scale": 3.0},
    }
    rewards = [Column(name, i) for i, name in enumerate(names)]
    examples = ("a red circle", "two blue squares")
    curves = make_dials(names) if dials else None
    made = Painted(pipe, rewards, make_bins(names), presets, curves, usual, examples, "runs/base")
    *_, drawn = made.draw(usual)
    assert isinstance(drawn, Drawn)
    made.first = drawn
    return made


def make_dials(names):
    levels = [0.0, 0.5, 1.0]
    means = [{"mean": x, "low": x - 0.1, "high": x + 0.1} for x in (0.1, 0.4, 0.9)]
    dial = {"score": means, "level": means, "rank_of_means": 1.0, "rank_of_samples": 0.9}
    table = [[0.5] * len(names) for _ in names]
    cross = {"asked": list(names), "measured": list(names), "difference": table}
    return Dials(levels, 8, dict.fromkeys(names, dial), cross | {"low": table, "high": table})


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
