"""The parts of a run, built from its config: encoders, mesh, network, optimizer, and their checks.

Training, sampling and evaluation all build their network here.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from miro_jax.cli import build, run_folder
from miro_jax.cli.build import Config
from miro_jax.data.json_file import read_json
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.options import Options
from miro_jax.data.storage.claim import AnotherRequest, describe_difference
from miro_jax.models import rin, sharding
from miro_jax.models.fused_attention import check_kernel, resolve
from miro_jax.pretrained.encoders import build_caption_encoder, build_image_encoder
from miro_jax.rewards.names import REWARD_NAMES, short_name
from miro_jax.rewards.table import check_names
from miro_jax.train.checkpoint import LayoutMismatch
from miro_jax.train.optim import make_optimizer, schedule_of
from miro_jax.train.settings import Distillation, Extension, Optim, Training
from miro_jax.train.state import Init, abstract_state

DTYPES = ("float32", "bfloat16", "float16")  # of matrix products
# Of config.model.rin: with another value it is another network of the same shapes.
UNSEEN = ("prediction", "sigma", "added_rewards")
# Of a run's config: what the names and shapes of its state depend on.
_OF_STATE = ("data.train_rewards", "model.rin", "encoder.image", "encoder.caption", "optim.name")
_OF_RECORDS = ("source.shapes", "rewards")  # and what its records depend on besides
_SHOWN = 4  # differences in a message
# In the data state of a checkpoint: the conditioning rewards, and the content of bins.json.
CONDITIONED_ON, BINS = "train_rewards", "bins"


def validate(config: Config) -> None:
    """Check all that needs no data and no device; ValueError names the key and the remedy."""
    _check_names("rewards", config.rewards)
    _check_names("data.train_rewards", config.data.train_rewards)
    unknown = [n for n in config.data.train_rewards if n not in config.rewards]
    if unknown:
        raise ValueError(
            f"config.data.train_rewards must be taken from config.rewards {tuple(config.rewards)}; "
            f"got also {', '.join(unknown)}."
        )
    if not 0 <= config.seed < 1 << 32:
        raise ValueError(f"config.seed must be in 0..{(1 << 32) - 1}; got {config.seed}.")
    sharding.check_sizes(config.mesh.data, config.mesh.model)
    for key in ("start_seconds", "heartbeat_seconds", "behind_seconds"):
        if not config.mesh[key] >= 1:
            raise ValueError(f"config.mesh.{key} must be at least 1; got {config.mesh[key]}.")
    if config.model.dtype not in DTYPES:
        raise ValueError(
            f"config.model.dtype must be one of {', '.join(DTYPES)}; got {config.model.dtype!r}."
        )
    check_kernel(config.model.attention)
    patch = config.model.rin.patch_size
    num_rewards = len(config.data.train_rewards)
    rin.rin_config(config.model, (patch, patch, 1), 1, num_rewards)  # its encoder comes later
    if config.data.new_reward:
        _check_names("data.new_reward", (config.data.new_reward,))
    optim, training = Optim(**config.optim), Training(**config.train)
    Distillation(**config.distil)
    try:
        data_options(config)
    except ValueError as error:
        raise ValueError(f"config.data.{error}") from None
    Extension(**config.extend)
    try:
        make_optimizer(optim, training.num_steps)
    except ValueError as error:
        raise ValueError(f"config.optim with config.train.num_steps: {error}") from error


def _check_names(key: str, names: Any) -> None:
    # The command line makes one name of a,b without quotes.
    if isinstance(names, str) or not all(isinstance(n, str) and "," not in n for n in names):
        raise ValueError(
            f"config.{key} must be a tuple of names; got {names!r}. Write "
            f"--config.{key}=\"('a','b')\" with the quotes."
        )
    if key == "rewards" and not names:
        raise ValueError(
            f"config.{key} must name at least one reward of {', '.join(REWARD_NAMES)}."
        )
    try:
        check_names(names)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"config.{key}: {error}") from error
    if key == "data.train_rewards" and len(set(map(short_name, names))) != len(names):
        raise ValueError(f"config.{key} must name one version of each reward; got {tuple(names)}.")


def data_options(config: Config, **more: Any) -> Options:
    """Return how the records of a run become batches; more: what the config does not say."""
    return Options(
        batch_size=config.train.batch_size,
        seed=config.seed,
        synthetic_caption_prob=config.data.synthetic_caption_prob,
        max_tokens=config.encoder.caption.max_tokens,
        caption_buckets=config.data.caption_buckets,
        num_threads=config.data.read_threads,
        prefetch_batches=config.data.prefetch_batches,
        shuffle_shards=config.data.shuffle_shards,
        lanes=config.data.lanes,
        stage_bytes=config.data.stage_bytes,
        **more,
    )


def check_batch(batch_size: int, key: str, mesh: jax.sharding.Mesh) -> None:
    """Raise ValueError unless a global batch divides over the mesh."""
    size = mesh.shape["data"]
    if batch_size < 1 or batch_size % size:
        raise ValueError(
            f"config.{key} must be a multiple of the {size} devices on mesh axis 'data'; "
            f"got {batch_size}."
        )


def check_microbatches(config: Config, devices: int) -> None:
    """Raise ValueError unless microbatches of a config divide over the mesh axis `data`."""
    parts = Training(**config.train).microbatches * devices
    if config.train.batch_size % parts:
        raise ValueError(
            "config.train.batch_size must be a multiple of config.train.microbatches times the "
            f"devices on mesh axis 'data', {parts}; got {config.train.batch_size}."
        )


def check_batches(config: Config) -> jax.sharding.Mesh:
    """Return the mesh of a config; ValueError unless devices and batches fit it."""
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.model)
    check_batch(config.train.batch_size, "train.batch_size", mesh)
    check_microbatches(config, mesh.shape["data"])
    check_batch(config.sample.batch_size, "sample.batch_size", mesh)
    return mesh


@dataclasses.dataclass(frozen=True)
class Components:
    """A run's objects. None of them holds parameters of the network.

    Attributes:
      image_encoder, caption_encoder: see `miro_jax.pretrained.encoders`.
      reward_names: the conditioning rewards, in the order of the network's reward tokens.
      mesh: device mesh; enter it with `sharding.use_mesh`.
      graphdef: static structure of the network. network_config: its sizes.
      optimizer: optax transformation. schedule: step -> learning rate.
      init: key -> TrainState. abstract, shardings: of that state on the mesh.
    """

    image_encoder: Any
    caption_encoder: Any
    reward_names: tuple[str, ...]
    mesh: jax.sharding.Mesh
    graphdef: nnx.GraphDef
    network_config: rin.RINConfig
    optimizer: Any
    schedule: Any
    init: Any
    abstract: Any
    shardings: Any


def build_components(config: Config) -> Components:
    """Build everything of a run except its data and its parameters."""
    image_encoder = build_image_encoder(**build.encoder_arguments(config, "image"))
    caption_encoder = build_caption_encoder(**build.encoder_arguments(config, "caption"))
    mesh = check_batches(config)
    resolve(config.model.attention, config.model.dtype)
    sizes = (
        config.model,
        image_encoder.latent_shape,
        caption_encoder.width,
        len(config.data.train_rewards),
    )

    def build_model(rngs: nnx.Rngs) -> nnx.Module:
        return rin.build(*sizes, rngs=rngs)

    network_config = rin.rin_config(*sizes)
    settings = Optim(**config.optim), config.train.num_steps
    if settings[0].trainable != "all" and not network_config.added_rewards:
        raise ValueError(
            f"config.optim.trainable={settings[0].trainable!r} must come with a reward that "
            "--stage=extend has added; this network has none. Set it to 'all'."
        )
    with sharding.use_mesh(mesh):
        optimizer = make_optimizer(*settings)
        init = Init(build_model, optimizer)
        abstract, shardings = abstract_state(init, mesh)
    return Components(
        image_encoder=image_encoder,
        caption_encoder=caption_encoder,
        reward_names=tuple(map(short_name, config.data.train_rewards)),
        mesh=mesh,
        graphdef=init.graphdef,
        network_config=network_config,
        optimizer=optimizer,
        schedule=schedule_of(*settings),
        init=init,
        abstract=abstract,
        shardings=shardings,
    )


def describe_training(config: Config, bins: Bins) -> dict[str, Any]:
    """Return what a checkpoint stores beside the position in the data: rewards and levels."""
    return {CONDITIONED_ON: list(config.data.train_rewards), BINS: bins.to_dict()}


def stored_bins(data_state: Mapping[str, Any]) -> Bins | None:
    """Return the levels that training used, from a checkpoint; None for an early version's."""
    content = data_state.get(BINS)
    return None if content is None else Bins.from_dict(content)


def check_conditioning(config: Config, data_state: Mapping[str, Any]) -> None:
    """Raise ValueError unless a checkpoint has the conditioning rewards of the config, in order.

    The shapes of the parameters do not show it.
    """
    wanted, saved = list(config.data.train_rewards), data_state.get(CONDITIONED_ON)
    if saved is not None and [*map(short_name, saved)] != [*map(short_name, wanted)]:
        raise ValueError(
            f"config.data.train_rewards must be those of the checkpoint, {saved}; got {wanted}. "
            "Use the config of that run, or another folder."
        )


@contextlib.contextmanager
def mismatch_explained(config: Config, workdir: str | os.PathLike) -> Iterator[None]:
    """Name the keys that a config has otherwise than a run whose state or records are refused."""
    try:
        yield
    except (LayoutMismatch, AnotherRequest) as error:
        of_records = isinstance(error, AnotherRequest)
        keys = (*_OF_RECORDS, *_OF_STATE) if of_records else _OF_STATE
        path = Path(workdir) / run_folder.CONFIG
        here = _values(json.loads(config.to_json()), keys)
        there = _values(read_json(path), keys) if path.is_file() else here
        differing = [describe_difference(k, there[k], here[k]) for k in here if there[k] != here[k]]
        if not differing:
            raise
        if more := differing[_SHOWN:]:
            differing = [*differing[:_SHOWN], f"{len(more)} more differ"]
        raise type(error)(
            f"--config must have the {'records, ' * of_records}network and optimizer of the run in "
            f"{workdir}: {'; '.join(differing)}. Use the config of that run, or another --workdir."
        ) from error


def _values(config: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    parts = (key.partition(".") for key in keys)
    return {
        f"config.{part}{dot}{key}": config.get(part, {}).get(key) if key else config.get(part)
        for part, dot, key in parts
    }


def check_network(config: Config, workdir: str | os.PathLike) -> None:
    """Raise ValueError unless the network of the config is that of a run with checkpoints.

    The names and shapes of the parameters, which are compared elsewhere, do not show all of it.
    """
    path = Path(workdir) / run_folder.CONFIG
    if not path.is_file():
        return
    saved, wanted = read_json(path, {"model": {"rin": dict}})["model"]["rin"], config.model.rin
    wrong = [name for name in UNSEEN if name in saved and saved[name] != wanted[name]]
    if wrong:
        differ = ", ".join(f"{name}={saved[name]} there, {wanted[name]} here" for name in wrong)
        raise ValueError(
            f"config.model.rin must be that of the run in {path.parent}; got {differ}. Use the "
            "config of that run, or another folder."
        )
