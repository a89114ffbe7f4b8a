"""The released layout of MIRO: `config.json`, `model.safetensors`, `uncond_embedding.npy`.

`read` loads such a folder (the main model, or one trained on any subset of the rewards) into our
network; `write` makes one of our averaged parameters, which the authors' package loads. Both walk
the same table of keys (`official_keys`), so a round trip is exact.

Facts: release 0.1.4 and hub `nicolas-dufour/miro` (arXiv 2510.25897).
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from miro_jax.data.json_file import dump_json
from miro_jax.data.regular_file import read_regular
from miro_jax.data.storage.files import write_atomic
from miro_jax.models import sharding
from miro_jax.models.layers import Linear
from miro_jax.models.rin import RIN, RINConfig
from miro_jax.pretrained.networks.transformer import check_sizes
from miro_jax.pretrained.weights import convert, hf
from miro_jax.pretrained.weights.hub import Repository
from miro_jax.pretrained.weights.official_keys import IGNORED, RELEASE_NAMES, key_table
from miro_jax.pretrained.weights.tensors import write_safetensors

# Where config.json does not list them: those of the main model, in the order of its reward tokens.
ALL_REWARDS = tuple(RELEASE_NAMES)
CONFIG, WEIGHTS, EMPTY = "config.json", "model.safetensors", "uncond_embedding.npy"
MAX_TOKENS, MOST_TOKENS = 77, 2**16  # where config.json has no max_text_len; the most it may be
LARGEST_EMPTY = 2**28  # bytes of uncond_embedding.npy
OURS = "miro_jax"  # section of config.json that only this package reads and writes

# Frequencies are multiplied by 2 pi x: rounding them turns phases.
KEEP_FLOAT32 = r"(.*/)?fourier/.*"
# What the release fixes in code: it has no entry in config.json.
FIXED = {"condition_heads": 16, "condition_layers": 2, "mlp_multiplier": 4, "mlp_multiple": 256}
FIXED |= {"prediction": "velocity", "skip_gate": False, "self_condition": True}
# Our sizes by their names in the section `network`, and what a missing entry means there.
SIZES = {
    "caption_width": "label_dim",
    "patch_size": "patch_size",
    "token_width": "data_dim",
    "latent_width": "latents_dim",
    "num_latent_tokens": "num_latents",
    "num_blocks": "num_blocks",
    "layers_per_block": "num_processing_layers",
    "read_write_heads": "read_write_heads",
    "process_heads": "compute_heads",
    "num_registers": "num_text_registers",
}
ABSENT = {
    "read_write_heads": 16,
    "compute_heads": 16,
    "num_text_registers": 16,
    "use_cond_rin_block": False,
    "concat_cond_token_to_latents": True,
    "use_self_conditioning": False,
}
# The parts of the release's network that ours has.
PARTS = {
    "use_cond_rin_block": True,
    "concat_cond_token_to_latents": False,
    "use_self_conditioning": True,
}
MULTIPLIERS = {"latent_mlp_multiplier": 4, "data_mlp_multiplier": 4}


@dataclasses.dataclass(frozen=True)
class Release:
    """A folder in the released layout, read.

    Attributes:
      config: sizes of the network. reward_names: ours, in the order of the reward tokens.
      network: its parameters and buffers on their devices.
      empty_tokens: [N, E] float32, caption tokens of the empty prompt.
      max_tokens: length that prompts are padded or cut to.
      settings: the whole of config.json. sha256: of the weights, in one file or several.
      normalization: (scale, bias), each [C] float32, that take image latents of the VAE to the
        network's; None where the file does not hold them.
    """

    config: RINConfig
    reward_names: tuple[str, ...]
    network: convert.Network
    empty_tokens: np.ndarray
    max_tokens: int
    settings: Mapping[str, Any]
    sha256: str
    normalization: tuple[np.ndarray, np.ndarray] | None


def read(
    repository: Repository,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> Release:
    """Load a released checkpoint.

    Args:
      repository: from `hub.open`.
      dtype: of parameters and matrix products, "float32" or "bfloat16".
      mesh: where the parameters go; None is the first device.

    Raises:
      FileNotFoundError: a file is missing. ValueError: settings that our network does not have, or
        tensors that do not fit it.
    """
    settings = repository.json(CONFIG)
    config, names, longest = repository.parsed(
        CONFIG, lambda s: (rin_config(s), reward_names(s), _max_tokens(s))
    )
    tensors = repository.tensors()
    layout = convert.Layout(RIN, key_table(names), IGNORED, KEEP_FLOAT32)
    network = layout.load(tensors, config, dtype=dtype, mesh=mesh)
    empty = _empty_tokens(repository, config.caption_width)
    facts = settings, repository.digest(), _normalization(tensors)
    return Release(config, names, network, empty, longest, *facts)


def _empty_tokens(repository: Repository, width: int) -> np.ndarray:
    path = repository.path(EMPTY)
    content = io.BytesIO(read_regular(path, LARGEST_EMPTY))
    with hf.naming(f"{path} is no array of caption tokens"):
        empty = np.load(content, allow_pickle=False).astype(np.float32)
        empty = empty.reshape(-1, empty.shape[-1])
        if empty.shape[-1] != width or not np.isfinite(empty).all():
            raise ValueError(f"it must have the width {width}, and be finite; got {empty.shape}")
    return empty


def _max_tokens(settings: Mapping[str, Any]) -> int:
    longest = settings.get("max_text_len", MAX_TOKENS)
    if type(longest) is not int or not 1 <= longest <= MOST_TOKENS:
        raise ValueError(f"max_text_len must be in [1, {MOST_TOKENS}]; got {longest!r}")
    return longest


def _normalization(tensors) -> tuple[np.ndarray, np.ndarray] | None:
    keys = [f"postprocessing.{name}" for name in ("scale", "bias")]
    if not all(key in tensors for key in keys):
        return None
    scale, bias = (tensors[key].read().reshape(-1).astype(np.float32) for key in keys)
    return scale, bias


def reward_names(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return our names of a checkpoint's rewards."""
    ours = {theirs: name for name, theirs in RELEASE_NAMES.items()}
    keys = settings.get("coherence_keys") or settings["network"].get("coherence_keys")
    return tuple(ours.get(key, key) for key in keys) if keys else ALL_REWARDS


def is_student(settings: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint is an exported student of --stage=distil."""
    return settings.get(OURS, {}).get("student") is True


def rin_config(settings: Mapping[str, Any]) -> RINConfig:
    """Turn the release's config into the sizes of our network.

    Raises:
      ValueError: it needs a part that our network does not have. KeyError: an entry is missing.
    """
    c, pre = ABSENT | settings["network"], dict(settings["preconditioning"])
    hf.require_options(c, PARTS | MULTIPLIERS, f"{CONFIG}: network")
    if pre.get("do_normalization") is True:
        pre["do_normalization"] = "noise_driven"
    wanted = {"do_normalization": "noise_driven", "logvar_mlp_layers": 0}
    hf.require_options(pre, wanted, f"{CONFIG}: preconditioning")
    config = RINConfig(
        latent_shape=(c["data_size"], c["data_size"], c["num_input_channels"]),
        num_rewards=len(reward_names(settings)),
        table_std=0.02,
        sigma=1.0 * pre.get("sigma_data", 0.5),  # no text is a number
        log_variance_features=pre.get("logvar_channels", 128),
        remat=False,
        student=is_student(settings),
        **{ours: c[theirs] for ours, theirs in SIZES.items()},
        **FIXED,
    )
    check_sizes(config)
    return config


def write(
    folder: Path | str,
    config: RINConfig,
    state: nnx.State,
    reward_names: Sequence[str],
    empty_tokens: np.ndarray,
    max_tokens: int,
    normalization: tuple[np.ndarray, np.ndarray] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write averaged parameters and buffers as a folder that the authors' package loads.

    Args:
      folder: made where it is missing; files of the same names are replaced, weights first.
      config: sizes of the network.
      state: all parameters and buffers; written as float32.
      reward_names: ours, in the order of the reward tokens.
      empty_tokens: [N, E], caption tokens of the empty prompt.
      max_tokens: length that prompts are padded or cut to.
      normalization: see `Release`.
      extra: what our own loader needs besides (encoders); the authors' code does not read it.

    Returns:
      The folder.

    Raises:
      ValueError: the network has sizes or parts that the release's has not.
    """
    height, width, _ = config.latent_shape
    wrong = misfits(config)
    wrong += [f"latent_shape must be square; got {config.latent_shape}"] * (height != width)
    wrong += ["at least one reward is needed; got none"] * (not reward_names)
    wrong += ["rewards that were added hide their missing levels"] * (config.added_rewards > 0)
    if wrong:
        raise ValueError(f"The released layout cannot hold this network: {'; '.join(wrong)}.")
    settings = released_settings(config, reward_names, max_tokens)
    ours = dict(extra or {}) | ({"student": True} if config.student else {})
    settings |= {OURS: ours} if ours else {}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = released_tensors(config, state, reward_names)
    if normalization is not None:
        for section in ("data_preprocessing", "postprocessing"):
            for name, value in zip(("scale", "bias"), normalization, strict=True):
                tensors[f"{section}.{name}"] = np.asarray(value, np.float32).reshape(1, -1, 1, 1)
    write_safetensors(folder / WEIGHTS, tensors)
    content = io.BytesIO()
    np.save(content, np.asarray(empty_tokens, np.float32))
    write_atomic(folder / EMPTY, content.getvalue())
    write_atomic(folder / CONFIG, (dump_json(settings, indent=2) + "\n").encode())
    return folder


def misfits(sizes: Any, prefix: str = "") -> list[str]:
    """Return what is not as the release fixes it, of a `RINConfig` or of a run's `model.rin`.

    Args:
      prefix: of the names in the text.
    """
    return [
        f"{prefix}{key} must be {want}; got {getattr(sizes, key)}"
        for key, want in FIXED.items()
        if getattr(sizes, key) != want
    ]


def released_settings(
    config: RINConfig, reward_names: Sequence[str], max_tokens: int
) -> dict[str, Any]:
    """Return the content of `config.json`; the inverse of `rin_config` and `reward_names`."""
    keys = [RELEASE_NAMES.get(name, name) for name in reward_names]
    height = config.latent_shape[0]
    sizes = {theirs: getattr(config, ours) for ours, theirs in SIZES.items()}
    return {
        "network": {
            **sizes,
            **PARTS,
            "data_size": height,
            "num_input_channels": config.latent_shape[2],
            "num_cond_tokens": 1,
            "coherence_keys": keys,
        },
        "preconditioning": {
            **{key: sizes[key] for key in ("num_latents", "latents_dim")},
            "do_normalization": "noise_driven",
            "sigma_data": config.sigma,
            "logvar_channels": config.log_variance_features,
        },
        "data_preprocessing": {"channel_wise_normalisation": True, "vae_sample": True},
        "postprocessing": {"channel_wise_normalisation": True},
        "scheduler": {"start": 1, "end": 0, "clip_min": 1e-9},
        "coherence_keys": keys,
        "data_resolution": height,
        "max_text_len": max_tokens,
    }


def released_tensors(
    config: RINConfig, state: nnx.State, reward_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the tensors of `model.safetensors`: {key: array}, the constant booleans included."""
    with sharding.use_mesh(sharding.one_device_mesh()):
        model = nnx.eval_shape(lambda: RIN(config, rngs=nnx.Rngs(params=0)))
    inputs = {  # path of a linear map -> number of its input axes
        "/".join(map(str, path)): module.num_in
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Linear)
    }
    rows = [(convert.pattern(path, r"\w+"), key, None) for key, path, _ in key_table(reward_names)]
    tensors = {}
    for parts, leaf in nnx.to_flat_state(state):
        path = "/".join(map(str, parts))
        parent, _, name = path.rpartition("/")
        array = np.asarray(leaf.get_raw_value(), np.float32)
        if name == "kernel":
            array = array.reshape(int(np.prod(array.shape[: inputs[parent]])), -1).T
        elif name == "bias":
            array = array.reshape(-1)
        key = next((key for key, _ in convert.targets(path, rows)), None)
        if key is None:
            raise ValueError(f"{path} has no place in the released layout.")
        tensors[key] = np.ascontiguousarray(array)
    return tensors | _constants(config)


def _constants(config: RINConfig) -> dict[str, np.ndarray]:
    """Masks that are always true, and the channel statistics: the authors' loader requires them."""
    blocks = [f"transformers_blocks.{i}" for i in range(config.condition_layers)]
    for i in range(config.num_blocks):
        blocks += [f"rin_blocks.{i}.{n}" for n in ("retriever_ca", "writer_ca", "retrieve_cond")]
        blocks += [f"rin_blocks.{i}.processer_sa.{j}" for j in range(config.layers_per_block)]
    tokens = config.num_registers + config.num_rewards
    masks = {f"network.{block}.attention_mask_dummy": np.ones((1, 1), bool) for block in blocks}
    return masks | {
        "network.registers_coherence_mask": np.ones(tokens, bool),
        "network.cond_mask": np.ones(tokens + 1, bool),
    }
