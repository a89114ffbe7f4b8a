"""Records a second that training reads, and how long a training step waits for them.

    python benchmarks/loader.py                      # 4,096 records of 135 KB, two threads
    python benchmarks/loader.py --threads 1 2 4 --seconds=5
    python benchmarks/loader.py --records=256 --seconds=0.2 --steps=4    # to try it

A record is what CC12M gives: image latents of 256 pixels, a caption of 77 tokens, seven scores.
Read is as in training: shuffled, decoded, levels looked up, rows of a batch put together. Then a
network of the size `tiny` with few tokens is trained on them, so small that reading is as much of
the work as it can be; `input_share` is what the log of a run calls so.
"""

import argparse
import itertools
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import numpy as np

from benchmarks import timing
from benchmarks.sizes import config_of
from benchmarks.train_step import STEP, Ours
from miro_jax.data.records import batches, bins, record, shards
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.storage import open_folder
from miro_jax.models import sharding

LATENT, TOKENS, WIDTH, BATCH = (32, 32, 4), 77, 768, 64
REWARDS = ("clip", "aesthetic", "image_reward", "pick_score", "hpsv2", "vqa", "sci_score")
IDENTITIES = tuple(f"{name}@1" for name in REWARDS)
SHARDS = 4


def make_record(number: int) -> record.Record:
    """A record of random numbers, which no compression makes smaller."""
    rng = np.random.default_rng(number)

    def draw(*shape):
        return rng.standard_normal(shape, np.float32).astype(np.float16)

    return record.Record(
        key=f"{number:08d}",
        caption="a photograph",
        synthetic_caption=None,
        width=512,
        height=512,
        image_mean=draw(*LATENT),
        image_std=np.abs(draw(*LATENT)),
        caption_tokens=draw(TOKENS, WIDTH),
        synthetic_caption_tokens=None,
        scores=rng.standard_normal(len(REWARDS), np.float32),
        synthetic_scores=None,
    )


def make_set(folder: Path, count: int, num_shards: int = SHARDS) -> bins.Bins:
    """Write so many records in shards, with their manifest; returns their levels."""
    counts = {}
    for shard, numbers in enumerate(np.array_split(np.arange(count), num_shards)):
        name = f"shard-{shard:05d}.array_record"
        counts[name] = shards.write_shard(open_folder(folder), name, map(make_record, numbers))[
            "count"
        ]
    made = {"rewards": IDENTITIES, "latent_shape": LATENT, "caption_width": WIDTH}
    manifest = Manifest(made, counts, count, 0, {})
    manifest.save(folder)
    scores = shards.read_scores(folder)
    return bins.fit_bins(scores, IDENTITIES, 64, "quantile", manifest.digest)


def open_set(folder: Path, levels: bins.Bins, threads: int, **changes) -> batches.DataIterator:
    """Open a set as training does."""
    options = {
        "batch_size": BATCH,
        "seed": 0,
        "synthetic_caption_prob": 0.0,
        "max_tokens": TOKENS,
        "num_threads": threads,
        "prefetch_batches": 8,
    }
    options = batches.Options(**options | changes)
    return batches.make_iterator(folder, levels, IDENTITIES, options)


def read(data: batches.DataIterator, seconds: float) -> dict[str, float]:
    """Time batches for some seconds: records a second, and seconds of the processor for each."""
    for _ in range(12):  # what was read ahead
        next(data)
    begin, used, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        count += len(next(data)["index"])
    wall, cpu = time.perf_counter() - begin, time.process_time() - used
    each = cpu / count
    return {
        "records_per_s": count / wall,
        "cpu_us_per_record": 1e6 * each,
        "of_two_idle_cores": 2 / each,  # what a busy machine says of an idle one
    }


def parts(seconds: float) -> dict[str, float]:
    """Microseconds of what a record costs outside of the reader: decoding, a row of a batch."""
    data = [record.encode_record(make_record(number)) for number in range(BATCH)]
    rows = [record.decode_record(one).caption_tokens for one in data]
    found = {}
    for name, work in (
        ("decode", lambda: [record.decode_record(one) for one in data]),
        ("copy_into_batch", lambda: np.stack(rows)),
    ):
        best, begin = float("inf"), time.perf_counter()
        while time.perf_counter() - begin < seconds:
            start = time.process_time()
            work()
            best = min(best, time.process_time() - start)
        found[f"{name}_us"] = 1e6 * best / BATCH
    return found | {"bytes": len(data[0])}


def train(data: batches.DataIterator, steps: int) -> dict[str, float]:
    """Train the network `tiny` on the set; the share of the time in which it waits for input."""
    sizes = {"patch_size": 8, "num_latent_tokens": 4, "condition_layers": 0}
    config = config_of("tiny", latent_shape=LATENT, caption_width=WIDTH, num_rewards=7, **sizes)
    flags = argparse.Namespace(
        what=STEP,
        microbatches=1,
        products="",
        dtype="float32",
        attention="xla",
        batch=BATCH,
        tokens=TOKENS,
    )
    step = Ours(config, flags)
    layout = sharding.batch_sharding(step.mesh)
    step.start()
    state, waited = step.state, 0.0
    before = None
    for number in itertools.count():
        if number == 3:  # warm
            begin, waited = time.perf_counter(), 0.0
        start = time.perf_counter()
        batch = next(data)
        batch.pop("index")
        if before is None or all(value.is_ready() for value in jax.tree.leaves(before)):
            waited += time.perf_counter() - start  # the device had nothing to do
        state, metrics = step.compiled(state, jax.device_put(batch, layout))
        jax.block_until_ready(before)  # the step before is read while the next one runs
        before = metrics
        if number == steps + 3:
            break
    jax.block_until_ready(before)
    whole = time.perf_counter() - begin
    return {
        "images_per_s": BATCH * (steps + 1) / whole,
        "input_share": waited / whole,
        "step_ms": 1e3 * whole / (steps + 1),
    }


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=4096)
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each timing")
    parser.add_argument("--steps", type=int, default=40, help="of training; 0 for none")
    flags = parser.parse_args()
    timing.emit("record", **parts(min(flags.seconds, 1.0)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        levels = make_set(folder, flags.records)
        for threads in flags.threads:
            data = open_set(folder, levels, threads)
            timing.emit("read", threads=threads, **read(data, flags.seconds))
            data.close()
        if flags.steps:
            data = open_set(folder, levels, flags.threads[-1])
            timing.emit("train", threads=flags.threads[-1], **train(data, flags.steps))
            data.close()


if __name__ == "__main__":
    main()
