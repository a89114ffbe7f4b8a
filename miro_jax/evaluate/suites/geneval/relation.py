"""Where one box lies as seen from another: GenEval's rule of positions.

With centres a, b and extents (w, h) of two boxes, offset = a - b. On each axis the offset is
shortened by a tenth of the sum of the extents, not below zero; if less than a thousandth of a pixel
is left on both, there is no relation. Else (dx, dy) = shortened / |offset|, and

    left of  dx < -1/2      right of  dx > 1/2      above  dy < -1/2      below  dy > 1/2

Two may hold at once. All of it is float32, as in the benchmark's code.
"""

import numpy as np

RELATIONS = ("left of", "right of", "above", "below")
SHORTENED_BY = np.float32(0.1)  # of the sum of both extents
LEAST = np.float32(0.5)  # of a component, not included
_NOTHING = np.float32(1e-3)  # pixels


def components(box: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return how far each relation of `box` to `target` holds; above 1/2 it does.

    Args:
      box, target: [4] float32, x0, y0, x1, y1 in pixels, the maxima exclusive.

    Returns:
      relation -> its component; all are 0 where the boxes' centres are too near.
    """
    corners = np.stack([box, target]).astype(np.float32).reshape(2, 2, 2)  # box, corner, axis
    center, extent = corners.mean(axis=1), corners[:, 1] - corners[:, 0]
    offset = center[0] - center[1]
    room = SHORTENED_BY * (extent[0] + extent[1])
    shortened = np.maximum(np.abs(offset) - room, np.float32(0)) * np.sign(offset)
    if (np.abs(shortened) < _NOTHING).all():
        return dict.fromkeys(RELATIONS, 0.0)
    dx, dy = map(float, shortened / np.linalg.norm(offset))
    return dict(zip(RELATIONS, (-dx, dx, -dy, dy), strict=True))
