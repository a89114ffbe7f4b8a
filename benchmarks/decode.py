"""Reading and decoding: images a second and core, from a tar shard to resized pictures and records.

    python benchmarks/decode.py                     # 512 x 512, JPEG of quality 90
    python benchmarks/decode.py --side 1024 --images 150
    python benchmarks/decode.py --largest           # of nearly the most pixels that are accepted

Each stage is timed alone on one thread, by the time the processor spent on it, so that other work
on the machine matters little; the best of several turns counts. The last lines add them up, say
what the seven published rewards and the autoencoder ask of a core, and how far a decoder that
shrinks on the fly is from the exact pixels.
"""

import argparse
import io
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from miro_jax.data.sources import images, open_source
from miro_jax.rewards.resize import BicubicCrop, FloatBicubicCrop
from miro_jax.rewards.vqa import pad_and_resize

GOAL = 150
SIZES = (512, 256)
# What annotation makes of a picture, at the published sizes.
PREPARATIONS = {
    "aesthetic, image_reward": BicubicCrop(224, "round"),
    "pick_score, sci_score": BicubicCrop(224, "floor"),
    "hpsv2": FloatBicubicCrop(224),
    "clip": BicubicCrop(512, "round"),
    "vqa": lambda image: pad_and_resize(image, 336),
    "autoencoder": lambda image: images.center_crop_resize(image, 256, "bilinear"),
}
# Mean and deviation of 32 x 32 x 4 latents, 30 tokens of 2048: a record of float16.
RECORD_VALUES = 2 * 32 * 32 * 4 + 30 * 2048


def photograph(side: int, rng: np.random.Generator) -> bytes:
    """Return a JPEG with slopes, edges and grain, of about 80 KB at 512 x 512."""
    coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
    fine = Image.fromarray(rng.integers(90, 166, (160, 160, 3), np.uint8))
    bicubic = Image.Resampling.BICUBIC
    parts = [np.asarray(p.resize((side, side), bicubic), np.float32) for p in (coarse, fine)]
    grain = rng.normal(0, 3, (side, side, 1)).astype(np.float32)
    pixels = np.clip(parts[0] + (parts[1] - 128) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def time_largest(repeats: int) -> None:
    """Print what pictures of nearly the most pixels take, in each format that may hold them."""
    side = int(images.MAX_PIXELS**0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500, 4), np.uint8)
    picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    for kind, mode in (("JPEG", "RGB"), ("WEBP", "RGB"), ("WEBP", "RGBA")):
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, kind)
        data = buffer.getvalue()
        spent = seconds(lambda data=data: images.load_rgb(data), repeats)
        print(f"{kind} {mode}, {side} x {side}, {len(data) / 1e6:.0f} MB: {spent:.2f} s")


def write_tar(path: Path, count: int, side: int) -> None:
    """Write a shard as img2dataset does."""
    rng = np.random.default_rng(0)
    files = [photograph(side, rng) for _ in range(min(count, 50))]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for i in range(count):
            caption = f"caption {i}".encode()
            members = (("jpg", files[i % len(files)]), ("txt", caption), ("json", b"{}"))
            for ending, content in members:
                info = tarfile.TarInfo(f"{i:09d}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def seconds(action: Callable[[], object], repeats: int) -> float:
    """Return the processor's time of the quickest turn."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        action()
        times.append(time.process_time() - begin)
    return min(times)


def write_records(path: Path, records: list[bytes]) -> None:
    """Write records and flush them to the disk."""
    writer = ArrayRecordWriter(str(path), "group_size:1,zstd:1")
    for record in records:
        writer.write(record)
    writer.close()
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def shrink_on_the_fly(data: bytes, size: int) -> np.ndarray:
    """Decode at the smallest scale that is large enough, then resize."""
    image = simplejpeg.decode_jpeg(data, "RGB", min_height=size, min_width=size)
    return images.center_crop_resize(image, size, "bilinear")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--side", type=int, default=512, help="pixels of the source pictures")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--largest", action="store_true", help="time the largest pictures alone")
    flags = parser.parse_args()
    if flags.largest:
        time_largest(flags.repeats)
        return
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "00000.tar"
        write_tar(tar, flags.images, flags.side)
        spec = f"tar:{tar}"

        def read() -> list[bytes]:
            return [s.read() for piece in open_source(spec).pieces for s in piece.samples()]

        files = read()
        pixels = [images.load_rgb(data) for data in files[:50]]
        turns = -(-len(files) // len(pixels))
        values = np.random.default_rng(0).normal(size=RECORD_VALUES).astype(np.float16).tobytes()
        records = [values] * len(files)

        def resize(filter: str) -> None:
            for image in pixels * turns:
                for size in SIZES:
                    images.center_crop_resize(image, size, filter)

        stages = {
            "read the tar": read,
            "decode": lambda: [images.load_rgb(data) for data in files],
            "crop and resize, bilinear": lambda: resize("bilinear"),
            "crop and resize, bicubic": lambda: resize("bicubic"),
            "write records": lambda: write_records(Path(folder) / "out", records),
        }
        spent = {}
        mean = sum(map(len, files)) / len(files) / 1000
        print(
            f"{flags.side} x {flags.side}, {mean:.0f} KB a file, to {' and '.join(map(str, SIZES))}"
        )
        for name, action in stages.items():
            spent[name] = seconds(action, flags.repeats) / len(files)
            print(f"{name:28} {1e3 * spent[name]:7.3f} ms  {1 / spent[name]:8.0f} images/s")
        for filter in ("bilinear", "bicubic"):
            other = {"bilinear": "bicubic", "bicubic": "bilinear"}[filter]
            total = sum(s for name, s in spent.items() if not name.endswith(other))
            print(f"all, {filter}: {1 / total:.0f} images/s and core (goal {GOAL})")
        total = spent["read the tar"] + spent["decode"] + spent["write records"]
        for name, prepare in PREPARATIONS.items():
            taken = seconds(lambda f=prepare: [f(image) for image in pixels], flags.repeats)
            total += taken / len(pixels)
            print(f"prepare for {name:24} {1e3 * taken / len(pixels):7.3f} ms")
        print(f"all of annotation but the models: {1 / total:.0f} images/s and core")
        for size in SIZES:
            pairs = [
                (images.center_crop_resize(image, size, "bilinear"), shrink_on_the_fly(data, size))
                for image, data in zip(pixels, files, strict=False)
            ]
            off = np.abs(np.stack([a.astype(int) - b for a, b in pairs]))
            print(
                f"shrunk on the fly to {size}: off by {off.mean():.2f} of 255, at most {off.max()}"
            )


if __name__ == "__main__":
    main()
