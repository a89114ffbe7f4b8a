"""MiroPipeline: prompts and reward targets in, images out. The class for notebooks and scripts.

    pipe = MiroPipeline.from_pretrained("nicolas-dufour/miro")
    pipe("a red fox in snow", num_images=4, targets={"aesthetic": 0.6}, seed=0)

Every call pads its work to one batch size, and an image does not depend on the batch that it was
made in. What compiles anew: another number of steps, solver, rule or schedule of guidance, a scale
of 0 after others, embeddings of another length. Where no batch size is given, fewer images than it
has rows run in a program of their own for 1, 2, 4, ... rows a device; programs of different rows
agree up to rounding. Letters: P prompts, B images, R rewards, L caption tokens of width E.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import jax
import numpy as np
from jax import numpy as jnp
from PIL import Image

from miro_jax.models import sharding
from miro_jax.models.sampler import make_evaluation, make_sampler
from miro_jax.models.solvers import get_solver
from miro_jax.models.targets import Targets, to_levels
from miro_jax.sample.batches import (
    Batch,
    Call,
    Step,
    Steppers,
    check_finite,
    check_latents,
    check_rows,
    check_student,
    default_dtype,
    default_rows,
    make_batches,
    read_inputs,
)
from miro_jax.sample.batches import NotFinite as NotFinite
from miro_jax.sample.dialect import (
    DEFAULTS,
    OUTPUT_TYPES,
    Callback,
    Dialect,
    Images,
    check_callback,
    pack,
    read_answer,
    read_call,
    read_dtype,
    read_to,
    release_names,
    with_names_as_given,
)
from miro_jax.sample.encoded import encode_given
from miro_jax.sample.preset import Preset, read_preset
from miro_jax.sample.settings import Options, Settings, check_seed
from miro_jax.sample.trained import Trained, load, weights_name


class MiroPipeline:
    """A trained network with its encoders, ready to sample.

    Attributes:
      reward_names: the rewards this network is conditioned on, in order.
      default_targets, default_negative_targets: {name: level or None} requested where a call does
        not set them; of a preset, else of the run, else 1 and 0 throughout.
      default_settings: how to sample where a call does not say; see `usual.Usual`.
      batch_size: rows of every compiled call; fewer images are padded, more are made in turns.
      fewer_rows: whether fewer images are padded to a power of two alone.
      weights: states of the network, parameters first.
      _interrupt: set to True by a callback to stop its call, as in diffusers.
    """

    _load: Any = None

    def __init__(
        self,
        trained: Trained,
        batch_size: int,
        preset: Preset | Path | str | None = None,
        fewer_rows: bool = False,
    ):
        """Put calls around a trained network; see `from_pretrained` for the usual way."""
        devices = trained.mesh.shape["data"]
        if not isinstance(batch_size, int | np.integer) or batch_size < 1 or batch_size % devices:
            raise ValueError(
                f"batch_size must be a positive multiple of the {devices} devices on mesh axis "
                f"'data'; got {batch_size!r}."
            )
        self.batch_size, self.fewer_rows, self._interrupt = batch_size, fewer_rows, False
        self.reward_names, self.mesh = trained.reward_names, trained.mesh
        self._use_weights(trained)
        usual = trained.usual
        if preset is not None:
            preset = preset if isinstance(preset, Preset) else read_preset(preset)
            preset.check_rewards(self.reward_names)
            preset.check_weights(weights_name(trained))
            usual = preset.over(usual)
        self.default_targets, self.default_negative_targets = usual.levels(self.reward_names)
        self.default_settings = usual.settings

    def _use_weights(self, trained: Trained) -> None:
        self.trained, self.weights = trained, trained.weights
        self.image_encoder = trained.image_encoder
        self._samplers: dict[tuple[str, int], Any] = {}
        self._steppers = Steppers(trained)
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
        torch_dtype: Any = None,
        step: int | None = None,
    ) -> "MiroPipeline":
        """Load a released checkpoint, or a run of this package.

        Args:
          source: "nicolas-dufour/miro" or another hub id, a folder in the same layout, a run's
            folder, or the URL of either folder in an object store, gs:// or s3://.
          variant: sub-folder of a release, as "miro-no-clip" or "no_clip".
          dtype, torch_dtype: of parameters and matrix products, "float32" or "bfloat16", under
            one of the two names; None is bfloat16 on accelerators and float32 on a CPU. Images
            are decoded in float32.
          mesh: where the weights go; None is the first device.
          batch_size: rows of every compiled call; None is 1 a device on a CPU, else at most 8 a
            device, in which case the last bits of an image depend on how many a call makes.
          text_encoder, vae: folder or hub id of FLAN-T5-XL and of the SDXL VAE, loaded when needed.
          revision: branch, tag or commit on the hub. step: of a run; None is the newest.
          preset: defaults of calls, as `miro-jax sample search` found them for these weights.

        Raises:
          FileNotFoundError: a file is missing and cannot be fetched; the text says which and how.
          OSError: an object store cannot be read.
          ValueError: the files do not fit our network, or the preset is of another one.
        """
        more = {"mesh": mesh, "text_encoder": text_encoder, "vae": vae, "revision": revision}
        if dtype is not None and torch_dtype is not None:
            raise ValueError("dtype and torch_dtype are the same argument; give one of them.")
        given = torch_dtype if dtype is None else dtype
        load_as = functools.partial(load, source, variant, step=step, **more)
        trained = load_as(dtype=default_dtype() if given is None else read_dtype(given))
        rows = default_rows(trained.mesh) if batch_size is None else batch_size
        pipe = cls(trained, rows, preset, fewer_rows=batch_size is None)
        pipe._load = load_as
        return pipe

    def to(self, *words: Any, device: Any = None, dtype: Any = None) -> "MiroPipeline":
        """Change the type of the network in place, as `pipe.to("cuda", torch.bfloat16)`.

        Args:
          words: a device, a dtype, or both. device: JAX has its devices from the machine; another
            kind is warned of. dtype: see `from_pretrained`; another one loads the weights again.

        Returns:
          The pipeline itself.
        """
        wanted = read_to(words, device, dtype)
        if wanted is not None and wanted != self.trained.dtype:
            if self._load is None:
                raise ValueError(f"dtype {wanted!r} needs a pipeline made by from_pretrained.")
            self._use_weights(self._load(dtype=wanted))
        return self

    @property
    def coherence_keys(self) -> tuple[str, ...]:
        """The rewards of this network under the release's names, as aesthetic_score."""
        return release_names(self.reward_names)

    def __call__(
        self,
        prompts: str | Sequence[str] | None = None,
        num_images: int | None = None,
        targets: Targets = None,
        negative_targets: Targets = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        num_steps: int | None = None,
        solver: str | None = None,
        seed: int | None = None,
        output_type: str = "pil",
        prompt_embeds: np.ndarray | None = None,
        prompt_mask: np.ndarray | None = None,
        noise: np.ndarray | None = None,
        guidance_rule: str = "cfg",
        guidance_schedule: str = "constant",
        callback_on_step_end: Callback | None = None,
        return_dict: bool | None = None,
        **theirs: Unpack[Dialect],
    ) -> Any:
        """Make `num_images` images of each prompt.

        Args:
          prompts: one text or several; None where `prompt_embeds` are given.
          num_images: images of each prompt; None is 1.
          targets: {name: level in [0, 1] or None = not requested}, a list with one for each image,
            or [P * num_images, R] float with NaN = not requested. Others are `default_targets`.
          negative_targets: the same for the negative branch; others are
            `default_negative_targets`.
          negative_prompt: "empty" (the release), "same" (the paper's formula), or a text. This,
            `guidance_scale`, `num_steps` and `solver` are of `default_settings` where None.
          guidance_scale: of v+ + scale (v+ - v-); 0 is no guidance, which diffusers calls 1: give
            its number less 1.
          guidance_interval: times between which guidance acts, in [0, 1], 1 is noise.
          guidance_rule, guidance_schedule: "cfg", "cfg_zero" or "apg" with numbers, see
            `settings.parse_rule`; "constant" or "linear".
          num_steps, solver: steps of "euler", "heun" or "dpmpp_2m".
          seed: of the noise; image (p, i) depends on (seed, p, i) only. None is 0.
          output_type: "pil", "numpy" (uint8), "np" (float32 in [0, 1], as in diffusers) or
            "latent" (not decoded).
          prompt_embeds, prompt_mask: [P, L, E] float and [P, L] bool in place of encoded prompts.
          noise: [P * num_images, h, w, C] float32 in place of drawn noise.
          callback_on_step_end: called after each step as (pipe, step from 0, t where the step
            began, {"latents", "denoised"}), both [P * num_images, h, w, C] float32: x_t after the
            step and what it leads to at t = 0. `latents` of the dict that it returns go on;
            `pipe._interrupt = True` ends the call with the latents as they are. The steps then run
            one by one, which agrees with the one program without a callback up to rounding.
          return_dict: None returns the images, of which a list has `.images` too; True an object
            with `.images`; False a tuple of one, as in diffusers.
          **theirs: names of diffusers and of the authors' package for some of these: prompt,
            num_images_per_prompt, num_inference_steps, reward_targets, negative_reward_targets,
            generator, height, width; see `dialect.Dialect`.

        Returns:
          P * num_images images, those of a prompt side by side: a list of PIL images, or an array
          [.., H, W, 3], or [.., h, w, C] float32 latents on the network's scale.

        Raises:
          ValueError: an unknown reward, solver or output type, a number outside of its range, a
            wrong shape, two names for one thing. TypeError: targets of another kind, an unknown
            argument. NotFinite: the latents of an image.
        """
        given = locals()
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {OUTPUT_TYPES}; got {output_type!r}.")
        call = self._read({name: given[name] for name in DEFAULTS} | theirs)
        settings = call.settings
        batches = make_batches(self.trained, call, self.batch_size, self.fewer_rows)
        if callback_on_step_end is None:
            sample = self._sampler(settings.solver, settings.num_steps)
            latents = [(batch.sample(sample, self.weights), batch.used) for batch in batches]
        else:
            latents = self._call_back(list(batches), settings, callback_on_step_end)
        check_finite(latents, call.num_images)
        if output_type == "latent":
            made = np.concatenate([np.asarray(z)[:used] for z, used in latents])
        else:
            made = np.concatenate([self.decode(z)[:used] for z, used in latents])
        return pack(made, output_type, return_dict)

    @with_names_as_given
    def _read(self, given: Mapping[str, Any]) -> Call:
        """Check the arguments of a call, and encode its prompts; see `__call__`."""
        usual = dataclasses.asdict(self.default_settings)
        call = read_call(given, self.image_encoder.size, usual)
        settings = Settings(**{f.name: call[f.name] for f in dataclasses.fields(Settings)})
        check_seed(call["seed"])
        texts = call["prompts"], call["prompt_embeds"], call["prompt_mask"]
        prompts, num_images = encode_given(self.trained, *texts), call["num_images"]
        count = len(prompts.mask) * num_images
        if count < 1:
            raise ValueError(
                f"at least one prompt and one image are needed; got {len(prompts.mask)} prompts "
                f"and num_images={num_images}."
            )
        refused = [self.default_negative_targets[name] for name in self.reward_names]
        positive = self._requested(call["targets"], count)
        negative = self.levels(call["negative_targets"], count, refused)
        if self.trained.config.student:
            check_student(self.trained, settings, negative)
        levels = positive, negative
        return Call(prompts, num_images, *levels, call["seed"], settings, call["noise"])

    def stream(self, prompts: str | Sequence[str] | None = None, **call: Any) -> Iterator[Step]:
        """Sample step by step: yield each step, for which see `batches.Step`.

        Args:
          prompts, call: arguments of `__call__` that say what to sample, and how. All images of
            the call take a step together.

        Raises:
          ValueError, TypeError: see `__call__`.
        """
        read = self._read({"prompts": prompts, **call})
        batches = make_batches(self.trained, read, self.batch_size, self.fewer_rows)
        return self._steppers.steps(list(batches), read.settings)

    def _call_back(
        self, batches: list[Batch], settings: Settings, callback: Callback
    ) -> list[tuple[jax.Array, int]]:
        """Sample step by step with a callback; see `__call__`."""
        check_callback(callback)
        self._interrupt = False
        latents = []
        for step in self._steppers.steps(batches, settings):
            edited = read_answer(callback(self, step.index, step.t, step.tensors()))
            if edited is not None:
                step.edit(edited)
            latents = step.latents
            if self._interrupt:
                break
        return [(z, batch.used) for z, batch in zip(latents, batches, strict=True)]

    def preview(self, latents: jax.Array | np.ndarray) -> Images:
        """Decode what a callback is given, [B, h, w, C] float32, into PIL images."""
        check_latents(self.trained.config, latents)
        rows = [self.decode(latents[i : i + 1]) for i in range(len(latents))]
        return Images(Image.fromarray(row[0]) for row in rows)

    def decode(self, latents: jax.Array | np.ndarray) -> np.ndarray:
        """Turn latents on the network's scale, [B, h, w, C] float32, into [B, H, W, 3] uint8."""
        check_latents(self.trained.config, latents)
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
          x_t: [B, h, w, C] float32. t: one time or [B] times, in [0, 1], 1 is noise.
          prompts: one text for all rows, or B texts; None where `prompt_embeds` are given.
          targets: see `__call__`.
          previous: latent tokens of the evaluation before, [B, M, D]; None for a first one.
          prompt_embeds, prompt_mask: [B, L, E] and [B, L].

        Returns:
          (velocity [B, h, w, C], latent tokens [B, M, D]), float32.

        Raises:
          ValueError: a wrong shape, or a time outside of [0, 1].
        """
        x_t, times, previous = read_inputs(self.trained.config, x_t, t, previous)
        rows = len(x_t)
        texts = [prompts] * rows if isinstance(prompts, str) else prompts
        given = encode_given(self.trained, texts, prompt_embeds, prompt_mask)
        if len(given.mask) != rows:
            raise ValueError(f"one prompt a row is needed: {rows}; got {len(given.mask)}.")
        branch = given.branch(np.arange(rows), self._requested(targets, rows))
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

    def _sampler(self, solver: str, num_steps: int) -> Any:
        """Return the compiled function of a solver and a number of steps."""
        if (solver, num_steps) not in self._samplers:
            made = make_sampler(self.trained.graphdef, get_solver(solver), num_steps)
            self._samplers[solver, num_steps] = made
        return self._samplers[solver, num_steps]


def open_pipeline(options: Options, step: int | None = None) -> MiroPipeline:
    """Load what the flags of a command name, onto all devices; of a run the newest step or this."""
    check_rows(options.batch_size)
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
        step=step,
    )
