"""For the tests of sampling: a stand-in for a trained network, a tiny real one, runs to be killed.

Runs that are to be killed are forked by a process that has everything imported already.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np

from miro_jax.cli.signals import ENDING
from miro_jax.data.storage import LocalFolder
from miro_jax.pretrained.encoders import build_caption_encoder, build_image_encoder
from miro_jax.pretrained.weights.official import FIXED
from miro_jax.sample import command, draw
from miro_jax.sample import folder as folders
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.request import make_request
from miro_jax.sample.settings import Settings
from miro_jax.sample.stage import write_images
from miro_jax.sample.trained import Trained, export
from miro_jax.sample.usual import Usual
from miro_jax.sample.verbs import Images
from tests import compiling
from tests.networks import TINY, random_network, resize, small_mesh

ROOT = pathlib.Path(__file__).parent.parent
NAMES = ("beauty", "count", "colors")
ENCODERS = {
    "image": {"name": "pixels", "size": 8},
    "caption": {"name": "words", "width": 16, "max_tokens": 8},
}


# tensorboardX imports torch where it is, which takes seconds: it is hidden.
_SERVER = """
from tests import absent

absent.hide("torch")
from tests import sampling

sampling.serve()
"""


class Dial:
    """A pipeline whose pictures show what was asked for, and the noise, in rows of pixels.

    Rows: the levels asked for, those of the negative branch, the guidance scale / 10, noise.
    `calls` keeps the settings of each call.
    """

    batch_size = 4
    levels = MiroPipeline.levels

    def __init__(self, names=NAMES):
        self.reward_names, self.calls = tuple(names), []
        self.default_targets, self.default_negative_targets = Usual().levels(names)
        self.default_settings = Settings()
        self.trained = SimpleNamespace(
            config=SimpleNamespace(latent_shape=(2, 2, 1)),
            name="dial sha256:d1a1",
            step=40,
            caption_encoder=None,
            attention="xla",
            weights=(),
        )

    def __call__(self, prompts, num_images, targets, negative_targets, noise, **settings):
        self.calls.append({"prompts": list(prompts), **settings})
        if len(prompts) > self.batch_size or num_images != 1:
            raise AssertionError("batches must fit")
        asked = self.levels(targets, len(prompts), 0.25)
        refused = self.levels(negative_targets, len(prompts), 0.25)
        scale = np.full((len(prompts), 1), settings["guidance_scale"] / 10)
        below = np.clip(noise.reshape(len(prompts), -1) / 8 + 0.5, 0, 1)
        rows = np.concatenate([asked, refused, scale, below], axis=1)
        rows = np.round(255 * np.nan_to_num(rows, nan=0.5)).astype(np.uint8)
        return np.broadcast_to(rows[:, :, None, None], (*rows.shape, 8, 3)).copy()

    def shown(self, image):
        """Levels asked for, of the negative branch, scale, read off a picture."""
        values = np.asarray(image)[:, 0, 0] / 255
        count = len(self.reward_names)
        return values[:count], values[count : 2 * count], 10 * values[2 * count]


def save_tiny(folder: pathlib.Path, names: tuple[str, ...] = NAMES, size: int = 8) -> pathlib.Path:
    """Write a random network in the released layout, as `export` does; `names` are its rewards."""
    encoders = ENCODERS | {"image": {"name": "pixels", "size": size}}
    sizes = {"latent_shape": (size, size, 3), "caption_width": 16, "num_rewards": len(names)}
    config = resize(TINY, **sizes, **FIXED)
    graphdef, *states = random_network(config, seed=3)
    trained = Trained(
        graphdef,
        tuple(states),
        config,
        build_image_encoder(**encoders["image"]),
        lambda: build_caption_encoder(**encoders["caption"]),
        names,
        small_mesh(),
    )
    return export(trained, folder, encoders)


SETTINGS = {"guidance_scale": 2.0, "num_steps": 3}


def ask(prompts=("A red circle!", "b"), num_images=2, names=NAMES, **changes):
    return make_request(names, list(prompts), num_images, 7, **(SETTINGS | changes))


def write(path, pipe=None, **changes):
    """Write as the stage does, in place of what was there."""
    pipe = pipe or Dial()
    paths = write_images(pipe, path, ask(names=pipe.reward_names, **changes))
    return paths, json.loads((path / "manifest.json").read_text())


def fill(path, pipe=None, **changes):
    """Write as the command does: resume, or refuse."""
    pipe = pipe or Dial()
    asked = ask(names=pipe.reward_names, **changes)
    sheet = Images().sheet(asked)
    facts = asked.describe("images", sheet.images) | draw.describe_pipeline(pipe)
    files = [image.file for image in sheet.images]
    with folders.open_folder(path, facts, files) as opened:
        draw.fill(opened, pipe, sheet)
    return pipe


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """All files of a folder, by path inside."""
    found = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


class Launcher:
    """Starts commands of sampling on one device, each a process of its own."""

    def __init__(self):
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            env=os.environ | {"XLA_FLAGS": compiling.xla_flags(1), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: str, platforms: str = "cpu") -> int:
        """Start a command; returns its process id. `wait` must follow before the next start.

        platforms: what jax may start; "none" fails as soon as a device is touched.
        """
        self._server.stdin.write(json.dumps([platforms, *map(str, arguments)]) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def wait(self) -> int:
        """Return the exit status of the command; -n where signal n ended it."""
        return int(self._server.stdout.readline())

    def close(self):
        self._server.stdin.close()
        self._server.wait(600)


def serve() -> None:
    """Fork a command for each line of arguments; answer its process id, then its exit status."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)  # nothing of a command may mix with the answers
            for number in ENDING:  # some are ignored where the tests run in the background
                signal.signal(number, signal.SIG_DFL)
            platforms, *arguments = json.loads(line)
            jax.config.update("jax_platforms", platforms)
            jax.config.update("jax_disable_most_optimizations", True)  # to compile sooner
            sys.exit(command.main(arguments))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


class Killed(BaseException):
    """What a kill looks like from inside."""


def kill_at(monkeypatch, count, half=False):
    """Make the write number `count` the last: it does not happen, or leaves half of a file."""
    done = []

    def stop(name, data):
        done.append(name)
        if len(done) < count:
            return
        if half and len(done) == count:
            name.with_name(f"{name.name}.tmp-{'0' * 32}").write_bytes(data[: len(data) // 2])
        raise Killed

    def write(self, name, data, durable=True):
        stop(self.path / name, data)
        real_write(self, name, data, durable)

    def create(self, name, path):
        stop(self.path / name, path.read_bytes())
        return real_create(self, name, path)

    real_write, real_create = LocalFolder.write, LocalFolder.create
    monkeypatch.setattr(LocalFolder, "write", write)
    monkeypatch.setattr(LocalFolder, "create", create)
