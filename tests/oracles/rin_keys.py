"""The table that maps the keys of the authors' weights to the paths of `miro_jax.models.rin.RIN`.

Kernels are stored `[out, in]` there and `[*inputs, *outputs]` here: a transpose, then the packs
(q k v, or the halves of SwiGLU) and the heads get axes of their own, in the same order. No torch:
`convert` takes numpy arrays under the keys of a released `model.safetensors`.
"""

import math
import re
from collections.abc import Callable, Mapping

import numpy as np

Arrays = dict[str, np.ndarray]

# Booleans that are always true and never trained.
IGNORED = r"network\.(cond_mask|registers_coherence_mask|(.*\.)?attention_mask_dummy)"


def same(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Take an array as it is; None when the shapes differ."""
    return value if value.shape == shape else None


def split(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Cut a vector `[out]` into packs and heads; None when the sizes differ."""
    return value.reshape(shape) if value.shape == (math.prod(shape),) else None


def transpose(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Turn a kernel `[out, in]` into `[*inputs, *outputs]`; None when no cut of `shape` fits."""
    cuts = [(math.prod(shape[k:]), math.prod(shape[:k])) for k in range(1, len(shape))]
    return value.T.reshape(shape) if value.shape in cuts else None


Row = tuple[str, str, Callable]  # their key, our path (`*` stands for an index), transform


def _below(key: str, path: str, rows: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple((f"{key}.{k}".rstrip("."), f"{path}/{p}", t) for k, p, t in rows)


LINEAR = (("weight", "kernel", transpose), ("bias", "bias", split))
NORM = (("weight", "scale", same), ("bias", "bias", same))
FOURIER = (("freqs", "frequencies", same), ("phases", "phases", same))
TABLE = (("", "table", same),)
GAIN = (("", "layer_scale", same),)
SCALAR = (
    *_below("encode_time", "fourier", FOURIER),
    *_below("map_time_input", "hidden", LINEAR),
    *_below("map_time_output", "out", LINEAR),
)
GELU_MLP = (*_below("linear_1", "hidden", LINEAR), *_below("linear_2", "out", LINEAR))
SWIGLU = (*_below("linear_packed", "packed", LINEAR), *_below("linear_out", "out", LINEAR))
CROSS_ATTENTION = (
    *_below("initial_to_ln", "norm", NORM),
    *_below("ca.q", "q", LINEAR),
    *_below("ca.kv", "kv", LINEAR),
    *_below("ca.q_norm", "q_norm", NORM),
    *_below("ca.k_norm", "k_norm", NORM),
    *_below("ca.out", "out", LINEAR),
    *_below("middle_ln", "mlp_norm", NORM),
    *_below("ffn", "mlp", SWIGLU),
)
SELF_ATTENTION = (
    *_below("initial_ln", "norm", NORM),
    *_below("sa.qkv", "qkv", LINEAR),
    *_below("sa.q_norm", "q_norm", NORM),
    *_below("sa.k_norm", "k_norm", NORM),
    *_below("sa.out", "out", LINEAR),
    *_below("middle_ln", "mlp_norm", NORM),
)
NETWORK = (
    *_below("patch_extractor", "patch_in", LINEAR),
    *_below("data_ln", "patch_norm", NORM),
    *_below("data_pos_embedding", "token_positions", TABLE),
    *_below("latents", "latent_tokens", TABLE),
    *_below("time_embedder", "time", SCALAR),
    *_below("coherence_embedder.*", "rewards/*", SCALAR),
    *_below("coherence_positional_embedding", "reward_positions", TABLE),
    *_below("text_registers", "registers", TABLE),
    *_below("map_text_tokens", "caption_in", LINEAR),
    *_below("transformers_blocks.*", "condition_encoder/*", SELF_ATTENTION),
    *_below("transformers_blocks.*.ffn", "condition_encoder/*/mlp", GELU_MLP),
    *_below("transformers_blocks.*.layer_scale_1", "condition_encoder/*/attention_scale", GAIN),
    *_below("transformers_blocks.*.layer_scale_2", "condition_encoder/*/mlp_scale", GAIN),
    *_below("ln_previous_1", "previous_norm", NORM),
    *_below("linear_previous", "previous_mlp", GELU_MLP),
    *_below("ln_previous_2", "previous_gate", NORM),
    *_below("rin_blocks.*.retrieve_cond", "blocks/*/read_condition", CROSS_ATTENTION),
    *_below("rin_blocks.*.retriever_ca", "blocks/*/read", CROSS_ATTENTION),
    *_below("rin_blocks.*.processer_sa.*", "blocks/*/process/*", SELF_ATTENTION),
    *_below("rin_blocks.*.processer_sa.*.ffn", "blocks/*/process/*/mlp", SWIGLU),
    *_below("rin_blocks.*.writer_ca", "blocks/*/write", CROSS_ATTENTION),
    *_below("map_tokens_to_patches.0", "patch_out_norm", NORM),
    *_below("map_tokens_to_patches.1", "patch_out", LINEAR),
)
KEYS = (
    *((f"network.{key}", path, transform) for key, path, transform in NETWORK),
    *_below("preconditioning.logvar_proj.0", "logvar/fourier", FOURIER),
    *_below("preconditioning.logvar_proj.1", "logvar/out", LINEAR),
)
_PATTERNS = tuple(
    (re.compile(re.escape(key).replace(r"\*", r"(\w+)")), path, transform)
    for key, path, transform in KEYS
)


def locate(key: str, rewards: tuple[str, ...]) -> tuple[str, Callable] | None:
    """Return our path of one of their keys and its transform; None for a key not in the table."""
    for pattern, path, transform in _PATTERNS:
        if match := pattern.fullmatch(key):
            for index in match.groups():
                name = index.removesuffix("_coherence")
                path = path.replace("*", str(rewards.index(name)) if name in rewards else index, 1)
            return path, transform
    return None


def convert(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple], rewards: tuple[str, ...]
) -> Arrays:
    """Map the released tensors to our parameters and buffers.

    Args:
      tensors: their key -> array.
      shapes: our path -> shape, of every parameter and every buffer.
      rewards: the release's names of the rewards, in order.

    Returns:
      Our path -> float32 array (views where possible).

    Raises:
      ValueError: all at once: keys without a place, two keys for one place, places left empty,
        wrong shapes and types.
    """
    found: Arrays = {}
    errors = []
    for key, value in tensors.items():
        if re.fullmatch(IGNORED, key):
            continue
        place = locate(key, rewards)
        if place is None or place[0] not in shapes:
            errors.append(f"{key} has no place in the network")
            continue
        path, transform = place
        if path in found:
            errors.append(f"{path} is given twice, the second time by {key}")
        if value.dtype != np.float32:
            errors.append(f"{key} must be float32; got {value.dtype}")
        array = transform(value, shapes[path])
        if array is None:
            errors.append(f"{key} {value.shape} does not fit {path} {shapes[path]}")
        found[path] = array
    errors += [f"{path} {shapes[path]} is not given" for path in shapes if path not in found]
    if errors:
        raise ValueError("The weights do not fit the network:\n" + "\n".join(errors))
    return found
