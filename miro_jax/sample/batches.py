"""The batches of a call of the pipeline, sampled at once or step by step from the host.

Letters: P prompts, B images, R rewards; latents are [h, w, C].
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from miro_jax.cli.exit import Unfit
from miro_jax.models import sharding
from miro_jax.models.rin import RINConfig
from miro_jax.models.sampler import Branch, Guidance, draw_noise, make_stepper, sample_keys
from miro_jax.models.solvers import get_solver
from miro_jax.pretrained.networks.tower import padded_rows
from miro_jax.sample.encoded import Prompts, encode_negative
from miro_jax.sample.settings import Settings, parse_rule
from miro_jax.sample.trained import Trained


@dataclasses.dataclass(frozen=True)
class Call:
    """A checked call.

    Attributes:
      prompts: encoded. num_images: of each.
      positive, negative: levels of the two branches, [P * num_images, R] each.
      seed: of the noise. settings: how to sample.
      noise: [P * num_images, h, w, C] in place of drawn noise.
    """

    prompts: Prompts
    num_images: int
    positive: np.ndarray
    negative: np.ndarray
    seed: int
    settings: Settings
    noise: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Batch:
    """The inputs of one compiled call, on the devices of a mesh.

    Attributes:
      noise: [B, h, w, C] float32. positive, negative: branches. guidance: see `models.sampler`.
      guided: whether there is a negative branch. used: rows that are no padding.
    """

    mesh: jax.sharding.Mesh
    noise: jax.Array
    positive: Branch
    negative: Branch
    guidance: Guidance
    guided: bool
    used: int

    def sample(self, sample: Callable[..., jax.Array], weights: tuple) -> jax.Array | np.ndarray:
        """Return image latents [B, h, w, C]; `sample` is from `models.sampler.make_sampler`.

        Where several processes sample together, each gets all of them on its host.
        """
        branches = self.positive, self.negative
        with sharding.use_mesh(self.mesh):
            latents = sample(weights, self.noise, *branches, self.guidance, guided=self.guided)
            return sharding.whole(latents)


def default_dtype() -> str:
    """Return the type of a network for this machine."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def check_rows(batch_size: int | None) -> None:
    """Raise ValueError unless --batch-size divides over all devices; None is not given."""
    if batch_size is not None and batch_size % (devices := jax.device_count()):
        raise ValueError(
            f"argument --batch-size: must be a multiple of the {devices} devices; got {batch_size}"
        )


def default_rows(mesh: jax.sharding.Mesh) -> int:
    """Return the rows of a compiled call where none are given: 1 a device on a CPU, else 8."""
    return (1 if jax.default_backend() == "cpu" else 8) * mesh.shape["data"]


def make_batches(
    trained: Trained, call: Call, batch_size: int, fewer_rows: bool = False
) -> Iterator[Batch]:
    """Yield the padded batches of a call.

    Args:
      trained: the network. call: what to sample.
      batch_size, fewer_rows: see `MiroPipeline`.
    """
    shape, count, settings = trained.config.latent_shape, len(call.positive), call.settings
    if call.noise is not None and np.shape(call.noise) != (count, *shape):
        raise ValueError(f"noise must be {[count, *shape]}; got {list(np.shape(call.noise))}.")
    # A student's negative branch is built in.
    guided = bool(settings.guidance_scale != 0) and not trained.config.student
    # Without guidance nothing looks at the negative branch: no text is encoded for it.
    text = settings.negative_prompt if guided else "same"
    positive, negative = encode_negative(trained, text, call.prompts)
    interval = np.asarray(settings.guidance_interval, np.float32)
    rule, numbers = parse_rule(settings.guidance_rule)
    how = rule, settings.guidance_schedule, np.asarray(numbers, np.float32) if numbers else None
    mesh, rows = trained.mesh, batch_size
    put = functools.partial(sharding.put_rows, mesh=mesh)
    for start in range(0, count, batch_size):
        if fewer_rows:
            rows = min(batch_size, padded_rows(count - start, mesh.shape["data"]))
        scale = np.full(rows, settings.guidance_scale, np.float32)
        batch = np.minimum(np.arange(start, start + rows), count - 1)  # padded
        prompt_index = batch // call.num_images
        with sharding.use_mesh(mesh):
            x = _noise(call, batch, shape, mesh)
            branches = (
                put(positive.branch(prompt_index, call.positive[batch])),
                put(negative.branch(prompt_index, call.negative[batch])),
            )
            guidance = Guidance(put(scale), interval, *how)
        used = min(batch_size, count - start)
        yield Batch(mesh, x, *branches, guidance, guided, used)


def _noise(call: Call, images: np.ndarray, shape: tuple[int, ...], mesh: Any) -> jax.Array:
    """Return the noise [B, *shape] of images of a call, over the mesh."""
    if call.noise is not None:
        return sharding.put_rows(np.asarray(call.noise, np.float32)[images], mesh)
    keys = sample_keys(call.seed, *np.divmod(images, call.num_images))
    if sharding.batch_sharding(mesh).is_fully_addressable:
        return draw_noise(sharding.put_rows(keys, mesh), shape)
    return sharding.put_rows(draw_noise(keys, shape), mesh)  # keys are no arrays for a host


@dataclasses.dataclass
class Step:
    """A step that all batches of a call have taken.

    Attributes:
      index: from 0. t, t_next: where it began and ended, in [0, 1], 1 is noise.
      latents: x at t_next, [B, h, w, C] for each batch; another may be put in its place.
      denoised: where the step's direction leads to at t = 0, likewise.
      used: rows of each batch that are no padding.
    """

    index: int
    t: float
    t_next: float
    latents: list[jax.Array]
    denoised: list[jax.Array]
    used: list[int]

    def tensors(self) -> dict[str, Any]:
        """Return {"latents", "denoised"} of all images, [N, h, w, C] float32 each."""
        return {"latents": self._join(self.latents), "denoised": self._join(self.denoised)}

    def edit(self, latents: Any) -> None:
        """Go on from other latents [N, h, w, C]; ValueError for another shape."""
        old = self._join(self.latents)
        try:
            new = np.asarray(latents, np.float32)
        except (TypeError, ValueError):  # numpy's, of what holds no numbers
            new = np.array(None)
        if new.shape != old.shape:
            raise ValueError(f"latents must be {list(old.shape)}; got {list(new.shape)}.")
        for number, part in enumerate(np.split(new, np.cumsum(self.used)[:-1])):
            z, count = self.latents[number], self.used[number]
            full = np.concatenate([part, np.asarray(z)[count:]])
            self.latents[number] = jax.device_put(full, z.sharding)

    def _join(self, parts: Sequence[jax.Array]) -> np.ndarray:
        pairs = zip(parts, self.used, strict=True)
        return np.concatenate([np.asarray(z)[:count] for z, count in pairs])


class Steppers:
    """Takes the steps of one network; what is compiled for a solver serves any number of steps."""

    def __init__(self, trained: Trained):
        self._trained, self._made = trained, {}

    def steps(self, batches: Sequence[Batch], settings: Settings) -> Iterator[Step]:
        """Yield each step of all batches; the next one begins at its `latents`, edited or not."""
        solver, weights = get_solver(settings.solver), self._trained.weights
        if settings.solver not in self._made:
            self._made[settings.solver] = make_stepper(self._trained.graphdef, solver)
        start, step = self._made[settings.solver]
        states, encoded = [], []
        for batch in batches:
            with sharding.use_mesh(batch.mesh):
                inputs = batch.noise, batch.positive, batch.negative, batch.guidance
                condition, state = start(weights, *inputs, guided=batch.guided)
            states.append(state)
            encoded.append(condition)
        grid = [np.asarray(part) for part in solver.grid(settings.num_steps)]
        for index in range(settings.num_steps):
            now = tuple(jnp.asarray(part[index]) for part in grid)
            t, t_next, last = *(float(x) for x in now[:2]), index == settings.num_steps - 1
            old = [state[0] for state in states]
            for n, batch in enumerate(batches):
                with sharding.use_mesh(batch.mesh):
                    given = weights, encoded[n], batch.guidance, states[n], now
                    states[n] = step(*given, guided=batch.guided, last=last)
            new = [state[0] for state in states]
            ahead = t_next / (t_next - t)
            denoised = [x + (x_old - x) * ahead for x, x_old in zip(new, old, strict=True)]
            done = Step(index, t, t_next, new, denoised, [batch.used for batch in batches])
            yield done
            states = [(x, *state[1:]) for x, state in zip(done.latents, states, strict=True)]


def check_student(trained: Trained, settings: Settings, negative: np.ndarray) -> None:
    """Raise Unfit, a ValueError, for what a student does not do; `negative` are levels [B, R]."""
    if settings.solver != "euler":
        raise Unfit(f"a student samples with the solver euler; got {settings.solver!r}.")
    if (settings.guidance_rule, settings.guidance_schedule) != ("cfg", "constant"):
        raise Unfit(
            "a student has its guidance built in, rule cfg with a constant schedule; got "
            f"{settings.guidance_rule!r} and {settings.guidance_schedule!r}."
        )
    own = trained.usual.settings.negative_prompt
    if negative.any() or settings.negative_prompt != own:
        raise Unfit(
            "a student has its negative branch built in, with level 0 of all rewards and the "
            f"negative prompt {own!r}: negative targets, another negative prompt, isolate, "
            "tradeoff and explore need its teacher."
        )


def check_latents(config: RINConfig, latents: Any) -> None:
    """Raise ValueError unless latents are an array of images of a network, [B, h, w, C]."""
    shape = getattr(latents, "shape", None)
    if shape is None or tuple(shape[1:]) != tuple(config.latent_shape):
        raise ValueError(
            f"latents must be an array [B, {', '.join(map(str, config.latent_shape))}], as of "
            f"step.tensors(); got {type(latents).__name__ if shape is None else list(shape)}."
        )


def read_inputs(
    config: RINConfig, x_t: Any, t: Any, previous: Any
) -> tuple[jax.Array, np.ndarray, jax.Array | np.ndarray]:
    """Return (x_t, times [B], latent tokens [B, M, D]), float32; see `MiroPipeline.velocity`."""
    x_t, times = jnp.asarray(x_t, jnp.float32), np.asarray(t, np.float32)
    check_latents(config, x_t)
    if not (rows := len(x_t)):
        raise ValueError("x_t must hold at least one image; got none.")
    if times.shape not in ((), (rows,)) or not ((times >= 0) & (times <= 1)).all():
        raise ValueError(f"t must be one time or [{rows}] times, in [0, 1], 1 is noise; got {t!r}.")
    shape = (rows, config.num_latent_tokens, config.latent_width)
    previous = np.zeros(shape, np.float32) if previous is None else jnp.asarray(previous)
    if previous.shape != shape:
        raise ValueError(f"previous must be {list(shape)}; got {list(previous.shape)}.")
    return x_t, np.broadcast_to(times, (rows,)), previous


class NotFinite(FloatingPointError):
    """The latents of an image are not finite. row: of the image in its call."""

    def __init__(self, text: str, row: int):
        super().__init__(text, row)  # of which another process makes it again
        self.row = row

    def __str__(self) -> str:
        return f"{self.args[0]}; a lower guidance scale, or float32, may help."


def check_finite(latents: Sequence[tuple[jax.Array, int]], num_images: int) -> None:
    """Raise NotFinite for latents, with how many of each batch are used, that are not finite."""
    finite = [np.isfinite(np.asarray(z[:used])).all(axis=(1, 2, 3)) for z, used in latents]
    if not (every := np.concatenate(finite)).all():
        row = int(every.argmin())
        prompt, sample = divmod(row, num_images)
        raise NotFinite(f"image {sample} of prompt {prompt} has latents that are not finite", row)
