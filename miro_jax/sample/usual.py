"""What a checkpoint is sampled with where nothing else is said, the same at every entry point.

A run carries its own, `config.sample` of its `config.json`. A release has the paper's: positive
targets 1, negative targets 0, guidance 7, 50 Euler steps, the empty negative prompt. Importing this
module imports no jax.
"""

import dataclasses
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from miro_jax.models.targets import name_once, parse_targets
from miro_jax.sample.request import Levels, Prompt, Request, Targets, find_reward, make_request
from miro_jax.sample.settings import Settings

# Fields of `Settings` that a run sets, and their keys in `config.sample`.
_KEYS = {name: name for name in ("guidance_scale", "num_steps", "solver")}
_KEYS |= {"negative_prompt": "negative"}


@dataclasses.dataclass(frozen=True)
class Usual:
    """Defaults of a checkpoint.

    Attributes:
      targets, negative_targets: levels of some rewards; the others get 1 and 0.
      settings: how to sample.
    """

    targets: Levels = dataclasses.field(default_factory=dict)
    negative_targets: Levels = dataclasses.field(default_factory=dict)
    settings: Settings = dataclasses.field(default_factory=Settings)

    def levels(self, names: Sequence[str]) -> tuple[Levels, Levels]:
        """Return positive and negative targets of a network with these rewards, all written out.

        Raises:
          ValueError: the network does not know a reward.
        """
        given = self.targets, self.negative_targets
        own = [{find_reward(name, names): level for name, level in one.items()} for one in given]
        return dict.fromkeys(names, 1.0) | own[0], dict.fromkeys(names, 0.0) | own[1]

    def put_before(self, flags: Namespace, negative: bool = True) -> dict[str, Any]:
        """Put the levels before those of flags; return the settings, of which flags count more.

        Args:
          flags: of `Request`. negative: False puts nothing before the negative targets.

        Raises:
          ValueError: two flags name the same reward.
        """
        usual = self.targets, self.negative_targets if negative else {}
        for own, key in zip(usual, ("targets", "negative_targets"), strict=True):
            given = name_once(pair for part in getattr(flags, key) for pair in part.items())
            setattr(flags, key, [own, given])
        return dataclasses.asdict(self.settings)


def read_usual(sample: Any) -> Usual:
    """Return the defaults of a run, or those of a release.

    Args:
      sample: `config.sample` of a run, as `trained.peek` returns it; None for a release.

    Raises:
      ValueError: a target is none.
    """
    if sample is None:
        return Usual()
    levels = [parse_targets(sample.get(key, "")) for key in ("targets", "negative_targets")]
    return Usual(*levels, Settings(**read_settings(sample)))


def read_settings(sample: Any) -> dict[str, Any]:
    """Return the fields of `Settings` that a run's `config.sample` sets."""
    return {name: sample[key] for name, key in _KEYS.items()}


def request_of(
    pipe: Any,
    prompts: str | Sequence[str | Prompt],
    num_images: int = Request.num_images,
    targets: Levels | None = None,
    negative_targets: Levels | None = None,
    negative: bool = True,
    **request: Any,
) -> Request:
    """Put a request together as calls from Python write it, with the defaults of a pipeline.

    Args:
      pipe: a `MiroPipeline`. negative: False requests no negative targets where none are given.
      targets, negative_targets: {name: level or None} for all images; None is the pipeline's.
      prompts, num_images, request: see `request.make_request`.

    Raises:
      TypeError: targets are no mapping. ValueError: see `Request`.
    """
    how = dataclasses.asdict(pipe.default_settings) | request
    usual, refused = pipe.default_targets, pipe.default_negative_targets if negative else {}
    return make_request(
        pipe.reward_names,
        prompts,
        num_images,
        targets=_after(usual, 1.0, targets),
        negative_targets=_after(refused, 0.0, negative_targets),
        **how,
    )


def _after(usual: Levels, plain: float, given: Levels | None) -> Targets:
    """Return given levels after those defaults that are not the plain ones of a request."""
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(
            "targets must be {name: level}, the same for all prompts; got "
            f"{type(given).__name__}. Prompt(text, targets={{name: level}}) of miro_jax.sample "
            "gives a prompt targets of its own."
        )
    own = {name: level for name, level in usual.items() if level != plain}
    return [own, given or {}]
