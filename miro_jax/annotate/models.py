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

from miro_jax.data.sources.images import center_crop_resize
from miro_jax.models import sharding
from miro_jax.models.fused_attention import resolve
from miro_jax.pretrained.card import NetworkCard
from miro_jax.pretrained.encoders import (
    build_caption_encoder,
    build_image_encoder,
    flan_t5,
    sdxl_vae,
)
from miro_jax.pretrained.weights import hub
from miro_jax.rewards import (
    base,
    card_of,
    contract,
    has_weights,
    label,
    load_rewards,
    ways_to_name,
)
from miro_jax.rewards.names import is_own, is_process

IMAGE, CAPTIONS = "image", "captions"
# Of each encoder, its name in settings, requests and manifests.
ENCODERS = {IMAGE: "image_encoder", CAPTIONS: "caption_encoder"}
_BUILD = {IMAGE: build_image_encoder, CAPTIONS: build_caption_encoder}
_CARDS = {card.name: card for card in (sdxl_vae.CARD, flan_t5.CARD)}
SECOND_SIZE = 512  # pixels, of the second image latents that records may hold
ENDS = ("", f"_{SECOND_SIZE}")  # of the fields of image latents
# Rewards of this preprocessing take images as they are: squares where there is an image encoder.
AS_IT_IS = "none"


def find_card(name: str) -> NetworkCard | None:
    """Return the card of a published reward or encoder; None for any other."""
    return _CARDS.get(name) or card_of(name)


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
    attention: the kernel of the networks' attention, see `fused_attention`.
    """

    names: tuple[str, ...]
    rewards: tuple[base.Reward, ...]
    image_encoders: tuple[Any, ...]
    caption_encoder: Any
    size: int | None
    attention: str = "xla"

    def facts(self) -> dict[str, Any]:
        """Return JSON values about which models these are; takes a while: files are digested."""
        facts: dict[str, Any] = {
            "rewards": {
                noted_name(name): {
                    "identity": reward.identity,
                    "tower": reward.tower,
                    "synthetic_form": reward.synthetic_form if reward.needs_caption else None,
                }
                for name, reward in zip(self.names, self.rewards, strict=True)
            }
        }
        for end, encoder in zip(ENDS, self.image_encoders, strict=False):
            facts[f"image_encoder{end}"] = encoder.identity
            facts[f"latent_shape{end}"] = list(encoder.latent_shape)
        if self.caption_encoder is not None:
            facts["caption_encoder"] = self.caption_encoder.identity
            facts["caption_width"] = self.caption_encoder.width
        if self.attention != "xla":  # its bits are others, and manifests before it named none
            facts["attention"] = self.attention
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


def noted_name(name: str) -> str:
    """Return what parts and pieces call a reward, however the path of a file of your own is typed.

    It may lie in another folder on each machine, and `process:` name another interpreter.
    """
    return label(name) if is_own(name) or is_process(name) else name


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
    def encoders(self) -> dict[str, Any]:
        """The image encoder and the caption encoder, by their name as members of groups."""
        both = {IMAGE: self.image_encoder, CAPTIONS: self.caption_encoder}
        return {member: given for member, given in both.items() if given is not None}

    @property
    def image_size(self) -> int | None:
        """Pixels a side of the images that the image encoder takes; None without one."""
        return None if self.image_encoder is None else self._probe(IMAGE).size

    def labels(self) -> dict[str, Any]:
        """Return what is known of the models before any is loaded: identities, else names."""
        encoders = {}
        for member in self.encoders:
            encoder = self._probe(member)
            declared = getattr(encoder, "declared", None)
            encoders[ENCODERS[member]] = declared or encoder.identity
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
            repository, card = hub.open(url), find_card(name)
            if card is None or not repository.is_local:
                continue
            if repository.digest(card.stem)[:12] not in towers[name]:
                raise _other_weights(name, url, towers[name])
        for member, given in self.encoders.items():
            url = given.get("weights") if isinstance(given, Mapping) else None
            made_with = configuration[ENCODERS[member]]
            if url and hub.open(url).is_local and self._probe(member).identity != made_with:
                raise _other_weights(ENCODERS[member], url, made_with)

    def make_mesh(self, groups: Sequence[Group]) -> jax.sharding.Mesh | None:
        """Lay out the devices of this process, for groups that hold any network."""
        members = {name for group in groups for name in group.members}
        networks = [r for r in self.rewards if isinstance(r, str) and has_weights(r)]
        networks += [member for member in self.encoders if self._is_published(member)]
        return None if members.isdisjoint(networks) else sharding.local_mesh(*self.mesh)

    def load(self, group: Group, mesh: jax.sharding.Mesh | None) -> Loaded:
        """Load the models of a group.

        Raises:
          OSError, ValueError: a file is missing, or weights do not fit.
        """
        both = zip(self.names, self.rewards, strict=True)
        wanted = {name: reward for name, reward in both if name in group.members}
        names = [name for name, reward in wanted.items() if isinstance(reward, str)]
        weights = {name: url for name, url in self.weights.items() if name in names}
        built = load_rewards(names, weights=weights, dtype=self.dtype, mesh=mesh)
        wanted |= dict(zip(names, built, strict=True))
        images = ()
        if IMAGE in group.members:
            first = self._build(IMAGE, mesh)
            images = (first, first.at_size(SECOND_SIZE)) if self.encode_512 else (first,)
        captions = self._build(CAPTIONS, mesh) if CAPTIONS in group.members else None
        kernel = "xla" if mesh is None else resolve("auto", self.dtype or "float32")
        rewards = tuple(wanted.values())
        if len(built) < len(rewards):  # some were given as objects
            contract.check_shared(rewards)
        return Loaded(tuple(wanted), rewards, images, captions, self.image_size, kernel)

    def require_weights(self, groups: Sequence[Group]) -> None:
        """Raise OSError unless the weights of all models of groups can be had."""
        members = {name for group in groups for name in group.members}
        for name in self.names:
            if name in members and (card := find_card(name)):
                with hub.naming_folders(*ways_to_name(name)):
                    card.require_weights(self.weights.get(name))
        for member, given in self.encoders.items():
            if member in members and self._is_published(member):
                kind = ENCODERS[member]
                flag = f"--{kind.replace('_', '-')}={given['name']}:weights=FOLDER"
                with hub.naming_folders(flag, f"--config.weights.{kind}=FOLDER"):
                    _CARDS[given["name"]].require_weights(given.get("weights"))

    def _is_published(self, member: str) -> bool:
        """Return whether an encoder is to be loaded from published weights."""
        given = self.encoders[member]
        return isinstance(given, Mapping) and given["name"] in _CARDS

    def _probe(self, member: str) -> Any:
        """Build an encoder without reading any weights."""
        given = self.encoders[member]
        if not isinstance(given, Mapping):
            return given
        # With a width given, any, it is not looked up in the weights.
        width = {"width": 1} if given.get("name") == "flan_t5" and not given.get("width") else {}
        return _BUILD[member](**{**given, **width})

    def _build(self, member: str, mesh: jax.sharding.Mesh | None) -> Any:
        given = self.encoders[member]
        if not isinstance(given, Mapping):
            return given
        if not self._is_published(member):
            return _BUILD[member](**given)
        encoder = _BUILD[member](**given, mesh=mesh)
        encoder.load()  # what does not fit must show before anything is stored
        return encoder


def _other_weights(name: str, url: str, tower: str) -> ValueError:
    return ValueError(
        f"The records are complete and were made with {tower} for {name}; {url} holds other "
        "weights. Name another folder for the records, or those weights."
    )
