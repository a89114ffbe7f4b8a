"""The field's words for a call of the pipeline: those of diffusers and of the authors' package.

    pipe = pipe.to("cuda", torch.bfloat16)
    pipe(prompt, num_inference_steps=50, num_images_per_prompt=4, generator=generator).images

`read_call` turns them into the names of `MiroPipeline.__call__`. Nothing here imports torch: its
generators, types and devices are read by what they say of themselves.
"""

import dataclasses
import functools
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar

import jax
import numpy as np
from PIL import Image

from miro_jax.data.near import near_name
from miro_jax.models.targets import Targets
from miro_jax.pretrained.weights.official import RELEASE_NAMES
from miro_jax.sample.settings import DTYPES, MOST_SEEDS, Settings

# Called after each step with (pipe, step, t, {"latents": ..., "denoised": ...}).
Callback = Callable[[Any, int, float, dict[str, Any]], Mapping[str, Any] | None]
T = TypeVar("T")
OUTPUT_TYPES = ("pil", "np", "numpy", "latent")
NAMES = {
    "prompt": "prompts",
    "num_images_per_prompt": "num_images",
    "reward_targets": "targets",
    "negative_reward_targets": "negative_targets",
    "num_inference_steps": "num_steps",
    "generator": "seed",
}
# Of a call, by our names; a value of None is its default here, or one of the pipeline's own.
DEFAULTS = {"prompts": None, "num_images": 1, "seed": 0, "targets": None, "negative_targets": None}
DEFAULTS |= {field.name: field.default for field in dataclasses.fields(Settings)}
DEFAULTS |= dict.fromkeys(("prompt_embeds", "prompt_mask", "noise"))
SIDES = ("height", "width")  # of images, which a network has fixed
OF_CALLS = ("output_type", "return_dict", "callback_on_step_end")  # what is done with images
_OURS = {theirs: ours for ours, theirs in RELEASE_NAMES.items()}
_PLATFORMS = {"cuda": ("gpu", "cuda"), "xla": ("tpu",), "mps": ("METAL",)}


class Dialect(TypedDict, total=False):
    """Other names of arguments of `MiroPipeline.__call__`; two for one thing are an error.

    Attributes:
      prompt: `prompts`. num_images_per_prompt: `num_images`. num_inference_steps: `num_steps`.
      reward_targets: `targets`; the names of rewards may be the release's, as aesthetic_score.
      negative_reward_targets: `negative_targets`, likewise.
      generator: `seed`, or an object with `initial_seed()`, such as a `torch.Generator`. It is not
        advanced: two calls with one generator begin from the same noise.
      `guidance_scale` has one name in both, and is here diffusers' number less 1.
      height, width: of the images in pixels; must be those of the network.
    """

    prompt: str | Sequence[str]
    num_images_per_prompt: int
    num_inference_steps: int
    reward_targets: Targets
    negative_reward_targets: Targets
    generator: Any
    height: int
    width: int


class Images(list[Image.Image]):
    """The images of a call: a list, which is also its own `.images`."""

    @property
    def images(self) -> "Images":
        """The images themselves, under the name of diffusers."""
        return self


class Output(dict[str, Any]):
    """What a call with `return_dict=True` returns: `output.images`, `output["images"]`."""

    @property
    def images(self) -> Any:
        """The images, of the type that was requested."""
        return self["images"]


def read_call(
    given: Mapping[str, Any], size: int, usual: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments of a call, all of `DEFAULTS`, under our names.

    Args:
      given: arguments by our names or those of `NAMES` and `SIDES`; None where not given.
      size: side of the network's images in pixels.
      usual: values in place of some of `DEFAULTS`.

    Raises:
      TypeError: an unknown argument, or a value of another kind.
      ValueError: two names for one thing, or images of another size.
    """
    call: dict[str, Any] = dict.fromkeys(DEFAULTS)
    for name, value in given.items():
        if name in SIDES:
            _check_side(name, value, size)
            continue
        ours = NAMES.get(name, name)
        if name in OF_CALLS:
            raise TypeError(
                f"{name} is no argument of stream, which yields each step: "
                "pipe.preview(step.tensors()['latents']) makes images of it."
            )
        if ours not in call:
            known = (*call, *NAMES, *SIDES, *OF_CALLS)
            raise TypeError(
                f"unknown argument {name!r}{near_name(name, known)} "
                f"A call knows: {', '.join(known)}."
            )
        if value is None:
            continue
        if call[ours] is not None:
            other = next(theirs for theirs, our in NAMES.items() if our == ours)
            raise ValueError(f"{ours} and {other} are the same argument; give one of them.")
        call[ours] = value
    for name in ("targets", "negative_targets"):
        call[name] = _our_names(call[name])
    defaults = {**DEFAULTS, **(usual or {})}
    call = {name: defaults[name] if value is None else value for name, value in call.items()}
    _check_kinds(call)
    return call | {"seed": _seed(call["seed"]), "num_images": operator.index(call["num_images"])}


def with_names_as_given(read: Callable[[Any, Mapping[str, Any]], T]) -> Callable[..., T]:
    """Make a method that reads a call name a bad argument as the caller did.

    Args:
      read: of an object and the arguments given; its errors begin with our name.
    """

    @functools.wraps(read)
    def reading(self: Any, given: Mapping[str, Any]) -> T:
        ours = {name: NAMES[name] for name in given if name in NAMES}
        used = {one: name for name, one in ours.items() if given.get(one) is None}
        try:
            return read(self, given)
        except (ValueError, TypeError) as error:
            name, _, rest = str(error).partition(" ")
            if name not in used:
                raise
            raise type(error)(f"{used[name]} {rest}") from error

    return reading


def _check_kinds(call: Mapping[str, Any]) -> None:
    """Raise TypeError where a number of images is none, or a negative prompt no text."""
    try:
        operator.index(call["num_images"])
    except TypeError as error:
        raise TypeError(f"num_images must be an integer; got {call['num_images']!r}.") from error
    if not isinstance(call["negative_prompt"], str):
        raise TypeError(
            "negative_prompt must be a text, the same for all prompts; got "
            f"{call['negative_prompt']!r:.60}."
        )


def _check_side(name: str, value: Any, size: int) -> None:
    try:
        fits = value is None or operator.index(value) == size
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must be {size}, the side of this network's images in pixels; got {value!r}. "
            "Resize the images that it makes, or load a network of that size."
        )


def check_callback(callback: Any) -> None:
    """Raise TypeError unless a callback can be called."""
    if not callable(callback):
        raise TypeError(f"callback_on_step_end must be a function; got {callback!r:.60}.")


def read_answer(answer: Any) -> Any:
    """Return the latents that a callback gives back, None without; TypeError for another kind."""
    if answer is None or answer is False:
        return None
    if not isinstance(answer, Mapping):
        raise TypeError(
            "callback_on_step_end must return None or {'latents': array}; got "
            f"{type(answer).__name__}."
        )
    return answer.get("latents")


def _our_names(targets: Targets) -> Targets:
    """Put our names of rewards in place of the release's; ValueError where both are there."""
    if isinstance(targets, Mapping):
        ours = [_OURS.get(name, name) for name in targets]
        if twice := {name for name in ours if ours.count(name) > 1}:
            raise ValueError(f"targets must name a reward once; got two for {', '.join(twice)}.")
        return dict(zip(ours, targets.values(), strict=True))
    if isinstance(targets, list | tuple):
        return [_our_names(one) if isinstance(one, Mapping) else one for one in targets]
    return targets


def _seed(generator: Any) -> Any:
    if callable(getattr(generator, "initial_seed", None)):
        return int(generator.initial_seed()) % MOST_SEEDS
    return generator


def pack(images: np.ndarray, output_type: str, return_dict: bool | None) -> Any:
    """Return images in the form that a call requested.

    Args:
      images: [B, H, W, 3] uint8; latents for "latent".
      output_type: of `OUTPUT_TYPES`. return_dict: see `MiroPipeline.__call__`.
    """
    made: Any = images
    if output_type == "pil":
        made = Images(map(Image.fromarray, images))
    elif output_type == "np":
        made = images.astype(np.float32) / 255
    if return_dict is None:
        return made
    return Output(images=made) if return_dict else (made,)


def release_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the release's names of rewards, as aesthetic_score; others as they are."""
    return tuple(RELEASE_NAMES.get(name, name) for name in names)


def read_dtype(dtype: Any) -> str:
    """Return the name of a type, which may be one of torch, numpy or jax; ValueError lists all."""
    name = getattr(dtype, "__name__", None) or str(getattr(dtype, "name", dtype))
    name = name.removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    return name


def read_to(words: Sequence[Any], device: Any, dtype: Any) -> str | None:
    """Read the arguments of `pipe.to(...)`: a device, a type, or both, in any order.

    JAX has its devices from the machine: one of another kind is warned of.

    Returns:
      The name of the type; None where none is given.

    Raises:
      ValueError: an unknown type. TypeError: neither a device nor a type.
    """
    for word in words:
        is_device = str(word).partition(":")[0] in ("cpu", "gpu", "tpu", *_PLATFORMS)
        if is_device and device is None:
            device = word
        elif not is_device and dtype is None:
            dtype = word
        else:
            raise TypeError(
                f"to() takes one device and one dtype; got {', '.join(map(str, words))}."
            )
    kind, used = str(device).partition(":")[0], jax.default_backend()
    if device is not None and used not in (kind, *_PLATFORMS.get(kind, ())):
        warnings.warn(f"The weights stay on {used!r}, the device of JAX here.", stacklevel=3)
    return None if dtype is None else read_dtype(dtype)
