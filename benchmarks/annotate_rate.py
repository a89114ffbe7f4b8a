"""Time the stage without its models: read, decode, resize, keep, write. Pictures a second per core.

    python -m benchmarks.annotate_rate --pictures=600 --threads=2

The pictures are JPEG files of 512 x 512 pixels (noise over gradients, about as large as
photographs) in tar shards. The reward answers 0 and the image encoder 32 x 32 x 4 zeros, so that
the records are as large as real ones. Divided by processor time, the rate does not depend on who
else works here.
"""

import argparse
import io
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from miro_jax import annotate
from miro_jax.data.sources.images import center_crop_resize
from miro_jax.rewards import base

SIDE = 512


class Nothing(base.Judge):
    """Answers 0."""

    name, version, tower, preprocessing = "nothing", "1", "none", "nothing"
    needs_caption, synthetic_form = False, "long"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Keep nothing of a picture."""
        return np.zeros(1, np.uint8)

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        """Return what is given."""
        return prepared

    def judge(self, features: np.ndarray, captions) -> np.ndarray:
        """Return zeros."""
        return np.zeros(len(features), np.float32)


class Zeros:
    """Encodes nothing."""

    identity, size, latent_shape = "zeros@1", 256, (32, 32, 4)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Crop and resize as for the autoencoder."""
        return center_crop_resize(image, self.size, "bilinear")

    def encode(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return zeros."""
        zeros = np.zeros((len(images), *self.latent_shape), np.float16)
        return zeros, zeros


def write_tar(path: Path, count: int, rng: np.random.Generator) -> int:
    """Write a shard; returns the bytes of a picture, on average."""
    ramp = np.linspace(0, 255, SIDE)
    total = 0
    with tarfile.open(path, "w") as archive:
        for i in range(count):
            base_image = ramp[:, None, None] * rng.uniform(0, 1, 3) + ramp[None, :, None] * 0.2
            noise = rng.normal(0, 12, (SIDE, SIDE, 1))
            picture, file = np.clip(base_image + noise, 0, 255).astype(np.uint8), io.BytesIO()
            Image.fromarray(picture).save(file, "JPEG", quality=90)
            members = {"jpg": file.getvalue(), "txt": b"a caption of some words for a picture"}
            for ending, data in members.items():
                info = tarfile.TarInfo(f"{i:06d}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            total += len(members["jpg"])
    return total // count


def main() -> int:
    """Run the script; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    flags = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        size = write_tar(Path(folder, "a.tar"), flags.pictures, rng)
        begin, processor = time.perf_counter(), time.process_time()
        annotate.annotate(
            f"tar:{folder}/a.tar",
            f"{folder}/out",
            [Nothing()],
            Zeros(),
            {"name": "words", "width": 2048},
            num_threads=flags.threads,
        )
        seconds, processor = time.perf_counter() - begin, time.process_time() - processor
    print(
        f"{flags.pictures} JPEG files of {SIDE} x {SIDE}, {size / 1e3:.0f} kB: "
        f"{flags.pictures / seconds:.0f} a second with {flags.threads} threads, "
        f"{flags.pictures / processor:.0f} a second per core"
    )
    return 0 if flags.pictures / processor >= 150 else 1


if __name__ == "__main__":
    sys.exit(main())
