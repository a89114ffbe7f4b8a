"""A data set of TensorFlow Datasets, written by that library itself, without TensorFlow.

It must live in a package: the library asks for the builder's module by name.
"""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

COUNTS = {"train": 20, "validation": 4}


def jpeg(shade: int) -> bytes:
    """A picture of one shade as a file."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((24, 24, 3), shade, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


class TinyPairs(tfds.core.GeneratorBasedBuilder):
    """Pictures with two captions each, boxes, and texts inside of other features."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features
        return self.dataset_info_from_configs(
            features=features.FeaturesDict(
                {
                    "image": features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "image/filename": features.Text(),
                    "captions": features.Sequence({"text": features.Text(), "id": np.int64}),
                    "boxes": features.Sequence(features.BBoxFeature()),
                    "deep": {"note": features.Text(), "negative": np.int64, "half": np.float32},
                }
            )
        )

    def _split_generators(self, manager):
        return {split: self._generate_examples(count) for split, count in COUNTS.items()}

    def _generate_examples(self, count):
        for i in range(count):
            yield (
                f"{i:05d}",
                {
                    "image": jpeg(i),
                    "image/filename": f"{i:05d}.jpg",
                    "captions": [{"text": f"ünï {i} {j}", "id": 300 * j} for j in range(2)],
                    "boxes": [tfds.features.BBox(0.0, 0.0, 1.0, 0.5)] * (i % 3),
                    "deep": {"note": f"note {i}", "negative": -i, "half": i / 2},
                },
            )
