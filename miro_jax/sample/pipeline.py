"""MiroPipeline: prompts and reward targets in, images out. The class for notebooks and scripts.

    pipe = MiroPipeline.from_pretrained("nicolas-dufour/miro")
    pipe("a red fox in snow", num_images=4, targets={"aesthetic": 0.6}, seed=0)

Every call pads its work to one batch size, so nothing but a new number of steps, solver or prompt
length compiles, and an image does not depend on the batch that it was made in. Where no batch size
is given, fewer images than it has rows run in a program of their own for 1, 2, 4, ... rows a
device; programs of different rows agree up to rounding. Letters: P prompts, B images, R rewards,
L caption tokens of width E.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from PIL import Image

from miro_jax.models import sharding
from miro_jax.models.sampler import (
    Guidance,
    draw_noise,
    make_evaluation,
    make_sampler,
    sample_keys,
)
from miro_jax.models.solvers import get_solver
from miro_jax.models.targets import Targets, to_levels
from miro_jax.pretrained.networks.tower import padded_rows
from miro_jax.sample.encoded import Prompts
from miro_jax.sample.preset import Preset, read_preset
from miro_jax.sample.settings import Options, Settings, check_seed
from miro_jax.sample.trained import Trained, load, weights_name

OUTPUT_TYPES = ("pil", "numpy", "latent")


class MiroPipeline:
    """A trained network with its encoders, ready to sample.

    Attributes:
      reward_names: the rewards this network is conditioned on, in order.
      default_targets, default_negative_targets: {name: level or None} requested where a call does
        not set them; 1 and 0 throughout, or those of a preset.
      default_guidance: scale where a call does not set it; 7, or that of a preset.
      batch_size: rows of every compiled call; fewer images are padded, more are made in turns.
      fewer_rows: whether fewer images are padded to a power of two alone.
      weights: states of the network, parameters first.
    """

    def __init__(
        self,
        trained: Trained,
        batch_size: int,
        preset: Preset | Path | str | None = None,
        fewer_rows: bool = False,
    ):
        """Put calls around a trained network; see `from_pretrained` for the usual way."""
        devices = trained.mesh.shape["data"]
        if batch_size < 1 or batch_size % devices:
            raise ValueError(
                f"batch_size must be a positive multiple of the {devices} devices on mesh axis "
                f"'data'; got {batch_size}."
            )
        self.trained, self.weights, self.batch_size = trained, trained.weights, batch_size
        self.image_encoder, self.fewer_rows = trained.image_encoder, fewer_rows
        self.reward_names, self.mesh = trained.reward_names, trained.mesh
        self.default_targets = dict.fromkeys(self.reward_names, 1.0)
        self.default_negative_targets = dict.fromkeys(self.reward_names, 0.0)
        self.default_guidance = Settings.guidance_scale
        if preset is not None:
            self._use(preset if isinstance(preset, Preset) else read_preset(preset))
        self._samplers: dict[tuple[str, int], Any] = {}
        self._evaluate = make_evaluation(trained.graphdef)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        variant: str | None = None,
        *,
        dtype: str | None = None,
        mesh: jax.sharding.Mesh | None = None,
        batch_size: int | None = None,
        text_encoder: str | None = None,
        vae: str | None = None,
        revision: str | None = None,
        preset: Preset | Path | str | None = None,
    ) -> "MiroPipeline":
        """Load a released checkpoint, or a run of this package.

        Args:
          source: "nicolas-dufour/miro" or another hub id, a folder in the same layout, or a run's
            folder.
          variant: sub-folder of a release, as "miro-no-clip" or "no_clip".
          dtype: of parameters and matrix products, "float32" or "bfloat16"; None is bfloat16 on
            accelerators and float32 on a CPU. Images are decoded in float32.
          mesh: where the weights go; None is the first device.
          batch_size: rows of every compiled call; None is 1 a device on a CPU, else at most 8 a
            device, in which case the last bits of an image depend on how many a call makes.
          text_encoder, vae: folder or hub id of FLAN-T5-XL and of the SDXL VAE, which are loaded
            when they are first needed.
          revision: branch, tag or commit on the hub.
          preset: defaults of calls, as `miro-jax sample search` found them for these weights.

        Raises:
          FileNotFoundError: a file is missing and cannot be fetched; the text says which and how.
          ValueError: the files do not fit our network, or the preset is of another one.
        """
        more = {"mesh": mesh, "text_encoder": text_encoder, "vae": vae, "revision": revision}
        trained = load(source, variant, dtype=dtype or default_dtype(), **more)
        each = 1 if jax.default_backend() == "cpu" else 8
        most = each * trained.mesh.shape["data"]
        return cls(trained, batch_size or most, preset, fewer_rows=batch_size is None)

    def _use(self, preset: Preset) -> None:
        """Take the defaults of calls from a preset; ValueError where it is of another network."""
        preset.check_rewards(self.reward_names)
        preset.check_weights(weights_name(self.trained))
        self.default_targets |= preset.targets
        self.default_negative_targets |= preset.negative_targets
        self.default_guidance = preset.guidance_scale

    def __call__(
        self,
        prompts: str | Sequence[str] | None = None,
        num_images: int = 1,
        targets: Targets = None,
        negative_targets: Targets = None,
        negative_prompt: str = "empty",
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        num_steps: int = 50,
        solver: str = "euler",
        seed: int = 0,
        output_type: str = "pil",
        prompt_embeds: np.ndarray | None = None,
        prompt_mask: np.ndarray | None = None,
        noise: np.ndarray | None = None,
    ) -> list[Image.Image] | np.ndarray:
        """Make `num_images` images of each prompt.

        Args:
          prompts: one text or several; None where `prompt_embeds` are given.
          num_images: images of each prompt.
          targets: {name: level in [0, 1] or None = not requested}, one mapping for each image, or
            [P * num_images, R] float with NaN = not requested. Others are `default_targets`.
          negative_targets: the same for the negative branch; others are
            `default_negative_targets`.
          negative_prompt: "empty" (the release), "same" (the paper's formula), or a text.
          guidance_scale: 0 means no guidance; None is `default_guidance`.
          guidance_interval: times between which guidance acts, in [0, 1], 1 is noise.
          num_steps, solver: steps of "euler", "heun" or "dpmpp_2m".
          seed: of the noise; image (p, i) depends on (seed, p, i) only.
          output_type: "pil", "numpy" (uint8) or "latent" (not decoded).
          prompt_embeds, prompt_mask: [P, L, E] float and [P, L] bool in place of encoded prompts.
          noise: [P * num_images, h, w, C] float32 in place of drawn noise.

        Returns:
          P * num_images images, those of a prompt side by side: a list of PIL images, or an array
          [.., H, W, 3] uint8, or [.., h, w, C] float32 latents on the network's scale.

        Raises:
          ValueError: an unknown reward, solver or output type, a number outside of its range, a
            wrong shape. TypeError: targets of another kind. NotFinite: the latents of an image.
        """
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {OUTPUT_TYPES}; got {output_type!r}.")
        scale = self.default_guidance if guidance_scale is None else guidance_scale
        settings = Settings(scale, guidance_interval, num_steps, solver, negative_prompt)
        check_seed(seed)
        given = self._prompts(prompts, prompt_embeds, prompt_mask)
        count = len(given.mask) * num_images
        if not count:
            raise ValueError(
                f"at least one prompt and one image are needed; got {len(given.mask)} prompts and "
                f"num_images={num_images}."
            )
        if self.trained.config.student and settings.solver != "euler":
            raise ValueError(f"a student samples with the solver euler; got {settings.solver!r}.")
        refused = [self.default_negative_targets[name] for name in self.reward_names]
        levels = self._requested(targets, count), self.levels(negative_targets, count, refused)
        if self.trained.config.student and levels[1].any():
            raise ValueError(
                "a student has its negative branch built in, with level 0 of all rewards; "
                "negative_targets must not be given."
            )
        latents = self._sample(given, num_images, levels, seed, settings, noise)
        _check_finite(latents, num_images)
        if output_type == "latent":
            return np.concatenate([np.asarray(z)[:used] for z, used in latents])
        images = np.concatenate([self.decode(z)[:used] for z, used in latents])
        return [Image.fromarray(image) for image in images] if output_type == "pil" else images

    def _sample(
        self,
        prompts: Prompts,
        num_images: int,
        levels: tuple[np.ndarray, np.ndarray],
        seed: int,
        settings: Settings,
        noise: np.ndarray | None,
    ) -> list[tuple[jax.Array, int]]:
        """Sample `num_images` of each prompt in padded batches.

        Args:
          levels: of the positive and of the negative branch, [P * num_images, R] each.

        Returns:
          Latents, and how many of them are no padding, for each batch.
        """
        shape = self.trained.config.latent_shape
        latents, count = [], len(levels[0])
        if noise is not None and np.shape(noise) != (count, *shape):
            raise ValueError(f"noise must be {[count, *shape]}; got {list(np.shape(noise))}.")
        # A student's negative branch is built in.
        guided = bool(settings.guidance_scale != 0) and not self.trained.config.student
        # Without guidance nothing looks at the negative branch: no text is encoded for it.
        negative = self._negative(settings.negative_prompt if guided else "same", prompts)
        sample = self._sampler(settings.solver, settings.num_steps)
        interval = jnp.asarray(settings.guidance_interval, jnp.float32)
        for start in range(0, count, self.batch_size):
            rows = self._rows(count - start)
            scale = np.full(rows, settings.guidance_scale, np.float32)
            batch = np.minimum(np.arange(start, start + rows), count - 1)  # padded
            prompt_index, sample_index = np.divmod(batch, num_images)
            with sharding.use_mesh(self.mesh):
                if noise is None:
                    keys = self._put(sample_keys(seed, prompt_index, sample_index))
                    x = draw_noise(keys, shape)
                else:
                    x = self._put(np.asarray(noise, np.float32)[batch])
                branches = [
                    self._put(branch.branch(prompt_index, of_branch[batch]))
                    for branch, of_branch in zip((prompts, negative), levels, strict=True)
                ]
                guidance = Guidance(self._put(scale), interval)
                z = sample(self.weights, x, *branches, guidance, guided=guided)
            latents.append((z, min(self.batch_size, count - start)))
        return latents

    def decode(self, latents: jax.Array | np.ndarray) -> np.ndarray:
        """Turn latents on the network's scale, [B, h, w, C] float32, into [B, H, W, 3] uint8."""
        return np.asarray(self.image_encoder.decode(self.image_encoder.denormalize(latents)))

    def velocity(
        self,
        x_t: np.ndarray,
        t: np.ndarray | float,
        prompts: str | Sequence[str] | None = None,
        targets: Targets = None,
        previous: np.ndarray | None = None,
        *,
        prompt_embeds: np.ndarray | None = None,
        prompt_mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate the network once, without guidance.

        Args:
          x_t: [B, h, w, C] float32. t: one time or [B] times, 1 is noise.
          prompts: one text for all rows, or B texts; None where `prompt_embeds` are given.
          targets: see `__call__`.
          previous: latent tokens of the evaluation before, [B, M, D]; None for a first one.
          prompt_embeds, prompt_mask: [B, L, E] and [B, L].

        Returns:
          (velocity [B, h, w, C], latent tokens [B, M, D]), float32.
        """
        rows, config = len(x_t), self.trained.config
        texts = [prompts] * rows if isinstance(prompts, str) else prompts
        given = self._prompts(texts, prompt_embeds, prompt_mask)
        if len(given.mask) != rows:
            raise ValueError(f"one prompt a row is needed: {rows}; got {len(given.mask)}.")
        branch = given.branch(np.arange(rows), self._requested(targets, rows))
        if previous is None:
            previous = np.zeros((rows, config.num_latent_tokens, config.latent_width), np.float32)
        times = np.broadcast_to(np.asarray(t, np.float32), (rows,))
        with sharding.use_mesh(self.mesh):
            inputs = [jnp.asarray(x, jnp.float32) for x in (x_t, times)]
            out = self._evaluate(self.weights, *inputs, jax.tree.map(jnp.asarray, branch), previous)
        return tuple(np.asarray(x) for x in out)

    def levels(
        self, targets: Targets, count: int, default: float | Sequence[float | None]
    ) -> np.ndarray:
        """Turn targets into `[count, R]` float32 levels; see `targets.to_levels`."""
        return to_levels(targets, count, self.reward_names, default)

    def _requested(self, targets: Targets, count: int) -> np.ndarray:
        defaults = [self.default_targets[name] for name in self.reward_names]
        return self.levels(targets, count, defaults)

    def _prompts(self, prompts, embeds, mask) -> Prompts:
        """Encode texts, or check what is given in their place."""
        if (prompts is None) == (embeds is None):
            raise ValueError("either prompts or prompt_embeds must be given, and not both.")
        if embeds is None:
            texts = [prompts] if isinstance(prompts, str) else list(prompts)
            return self._encode(texts) if texts else Prompts(None, np.zeros((0, 1), bool))
        embeds = np.asarray(embeds)
        mask = np.ones(embeds.shape[:2], bool) if mask is None else np.asarray(mask, bool)
        width = self.trained.config.caption_width
        if embeds.ndim != 3 or embeds.shape[2] != width or mask.shape != embeds.shape[:2]:
            raise ValueError(
                f"prompt_embeds must be [P, L, {width}] and prompt_mask [P, L]; got "
                f"{list(embeds.shape)} and {list(mask.shape)}."
            )
        return Prompts(embeds, mask)

    def _encode(self, texts: list[str]) -> Prompts:
        encoder = self.trained.caption_encoder
        limit = encoder.max_tokens
        for text, length in zip(texts, encoder.count_tokens(texts), strict=True):
            if length > limit:
                warnings.warn(
                    f"A prompt has {length} tokens and the network sees {limit}; its end is cut: "
                    f"{text[:60]!r}...",
                    stacklevel=4,
                )
        return Prompts(*encoder.encode_padded(texts, np.float32))

    def _negative(self, negative_prompt: str, given: Prompts) -> Prompts:
        """The prompts of the negative branch, one for each prompt, of the same length in tokens."""
        if negative_prompt == "same":
            return given
        if negative_prompt == "empty" and self.trained.empty_tokens is not None:
            tokens = self.trained.empty_tokens[None]
            other = Prompts(tokens, np.ones(tokens.shape[:2], bool))
        else:
            other = self._encode(["" if negative_prompt == "empty" else negative_prompt])
        return other.like(given)

    def _rows(self, count: int) -> int:
        """Return the rows of the program that makes `count` images, or the first of them."""
        if not self.fewer_rows:
            return self.batch_size
        return min(self.batch_size, padded_rows(count, self.mesh.shape["data"]))

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, sharding.batch_sharding(self.mesh))

    def _sampler(self, solver: str, num_steps: int) -> Any:
        """Return the compiled function of a solver and a number of steps."""
        if (solver, num_steps) not in self._samplers:
            made = make_sampler(self.trained.graphdef, get_solver(solver), num_steps)
            self._samplers[solver, num_steps] = made
        return self._samplers[solver, num_steps]


class NotFinite(FloatingPointError):
    """The latents of an image are not finite. row: of the image in its call."""

    def __init__(self, text: str, row: int):
        super().__init__(f"{text}; a lower guidance scale, or float32, may help.")
        self.row = row


def _check_finite(latents: Sequence[tuple[jax.Array, int]], num_images: int) -> None:
    finite = [np.isfinite(np.asarray(z[:used])).all(axis=(1, 2, 3)) for z, used in latents]
    if not (every := np.concatenate(finite)).all():
        row = int(every.argmin())
        prompt, sample = divmod(row, num_images)
        raise NotFinite(f"image {sample} of prompt {prompt} has latents that are not finite", row)


def default_dtype() -> str:
    """Return the type of a network for this machine."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def open_pipeline(options: Options) -> MiroPipeline:
    """Load what the flags of a command name, onto all devices of this machine."""
    devices = jax.device_count()
    if options.batch_size is not None and options.batch_size % devices:
        raise ValueError(
            f"argument --batch-size: must be a multiple of the {devices} devices; "
            f"got {options.batch_size}"
        )
    return MiroPipeline.from_pretrained(
        options.checkpoint,
        options.variant,
        dtype=options.dtype,
        mesh=sharding.make_mesh(-1, 1),
        batch_size=options.batch_size,
        text_encoder=options.text_encoder,
        vae=options.vae,
        revision=options.revision,
        preset=options.preset,
    )
