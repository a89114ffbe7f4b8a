"""Small pictures and archives for the tests of sources."""

import dataclasses
import io
import json
import tarfile

import numpy as np
from PIL import Image

from miro_jax.data.sources import images, open_source


def jpeg(shade, size=24):
    """A picture of one shade as a file."""
    return encode(np.full((size, size, 3), shade, np.uint8), "JPEG")


def encode(picture, name, **options):
    """Encode [H, W, 3] uint8 or a Pillow picture."""
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, name, **options)
    return buffer.getvalue()


def write_tar(path, members):
    """Write (name, content) pairs."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def triple(key, shade, caption=None, **meta):
    """The members of one sample."""
    caption = f"caption of {key}" if caption is None else caption
    return [
        (f"{key}.jpg", jpeg(shade)),
        (f"{key}.txt", caption.encode()),
        (f"{key}.json", json.dumps(meta).encode()),
    ]


def read(spec):
    """All samples of a source."""
    return [sample for piece in open_source(spec).pieces for sample in piece.samples()]


def shade_of(sample):
    """The shade of a sample's picture."""
    return int(np.median(images.load_rgb(sample.read())))


def problems(samples):
    """Key -> problem, of those that have one."""
    return {sample.key: sample.problem for sample in samples if sample.problem}


def members_of(i):
    """The members of a sample whose parts are easy to foresee; its picture is none."""
    meta = {"caption": "from json", "synthetic_caption": f"long {i}", "width": 32}
    return [
        (f"dir/key{i}.jpg", bytes([i]) * 700),
        (f"dir/key{i}.txt", f"caption {i} ünï".encode()),
        (f"dir/key{i}.json", json.dumps(meta).encode()),
    ]


def read_all(path):
    """The samples of an archive as its kind of source reads them, and the first damage, or None."""
    (piece,) = open_source(f"tar:{path}").pieces
    found = list(piece.read())
    places = [sample for sample in found if sample.problem == "damaged tar"]
    samples = [
        dataclasses.replace(sample, key=sample.key.removeprefix(piece.id + "/"), names=())
        for sample in found
        if sample.problem != "damaged tar"
    ]
    return samples, int(places[0].detail.split()[2].rstrip(":")) if places else None
