"""MiroPipeline: prompts and reward targets in, pictures out. What a notebook user touches.

    pipe("a red circle", num_images=4, targets={"beauty": 0.6}, guidance_scale=2.0, seed=0)

Every call pads its work to one batch size, so nothing but a new number of steps, solver or prompt
length compiles, and a picture does not depend on the batch that it was made in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from miro_jax import sharding
from miro_jax.sampler import Branch, make_sampler, sample_keys
from miro_jax.solvers import get_solver

Targets = (
    Mapping[str, float | None]
    | Sequence[Mapping[str, float | None]]
    | np.ndarray
    | jax.Array
    | None
)


class MiroPipeline:
    """A trained network with its encoders, ready to sample.

    Attributes:
      reward_names: the rewards this network knows, in order.
      default_targets: {name: level or None} asked for where a call does not say; 1 throughout.
    """

    def __init__(
        self,
        graphdef,
        params: Any,
        buffers: Any,
        image_encoder,
        caption_encoder,
        reward_names: Sequence[str],
        mesh: jax.sharding.Mesh,
        batch_size: int,
    ):
        self.graphdef, self.params, self.buffers = graphdef, params, buffers
        self.image_encoder, self.caption_encoder = image_encoder, caption_encoder
        self.reward_names = tuple(reward_names)
        self.default_targets = dict.fromkeys(self.reward_names, 1.0)
        self.mesh, self.batch_size = mesh, batch_size
        self._samplers: dict[tuple[str, int], Any] = {}

    def __call__(
        self,
        prompts: str | Sequence[str],
        num_images: int = 1,
        targets: Targets = None,
        negative_targets: Targets = None,
        negative_prompt: str = "empty",
        guidance_scale: float = 7.0,
        num_steps: int = 50,
        solver: str = "euler",
        seed: int = 0,
    ) -> np.ndarray:
        """Make `num_images` pictures of each prompt.

        Args:
          prompts: one text or several.
          num_images: pictures of each prompt.
          targets: levels asked for: {name: level in [0, 1] or None = not asked}, one mapping for
            each picture, or [P * num_images, R] float with NaN = not asked. Names left out get
            `default_targets`.
          negative_targets: the same for the negative branch; names left out get 0.
          negative_prompt: "empty" (the release), "same" (the paper's formula), or a text.
          guidance_scale: 0 means no guidance.
          num_steps: solver steps.
          solver: "euler" or "heun".
          seed: of the noise; picture (p, i) depends on (seed, p, i) only.

        Returns:
          [P * num_images, H, W, 3] uint8, the pictures of a prompt side by side.

        Raises:
          ValueError: an unknown reward or solver, a level that is no number, a wrong shape.
          TypeError: targets of another kind.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts or num_images < 1:
            raise ValueError(
                f"at least one prompt and one image are needed; got {len(prompts)} prompts and "
                f"num_images={num_images}."
            )
        texts = [p for p in prompts for _ in range(num_images)]
        count = len(texts)
        defaults = [self.default_targets[name] for name in self.reward_names]
        asked = self.levels(targets, count, defaults)
        refused = self.levels(negative_targets, count, 0.0)
        negatives = {"empty": [""] * count, "same": texts}.get(
            negative_prompt, [negative_prompt] * count
        )
        prompt_index, sample_index = np.divmod(np.arange(count), num_images)
        sample = self._sampler(solver, num_steps)
        pictures = []
        for start in range(0, count, self.batch_size):
            rows = np.minimum(np.arange(start, start + self.batch_size), count - 1)  # pad
            positive = self._branch([texts[i] for i in rows], asked[rows])
            negative = self._branch([negatives[i] for i in rows], refused[rows])
            with sharding.use_mesh(self.mesh):
                keys = sample_keys(seed, prompt_index[rows], sample_index[rows])
                scale = jnp.full((len(rows),), guidance_scale, jnp.float32)
                out = sample(
                    self.params,
                    self.buffers,
                    jax.device_put(keys, sharding.batch_sharding(self.mesh)),
                    positive,
                    negative,
                    jax.device_put(scale, sharding.batch_sharding(self.mesh)),
                    guided=bool(guidance_scale != 0),
                )
            pictures.append(np.asarray(out)[: count - start])
        return np.concatenate(pictures)

    def levels(
        self, targets: Targets, count: int, default: float | Sequence[float | None]
    ) -> np.ndarray:
        """Turn targets into `[count, R]` float32 levels, NaN = not asked; see `__call__`.

        default: of the names that are left out, one level or one for each reward.
        """
        width = len(self.reward_names)
        if isinstance(targets, np.ndarray | jax.Array):
            if targets.shape != (count, width):
                raise ValueError(f"targets must be [{count}, {width}]; got {targets.shape}.")
            levels = np.asarray(targets, np.float32)
            if np.isinf(levels).any():
                raise ValueError("targets must be finite, or NaN for not asked; got infinity.")
            return levels
        if targets is None or isinstance(targets, Mapping):
            targets = [targets or {}] * count
        if not isinstance(targets, Sequence) or not all(isinstance(m, Mapping) for m in targets):
            raise TypeError(
                "targets must be {name: level}, a list of such, one for each picture, or an array "
                f"[{count}, {width}]; got {targets!r}."
            )
        if len(targets) != count:
            raise ValueError(
                f"one mapping of targets a picture is needed: {count}; got {len(targets)}."
            )
        out = np.full((count, width), default, np.float32)
        for row, mapping in zip(out, targets, strict=True):
            for name, level in mapping.items():
                row[self._index(name)] = np.nan if level is None else _number(name, level)
        return out

    def _index(self, name: str) -> int:
        if name not in self.reward_names:
            raise ValueError(
                f"Unknown reward {name!r}; this model knows: "
                f"{', '.join(self.reward_names) or 'none'}."
            )
        return self.reward_names.index(name)

    def _branch(self, texts: Sequence[str], levels: np.ndarray) -> Branch:
        tokens, mask = self.caption_encoder.encode_padded(texts)
        place = sharding.batch_sharding(self.mesh)
        return jax.device_put(Branch(tokens, mask, levels), place)

    def _sampler(self, solver: str, num_steps: int):
        """One compiled function for each solver and step count."""
        if (solver, num_steps) not in self._samplers:
            encoder = self.image_encoder
            self._samplers[solver, num_steps] = make_sampler(
                self.graphdef,
                get_solver(solver),
                num_steps,
                encoder.latent_shape,
                lambda z: encoder.decode(encoder.denormalize(z)),
            )
        return self._samplers[solver, num_steps]


def _number(name: str, level) -> float:
    try:
        value = float(level)
    except (TypeError, ValueError):
        raise ValueError(
            f"The level of {name!r} must be a number in [0, 1]; got {level!r}."
        ) from None
    if not np.isfinite(value):
        raise ValueError(f"The level of {name!r} must be finite; got {level!r}.")
    return value


def parse_targets(text: str) -> dict[str, float | None]:
    """Read "beauty=0.6,count=none" into {name: level or None}; ValueError on other forms."""
    out: dict[str, float | None] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, level = (w.strip() for w in part.partition("="))
        if not equals:
            raise ValueError(f"targets must read NAME=LEVEL,NAME=LEVEL; got {part!r}.")
        out[name] = None if level.lower() == "none" else _number(name, level)
    return out
