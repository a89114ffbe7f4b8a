"""Caption encoder of the paper: the encoder of FLAN-T5-XL, one vector per token.

Captions keep their case; the tokenizer adds the end token. Tokens come without padding, the
end token included. Captions are encoded in groups of similar length, each padded to one of a few
lengths, so that programs are few; the tokens of a caption depend neither on that length nor on the
captions beside it, apart from rounding.

Source: Dufour et al. 2025 (arXiv 2510.25897); the weights are google/flan-t5-xl (Apache-2.0). The
released pipeline cuts prompts at 77 tokens, training at 256, annotation at 2048.

Letters: B captions, L tokens, D width.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from numpy.typing import DTypeLike

from miro_jax.pretrained.card import NetworkCard, TextCost
from miro_jax.pretrained.networks import t5, t5_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights import convert, hub
from miro_jax.pretrained.weights.tokenizer import (
    by_length,
    check_vocabulary,
    cut_ids,
    encode_texts,
    load_tokenizer,
    once_each,
    pad_rows,
    padded_length,
    tokenizer_files,
    vocabulary,
)

ROWS = 64  # captions in one run, per device of the mesh axis `data`
PADDING = 0
CARD = NetworkCard(
    name="flan_t5",
    weights="google/flan-t5-xl",
    used=r"(encoder\.|shared\.)",
    parameters=1223.5e6,
    text=TextCost(per_token=2.33),
    work_mb=31,
    rows=ROWS,
    uncut=0.05,
)


class FlanT5Encoder:
    """Encode captions by the encoder of a T5 1.1 or FLAN-T5.

    Args:
      weights: hub id, or a folder in the same layout (config.json, tokenizer.json or
        spiece.model, model*.safetensors); only the encoder's tensors are read.
      dtype: of parameters and matrix products, "float32" or "bfloat16".
      mesh: devices that share the parameters and the captions; None is the first device.
      max_tokens: longest L, the end token included; longer captions are cut.
      width: D, where it is known: then no file is read before it is needed.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: max_tokens is below 1, dtype is unknown, the weights are no T5 1.1, or of
        another width.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
        max_tokens: int = 77,
        width: int | None = None,
    ):
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1; got {max_tokens}.")
        self.repository = hub.open(CARD.weights if weights is None else weights)
        if dtype not in convert.DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(convert.DTYPES)}; got {dtype!r}.")
        self.max_tokens, self.dtype, self._mesh = max_tokens, dtype, mesh
        self.width = self._config.width if width is None else width
        if width is None:
            self.load()

    def load(self) -> None:
        """Read what encoding needs, now.

        Raises:
          OSError: a file is missing. ValueError: it does not fit.
        """
        _ = self.tokenizer, self.tower

    @functools.cached_property
    def _config(self) -> t5.T5Config:
        parse = functools.partial(t5_keys.parse_config, encoder_only=True)
        return self.repository.parsed("config.json", parse)

    @functools.cached_property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer, loaded."""
        return load_tokenizer(self.repository, "t5")

    @functools.cached_property
    def tower(self) -> Tower:
        """The network, loaded."""
        config = self._config
        if config.width != self.width:
            raise ValueError(
                f"width must be that of {self.repository}, {config.width}; got {self.width}."
            )
        check_vocabulary(vocabulary(self.tokenizer), config.vocabulary, self.repository)
        network = t5_keys.load(
            self.repository.tensors(), config, encoder_only=True, dtype=self.dtype, mesh=self._mesh
        )
        return Tower(network)

    @functools.cached_property
    def identity(self) -> str:
        """Name, version and everything that changes the tokens; reads the weights."""
        return self._identity(
            self.repository.digest("model", *tokenizer_files(self.repository, "t5"))[:12]
        )

    @property
    def declared(self) -> str:
        """The identity as far as it is known without the weights, for `fnmatch`."""
        return self._identity("*")

    def _identity(self, digest: str) -> str:
        return f"flan_t5@1-{digest}-{self.dtype}-max{self.max_tokens}"

    def count_tokens(self, captions: Sequence[str]) -> list[int]:
        """Return the tokens of each caption before it is cut, the end token included."""
        return [len(ids) for ids in encode_texts(self.tokenizer, captions)]

    def encode(self, captions: Sequence[str], dtype: DTypeLike = np.float16) -> list[np.ndarray]:
        """Encode captions; a repeated one is encoded once.

        Args:
          captions: any strings. dtype: of the result, np.float16 or np.float32.

        Returns:
          For each caption [L, D], 1 <= L <= max_tokens. The last token is always the end token.

        Raises:
          TypeError: captions is one string, or holds something else than strings.
        """
        function = _FUNCTIONS[np.dtype(dtype).name]
        return once_each(lambda distinct: self._encode(distinct, function), captions)

    def _encode(self, captions: list[str], function: Callable) -> list[np.ndarray]:
        rows = [cut_ids(ids, self.max_tokens) for ids in encode_texts(self.tokenizer, captions)]
        size = ROWS * self.tower.mesh.shape["data"]
        results: dict[int, np.ndarray] = {}
        groups = by_length(rows, lambda n: padded_length(n, self.max_tokens), size, PADDING)
        for members, ids, mask in groups:
            encoded = self.tower.run(function, ids, mask)  # [B, L, D]
            for index, tokens in zip(members, encoded, strict=True):
                results[index] = tokens[: len(rows[index])].copy()
        return [results[index] for index in range(len(rows))]

    def encode_padded(
        self, captions: Sequence[str], dtype: DTypeLike = np.float16
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode captions as one array [B, max_tokens, D] and its mask; see `pad_rows`."""
        tokens = self.encode(captions, dtype)
        return pad_rows(tokens, self.max_tokens, dtype=dtype, shape=(self.width,))


def _encode_half(network: t5.T5Encoder, ids: jax.Array, mask: jax.Array) -> jax.Array:
    return network(ids, mask).astype(jnp.float16)


def _encode_single(network: t5.T5Encoder, ids: jax.Array, mask: jax.Array) -> jax.Array:
    return network(ids, mask)


_FUNCTIONS = {"float16": _encode_half, "float32": _encode_single}
