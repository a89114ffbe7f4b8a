"""What a group of models makes of a chunk: arrays with one row for each usable picture.

Each image tower reads a picture once for both captions; a caption that occurs twice in a chunk is
encoded once. A row that holds a number it must not hold is named, and not used.

Letters: B pictures, R rewards of the group, N tokens of all captions, D caption width.
"""

from __future__ import annotations

import numpy as np

from miro_jax.annotate.chunks import Batch
from miro_jax.annotate.models import SECOND_SIZE, Loaded
from miro_jax.rewards import base

ENDS = ("", f"_{SECOND_SIZE}")
Trouble = dict[int, tuple[str, str]]  # row -> (cause, detail)


def compute(models: Loaded, batch: Batch) -> tuple[dict[str, np.ndarray], Trouble]:
    """Run the models of a group over pictures and their captions.

    Args:
        models: the group.
        batch: B samples, at least 1.

    Returns:
        Arrays, as far as the group makes them, and the rows that cannot be used:
        scores, synthetic_scores: [B, R] float32, NaN where missing; of an example without synthetic
            captions, NaN.
        image_mean, image_std: [B, h, w, c] float16; the same with `_512`.
        tokens, synthetic_tokens: [N, D] of all captions one after the other.
        lengths, synthetic_lengths: [B] int64, tokens of each.
    """
    arrays: dict[str, np.ndarray] = {}
    trouble: Trouble = {}
    if models.rewards:
        _score(models.rewards, batch, arrays, trouble)
    for number, encoder in enumerate(models.image_encoders):
        mean, std = encoder.encode(batch.squares[number])
        for part, array in (("mean", mean), ("std", std)):
            name = f"image_{part}{ENDS[number]}"
            arrays[name] = np.asarray(array)
            _note_not_finite(arrays[name], "latents not finite", name, trouble)
    if models.caption_encoder is not None:
        _encode_captions(models.caption_encoder, batch.examples, arrays, trouble)
    return arrays, trouble


def _score(rewards, batch, arrays, trouble) -> None:
    examples = batch.examples
    captions = [{"caption": [example.caption for example in examples]}]
    if any(example.synthetic for example in examples):
        # Samples without a synthetic caption get their own there; that score is not used.
        forms = {
            form: [example.synthetic.get(form, example.caption) for example in examples]
            for form in base.SYNTHETIC_FORMS
        }
        captions.append(forms)
    scores = base.score_prepared(rewards, batch.prepared, captions)
    synthetic = scores[1] if len(scores) > 1 else np.full_like(scores[0], np.nan)
    has = np.array([bool(example.synthetic) for example in examples])
    bad = ~base.usable(scores[0], rewards) | (has[:, None] & ~base.usable(synthetic, rewards))
    for row in np.flatnonzero(bad.any(axis=1)):
        trouble[int(row)] = ("score not finite", rewards[int(bad[row].argmax())].identity)
    arrays["scores"] = scores[0]
    arrays["synthetic_scores"] = np.where(has[:, None], synthetic, np.float32(np.nan))


def _encode_captions(encoder, examples, arrays, trouble) -> None:
    own = [example.caption for example in examples]
    synthetic = [example.synthetic.get("long") for example in examples]
    wanted = list(dict.fromkeys([*own, *filter(None, synthetic)]))
    tokens = dict(zip(wanted, encoder.encode(wanted), strict=True))
    none = np.zeros((0, encoder.width), tokens[own[0]].dtype)
    for kind, texts in (("", own), ("synthetic_", synthetic)):
        found = [tokens[text] if text else none for text in texts]
        for row, one in enumerate(found):
            if not np.isfinite(one.astype(np.float32)).all():
                trouble.setdefault(row, ("tokens not finite", f"{kind}caption_tokens"))
        arrays[f"{kind}lengths"] = np.array([len(one) for one in found], np.int64)
        arrays[f"{kind}tokens"] = np.concatenate(found)


def _note_not_finite(array: np.ndarray, cause: str, name: str, trouble: Trouble) -> None:
    good = np.isfinite(array.astype(np.float32)).reshape(len(array), -1).all(axis=1)
    for row in np.flatnonzero(~good):
        trouble.setdefault(int(row), (cause, name))
