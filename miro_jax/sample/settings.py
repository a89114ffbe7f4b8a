"""What a user may set when sampling: the definition of flags, `--help`, config keys and checks.

`Settings` says how images are sampled: from flags, from `config.sample` and from Python. `Options`
are the flags that every verb of the command has besides. Importing this module imports no jax.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from miro_jax.cli.flags import check, option

SOLVERS = ("euler", "heun", "dpmpp_2m")  # those of `models.solvers`, which imports jax
DTYPES = ("float32", "bfloat16")
CHECKPOINT = "nicolas-dufour/miro"
MOST_SEEDS = 1 << 32
# Far beyond what anybody samples with: above are numbers of another kind, or slips of the keyboard.
MOST_GUIDANCE, MOST_STEPS = 1000, 100_000
WHAT, HOW, MODEL, WHERE = "what to draw", "how to sample", "with which model", "where to"
_how, _model = functools.partial(option, group=HOW), functools.partial(option, group=MODEL)
RUN = "the run's"  # a run of this package is sampled as its own config says
PRESET = "the preset's"  # which has all of them; no run sets these


def check_interval(interval: Sequence[float]) -> tuple[float, float]:
    """Return an interval of guidance; ValueError where it is none."""
    try:
        low, high = interval
        if 0 <= low <= high <= 1:
            return low, high
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"guidance_interval must be (low, high) with 0 <= low <= high <= 1; got {interval!r}."
    )


def check_seed(seed: int) -> None:
    """Raise ValueError unless a number can be the seed of noise."""
    try:
        number = operator.index(seed)
    except TypeError as error:
        raise ValueError(f"seed must be an integer; got {seed!r}.") from error
    if not 0 <= number < MOST_SEEDS:
        raise ValueError(f"seed must be in 0..{MOST_SEEDS - 1}; got {seed!r}.")


def list_prompts(prompts: Any, kinds: tuple[type, ...] = (str,)) -> list[Any]:
    """Return one prompt or several as a list; TypeError where one is not of `kinds`."""
    several = isinstance(prompts, Iterable) and not isinstance(prompts, (bytes, *kinds))
    texts = list(prompts) if several else [prompts]
    if wrong := [one for one in texts if not isinstance(one, kinds)]:
        raise TypeError(
            f"prompts must be a text or a list of texts; got {wrong[0]!r:.60}, of type "
            f"{type(wrong[0]).__name__}. Write 'a red fox' or ['a red fox', 'a hen']."
        )
    return texts


# Rules of guidance, each with its numbers and what they are where they are not given.
RULES: dict[str, dict[str, float]] = {
    "cfg": {},
    "cfg_zero": {"zero": 0.04},
    "apg": {"eta": 0.0, "norm": 0.0, "momentum": 0.0},
}
SCHEDULES = ("constant", "linear")
# What JSON leaves out: requests from before there were such fields are the same requests.
UNWRITTEN = {"guidance_rule": "cfg", "guidance_schedule": "constant"}


def parse_rule(text: str) -> tuple[str, tuple[float, ...]]:
    """Read "cfg", "cfg_zero:zero=0.1" or "apg:eta=0,norm=2.5,momentum=-0.5".

    Returns:
      (name, its numbers in the order of `RULES`).

    Raises:
      ValueError: an unknown name, or no number.
    """
    name, _, rest = str(text).partition(":")
    if name not in RULES:
        raise ValueError(f"guidance_rule must be one of {', '.join(RULES)}; got {text!r}.")
    numbers = dict(RULES[name])
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        try:
            if key not in numbers or not math.isfinite(number := float(value)):
                raise ValueError
        except ValueError:
            known = ", ".join(f"{key}={usual:g}" for key, usual in RULES[name].items())
            raise ValueError(
                f"guidance_rule {name} takes {known or 'no numbers'}; got {part!r}."
            ) from None
        numbers[key] = number
    if not 0 <= numbers.get("zero", 0) <= 1 or numbers.get("norm", 0) < 0:
        raise ValueError(f"zero must be in [0, 1], and norm at least 0; got {text!r}.")
    return name, tuple(numbers.values())


def _check_rule(text: str) -> str:
    parse_rule(text)
    return text


def _parse_interval(text: str) -> tuple[float, float]:
    try:
        return check_interval(tuple(map(float, text.split(","))))
    except ValueError as error:
        raise ValueError(f"must be LOW,HIGH with 0 <= LOW <= HIGH <= 1; got {text!r}") from error


def _local_folder(text: str) -> str:
    if "://" in text:
        raise ValueError(f"must be a folder of this machine; got {text!r}")
    return text


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an image is sampled; see `MiroPipeline.__call__`.

    Raises:
      ValueError: an unknown solver, a number of steps or a scale out of range, no interval.
    """

    guidance_scale: float = _how(
        7.0,
        at_least=-MOST_GUIDANCE,
        at_most=MOST_GUIDANCE,
        metavar="W",
        unset=RUN,
        help="v+ + W (v+ - v-); 0 is no guidance, which diffusers calls 1: its number less 1",
    )
    guidance_interval: tuple[float, float] = _how(
        (0.0, 1.0),
        metavar="LOW,HIGH",
        parse=_parse_interval,
        unset=PRESET,
        help="times at which guidance acts, 1 is noise, 0 is data",
    )
    num_steps: int = _how(
        50,
        at_least=1,
        at_most=MOST_STEPS,
        flag="steps",
        metavar="N",
        unset=RUN,
        help="of the solver",
    )
    solver: str = _how("euler", choices=SOLVERS, unset=RUN, help="integrator")
    negative_prompt: str = _how(
        "empty",
        metavar="TEXT",
        unset=RUN,
        help="of the negative branch: empty, same (as the prompt), or a text",
    )
    guidance_rule: str = _how(
        "cfg",
        metavar="RULE",
        parse=_check_rule,
        unset=PRESET,
        help="cfg, cfg_zero[:zero=0.04] or apg[:eta=0,norm=0,momentum=0], see docs/guidance.md",
    )
    guidance_schedule: str = _how(
        "constant",
        choices=SCHEDULES,
        unset=PRESET,
        help="of W over time; linear is 2 W (1 - t)",
    )

    def __post_init__(self):
        check(self)
        object.__setattr__(self, "guidance_interval", check_interval(self.guidance_interval))
        parse_rule(self.guidance_rule)

    def to_json(self) -> dict[str, Any]:
        """Return the fields for a manifest, without those that are as in `UNWRITTEN`."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if UNWRITTEN.get(key) != value}

    def describe(self) -> str:
        """Return the settings in words, for the title of a grid."""
        words = [f"guidance {self.guidance_scale:g}"]
        if self.guidance_interval != (0, 1):
            low, high = self.guidance_interval
            words.append(f"at times {low:g} to {high:g}")
        words += [self.guidance_rule] if self.guidance_rule != "cfg" else []
        words += ["linear schedule"] if self.guidance_schedule == "linear" else []
        words.append(f"{self.num_steps} {self.solver} steps")
        return ", ".join(words)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Flags that name a network and what encodes and decodes for it."""

    checkpoint: str = _model(
        CHECKPOINT,
        metavar="DIR_OR_ID",
        help="a run's folder, a folder in the released layout, a URL of either, or a hub id",
    )
    variant: str | None = _model(
        None, metavar="NAME", help="sub-folder of a release, as no_clip or only_hpsv2"
    )
    revision: str | None = _model(None, metavar="NAME", help="branch, tag or commit on the hub")
    text_encoder: str | None = _model(
        None, metavar="DIR_OR_ID", help="FLAN-T5-XL (default: google/flan-t5-xl)"
    )
    vae: str | None = _model(
        None, metavar="DIR_OR_ID", help="the autoencoder (default: the SDXL VAE)"
    )
    dtype: str | None = _model(
        None, choices=DTYPES, help="of the network (default: float32 on a CPU, else bfloat16)"
    )


@dataclasses.dataclass(frozen=True)
class Options(ModelOptions):
    """Flags of every verb besides those of `Request` and `Settings`: prompts, model, folder."""

    prompt: tuple[str, ...] = option(
        (),
        repeat=True,
        parse=str,
        group=WHAT,
        metavar="TEXT",
        help="a prompt; repeat it for several",
    )
    prompts_file: str | None = option(
        None,
        group=WHAT,
        metavar="FILE",
        help='a prompt a line; or FILE.jsonl with {"prompt": ..., "targets": {...}, '
        '"negative_targets": {...}, "seed": ...} a line',
    )
    batch_size: int | None = _model(
        None,
        at_least=1,
        metavar="N",
        help="images at a time, over all devices (default: 1 a device on a CPU, else 8)",
    )
    preset: str | None = option(
        None,
        group=WHAT,
        metavar="FILE",
        help="targets, negative targets and how to sample, as `sample search` found them; flags "
        "that are given count more",
    )
    out: str | None = option(
        None,
        parse=_local_folder,
        group=WHERE,
        metavar="DIR",
        help="folder for the files, where the same command resumes (default: one under samples/, "
        "named after the command)",
    )
