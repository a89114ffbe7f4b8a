"""The models of the engine: rewards and encoders, in groups that are in memory together.

A group has a name and members: names of rewards, `image` for the image encoder, `captions` for the
caption encoder. What a group makes of an image does not depend on the other groups, so groups may
run together or one after the other, in one process or in several.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from miro_jax.annotate import sizes
from miro_jax.data.sources.images import center_crop_resize
from miro_jax.models import sharding
from miro_jax.pretrained.encoders import PUBLISHED, build_caption_encoder, build_image_encoder
from miro_jax.pretrained.weights import hub
from miro_jax.rewards import base, has_weights, label, load_rewards, ways_to_name

IMAGE, CAPTIONS = "image", "captions"
SECOND_SIZE = 512  # pixels, of the second image latents that records may hold
ENDS = ("", f"_{SECOND_SIZE}")  # of the fields of image latents
# Rewards of this preprocessing take images as they are: squares where there is an image encoder.
AS_IT_IS = "none"


@dataclasses.dataclass(frozen=True)
class Group:
    """A named part of the models. members: names of rewards, "image", "captions"."""

    name: str
    members: tuple[str, ...]


# For the rewards, see `base.prepare_image`, and a square for each image encoder; or a refusal.
Prepared = tuple[dict[str, np.ndarray], tuple[np.ndarray, ...]] | ValueError


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The models of a group, ready to work.

    names: of the rewards as they were requested. rewards: in the order of the record.
    image_encoders: none, one, or two of the same weights, the second for 512 pixels.
    caption_encoder: or None. size: pixels a side of the square that the image encoder and rewards
    without a preprocessing of their own are given; None: these take images as they are.
    """

    names: tuple[str, ...]
    rewards: tuple[base.Reward, ...]
    image_encoders: tuple[Any, ...]
    caption_encoder: Any
    size: int | None

    def facts(self) -> dict[str, Any]:
        """Return JSON values about which models these are; takes a while: files are digested."""
        facts: dict[str, Any] = {
            "rewards": {
                name: {
                    "identity": reward.identity,
                    "tower": reward.tower,
                    "synthetic_form": reward.synthetic_form if reward.needs_caption else None,
                }
                for name, reward in zip(self.names, self.rewards, strict=True)
            }
        }
        for end, encoder in zip(("", f"_{SECOND_SIZE}"), self.image_encoders, strict=False):
            facts[f"image_encoder{end}"] = encoder.identity
            facts[f"latent_shape{end}"] = list(encoder.latent_shape)
        if self.caption_encoder is not None:
            facts["caption_encoder"] = self.caption_encoder.identity
            facts["caption_width"] = self.caption_encoder.width
        return facts

    def prepare(self, image: np.ndarray) -> Prepared:
        """Bring an image [H, W, 3] uint8 into the shapes that the models take.

        Raises:
          ValueError: one of them does not take it.
        """
        prepared = base.prepare_image([r for r in self.rewards if not _as_it_is(r)], image)
        if any(map(_as_it_is, self.rewards)):
            given = image if self.size is None else center_crop_resize(image, self.size)
            prepared |= base.prepare_image([r for r in self.rewards if _as_it_is(r)], given)
        return prepared, tuple(encoder.prepare(image) for encoder in self.image_encoders)


def _as_it_is(reward: base.Reward) -> bool:
    return reward.preprocessing == AS_IT_IS


@dataclasses.dataclass(frozen=True)
class Toolbox:
    """All models of a run, not loaded.

    rewards: names, or rewards that are loaded already. image_encoder, caption_encoder: what
    `build_image_encoder` and `build_caption_encoder` take, or encoders that are built already.
    encode_512: also encode at 512 pixels. weights: name of a reward -> folder or hub id.
    dtype: of the rewards' networks. mesh: of the devices, see `sharding.local_mesh`. groups: in
    the order in which they run.
    """

    rewards: tuple[str | base.Reward, ...]
    image_encoder: Mapping[str, Any] | Any
    caption_encoder: Mapping[str, Any] | Any
    groups: tuple[Group, ...]
    encode_512: bool = False
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dtype: str | None = None
    mesh: tuple[int | None, int] = (None, 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rewards, in order."""
        return tuple(r if isinstance(r, str) else r.name for r in self.rewards)

    @property
    def image_size(self) -> int | None:
        """Pixels a side of the images that the image encoder takes; None without one."""
        if self.image_encoder is None:
            return None
        return self._probe(build_image_encoder, self.image_encoder).size

    def labels(self) -> dict[str, Any]:
        """Return what is known of the models before any is loaded: identities, else names."""
        encoders = {}
        for kind, build, given in (
            ("image_encoder", build_image_encoder, self.image_encoder),
            ("caption_encoder", build_caption_encoder, self.caption_encoder),
        ):
            encoder = self._probe(build, given)
            encoders[kind] = getattr(encoder, "declared", None) or encoder.identity
        rewards = [label(r) if isinstance(r, str) else r.identity for r in self.rewards]
        return {
            "rewards": rewards,
            **encoders,
            "image_size": self.image_size,
            "encode_512": self.encode_512,
            "dtype": self.dtype or "float32",
        }

    def check_width(self, configuration: Mapping[str, Any]) -> None:
        """Raise ValueError where the caption tokens of a complete set are of another width."""
        given = self.caption_encoder
        width, made = isinstance(given, Mapping) and given.get("width"), configuration
        if width and width != made["caption_width"]:
            raise ValueError(
                f"The records are complete, with caption tokens of width {made['caption_width']}; "
                f"requested is {width}."
            )

    def check_weights(self, configuration: Mapping[str, Any]) -> None:
        """Compare the folders of weights that are given with what a complete set was made with.

        Raises:
          ValueError: they hold other weights.
          OSError: they cannot be read.
        """
        made = [configuration["towers"][identity] for identity in configuration["rewards"]]
        towers = dict(zip(self.names, made, strict=True))
        for name, url in self.weights.items():
            repository, model = hub.open(url), sizes.find(name)
            if model is None or not repository.is_local:
                continue
            if repository.digest(model.stem)[:12] not in towers[name]:
                raise _other_weights(name, url, towers[name])
        for kind, build in (
            ("image_encoder", build_image_encoder),
            ("caption_encoder", build_caption_encoder),
        ):
            given = getattr(self, kind)
            url = given.get("weights") if isinstance(given, Mapping) else None
            if url and hub.open(url).is_local:
                identity = self._probe(build, given).identity
                if identity != configuration[kind]:
                    raise _other_weights(kind, url, configuration[kind])

    def make_mesh(self, groups: Sequence[Group]) -> jax.sharding.Mesh | None:
        """Lay out the devices of this process, for groups that hold any network."""
        if not self._has_network(groups):
            return None
        return sharding.local_mesh(*self.mesh)

    def load(self, group: Group, mesh: jax.sharding.Mesh | None) -> Loaded:
        """Load the models of a group.

        Raises:
          OSError, ValueError: a file is missing, or weights do not fit.
        """
        wanted = [
            reward
            for reward, name in zip(self.rewards, self.names, strict=True)
            if name in group.members
        ]
        names = [r for r in wanted if isinstance(r, str)]
        weights = {name: url for name, url in self.weights.items() if name in names}
        built = load_rewards(names, weights=weights, dtype=self.dtype, mesh=mesh)
        known = dict(zip(names, built, strict=True))
        images = ()
        if IMAGE in group.members:
            first = _build(build_image_encoder, self.image_encoder, mesh)
            images = (first, first.at_size(SECOND_SIZE)) if self.encode_512 else (first,)
        captions = None
        if CAPTIONS in group.members:
            captions = _build(build_caption_encoder, self.caption_encoder, mesh)
        rewards = tuple(known[r] if isinstance(r, str) else r for r in wanted)
        requested = tuple(name for name in self.names if name in group.members)
        return Loaded(requested, rewards, images, captions, self.image_size)

    def require_weights(self, groups: Sequence[Group]) -> None:
        """Raise OSError unless the weights of all models of groups can be had."""
        members = {name for group in groups for name in group.members}
        for name in self.names:
            if name in members:
                with hub.naming_folders(*ways_to_name(name)):
                    sizes.require_weights(name, self.weights.get(name))
        encoders = (
            (IMAGE, "image", self.image_encoder),
            (CAPTIONS, "caption", self.caption_encoder),
        )
        for member, kind, given in encoders:
            if member in members and isinstance(given, Mapping):
                flag = f"--{kind}-encoder={given['name']}:weights=FOLDER"
                with hub.naming_folders(flag, f"--config.weights.{kind}_encoder=FOLDER"):
                    sizes.require_weights(given["name"], given.get("weights"))

    def _has_network(self, groups: Sequence[Group]) -> bool:
        members = {name for group in groups for name in group.members}
        encoders = {IMAGE: self.image_encoder, CAPTIONS: self.caption_encoder}
        return any(
            isinstance(given, Mapping) and given["name"] in PUBLISHED
            for member, given in encoders.items()
            if member in members
        ) or any(isinstance(r, str) and r in members and has_weights(r) for r in self.rewards)

    def _probe(self, build, given):
        """Build an encoder without reading any weights."""
        if not isinstance(given, Mapping):
            return given
        # With a width given, any, it is not looked up in the weights.
        width = {"width": 1} if given.get("name") == "flan_t5" and not given.get("width") else {}
        return build(**{**given, **width})


def _other_weights(name: str, url: str, tower: str) -> ValueError:
    return ValueError(
        f"The records are complete and were made with {tower} for {name}; {url} holds other "
        "weights. Name another folder for the records, or those weights."
    )


def _build(build, given, mesh):
    if not isinstance(given, Mapping):
        return given
    if given["name"] not in PUBLISHED:
        return build(**given)
    encoder = build(**given, mesh=mesh)
    encoder.load()  # what does not fit must show before anything is stored
    return encoder
