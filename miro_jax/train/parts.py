"""What a run is made of, built from its config; and the folder that a run keeps.

Training, sampling and evaluation all start here, so that a network is put together in one place.
"""

import dataclasses
import functools
import json
import logging
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import ml_collections
from flax import nnx

from miro_jax import models, rewards
from miro_jax.data import storage
from miro_jax.data.records.manifest import Manifest
from miro_jax.models import sharding
from miro_jax.models.solvers import get_solver
from miro_jax.pretrained.encoders import PUBLISHED, build_caption_encoder, build_image_encoder
from miro_jax.train.optim import make_optimizer, warmup_cosine
from miro_jax.train.state import abstract_state, graph_of, make_init

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array_record", "numpy")
CONFIG = "config.json"
POSITIVE = (
    "train.num_steps",
    "train.batch_size",
    "train.log_every_steps",
    "train.checkpoint_every_steps",
    "train.keep_checkpoints",
    "sample.num_steps",
    "sample.batch_size",
)
TOLD = "train_rewards"  # in the data state of a checkpoint: what the network is told
SHARES = (
    "train.self_condition_rate",
    "train.reward_dropout",
    "train.caption_dropout",
    "train.ema_decay",
    "data.synthetic_caption_prob",
)


def validate(config: ml_collections.ConfigDict) -> None:
    """Check all that needs no data and no device; ValueError names the key and the remedy."""
    for key in ("rewards", "data.train_rewards"):
        _check_names(config, key)
    unknown = [n for n in config.data.train_rewards if n not in config.rewards]
    if unknown:
        raise ValueError(
            f"config.data.train_rewards must be taken from config.rewards {tuple(config.rewards)}; "
            f"got also {unknown}."
        )
    try:
        get_solver(config.sample.solver)
    except ValueError as error:
        raise ValueError(f"config.sample.solver: {error}") from error
    for key in POSITIVE:
        _check_positive(config, key)
    if config.train.sample_every_steps < 0:
        raise ValueError(
            "config.train.sample_every_steps must be at least 0, which is never; "
            f"got {config.train.sample_every_steps}."
        )
    for key in SHARES:
        _check_share(config, key)
    try:
        make_optimizer(total_steps=config.train.num_steps, **config.optim)
    except ValueError as error:
        raise ValueError(f"config.optim with config.train.num_steps: {error}") from error


def _lookup(config, key):
    return functools.reduce(getattr, key.split("."), config)


def _check_names(config, key):
    names = _lookup(config, key)
    # The command line makes one name of a,b without quotes.
    if isinstance(names, str) or not all(isinstance(n, str) and "," not in n for n in names):
        raise ValueError(
            f"config.{key} must be a tuple of names; got {names!r}. Write "
            f"--config.{key}=\"('a','b')\" with the quotes."
        )
    known = sorted([*rewards.REWARDS, *rewards.VERSIONS])
    unknown = [n for n in names if n not in known]
    if unknown:
        raise ValueError(f"config.{key}: unknown rewards {unknown}; known: {known}.")
    if key == "rewards" and not names:
        raise ValueError(f"config.{key} must name at least one reward of {known}.")
    if len(set(names)) != len(names):
        raise ValueError(f"config.{key} must name each reward once; got {tuple(names)}.")


def _check_positive(config, key):
    if _lookup(config, key) < 1:
        raise ValueError(f"config.{key} must be at least 1; got {_lookup(config, key)}.")


def _check_share(config, key):
    if not 0 <= _lookup(config, key) <= 1:
        raise ValueError(f"config.{key} must be in [0, 1]; got {_lookup(config, key)}.")


def check_batch(batch_size: int, key: str, mesh: jax.sharding.Mesh) -> None:
    """Refuse a global batch that does not divide over the mesh."""
    size = mesh.shape["data"]
    if batch_size % size:
        raise ValueError(
            f"config.{key} must be a multiple of the {size} devices on mesh axis 'data'; "
            f"got {batch_size}."
        )


@dataclasses.dataclass(frozen=True)
class Parts:
    """A run's objects. None of them holds parameters of the network.

    Attributes:
      image_encoder, caption_encoder: see `miro_jax.pretrained.encoders`.
      reward_names: what the network is told, in the order of its reward tokens.
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
    network_config: models.RINConfig
    optimizer: Any
    schedule: Any
    init: Any
    abstract: Any
    shardings: Any


def build_parts(config: ml_collections.ConfigDict) -> Parts:
    """Build everything of a run except its data and its parameters."""
    image_encoder = build_image_encoder(**image_encoder_arguments(config))
    caption_encoder = build_caption_encoder(**caption_encoder_arguments(config))
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.model)
    check_batch(config.train.batch_size, "train.batch_size", mesh)
    check_batch(config.sample.batch_size, "sample.batch_size", mesh)
    sizes = (
        config.model,
        image_encoder.latent_shape,
        caption_encoder.width,
        len(config.data.train_rewards),
    )
    build_model = functools.partial(_build_model, *sizes)
    with sharding.use_mesh(mesh):
        optimizer = make_optimizer(total_steps=config.train.num_steps, **config.optim)
        schedule = warmup_cosine(
            config.optim.learning_rate,
            config.optim.warmup_steps,
            config.train.num_steps,
            config.optim.rate,
        )
        init = make_init(build_model, optimizer)
        abstract, shardings = abstract_state(init, mesh)
        graphdef = graph_of(build_model)
    return Parts(
        image_encoder,
        caption_encoder,
        tuple(config.data.train_rewards),
        mesh,
        graphdef,
        models.rin_config(*sizes),
        optimizer,
        schedule,
        init,
        abstract,
        shardings,
    )


def _build_model(model, latent_shape, caption_width, num_rewards, rngs):
    return models.build(model, latent_shape, caption_width, num_rewards, rngs=rngs)


def load_rewards(config: ml_collections.ConfigDict) -> list:
    """Load every reward of `config.rewards`, in order."""
    return rewards.load_rewards(
        config.rewards, weights=reward_weights(config), dtype=config.annotate.dtype
    )


def reward_labels(config: ml_collections.ConfigDict) -> list[str]:
    """Return what is known of the rewards before any is loaded: identities, else names."""
    return [
        name if rewards.has_weights(name) else rewards.load_reward(name).identity
        for name in config.rewards
    ]


def reward_weights(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Return where the weights of rewards are, as far as the config says: name -> place."""
    published = [name for name in config.rewards if rewards.has_weights(name)]
    places = {name: config.weights.get(name.partition("@")[0], "") for name in published}
    return {name: place for name, place in places.items() if place}


def image_encoder_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return what `encoders.build_image_encoder` takes for a run."""
    return _encoder_arguments(config, "image")


def caption_encoder_arguments(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Return what `encoders.build_caption_encoder` takes for a run."""
    return _encoder_arguments(config, "caption")


def _encoder_arguments(config: ml_collections.ConfigDict, kind: str) -> dict[str, Any]:
    arguments = dict(config.encoder[kind])
    if arguments["name"] in PUBLISHED:
        arguments["weights"] = config.weights[f"{kind}_encoder"] or None
    return arguments


def records_folder(config: ml_collections.ConfigDict, workdir: Path) -> Path:
    """Folder of the annotated records of a run; ValueError where it is in an object store."""
    folder = storage.open_folder(config.data.records or Path(workdir) / "records")
    if not isinstance(folder, storage.LocalFolder) or "\n" in str(folder):
        raise ValueError(
            f"config.data.records must be a folder of this machine; got {config.data.records!r}. "
            "Only the annotate stage writes to an object store: copy or mount the records."
        )
    return folder.path


def check_encoders(parts: Parts, manifest: Manifest) -> None:
    """Raise ValueError unless records were made with the encoders of a run.

    Names and versions are compared; weights too, where their folder is given.
    """
    made = manifest.configuration
    for key, encoder in (("image", parts.image_encoder), ("caption", parts.caption_encoder)):
        repository = getattr(encoder, "repository", None)
        fields = 2 if repository is not None and repository.is_local else 1
        ours = encoder.identity if fields == 2 or repository is None else encoder.declared
        theirs = made[f"{key}_encoder"]
        if ours.split("-")[:fields] != theirs.split("-")[:fields]:
            raise ValueError(
                f"The records must be made with the {key} encoder of the config, {ours}; they were "
                f"with {theirs}. Change config.encoder.{key} or config.weights.{key}_encoder, or "
                "annotate again."
            )


def check_told(config: ml_collections.ConfigDict, data_state: Mapping[str, Any]) -> None:
    """Raise ValueError unless a checkpoint's network was told the rewards of the config, in order.

    Shapes do not tell them apart.
    """
    asked, told = list(config.data.train_rewards), data_state.get(TOLD)
    if told is not None and told != asked:
        raise ValueError(
            f"config.data.train_rewards must be those of the checkpoint, {told}; got {asked}. Use "
            "the config of that run, or another folder."
        )


def open_folder(
    config: ml_collections.ConfigDict, workdir: Path, stage: str, arguments: Sequence[str] = ()
) -> None:
    """Make the run's folder, start its log and write `config.json` and `run.json`.

    Once there are checkpoints, `config.json` is that of their network, written by training; other
    stages write `config-STAGE.json`.

    Raises:
      PermissionError or NotADirectoryError: the folder cannot be written, with the remedy.
    """
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(workdir / "log.txt")
    except OSError as error:
        raise PermissionError(
            f"--workdir must be a folder that can be written; got {workdir} ({error.strerror}). "
            "Give another one."
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("miro_jax")
    logger.setLevel(logging.INFO)
    for old in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    if jax.process_index() == 0:
        has_network = (workdir / "checkpoints").is_dir()
        write_config(config, workdir / (f"config-{stage}.json" if has_network else CONFIG))
        (workdir / "run.json").write_text(json.dumps(describe(stage, arguments), indent=2) + "\n")


def write_config(config: ml_collections.ConfigDict, path: Path) -> None:
    """Write a config as JSON."""
    path.write_text(config.to_json_best_effort(indent=2) + "\n")


def describe(stage: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Say what ran: command line, git revision, package versions, devices."""
    return {
        "command": shlex.join(["python", "-m", "miro_jax.main", *arguments]),
        "stage": stage,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "devices": [str(d) for d in jax.devices()],
        "processes": jax.process_count(),
    }


def _git_revision() -> str:
    """The commit of the source tree, with a mark when it has uncommitted changes."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown: git is not installed"
    return done.stdout.strip() or f"unknown: {done.stderr.strip()}"
