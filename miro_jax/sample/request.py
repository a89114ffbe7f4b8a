"""What is asked for when sampling: prompts, levels and settings, down to the single picture.

A picture depends on its own line of this alone: prompt, seed, prompt index, sample index, levels
and settings. So work can be cut, stopped and gone on with at any picture.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from miro_jax.models.solvers import get_solver
from miro_jax.models.targets import to_levels

Levels = dict[str, float | None]  # reward -> level in [0, 1]; None is not asked for

MOST_SEEDS = 1 << 32
LONGEST_NAME = 40  # letters of a prompt in a file name


@dataclasses.dataclass(frozen=True)
class Settings:
    """How all pictures of a request are sampled; see `MiroPipeline.__call__`.

    Raises:
      ValueError: an unknown solver, fewer than one step, an interval that is none.
    """

    guidance_scale: float = 7.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    num_steps: int = 50
    solver: str = "euler"
    negative_prompt: str = "empty"

    def __post_init__(self):
        get_solver(self.solver)
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1; got {self.num_steps}.")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(
                "guidance_interval must be (low, high) with 0 <= low <= high <= 1; "
                f"got {self.guidance_interval}."
            )

    def describe(self) -> str:
        """Return the settings in words, for the title of a grid."""
        words = [f"guidance {self.guidance_scale:g}"]
        if tuple(self.guidance_interval) != (0, 1):
            low, high = self.guidance_interval
            words.append(f"at times {low:g} to {high:g}")
        words.append(f"{self.num_steps} {self.solver} steps")
        return ", ".join(words)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt, with what is asked for it besides what is asked for all.

    Attributes:
      text: the prompt. seed: None is that of the request.
      targets, negative_targets: levels of some rewards.
    """

    text: str
    targets: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    negative_targets: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request, checked.

    Attributes:
      names: rewards that the network is told, in order.
      prompts: what to draw. num_images: pictures of each, everything else equal.
      seed: of the noise.
      targets, negative_targets: of some rewards; the others get 1 and 0.
      settings: how to sample.

    Raises:
      ValueError: an unknown reward, a level that is no number, a number that is too small.
    """

    names: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    num_images: int = 1
    seed: int = 0
    targets: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    negative_targets: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    settings: Settings = dataclasses.field(default_factory=Settings)

    def __post_init__(self):
        if not self.prompts or self.num_images < 1:
            raise ValueError(
                "at least one prompt and one image of each are needed; got "
                f"{len(self.prompts)} prompts and {self.num_images} images."
            )
        for seed in (self.seed, *(p.seed for p in self.prompts if p.seed is not None)):
            if not 0 <= seed < MOST_SEEDS:
                raise ValueError(f"a seed must be in 0..{MOST_SEEDS - 1}; got {seed}.")
        for one in (self, *self.prompts):
            for levels in (one.targets, one.negative_targets):
                to_levels(levels, 1, self.names, 1.0)

    def positive(self, prompt: Prompt) -> Levels:
        """Return the levels asked for a prompt, all rewards written out."""
        return {**dict.fromkeys(self.names, 1.0), **self.targets, **prompt.targets}

    def negative(self, prompt: Prompt, default: Mapping[str, float | None] | float = 0.0) -> Levels:
        """Return the levels of the negative branch, all rewards written out.

        Args:
          prompt: one of the prompts. default: of the rewards that nobody names.
        """
        levels = dict.fromkeys(self.names, default) if isinstance(default, float) else dict(default)
        return {**levels, **self.negative_targets, **prompt.negative_targets}

    def require(self, name: str) -> None:
        """Raise ValueError unless a reward is one that the network is told."""
        if name not in self.names:
            raise ValueError(
                f"Unknown reward {name!r}; this model knows: {', '.join(self.names) or 'none'}."
            )


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture asked for.

    Attributes:
      file: its name in the folder.
      prompt, prompt_index, sample_index, seed: what it shows, and which noise it starts from.
      targets, negative_targets: levels of all rewards.
      guidance_scale: 0 is no guidance.
    """

    file: str
    prompt: str
    prompt_index: int
    sample_index: int
    seed: int
    targets: Levels
    negative_targets: Levels
    guidance_scale: float


def ask(
    names: Sequence[str],
    prompts: str | Sequence[str | Prompt],
    num_images: int = 1,
    seed: int = 0,
    targets: Mapping[str, float | None] | None = None,
    negative_targets: Mapping[str, float | None] | None = None,
    **settings,
) -> Asked:
    """Put a request together, as calls from Python write it.

    Args:
      names: rewards that the network is told. settings: fields of `Settings`; the others: of
        `Asked`.
    """
    texts = [prompts] if isinstance(prompts, str) else prompts
    return Asked(
        tuple(names),
        tuple(p if isinstance(p, Prompt) else Prompt(p) for p in texts),
        num_images,
        seed,
        dict(targets or {}),
        dict(negative_targets or {}),
        Settings(**settings),
    )


def slug(prompt: str) -> str:
    """Return a prompt as part of a file name: lower case letters and digits, at most 40."""
    plain = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return plain[:LONGEST_NAME].rstrip("-") or "empty"
