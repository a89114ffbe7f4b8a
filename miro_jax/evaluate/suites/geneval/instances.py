"""What the detector's logits become: the 100 best pairs of a query and a class, with mask and box.

    p      softmax over the classes and "none", which is dropped then
    pairs  the 100 largest p of all queries and classes
    mask   logits > 0, after two bilinear resizes: to the padded input, which is cropped, and from
           there to the image
    q      mean of sigmoid(logits) over the mask;  score = p q
    box    extent of the mask, the maxima exclusive

Nothing is suppressed or dropped. q and box are of a query, whatever its class. Both resizes and the
crop are linear, so that their matrices are multiplied beforehand, one product an axis. An empty
mask has a box of zeros and the score 0.

Source: mmdet's `MaskFormerFusionHead.instance_postprocess`, the same in its versions 2 and 3.

Letters: B batch, Q queries, K classes, N = 100 pairs, h w mask logits, H W image.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from miro_jax.pretrained.networks import bilinear

Array = jax.Array
MOST = 100  # pairs


@functools.lru_cache(maxsize=64)
def composite(logits: int, padded: int, cropped: int, image: int) -> np.ndarray:
    """Return the matrix [image, logits] float32 of both resizes and the crop along one axis."""
    first = bilinear.matrix(logits, padded)[:cropped]
    return (bilinear.matrix(cropped, image) @ first).astype(np.float32)


def find(classes: Array, masks: Array, rows: np.ndarray, columns: np.ndarray) -> tuple[Array, ...]:
    """Return the best pairs of each image.

    Args:
      classes: [B, Q, K + 1] float32 logits, the last of "none". masks: [B, Q, h, w] float32 logits.
      rows, columns: [H, h] and [W, w], see `composite`.

    Returns:
      labels [B, N] int32, scores [B, N] float32, queries [B, N] int32, boxes [B, Q, 4] float32 and
      the masks' bits [B, Q, H, ceil(W / 8)] uint8.
    """
    batch, queries, _ = classes.shape
    share = jax.nn.softmax(classes, axis=-1)[..., :-1]
    best, index = jax.lax.top_k(share.reshape(batch, -1), min(MOST, share[0].size))
    query, label = jnp.divmod(index, share.shape[-1])
    logits = jnp.einsum("Hh,bqhw->bqHw", jnp.asarray(rows), masks)
    logits = jnp.einsum("Ww,bqHw->bqHW", jnp.asarray(columns), logits)
    inside = logits > 0
    area = inside.sum(axis=(2, 3), dtype=jnp.float32)
    inner = jnp.where(inside, jax.nn.sigmoid(logits), 0).sum(axis=(2, 3))
    quality = inner / (area + 1e-6)  # [B, Q]
    score = best * jnp.take_along_axis(quality, query, axis=1)
    bits = jnp.packbits(inside, axis=-1)
    return label.astype(jnp.int32), score, query.astype(jnp.int32), boxes(inside), bits


def boxes(inside: Array) -> Array:
    """Return the extents [B, Q, 4] float32, x0, y0, x1, y1, of masks [B, Q, H, W] bool."""
    ends = []
    for axis in (2, 3):  # over the rows: which columns are touched; then the other way
        touched = inside.any(axis=axis)
        first = jnp.argmax(touched, axis=-1)
        last = touched.shape[-1] - jnp.argmax(touched[..., ::-1], axis=-1)
        ends.append(jnp.where(touched.any(axis=-1), jnp.stack([first, last]), 0))
    (x0, x1), (y0, y1) = ends
    return jnp.stack([x0, y0, x1, y1], axis=-1).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Instances:
    """The objects of one image, in no order.

    Attributes:
      labels: [N] int, index of the class. scores: [N] float32.
      boxes: [N, 4] float32, x0, y0, x1, y1 in pixels of the image, the maxima exclusive.
      queries: [N] int, each object's row of `bits`.
      bits: [Q, H, ceil(W / 8)] uint8, masks. width: W.
    """

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    queries: np.ndarray
    bits: np.ndarray
    width: int

    def __len__(self) -> int:
        return len(self.labels)

    def mask(self, number: int) -> np.ndarray:
        """Return the mask [H, W] bool of an object."""
        bits = np.unpackbits(self.bits[self.queries[number]], axis=-1, count=self.width)
        return bits.astype(bool)
