"""Diversity of a suite's images beside its rewards: Vendi, distances, and CMMD to reference images.

Rewards do not see it when all images of a prompt become one. The features are those of a CLIP, by
convention OpenAI's L/14 at 336 pixels, of length 1. Images are cut to the central square and
resized by Pillow's bicubic, as the authors of CMMD do. The model of the features and, where a
number depends on it, the number of images stand in the name of a metric:

    vendi@clip-3fab02c1d4e5            mean over prompts of the Vendi score of a prompt's images
    distance@clip-3fab02c1d4e5         mean over prompts of the mean cosine distance of their pairs
    vendi_set@clip-3fab02c1d4e5-n2212  Vendi score of all images
    cmmd@clip-3fab02c1d4e5-n2212-m30000

`features.safetensors` in the folder of the results holds the features, and is a reference itself.

Letters: n images, E width of the features.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from miro_jax.data import safetensors
from miro_jax.data.regular_file import read_regular
from miro_jax.data.sources import reading
from miro_jax.data.sources.images import load_rgb
from miro_jax.data.storage.files import write_atomic
from miro_jax.evaluate import diversity
from miro_jax.evaluate.suites.measure import describe
from miro_jax.pretrained.weights import hub
from miro_jax.report.clustered import PROMPTS, cluster
from miro_jax.rewards.clip_family import SharedTowers, Vision, load_vision

NAME = "features.safetensors"
_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_BATCH, _THREADS, _DIGITS = 64, 4, 12
_MOST_BYTES = 1 << 36  # of a file of features


def open_model(weights: str) -> Vision:
    """Open the image tower of a CLIP by hub id or folder.

    Raises:
      OSError, ValueError: it cannot be had, or is no CLIP.
    """
    return load_vision(weights, "model", SharedTowers(), dtype="float32")


def check(weights: str | None, reference: str | None) -> None:
    """Check what can be checked of a model and a reference before either is read.

    Raises:
      FileNotFoundError: the model is neither a folder nor a hub id, or there is no reference.
    """
    if weights is not None:
        hub.open(weights)
    if reference is not None and not Path(reference).expanduser().exists():
        raise FileNotFoundError(
            "--reference must be a folder of images, or the features.safetensors of another "
            f"evaluation; there is no {reference}."
        )


def encode(model: Vision, files: Sequence[Callable[[], bytes]]) -> np.ndarray:
    """Return the features [n, E] of image files, each given by what reads it.

    Products are exact to float32 on every device: a reference may come from another one.
    """
    size = model.config.image_size

    def prepare(read: Callable[[], bytes]) -> np.ndarray:
        return central_square(load_rgb(read(), min_side=1), size)

    parts = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(files), _BATCH):
            some = pool.map(prepare, files[start : start + _BATCH])
            with jax.default_matmul_precision("highest"):
                parts.append(model.encode(np.stack([*some])))
    return np.concatenate(parts)


def central_square(image: np.ndarray, size: int) -> np.ndarray:
    """Cut an image [H, W, 3] uint8 to its central square, then resize it to [size, size, 3]."""
    height, width, _ = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def measure(
    features: np.ndarray,
    prompts: Sequence[str],
    tags: Sequence[str],
    model: str,
    reference: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the metrics of the images of a suite.

    Args:
      features: [n, E]. prompts, tags: [n]. model: name of the features.
      reference: [m, E], features of reference images, or None.
    """
    rows: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    several = {prompt: own for prompt, own in rows.items() if len(own) > 1}
    counts = {"prompts": len(rows), "images": len(features)}
    metrics: dict[str, Any] = {}
    if several:
        tag_of = dict(zip(prompts, tags, strict=True))
        both = {"vendi": diversity.vendi, "distance": diversity.mean_distance}
        for name, function in both.items():
            values = [function(features[own]) for own in several.values()]
            clusters = cluster(values, list(several), [tag_of[prompt] for prompt in several])
            images = sum(map(len, several.values()))
            metrics[f"{name}@{model}"] = describe(clusters, PROMPTS) | {"images": images}
    name = f"vendi_set@{model}-n{len(features)}"
    metrics[name] = {"value": diversity.vendi(features)} | counts
    if reference is not None:
        name = f"cmmd@{model}-n{len(features)}-m{len(reference)}"
        metrics[name] = {"value": diversity.cmmd(features, reference)} | counts
    return metrics


def name_of(model: Vision) -> str:
    """Return the name of a model's features: clip- and digits of the digest of its weights."""
    return "-".join(model.name.split("-")[:2])


def save(folder: Path, features: np.ndarray, model: str) -> None:
    """Write the features of images, to be a reference later."""
    data = safetensors.pack({"features": features.astype(np.float32)}, {"model": model})
    write_atomic(folder / NAME, data)


def read_reference(path: str, model: Vision) -> np.ndarray:
    """Return the features of reference images: of a file that `save` wrote, or of a folder.

    Raises:
      FileNotFoundError: there is nothing. ValueError: features of another model, or no images.
    """
    made, files = _files_of(path)
    if made is not None:
        arrays, about = safetensors.unpack(read_regular(made, _MOST_BYTES))
        if about.get("model") != name_of(model) or "features" not in arrays:
            raise ValueError(
                f"{made} must hold features of {name_of(model)}; it holds those of "
                f"{about.get('model', 'no model')}. Give the folder of the images."
            )
        return arrays["features"]
    if not files:
        raise FileNotFoundError(f"{path} must hold reference images, or {NAME}; it holds neither.")
    return encode(model, [file.read_bytes for file in files])


def describe_reference(path: str) -> dict[str, Any]:
    """Return the number of files of a reference and a digest of them, for a request.

    The digest is of names and of `reading.fingerprint`, as for images that are annotated.
    """
    made, files = _files_of(path)
    files = files if made is None else [made]
    with ThreadPoolExecutor(_THREADS) as pool:
        prints = [*pool.map(lambda file: reading.fingerprint(str(file)), files)]
    names = [str(file.relative_to(Path(path).expanduser())) for file in files]
    lines = "".join(f"{name}\0{one}\n" for name, one in zip(names, prints, strict=True))
    digest = hashlib.sha256(lines.encode()).hexdigest()[:_DIGITS]
    return {"name": path, "files": len(files), "digest": digest}


def _files_of(path: str) -> tuple[Path | None, list[Path]]:
    """Return the file of features that a reference is, or None; and else its images, sorted."""
    given = Path(path).expanduser()
    if given.is_dir() and (given / NAME).is_file():
        given = given / NAME
    if given.is_file():
        return given, []
    return None, sorted(p for p in given.rglob("*") if p.suffix.lower() in _ENDINGS)


def describe_model(model: Vision, reference: np.ndarray | None) -> Mapping[str, Any]:
    """Return what identifies the features, for a manifest."""
    facts: dict[str, Any] = {
        "model": model.name,
        "size": model.config.image_size,
        "preprocessing": "central square, then bicubic of Pillow",
    }
    if reference is not None:
        data = np.ascontiguousarray(reference, np.float32).tobytes()
        facts["reference"] = hashlib.sha256(data).hexdigest()[:_DIGITS]
    return facts
