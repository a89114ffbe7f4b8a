"""Folders of images of a small suite, in the layouts of others, and a judge that costs nothing."""

import json

import numpy as np

from miro_jax.evaluate.suites import run
from miro_jax.evaluate.suites.base import Suite, SuitePrompt
from miro_jax.evaluate.suites.settings import Settings
from miro_jax.report.clustered import TAGS
from tests.scoring import file_bytes

NAMES = ("red", "blue")


class Bright:
    """Images are correct where they are brighter than a threshold."""

    batch_size = 4

    def __init__(self, threshold=128):
        self.threshold, self.judged = threshold, 0

    @property
    def identity(self):
        return {"name": "bright@1", "threshold": self.threshold}

    def judge(self, images, prompts):
        self.judged += len(images)
        means = [float(image.mean()) for image in images]
        return [{"correct": mean > self.threshold, "mean": mean} for mean in means]


def small_suite(prompts=6, judge=None, images=2):
    """A suite of two tags whose judge is `judge`."""
    listed = [SuitePrompt(f"{n:05d}", f"prompt {n}", NAMES[n % 2]) for n in range(prompts)]
    opened = judge or Bright()
    return Suite("small@1", tuple(listed), images, "correct", TAGS, (), lambda _: opened)


def shade(prompt, sample):
    """The grey of an image; half of the prompts have one bright image of two."""
    return 200 if (prompt % 3 + sample) % 2 else 50


def write_geneval(folder, suite, samples=2, size=16):
    """Write images in GenEval's layout, folders in another order than the prompts."""
    for number, prompt in enumerate(suite.prompts):
        inside = folder / f"{len(suite.prompts) - number:05d}"
        (inside / "samples").mkdir(parents=True)
        line = {"prompt": prompt.text, "tag": prompt.tag}
        (inside / "metadata.jsonl").write_text(json.dumps(line) + "\n")
        for sample in range(samples):
            pixels = np.full((size, size, 3), shade(number, sample), np.uint8)
            (inside / "samples" / f"{sample:04d}.png").write_bytes(file_bytes(pixels))
    return folder


def evaluate(folder, suite, out, **options):
    """Evaluate a folder of images of a suite; the evaluation."""
    settings = Settings(what=str(folder), suite="small", **options)
    return run.run(run.make_job(suite, settings, out), silent=True)


def contents(folder):
    """The files of an evaluation and its manifest, without the date."""
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    made = json.loads(files.pop("evaluation.json"))
    date = made["machine"].pop("date")
    del made["seal"]
    if page := files.get("report.html"):
        files["report.html"] = page.replace(date.encode(), b"")
    return files, made
