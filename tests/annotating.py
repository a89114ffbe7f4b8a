"""A small source of pictures, a reward that is easy to foresee, a call of the annotate stage."""

import io
import json
import os

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from miro_jax.annotate import stage
from miro_jax.data import sources
from miro_jax.data.records import record as records
from miro_jax.data.records import shards
from miro_jax.pretrained.encoders import build_caption_encoder, build_image_encoder
from miro_jax.rewards import base
from tests.sources import write_tar

SIZE = 16


class Brightness(base.Judge):
    """Mean of the image, or of the image and the caption's length; counts the images it reads.

    Images that fill a batch are copies of others, and not counted.
    """

    version = "test1"
    synthetic_form = "long"
    preprocessing = "none"

    def __init__(self, name="brightness", needs_caption=False, tower="mean", bad=None, form="long"):
        self.name, self.needs_caption, self.tower = name, needs_caption, tower
        self.synthetic_form = form
        self.bad = bad or {}
        self.num_read = 0

    def prepare(self, image):
        return image

    def encode(self, images):
        assert images.dtype == np.uint8 and images.shape[1:] == (SIZE, SIZE, 3)
        self.num_read += len(np.unique(images.reshape(len(images), -1), axis=0))
        return images.mean(axis=(1, 2, 3)) / 255

    def judge(self, features, captions):
        assert len(features) == len(captions)
        words = [len(text) if self.needs_caption else 0 for text in captions]
        score = np.float32(features) + np.float32(words)
        return np.array(
            [self.bad.get(text, s) for text, s in zip(captions, score, strict=True)], np.float32
        )

    def stored(self, score):
        return score / 100


def rewards():
    return [
        Brightness(),
        Brightness("length", True, "other"),
        Brightness("short", True, form="short"),
    ]


def png(shade):
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 24, 3), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def sample(i, caption=None, image=None, key=None, **meta):
    """Members of a sample; None leaves a part at its default, b"" or "" leaves it out."""
    key = key or f"key{i:04d}"
    image = png(i % 256) if image is None else image
    caption = f"picture {i}" if caption is None else caption
    members = [(f"{key}.png", image)] if image else []
    members += [(f"{key}.txt", caption.encode())] if caption else []
    return members + ([(f"{key}.json", json.dumps(meta).encode())] if meta else [])


def make_pieces(folder, num_pieces=3, num_samples=10):
    """Every second sample has a synthetic caption, every fourth also a short one."""
    folder.mkdir(exist_ok=True)
    paths = []
    for piece in range(num_pieces):
        members = []
        for i in range(piece * num_samples, (piece + 1) * num_samples):
            meta = {"seen": 1}
            meta |= {"synthetic_caption": f"a long text about {i}"} if i % 2 == 0 else {}
            meta |= {"synthetic_caption_short": f"brief {i}"} if i % 4 == 0 else {}
            members += sample(i, **meta)
        paths.append(write_tar(folder / f"p{piece}.tar", members))
    return paths


def open_paths(paths):
    """The source whose pieces are these tar files, all in one folder."""
    folders, names = zip(*[os.path.split(path) for path in paths], strict=True)
    return sources.open_source(f"tar:{folders[0]}/{{{','.join(names)}}}")


def call(paths, out, reward_list=None, **changes):
    """Annotate tar files; return the manifest, or None of a set that is not finished."""
    arguments = {
        "source": open_paths(paths) if paths else None,
        "out": out,
        "rewards": reward_list or rewards(),
        "image_encoder": build_image_encoder("pixels", size=SIZE),
        "caption_encoder": build_caption_encoder("words", width=16, max_tokens=8),
        "num_bins": 4,
        "batch_size": 4,
    }
    return stage.annotate(**(arguments | changes))


def read_records(out):
    """All records of a folder, by key without the name of the tar file."""
    data = [
        d for path in shards.verify_shards(out) for d in ArrayRecordReader(str(path)).read_all()
    ]
    return {record.key.rpartition("/")[2]: record for record in map(records.decode_record, data)}


def read_failures(out):
    return [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
