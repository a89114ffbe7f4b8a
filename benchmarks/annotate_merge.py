"""Time the merge of many published pieces; 1,000 pieces of 1,000 records must take 60 s at most.

    python -m benchmarks.annotate_merge --pieces=1000 --records=1000

Pieces are made up: scores, sidecars, and shards that are empty files, since the merge asks for
their size alone. The report reads its pictures from a source that draws them.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from miro_jax import annotate
from miro_jax.annotate.finish import merge
from miro_jax.annotate.plan import plan
from miro_jax.annotate.publish import shard_name
from miro_jax.data.records import shards
from miro_jax.data.sources import Piece, Sample, Source

REWARDS = ("sharpness", "cleanliness", "beauty", "objects", "colors", "count", "position")


def draw() -> bytes:
    """A picture file."""
    file = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).save(file, "PNG")
    return file.getvalue()


def make_source(pieces: int, records: int) -> Source:
    """A source whose samples are all alike."""
    picture = draw()

    def samples(number):
        for i in range(records):
            yield Sample(f"{number}/{i}", picture, f"caption {i}", {}, {})

    made = [
        Piece(n, f"piece-{n}", records, None, lambda n=n: samples(n), lambda: "same")
        for n in range(pieces)
    ]
    return Source("made", {"kind": "made"}, made)


def write_pieces(job, records: int, rng: np.random.Generator) -> None:
    """Write what stands beside shards, and files in place of shards."""
    facts = {}
    for group in job.toolbox.groups:
        facts[group.name] = job.toolbox.load(group, None).facts()
    for piece in job.source.pieces:
        scores = rng.normal(size=(records, 2, len(REWARDS))).astype(np.float32)
        keys, name = [f"{piece.number}/{i}" for i in range(records)], shard_name(piece.number)
        failures = [
            {
                "piece": piece.id,
                "position": records,
                "key": "x",
                "cause": "not an image",
                "detail": "",
            }
        ]
        extra = {
            "piece": piece.id,
            "num_samples": records + 1,
            "failures": failures,
            "models": facts,
        }
        job.folder.write(name, b"", durable=False)
        written = shards.Written(keys, list(scores), sha256="0" * 64)
        shards.write_beside(job.folder, name, written, extra)


def main() -> int:
    """Run the script; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pieces", type=int, default=1000)
    parser.add_argument("--records", type=int, default=1000)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(open(os.devnull, "w")):
        source = make_source(flags.pieces, flags.records)
        settings = annotate.Settings(
            source=source,
            out=f"{folder}/out",
            rewards=REWARDS,
            image_encoder="pixels:size=16",
            caption_encoder="words",
            pieces="all",
        )
        job = plan(settings)
        job.claim.begin(job.request)
        write_pieces(job, flags.records, np.random.default_rng(0))
        begin = time.perf_counter()
        manifest = merge(job)
        seconds = time.perf_counter() - begin
    print(f"{flags.pieces} pieces, {manifest.num_records:,} records: merged in {seconds:.1f} s")
    return 0 if seconds <= 60 else 1


if __name__ == "__main__":
    sys.exit(main())
