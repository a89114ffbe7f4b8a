"""The host's part of GenEval: 553 x 4 images of 256 x 256 through `miro-jax evaluate`.

    taskset -c 0 python -m benchmarks.geneval_folder       # images a second of one core
    python -m benchmarks.geneval_folder --kills=20         # and the same bytes after 20 kills

Reads, decodes, resizes to 800 x 800, cuts the objects out whose colour is requested, judges and
writes everything; not the networks. A tiny random detector runs once; its masks and boxes, with
classes and scores drawn anew for each image, then stand for those of all images, and random logits
for CLIP's. Prints a line to read and a line of JSON. Downloads nothing.
"""

import argparse
import functools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

from miro_jax import __main__ as entry
from miro_jax.evaluate.suites.geneval import detector, judge, prompts
from miro_jax.pretrained.networks import mask2former_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.tensors import from_arrays
from miro_jax.report.grids import encode_png
from miro_jax.rewards.resize import BicubicCrop
from tests.suites import contents
from tests.test_geneval_detector import FILES, GOLDEN, TINY, draw

SIDE, SAMPLES, OBJECTS = 256, prompts.SAMPLES_PER_PROMPT, 100


class Replayed:
    """A tower that runs its network once, on noise; every image gets its masks and boxes."""

    def __init__(self, tower: Tower):
        self._tower, self._known = tower, None

    def run(self, function, inputs: np.ndarray):
        """Return the objects of images: masks as they are known, the rest drawn from the pixels."""
        if self._known is None:
            noise = np.random.default_rng(0).integers(0, 256, inputs[:1].shape, np.uint8)
            self._known = self._tower.run(function, noise)[-2:]
        shapes = [(len(inputs), *part.shape[1:]) for part in self._known]
        boxes, bits = map(np.broadcast_to, self._known, shapes)
        rows = []
        for image in inputs:  # an image has its objects wherever it stands
            rng = np.random.default_rng(int(image[::80, ::80].sum(dtype=np.int64)))
            labels = rng.integers(0, len(prompts.class_names()), OBJECTS)
            queries = rng.integers(0, boxes.shape[1], OBJECTS)
            rows.append((labels, rng.random(OBJECTS, np.float32), queries))
        labels, scores, queries = map(np.stack, zip(*rows, strict=True))
        return labels, scores, queries, boxes, bits


class Drawn:
    """A colour classifier that crops as CLIP wants it, and draws the logits."""

    identity = {"name": "drawn"}
    _crop = BicubicCrop(224, "round")

    def logits(self, cut_outs, names) -> np.ndarray:
        """Return [N, 10] float32."""
        sums = [int(self._crop(one).sum(dtype=np.int64)) for one in cut_outs]
        rows = [np.random.default_rng(one).normal(size=len(prompts.COLORS)) for one in sums]
        return np.array(rows, np.float32).reshape(len(sums), len(prompts.COLORS))


@functools.cache
def _judge() -> judge.GenEvalJudge:
    """Return the judge."""
    with np.load(GOLDEN / FILES["mmdet-3"]) as file:
        shapes = [tuple(map(int, text.split("x"))) for text in file["shapes"]]
        arrays = {str(k): draw(str(k), s) for k, s in zip(file["keys"], shapes, strict=True)}
    network = mask2former_keys.load(from_arrays(arrays), TINY)
    replayed = detector.Detector(Replayed(Tower(network)), {"name": "tiny"})
    return judge.GenEvalJudge(replayed, Drawn())


def write_images(folder: pathlib.Path, count: int) -> None:
    """Write the images of the first `count` prompts, boxes over a smooth ground."""
    rng = np.random.default_rng(0)
    ground = np.stack(np.meshgrid(*[np.linspace(0, 255, SIDE)] * 2), axis=-1)
    for number, prompt in enumerate(prompts.prompts()[:count]):
        inside = folder / f"{number:05d}" / "samples"
        inside.mkdir(parents=True)
        line = {"prompt": prompt.text, "tag": prompt.tag}
        (inside.parent / "metadata.jsonl").write_text(json.dumps(line) + "\n")
        for sample in range(SAMPLES):
            image = np.zeros((SIDE, SIDE, 3), np.uint8)
            image[..., :2], image[..., 2] = ground, rng.integers(0, 256)
            image[64:192, 64:192] = rng.integers(0, 256, (128, 128, 3))  # a quarter of noise
            (inside / f"{sample:05d}.png").write_bytes(encode_png(image))


def evaluate(folder: str, out: str) -> int:
    """Run the command with the judge above; returns its status."""
    judge.open_judge, judge.check_options = lambda options: _judge(), lambda options: None
    return entry.main(["evaluate", folder, "--suite=geneval", "--partial", f"--out={out}"])


def kill(folder: str, out: pathlib.Path, kills: int, seconds: float) -> int:
    """Evaluate in processes that are killed at random moments; returns how many were.

    seconds: that the whole work takes.
    """
    rng, done = random.Random(0), 0
    words = [f"--child={folder}", f"--out={out}"]
    command = [sys.executable, "-m", "benchmarks.geneval_folder", *words]
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    while done < kills:
        child = subprocess.Popen(command, **quiet)
        try:  # starting takes seconds, too
            child.wait(seconds * rng.uniform(0.1, 1.5) / kills + rng.uniform(3, 8))
            break  # it has ended before so many kills
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            done += 1
    subprocess.run(command, check=True, **quiet)
    return done


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=553, help="the first so many (default 553)")
    parser.add_argument("--kills", type=int, default=0, help="also kill it so often")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # folder of images, in a process
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        sys.exit(evaluate(options.child, options.out))
    with tempfile.TemporaryDirectory() as home:
        folder, out = pathlib.Path(home) / "images", pathlib.Path(home) / "out"
        write_images(folder, options.prompts)
        warm = pathlib.Path(home) / "warm"  # compiles, and is not timed
        write_images(warm, 1)
        evaluate(str(warm), str(warm / "out"))
        began, used = time.perf_counter(), time.process_time()
        if evaluate(str(folder), str(out)):
            sys.exit("the evaluation failed")
        seconds, used = time.perf_counter() - began, time.process_time() - used
        images = options.prompts * SAMPLES
        row = {
            "benchmark": "geneval_folder",
            "images": images,
            "processors": len(os.sched_getaffinity(0)),
            "images_per_second": round(images / seconds, 1),
            "images_per_second_of_a_core": round(images / used, 1),
        }
        if options.kills:
            killed = pathlib.Path(home) / "killed"
            row["kills"] = kill(str(folder), killed, options.kills, seconds)
            ours, theirs = contents(killed), contents(out)
            row["same_bytes"] = ours[0] == {
                name: data.replace(bytes(out), bytes(killed)) for name, data in theirs[0].items()
            }
    print(
        f"host part of {images} images: {row['images_per_second']} a second, "
        f"{row['images_per_second_of_a_core']} a second of a core"
        + (
            f"; the same bytes after {row['kills']} kills: {row['same_bytes']}"
            if options.kills
            else ""
        )
    )
    print(json.dumps(row))


if __name__ == "__main__":
    main()
