"""How large the published models of a run are, and what a record costs them.

Parameters are counted in the headers of weights that are on this machine; for others the number of
the model's card is taken. See `pretrained.card` for what the numbers of a card are.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from miro_jax.pretrained.card import NetworkCard
from miro_jax.pretrained.encoders import flan_t5, sdxl_vae
from miro_jax.pretrained.networks.tower import padded_rows
from miro_jax.rewards import card_of

_BYTES = {"float32": 4, "bfloat16": 2, None: 4}
# Of the parameters that devices along `data` share, the most that was seen gathered at a time.
_GATHERED = 0.5
_FLOAT32_WORK = 1.3  # times that of bfloat16: much of it is float32 there, too
_ENCODERS = {card.name: card for card in (sdxl_vae.CARD, flan_t5.CARD)}


@dataclasses.dataclass(frozen=True)
class Work:
    """What a worker gets. batch: images at a time. data, model: devices along the axes.

    captions: of a record, each with its words and the share of records that have it.
    """

    batch: int
    data: int
    model: int
    captions: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Size:
    """A model as it will be used. parameters: number. counted: in its files, else from its card.

    fetch: hub id that its weights must be fetched from first, None where they are here.
    resident: bytes of parameters on each device. work: bytes more on each while it runs.
    gflop: of a record.
    """

    name: str
    parameters: float
    counted: bool
    fetch: str | None
    resident: float
    work: float
    gflop: float


def find(name: str) -> NetworkCard | None:
    """Return the card of a published reward or encoder; None for any other."""
    return _ENCODERS.get(name) or card_of(name)


def size_of_reward(name: str, weights: str | None, dtype: str | None, given: Work) -> Size | None:
    """Return the size of a published reward, None for any other.

    Args:
      name: of the reward. weights: folder or hub id, None for the published ones.
      dtype: of its network.
    """
    card = card_of(name)
    return None if card is None else _size(name, card, weights, dtype, given)


def size_of_encoder(
    arguments: Mapping[str, Any], given: Work, side: int | None = None
) -> Size | None:
    """Return the size of an encoder given as for its builder, None for one without a network.

    Args:
      side: pixels, of an image encoder.
    """
    card = _ENCODERS.get(arguments["name"])
    if card is None:
        return None
    if side is not None:
        more = (side / sdxl_vae.CARD_SIZE) ** 2
        card = dataclasses.replace(
            card,
            image_gflop=card.image_gflop * more,
            work_mb=card.work_mb * more,
            rows=arguments.get("batch_size", card.rows),
        )
    return _size(card.name, card, arguments.get("weights"), arguments.get("dtype"), given)


def _size(
    name: str, card: NetworkCard, weights: str | None, dtype: str | None, given: Work
) -> Size:
    count = None if weights is None else card.count_parameters(weights)
    number = card.parameters if count is None else count
    share = number / card.parameters  # what was counted costs little where the model is small
    size, batch = number * _BYTES[dtype], padded_rows(given.batch, given.data) // given.data
    wide = 1.0 if dtype == "bfloat16" else 2.0 if card.uncut is None else _FLOAT32_WORK
    running = max(card.work_mb * min(batch, card.rows or batch), card.read_mb * batch)
    work = (running * wide + card.feature_mb * batch * _BYTES[dtype] / 2) * 1e6 * share
    resident = size
    if card.uncut is not None:
        cut = card.uncut + (1 - card.uncut) / given.model
        resident, work = size * cut / given.data, work * (1 + 1 / given.model) / 2
        work += _GATHERED * size * cut if given.data > 1 else 0
    gflop = card.image_gflop + sum(part * card.text.gflop(words) for words, part in given.captions)
    repository = card.repository(weights)
    fetch = None if repository.is_here(card.stem) else str(repository)
    return Size(name, number, count is not None, fetch, resident, work, gflop * share)


def check_folder(name: str, weights: str) -> None:
    """Raise ValueError if the folder given for a model holds no weights of it.

    Raises:
      FileNotFoundError: it is neither a folder nor a hub id.
    """
    if card := find(name):
        card.check_folder(weights)


def require_weights(name: str, weights: str | None) -> None:
    """Raise OSError where the weights of a published model cannot be had; see `weights.hub`."""
    if card := find(name):
        card.require_weights(weights)
