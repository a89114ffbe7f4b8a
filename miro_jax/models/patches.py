"""Images into patches and back. B batch, H W C image, P patch side, N patches."""

import jax

Array = jax.Array


def patchify(x: Array, patch: int) -> Array:
    """Cut `[B, H, W, C]` into `[B, N, P P C]`, row by row; values (row, column, channel)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch * c)


def unpatchify(patches: Array, shape: tuple[int, int, int], patch: int) -> Array:
    """Undo `patchify`: `[B, N, P P C]` to `[B, H, W, C]`."""
    h, w, c = shape
    x = patches.reshape(-1, h // patch, w // patch, patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)
