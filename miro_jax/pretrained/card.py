"""What is known of a published network before it is loaded: where its weights are, size and cost.

Costs are those of a forward pass, two floating-point operations a multiply-add, counted in the
compiled programs at the published sizes. Memory is what XLA sets aside for these programs on an
H100 or a TPU, whichever takes more; where devices share parameters it depends on how early XLA
gathers them, so that it is a bound and not a promise.
"""

import dataclasses
import math
import re
import sys

from miro_jax.pretrained.networks import t5_keys
from miro_jax.pretrained.networks.tower import padded_rows
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tokenizer import padded_length

TOKENS_PER_WORD = 1.35  # of T5, about
_BYTES = {"float32": 4, "bfloat16": 2, None: 4}
# Of the parameters that devices along `data` share, the most that was seen gathered at a time.
_GATHERED = 0.5
_FLOAT32_WORK = 1.3  # times that of bfloat16: much of it is float32 there, too


@dataclasses.dataclass(frozen=True)
class TextCost:
    """GFLOP of a caption: a fixed part, and one for each token of its padded length.

    Attributes:
      fixed: GFLOP of any caption. per_token: GFLOP of a token.
      step: captions are padded to multiples of it, in tokens; None: by `padded_length`.
    """

    fixed: float = 0
    per_token: float = 0
    step: int | None = None

    def gflop(self, words: float) -> float:
        """Return the GFLOP of a caption of so many words."""
        tokens = max(words * TOKENS_PER_WORD + 1, 1)
        if self.step is None:
            padded = padded_length(math.ceil(tokens), sys.maxsize)
        else:
            padded = self.step * math.ceil(tokens / self.step)
        return self.fixed + self.per_token * padded


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkCard:
    """A published network.

    Attributes:
      name: of the reward or encoder. weights: hub id.
      stem: of the weight file. used: regular expression of the tensors that are used; "" is all.
      parameters: number of those that stay on devices.
      image_gflop: of an image. text: cost of a caption.
      work_mb: MB that a row takes at most while it runs, in bfloat16.
      rows: of one run on a device; None is the whole batch.
      read_mb: MB of an image while all images are encoded, where that is a run of its own.
      feature_mb: MB of an image's features that stay on the devices.
      uncut: share of the parameters that the mesh axis `model` does not split; None: no axis splits
        any.
    """

    name: str
    weights: str
    stem: str = "model"
    used: str = ""
    parameters: float
    image_gflop: float = 0
    text: TextCost = TextCost()
    work_mb: float
    rows: int | None = None
    read_mb: float = 0
    feature_mb: float = 0
    uncut: float | None = 0

    def repository(self, weights: str | None = None) -> hub.Repository:
        """Open a folder or hub id of weights; None is the published one."""
        return hub.open(weights or self.weights)

    def require_weights(self, weights: str | None = None) -> None:
        """Raise OSError unless the weights can be had; those of the hub are fetched.

        Of weights in several files the list of the files is fetched. See `weights.hub`.
        """
        self.repository(weights).weights(self.stem)

    def check_folder(self, weights: str) -> None:
        """Raise ValueError if `weights` is a folder without the weights of this network.

        Raises:
          FileNotFoundError: it is neither a folder nor a hub id.
        """
        repository = self.repository(weights)
        if not repository.is_local:
            return
        try:
            repository.weights(self.stem)
        except FileNotFoundError as error:
            raise ValueError(
                f"The folder given for {self.name} must hold its weights: {error}"
            ) from error

    def count_parameters(self, weights: str) -> int | None:
        """Count the parameters in use; None if the weights are not in a folder of this machine.

        Raises:
          FileNotFoundError, ValueError: the folder has no such weights, or they are damaged.
        """
        repository = self.repository(weights)
        if not repository.is_local:
            return None
        tensors = repository.tensors(self.stem)
        copies = t5_keys.ALIASES if "shared.weight" in tensors else ()
        return sum(
            math.prod(tensor.shape)
            for key, tensor in tensors.items()
            if re.match(self.used, key) and key not in copies
        )

    def size(self, given: Work, weights: str | None, dtype: str | None, name: str = "") -> Size:
        """Return how large the network is, and what a record costs it.

        Args:
          given: to the worker. weights: folder or hub id, None is the published one; parameters
            are counted in weights of this machine. dtype: of the network.
          name: in place of the card's own.
        """
        count = None if weights is None else self.count_parameters(weights)
        number = self.parameters if count is None else count
        share = number / self.parameters  # what was counted costs little where the model is small
        size, batch = number * _BYTES[dtype], padded_rows(given.batch, given.data) // given.data
        wide = 1.0 if dtype == "bfloat16" else 2.0 if self.uncut is None else _FLOAT32_WORK
        running = max(self.work_mb * min(batch, self.rows or batch), self.read_mb * batch)
        work = (running * wide + self.feature_mb * batch * _BYTES[dtype] / 2) * 1e6 * share
        resident = size
        if self.uncut is not None:
            cut = self.uncut + (1 - self.uncut) / given.model
            resident, work = size * cut / given.data, work * (1 + 1 / given.model) / 2
            work += _GATHERED * size * cut if given.data > 1 else 0
        gflop = sum(part * self.text.gflop(words) for words, part in given.captions)
        gflop = (self.image_gflop + gflop) * share
        repository = self.repository(weights)
        fetch = None if repository.is_here(self.stem) else str(repository)
        return Size(name or self.name, number, count is not None, fetch, resident, work, gflop)
