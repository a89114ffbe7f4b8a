"""What the page requests, in forms that leave it: JSON (also in a link), Python, a command.

A form is a `sample.request.Request` of one prompt, checked as every request is. Its JSON has the
names of `MiroPipeline.__call__`, and every reward's levels written out; null is not conditioned.
"""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from miro_jax.data.json_file import check_fields, dump_json, parse_json
from miro_jax.sample.request import Request, make_request
from miro_jax.sample.settings import Settings

LONGEST = 20_000  # letters of a JSON; a prompt may be long
_LEVELS = {str: (float, None)}
_OWN = {"prompt": str, "num_images?": int, "seed?": int, "targets?": _LEVELS}
_OWN |= {"negative_targets?": _LEVELS, "negative_prompt?": str, "guidance_rule?": str}
_SETTINGS = [field.name for field in dataclasses.fields(Settings)]


def make_form(names: Sequence[str], values: Mapping[str, Any], most_images: int = 64) -> Request:
    """Return the request of one prompt.

    Args:
      names: rewards of the network, in order.
      values: `prompt`, and what else is requested, by the names of `MiroPipeline.__call__`.
      most_images: how many may be requested.

    Raises:
      ValueError: an unknown key or reward, a value of another type or out of its range.
    """
    check_fields(values, _OWN, "the settings")
    given = dict(values)
    known = list(dict.fromkeys([key.removesuffix("?") for key in _OWN] + _SETTINGS))
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(f"the settings may have {', '.join(known)}; got {', '.join(unknown)}.")
    if not 1 <= given.get("num_images", 1) <= most_images:
        raise ValueError(f"num_images must be in 1..{most_images}; got {given['num_images']}.")
    prompt = given.pop("prompt")
    if not prompt.strip():
        raise ValueError("a prompt is needed; the field is empty.")
    return make_request(names, prompt, **given)


def read_json(text: str, names: Sequence[str], most_images: int = 64) -> Request:
    """Read what `write_json` wrote; ValueError says what is wrong."""
    if len(text) > LONGEST:
        raise ValueError(f"the settings must be at most {LONGEST} letters; got {len(text)}.")
    return make_form(names, parse_json(text, "the settings", dict), most_images)


def to_values(form: Request) -> dict[str, Any]:
    """Return a form as plain values, all levels written out."""
    (prompt,) = form.prompts
    own = {"prompt": prompt.text, "num_images": form.num_images, "seed": form.seed}
    levels = {"targets": form.positive(prompt), "negative_targets": form.negative(prompt)}
    return own | levels | dataclasses.asdict(form.settings)


def write_json(form: Request) -> str:
    """Return the JSON of a form, on one line."""
    return dump_json(to_values(form))


def _changed(form: Request, usual: Request | None) -> dict[str, Any]:
    """Return the arguments of a form without those that are the checkpoint's defaults.

    Args:
      usual: a form of the defaults; None is those of a release.
    """
    values = to_values(form)
    defaults = to_values(make_request(form.names, "a") if usual is None else usual)
    for key in ("targets", "negative_targets"):
        own = values.pop(key).items()
        changed = {name: level for name, level in own if level != defaults[key][name]}
        values |= {key: changed} if changed else {}
    left = [name for name in _SETTINGS if name not in ("guidance_scale", "num_steps")]
    return {k: value for k, value in values.items() if k not in left or value != defaults[k]}


def to_python(
    form: Request,
    checkpoint: str,
    variant: str | None = None,
    usual: Request | None = None,
    loading: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the call of the pipeline that draws the same images, with its import.

    Args:
      usual: a form of the checkpoint's defaults, which the call does not repeat.
      loading: what else `MiroPipeline.from_pretrained` gets, as `vae` or `dtype`.
    """
    values = _changed(form, usual)
    words = [*map(repr, filter(None, (checkpoint, variant)))]
    where = ", ".join([*words, *(f"{key}={value!r}" for key, value in loading.items())])
    lines = [f"    {values.pop('prompt')!r},"]
    lines += [f"    {key}={value!r}," for key, value in values.items()]
    return "\n".join(
        [
            "from miro_jax import MiroPipeline",
            "",
            f"pipe = MiroPipeline.from_pretrained({where})",
            "images = pipe(",
            *lines,
            ")",
        ]
    )


def to_command(
    form: Request,
    checkpoint: str,
    variant: str | None = None,
    usual: Request | None = None,
    loading: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the `miro-jax sample` that draws the same images into a folder; see `to_python`."""
    values = _changed(form, usual)
    flags = {"num_images": "images", "num_steps": "steps", "targets": "target"}
    flags |= {"negative_targets": "negative-target"}
    words = [f"--checkpoint={checkpoint}", *([f"--variant={variant}"] if variant else [])]
    for key, value in [*loading.items(), *values.items()]:
        if isinstance(value, Mapping):
            pairs = value.items()
            value = ",".join(f"{k}={'none' if v is None else repr(v)}" for k, v in pairs)
        elif isinstance(value, tuple):
            value = ",".join(map(repr, value))
        words.append(f"--{flags.get(key, key).replace('_', '-')}={value}")
    return " ".join(["miro-jax sample", *map(shlex.quote, words)])


def snap(level: float, num_bins: int) -> float:
    """Return the trained level k / (num_bins - 1) that is nearest to a level in [0, 1].

    Raises:
      ValueError: the level is no number.
    """
    if not isinstance(level, int | float):
        raise ValueError(f"a level must be a number in [0, 1]; got {level!r}.")
    top = max(num_bins - 1, 1)
    return round(level * top) / top
