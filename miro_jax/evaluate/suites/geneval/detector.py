"""Images into objects: GenEval's detector from a weight file.

    detector = load("mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_..._743b7d99.pth")
    detector.detect([image])[0].boxes

The scores are compared with thresholds, so all of it is float32 and matrix products are exact to
float32 (`highest`), also where a device would be quicker with less.
"""

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miro_jax.evaluate.suites.geneval import instances, pixels
from miro_jax.evaluate.suites.geneval.prompts import class_names
from miro_jax.pretrained.networks import mask2former, mask2former_keys
from miro_jax.pretrained.networks.swin import PATCH
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights import hub, pickles

log = logging.getLogger("miro_jax")
HF_WEIGHTS = "facebook/mask2former-swin-small-coco-instance"  # CC BY-NC 4.0
STEM = "mask2former_swin-s"  # of OpenMMLab's files, which have a digest in their names
NAMES = {"mmdet-2": "mmdet", "mmdet-3": "mmdet", "hf": "hf-mask2former"}
PADDINGS = ("zero", "grey")
GREY = 128
_NAMED_DIGEST = re.compile(r"-([0-9a-f]{8})\.pth")


@dataclasses.dataclass(frozen=True)
class Detector:
    """A detector at work.

    Attributes:
      tower: its network. identity: what its objects depend on.
      padding: of images that are not square: "zero", after normalising, as mmdet 3 does, or "grey",
        before, as mmdet 2 does.
    """

    tower: Tower
    identity: dict[str, Any]
    padding: str = "zero"

    def detect(self, images: Sequence[np.ndarray]) -> list[instances.Instances]:
        """Return the objects of images [H, W, 3] uint8; those of equal shape run together."""
        results: dict[int, instances.Instances] = {}
        shapes = [image.shape[:2] for image in images]
        for shape in dict.fromkeys(shapes):
            rows = [row for row, own in enumerate(shapes) if own == shape]
            inputs = np.stack([pixels.prepare(images[row]) for row in rows])
            with jax.default_matmul_precision("highest"):
                output = self.tower.run(_finder(shape, self.padding), inputs)
            for number, row in enumerate(rows):
                results[row] = _instances([part[number] for part in output], shape[1])
        return [results[row] for row in range(len(images))]


def load(weights: str, padding: str = "zero") -> Detector:
    """Load a detector.

    Args:
      weights: OpenMMLab's `.pth` file or its folder; or a folder or hub id of Hugging Face's file,
        which is another detector with another identity.
      padding: see `Detector`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the weights are not those of the network; each tensor that does not fit is named.
    """
    check_padding(padding)
    repository, stem = find(weights)
    path = repository.weights(stem)
    if path.suffix in hub.PICKLES:  # with a `meta` of whatever kinds mmdet had, which stay unread
        tensors = pickles.open_pickle(path, placeholders=True)
    else:
        tensors = repository.tensors(stem)
    spelling = mask2former_keys.spelling(tensors)
    config = mask2former_keys.COCO
    if spelling == "hf":
        config = repository.parsed("config.json", mask2former_keys.parse_config)
    if config.classes != len(class_names()):
        raise ValueError(
            f"{weights} must know the {len(class_names())} classes of COCO; it knows "
            f"{config.classes}."
        )
    digest = repository.digest(stem)
    _check_digest(path, digest)
    network = mask2former_keys.load(tensors, config)
    identity = {
        "name": NAMES[spelling],
        "weights_sha256": digest,
        "spelling": spelling,
        "input": f"{pixels.SHORT}/{pixels.LONG}, cv-linear, pad {padding}",
        "precision": "float32",
        "matmul_precision": "highest",
    }
    return Detector(Tower(network), identity, padding)


def by_class(found: instances.Instances) -> dict[str, np.ndarray]:
    """Return class -> numbers of its objects, the best first."""
    order = np.argsort(-found.scores, kind="stable")
    names = class_names()
    result: dict[str, list[int]] = {}
    for number in order:
        result.setdefault(names[found.labels[number]], []).append(int(number))
    return {name: np.array(own) for name, own in result.items()}


def check_padding(padding: str) -> None:
    """Raise ValueError unless it is one of PADDINGS."""
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(PADDINGS)}; got {padding!r}.")


def find(weights: str) -> tuple[hub.Repository, str]:
    """Return where weights are, and the name of their file.

    Raises:
      FileNotFoundError: there is no such file. ValueError: a folder holds several.
    """
    path = Path(weights).expanduser()
    if path.suffix and not path.exists() and not hub.HUB_ID.fullmatch(weights):
        raise FileNotFoundError(
            f"the detector must be a file, a folder or a hub id; there is no file {weights}."
        )
    if path.is_file():
        return hub.open(path.parent), path.name
    if path.is_dir() and (files := sorted(path.glob(f"{STEM}*.pth"))):
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ValueError(f"{weights} must hold one detector; it holds {names}. Name the file.")
        return hub.open(path), files[0].name
    return hub.open(weights), "model"


def _check_digest(path: Path, digest: str) -> None:
    """Warn if the digest in a file's name is not the file's."""
    match = _NAMED_DIGEST.search(path.name)
    if match and not digest.startswith(match[1]):
        log.warning("%s has the SHA-256 %s..., not that of its name", path, digest[:8])


@functools.lru_cache(maxsize=64)
def _finder(shape: tuple[int, int], padding: str) -> Callable[..., Any]:
    """Return the function of the network and of prepared images, for images of one shape."""
    small = pixels.scaled(*shape)
    full = pixels.padded(*small)
    matrices = [
        instances.composite(whole // PATCH, whole, part, side)
        for whole, part, side in zip(full, small, shape, strict=True)
    ]
    room = [(0, whole - part) for whole, part in zip(full, small, strict=True)]

    def find(module: mask2former.Mask2Former, images: jax.Array) -> tuple[jax.Array, ...]:
        x = images.astype(jnp.float32)
        if padding == "grey":
            x = jnp.pad(x, ((0, 0), *room, (0, 0)), constant_values=GREY)
        mean, std = (
            jnp.asarray(v, jnp.float32)[None, None, None] for v in (pixels.MEAN, pixels.STD)
        )
        x = (x - mean) / std
        if padding == "zero":
            x = jnp.pad(x, ((0, 0), *room, (0, 0)))
        return instances.find(*module(x), *matrices)

    return find


def _instances(output: Sequence[np.ndarray], width: int) -> instances.Instances:
    labels, scores, queries, boxes, bits = output
    return instances.Instances(labels, scores, boxes[queries], queries, bits, width)
