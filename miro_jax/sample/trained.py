"""A trained network with its encoders, from a run's folder or from a folder in the released layout.

What sampling and evaluation start with; `MiroPipeline` puts the calls around it.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax import nnx
from jax import numpy as jnp

from miro_jax.cli.stored_checkpoint import forget, locate
from miro_jax.data.json_file import check_fields, read_json
from miro_jax.data.records.bins import Bins
from miro_jax.data.storage.files import to_json
from miro_jax.data.storage.mirror import origin
from miro_jax.models import sharding
from miro_jax.models.fused_attention import resolve
from miro_jax.models.rin import RINConfig
from miro_jax.pretrained.encoders import PUBLISHED, build_caption_encoder, build_image_encoder
from miro_jax.pretrained.weights import official
from miro_jax.rewards.names import short_name
from miro_jax.sample.sources import is_run, open_release, variants
from miro_jax.sample.usual import Usual, read_usual
from miro_jax.train import components
from miro_jax.train.checkpoint import Checkpoints, UnusableError
from miro_jax.train.digest import examine
from miro_jax.train.state import leaf_name

_CONFIG_OF_A_RUN = {
    "data": {"train_rewards": [str]},
    "model?": {"rin?": {"student?": bool}},
    "sample": {"guidance_scale": float, "num_steps": int, "solver": str, "negative": str}
    | dict.fromkeys(("targets?", "negative_targets?"), str),
}
_REWARDS_OF_A_RELEASE = {"coherence_keys?": ([str], None)}
_NEGATIVE = "negative_prompt"  # built into an exported student
_OF_A_RELEASE = _REWARDS_OF_A_RELEASE | {f"{official.OURS}?": {f"{_NEGATIVE}?": str}}


class Peeked(NamedTuple):
    """What the `config.json` of a checkpoint tells.

    Attributes:
      reward_names: of its conditioning rewards, in order.
      sample: `config.sample` where it is a run, None for a release.
      usual: what it is sampled with where nothing else is said.
      is_student: whether it was trained by --stage=distil.
    """

    reward_names: tuple[str, ...]
    sample: dict[str, Any] | None
    usual: Usual
    is_student: bool


@dataclasses.dataclass(frozen=True)
class Trained:
    """Everything that sampling needs.

    Attributes:
      graphdef: structure of the network. weights: its states, parameters first.
      config: sizes of the network.
      image_encoder: see `miro_jax.pretrained.encoders`.
      make_caption_encoder: makes the other one, which may hold billions of parameters.
      reward_names: conditioning rewards, in the order of the reward tokens.
      mesh: where the weights are.
      empty_tokens: [N, E] float32 of the empty prompt; None where the caption encoder makes them.
      name: which weights these are, for manifests.
      step: updates done, None where it is not known.
      bins: the levels of training; None where the checkpoint does not keep them.
      usual: what it is sampled with where nothing else is said.
    """

    graphdef: nnx.GraphDef
    weights: tuple[nnx.State, ...]
    config: RINConfig
    image_encoder: Any
    make_caption_encoder: Callable[[], Any]
    reward_names: tuple[str, ...]
    mesh: jax.sharding.Mesh
    empty_tokens: np.ndarray | None = None
    name: str = ""
    step: int | None = None
    bins: Bins | None = None
    usual: Usual = Usual()

    @functools.cached_property
    def caption_encoder(self) -> Any:
        """The encoder of captions, made when it is first used."""
        return self.make_caption_encoder()

    @property
    def dtype(self) -> str:
        """The type of the network's matrix products, as "float32"."""
        return jnp.dtype(nnx.merge(self.graphdef, *self.weights).dtype).name

    @property
    def attention(self) -> str:
        """The kernel of the network's attention, "xla" or "cudnn"."""
        network = nnx.merge(self.graphdef, *self.weights)
        return resolve(network.attention, network.dtype)


def restore(
    config: ml_collections.ConfigDict, workdir: Path | str, step: int | None = None
) -> Trained:
    """Restore the averaged weights of a run; nothing in its folder is changed.

    Args:
      config: of the run, as it was trained.
      workdir: the run's folder. step: of the checkpoint; None is the newest.

    Raises:
      FileNotFoundError: there is no checkpoint. ValueError: it is not of this config.
    """
    folder = Path(workdir) / "checkpoints"
    shared = origin(workdir) is None
    with Checkpoints(folder, read_only=True, shared=shared) as checkpoints:
        if not checkpoints.steps():
            raise FileNotFoundError(f"{folder} holds no checkpoint; the train stage writes them.")
        parts = components.build_components(config)
        wanted = {"ema_params": parts.abstract.ema_params, "buffers": parts.abstract.buffers}
        explained = components.mismatch_explained(config, workdir)
        with sharding.use_mesh(parts.mesh), explained:
            step, weights, data_state = checkpoints.restore_latest(wanted, step)
    components.check_conditioning(config, data_state)
    components.check_network(config, workdir)
    return of_parts(
        parts,
        (weights["ema_params"], weights["buffers"]),
        name=Path(workdir).name,
        step=step,
        bins=components.stored_bins(data_state),
        usual=read_usual(config.sample),
    )


def use_all_devices(config: ml_collections.ConfigDict) -> None:
    """Free a run's config of the machine that it was trained on."""
    config.mesh.data, config.mesh.model = -1, 1
    config.train.batch_size = config.sample.batch_size = jax.device_count()
    with config.unlocked():  # runs of earlier versions do not have it
        config.train.microbatches = 1


def of_parts(parts: components.Components, weights: tuple, **more: Any) -> Trained:
    """Join the parts of a run with weights, which may be put in later; more: of `Trained`."""
    return Trained(
        parts.graphdef,
        weights,
        parts.network_config,
        parts.image_encoder,
        lambda: parts.caption_encoder,
        parts.reward_names,
        parts.mesh,
        **more,
    )


def load(
    source: str | Path,
    variant: str | None = None,
    *,
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
    text_encoder: str | None = None,
    vae: str | None = None,
    revision: str | None = None,
    step: int | None = None,
) -> Trained:
    """Load a run's folder, a folder in the released layout, or a hub id of one.

    Either folder may be in an object store: what is needed of it is copied here first.

    Args:
      source, variant, dtype, mesh, text_encoder, vae, revision: see
        `MiroPipeline.from_pretrained`. A run brings its own mesh and its encoders.
      step: of a run's checkpoint; None is the newest.

    Raises:
      FileNotFoundError: a file is missing and cannot be fetched. ValueError: settings or weights do
        not fit our network, or an argument does not fit the source.
    """
    folder = locate(source, variants(variant), step)
    url = origin(folder)
    if is_run(folder):
        settings = _config_of_run(folder, source, variant)
        _check_is_release(source, text_encoder=text_encoder, vae=vae, revision=revision)
        config = ml_collections.ConfigDict(settings)
        config.model.dtype, config.model.attention = dtype, "auto"
        use_all_devices(config)
        try:
            return restore(config, folder, step)
        except UnusableError as error:
            if "://" not in str(source):
                raise
            text = f"{source} has no checkpoint that can be used: {error.causes}. "
            raise ValueError(text + forget(folder)) from error
    if step is not None:
        raise ValueError(f"only runs have checkpoints by step; {source} is a release, got {step}.")
    with open_release(source, variant, folder, revision) as repository:
        release = official.read(repository, dtype, mesh)
    images, make_captions = _encoders(release, dtype, mesh, text_encoder, vae)
    _check_image_encoder(release, images, repository)
    return Trained(
        release.network.graphdef,
        (release.network.state,),
        release.config,
        images,
        make_captions,
        release.reward_names,
        release.network.mesh,
        release.empty_tokens,
        f"{url or repository} sha256:{release.sha256}",
        usual=_usual_of_release(release.settings),
    )


def folder_of(source: str | Path, variant: str | None = None, weights: bool = True) -> Path:
    """Return the folder of a checkpoint on this machine; see `stored_checkpoint.locate`.

    Args:
      source, variant: see `load`. weights: False copies the small files alone from a store.
    """
    return locate(source, variants(variant), weights=weights)


def peek(source: str | Path, variant: str | None = None, revision: str | None = None) -> Peeked:
    """Look at what a checkpoint is, reading its `config.json` alone.

    Args:
      source, variant, revision: see `load`.

    Raises:
      FileNotFoundError: there is none. ValueError: it is neither a run nor a release.
    """
    folder = folder_of(source, variant, weights=False)
    if is_run(folder):
        settings = _config_of_run(folder, source, variant)
        names, own = map(short_name, settings["data"]["train_rewards"]), settings["sample"]
        student = settings.get("model", {}).get("rin", {}).get("student", False)
        return Peeked(tuple(names), own, read_usual(own), student)
    with open_release(source, variant, folder, revision) as repository:
        settings = repository.json(official.CONFIG)
    if not isinstance(settings, dict) or not isinstance(settings.get("network"), dict):
        raise ValueError(
            f"{source} must be a run with checkpoints or a folder in the released layout; its "
            f"{official.CONFIG} is of neither."
        )
    check_fields(settings, _OF_A_RELEASE, f"{official.CONFIG} of {source}")
    check_fields(settings["network"], _REWARDS_OF_A_RELEASE, f"{official.CONFIG} of {source}")
    names, usual = official.reward_names(settings), _usual_of_release(settings)
    return Peeked(names, None, usual, official.is_student(settings))


def _usual_of_release(settings: Mapping[str, Any]) -> Usual:
    usual, negative = Usual(), settings.get(official.OURS, {}).get(_NEGATIVE)
    if negative is None:
        return usual
    return Usual(settings=dataclasses.replace(usual.settings, negative_prompt=negative))


def export(trained: Trained, folder: Path | str, encoders: Mapping[str, Any] | None = None) -> Path:
    """Write a trained network in the released layout; see `official.write`.

    Args:
      trained: the network, averaged weights.
      folder: made where it is missing.
      encoders: {"image": arguments, "caption": arguments} that rebuild its encoders, where they are
        not the release's.
    """
    empty = trained.empty_tokens
    if empty is None:
        (empty,) = trained.caption_encoder.encode([""])
    channels = trained.config.latent_shape[-1]
    zero, one = (np.full((1, 1, 1, channels), x, np.float32) for x in (0, 1))
    bias = np.asarray(trained.image_encoder.normalize(zero))
    scale = np.asarray(trained.image_encoder.normalize(one)) - bias
    state = nnx.merge_state(*trained.weights)
    more: dict[str, Any] = {"encoders": dict(encoders)} if encoders else {}
    if trained.config.student:
        more[_NEGATIVE] = trained.usual.settings.negative_prompt
    return official.write(
        folder,
        trained.config,
        state,
        trained.reward_names,
        np.asarray(empty, np.float32).reshape(-1, trained.config.caption_width),
        trained.caption_encoder.max_tokens,
        (scale.reshape(-1), bias.reshape(-1)),
        more,
    )


def weights_name(trained: Trained) -> str:
    """Name the weights, with a digest of them: the file's of a release, the arrays' of a run."""
    if "sha256:" in trained.name:
        return trained.name
    pairs, _ = jax.tree_util.tree_flatten_with_path(trained.weights)
    digests = examine({leaf_name(path): leaf for path, leaf in pairs})
    text = to_json({name: digest for name, (digest, _) in digests.items()})
    return f"{trained.name} step {trained.step} sha256:{hashlib.sha256(text).hexdigest()}"


def _config_of_run(folder: Path, source: str | Path, variant: str | None) -> dict[str, Any]:
    if variant is not None:
        raise ValueError(f"only releases have variants; {source} is a run, got {variant!r}.")
    return read_json(folder / official.CONFIG, _CONFIG_OF_A_RUN)


def _encoders(release, dtype, mesh, text_encoder, vae) -> tuple[Any, Callable[[], Any]]:
    """Build the encoders that a release names, or the published ones; that of captions later."""
    named = release.settings.get(official.OURS, {}).get("encoders")
    if named:
        image = _with_weights(named["image"], "vae", vae)
        caption = _with_weights(named["caption"], "text_encoder", text_encoder)
        return build_image_encoder(**image), functools.partial(build_caption_encoder, **caption)
    images = build_image_encoder(
        "sdxl_vae", weights=vae, size=8 * release.config.latent_shape[0], mesh=mesh
    )
    make_captions = functools.partial(
        build_caption_encoder,
        "flan_t5",
        weights=text_encoder,
        max_tokens=release.max_tokens,
        dtype=dtype,
        mesh=mesh,
    )
    return images, make_captions


def _with_weights(named: Mapping[str, Any], argument: str, weights: str | None) -> dict[str, Any]:
    """Return what builds an encoder that a release names, from other weights where they are given.

    Args:
      named: its name and arguments. argument: what gives the weights, for the message.
    """
    if weights is None:
        return dict(named)
    if named["name"] not in PUBLISHED:
        raise ValueError(
            f"{argument} must be given for an encoder with weights, {' or '.join(PUBLISHED)}; this "
            f"network has {named['name']!r}, which has none, got {weights!r}. Leave it out."
        )
    return dict(named) | {"weights": weights}


def _check_is_release(source: str | Path, **arguments: str | None) -> None:
    """Raise ValueError where an argument is given that releases alone have."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"{name} must be given for a release alone; {source} is a run, got {value!r}."
            )


def _check_image_encoder(release, images, repository) -> None:
    shape = release.config.latent_shape
    if tuple(images.latent_shape) != shape:
        raise ValueError(
            f"{repository} makes image latents {shape}, and the image encoder "
            f"{type(images).__name__} {images.latent_shape}."
        )
    if release.normalization is not None:
        scale, bias = release.normalization
        z = np.ones((1, 1, 1, shape[-1]), np.float32)
        if not np.allclose(np.asarray(images.normalize(z)).reshape(-1), scale + bias, atol=1e-4):
            raise ValueError(
                f"{repository} normalises image latents with scale {scale} and bias {bias}, which "
                f"{type(images).__name__} does not."
            )
