"""What a group of models makes of a batch: fields with one row for each usable image.

A row that holds a number it must not hold is named, and not used.

Letters: B rows of the batch, n usable ones, R rewards of the group, N tokens, D caption width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miro_jax.annotate.batches import Batch
from miro_jax.annotate.models import ENDS, Loaded
from miro_jax.annotate.parts import Fields
from miro_jax.rewards import base

Trouble = dict[int, tuple[str, str]]  # row -> (cause, detail)


def compute(models: Loaded, batch: Batch, stored: bool = True) -> tuple[Fields, Trouble]:
    """Run the models of a group over a batch.

    Each image tower reads an image once for both captions; a caption that occurs twice in a batch
    is encoded once.

    Args:
      models: the group. batch: with n samples, at least 1.
      stored: scores are on the scale that records store, and not on the models' own.

    Returns:
      Arrays with a row for each sample, as far as the group makes them, and the rows that hold a
      number which they must not hold:
      scores, synthetic_scores: [n, R] float32, NaN where missing: of a sample without synthetic
        captions, or without a caption that the reward needs.
      image_mean, image_std: [n, h, w, c] float16; the same with `_512`.
      caption_tokens, synthetic_caption_tokens: n arrays [N, D].
    """
    fields: Fields = {}
    trouble: Trouble = {}
    if models.rewards:
        _score(models.rewards, batch, stored, fields, trouble)
    for number, encoder in enumerate(models.image_encoders):
        mean, std = encoder.encode(batch.squares[number])
        for part, array in (("mean", mean), ("std", std)):
            name = f"image_{part}{ENDS[number]}"
            fields[name] = np.asarray(array)[batch.rows]
            finite = np.isfinite(fields[name].astype(np.float32))
            for row in np.flatnonzero(~finite.reshape(len(finite), -1).all(axis=1)):
                trouble.setdefault(int(row), ("latents not finite", name))
    if models.caption_encoder is not None:
        _encode_captions(models.caption_encoder, batch, fields, trouble)
    return fields, trouble


def _score(
    rewards: Sequence[base.Reward], batch: Batch, stored: bool, fields: Fields, trouble: Trouble
) -> None:
    """Add the scores with own and with synthetic captions."""
    sets = [batch.captions, *([batch.synthetic] if batch.synthetic else [])]
    results = _score_shapes(rewards, batch.prepared, sets, stored)
    scores, synthetic = results[0][batch.rows], results[-1][batch.rows]
    has_synthetic = np.array([bool(s.synthetic) for s in batch.samples])[:, None]
    unread = np.array([s.caption is None for s in batch.samples])[:, None]
    unread = unread & np.array([reward.needs_caption for reward in rewards])
    bad = ~base.usable(scores, rewards) & ~unread
    bad |= ~base.usable(synthetic, rewards) & has_synthetic
    for row in np.flatnonzero(bad.any(axis=1)):
        trouble[int(row)] = ("score not finite", rewards[int(bad[row].argmax())].identity)
    fields["scores"] = np.where(unread, np.float32(np.nan), scores)
    fields["synthetic_scores"] = np.where(has_synthetic, synthetic, np.float32(np.nan))


def _score_shapes(
    rewards: Sequence[base.Reward],
    prepared: Mapping[str, np.ndarray | list[np.ndarray]],
    captions: Sequence[Mapping[str, Sequence[str]]],
    stored: bool,
) -> list[np.ndarray]:
    """Score a batch; where a preprocessing leaves images of several shapes, those of each shape."""
    count = len(next(iter(captions[0].values())))
    results = [np.full((count, len(rewards)), np.nan, np.float32) for _ in captions]

    def score(columns: list[int], images: Mapping[str, np.ndarray], rows: list[int]) -> None:
        texts = [{form: [some[r] for r in rows] for form, some in one.items()} for one in captions]
        chosen = [rewards[column] for column in columns]
        for result, part in zip(
            results, base.score_prepared(chosen, images, texts, stored), strict=True
        ):
            result[np.ix_(rows, columns)] = part

    even = {name: one for name, one in prepared.items() if isinstance(one, np.ndarray)}
    columns = [c for c, reward in enumerate(rewards) if reward.preprocessing in even]
    if columns:
        score(columns, even, list(range(count)))
    for name in prepared.keys() - even.keys():
        shapes: dict[tuple, list[int]] = {}
        for row, image in enumerate(prepared[name]):
            shapes.setdefault(image.shape, []).append(row)
        columns = [c for c, reward in enumerate(rewards) if reward.preprocessing == name]
        for rows in shapes.values():
            score(columns, {name: np.stack([prepared[name][row] for row in rows])}, rows)
    return results


def _encode_captions(encoder: Any, batch: Batch, fields: Fields, trouble: Trouble) -> None:
    """Add the tokens of own and of synthetic captions."""
    own = [sample.caption for sample in batch.samples]
    synthetic = [sample.synthetic.get("long") for sample in batch.samples]
    # Those of samples that failed are encoded, too: so they change no program and no other result.
    every = [*batch.captions["caption"], *(batch.synthetic["long"] if batch.synthetic else [])]
    wanted = list(dict.fromkeys(every))
    tokens = dict(zip(wanted, encoder.encode(wanted), strict=True))
    none = np.zeros((0, encoder.width), tokens[wanted[0]].dtype)
    for kind, texts in (("", own), ("synthetic_", synthetic)):
        encoded = [tokens[text] if text else none for text in texts]
        for row, one in enumerate(encoded):
            if not np.isfinite(one.astype(np.float32)).all():
                trouble.setdefault(row, ("tokens not finite", f"{kind}caption_tokens"))
        fields[f"{kind}caption_tokens"] = encoded
