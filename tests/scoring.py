"""A folder of pictures, a reward that takes them in any size, a call of the score stage."""

import csv
import io
import json

import numpy as np
import pyarrow.parquet
from PIL import Image

from miro_jax.data.shapes import world
from miro_jax.rewards import base
from miro_jax.score import score_images


class Brightness(base.Judge):
    """Mean of the image, or that and the caption's length; counts the images it encodes.

    Images that fill a batch are copies of others, and not counted.
    """

    version = "test1"
    tower = "mean"
    preprocessing = "mean"
    synthetic_form = "long"

    def __init__(self, name="brightness", needs_caption=False):
        self.name, self.needs_caption = name, needs_caption
        self.num_encoded = 0

    def prepare(self, image):
        base.check_image(image)
        return image.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)

    def encode(self, prepared):
        assert prepared.dtype == np.float32 and prepared.shape[1:] == (3,)
        self.num_encoded += len(np.unique(prepared, axis=0))
        return prepared.mean(axis=1)

    def judge(self, features, captions):
        base.check_captions(captions, len(features))
        words = np.array([len(text) * self.needs_caption for text in captions], np.float32)
        return features + words

    def stored(self, score):
        return score / np.float32(255)


def file_bytes(image, kind="PNG", **options):
    """Encode a picture, an array or a Pillow image."""
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(shade, height=20, width=24):
    return np.full((height, width, 3), shade, np.uint8)


def picture(path):
    """The pixels of a file."""
    return np.asarray(Image.open(path).convert("RGB"))


def make_folder(folder, count=10, sidecars=True):
    """Pictures 000.png, ... of one shade each, with captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        (folder / f"{i:03d}.png").write_bytes(file_bytes(grey(i)))
        if sidecars:
            (folder / f"{i:03d}.txt").write_text(f"picture {i}")
    return folder


def make_shapes(folder, count, size=32):
    """Pictures of the shapes world, and captions.csv beside the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        sample = world.make_sample(5, i, size)
        (folder / f"{i:03d}.png").write_bytes(file_bytes(sample.image))
        rows.append((f"{i:03d}.png", sample.caption))
    return write_csv(folder.parent / "captions.csv", [("path", "caption"), *rows])


def write_csv(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def score(source, out, rewards=None, **options):
    """Score with small batches; return the summary."""
    rewards = [Brightness(), Brightness("length", True)] if rewards is None else rewards
    return score_images(source, rewards, out, **({"batch_size": 4, "num_threads": 2} | options))


def read_rows(path):
    """Rows of an output, of any of its kinds, as dicts."""
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    text = path.read_bytes().decode("utf-8")  # returns as they are
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n") if line]
    return list(csv.DictReader(io.StringIO(text, newline="")))


def read_failures(out):
    path = out.with_name(out.name + ".failures.jsonl")
    return {f["key"]: f["cause"] for f in map(json.loads, path.read_text("utf-8").splitlines())}
