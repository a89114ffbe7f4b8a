"""Options of a study, the keys of `config.study`, and its runs."""

import dataclasses
import itertools
import numbers
from collections.abc import Sequence

import numpy as np

from miro_jax.cli.flags import check, option

ALONE, WITHOUT = "only_", "no_"
BASELINE, MIRO = "baseline", "miro"
SYNTHETIC = ("synth", "synth_baseline")  # half of their steps use the synthetic caption


@dataclasses.dataclass(frozen=True)
class Study:
    """`config.study`. Fields are documented by their help."""

    variants: tuple[str, ...] = option(
        help="baseline, miro, synth, synth_baseline, only_REWARD, no_REWARD; each with every seed"
    )
    seeds: tuple[int, ...] = option(help="of initialisation, order and noise")
    measure_steps: tuple[int, ...] = option(
        help="updates after which images are measured; the last ends training"
    )
    runs_at_once: int = option(
        at_least=0, help="runs in one program; 0 is all on an accelerator and one on a CPU"
    )
    prompts_per_category: int = option(at_least=1, help="prompts that numbers are reported of")
    search_per_category: int = option(at_least=1, help="others, by which a target is chosen")
    sweep_levels: tuple[float, ...] = option(help="targets of config.evaluate.conflict_reward")
    dial_levels: tuple[float, ...] = option(help="requested levels of each reward")
    dial_per_category: int = option(at_least=1, help="prompts of a dial's point")
    best_of: int = option(at_least=2, help="images of a prompt, of which the best are looked for")
    best_of_per_category: int = option(at_least=1, help="prompts for that")
    batch_size: int = option(at_least=1, help="images sampled together")

    def __post_init__(self):
        check(self, "config.study.")
        for name in ("variants", "seeds", "measure_steps", "sweep_levels", "dial_levels"):
            value = getattr(self, name)
            if isinstance(value, str) or not value or len(set(value)) != len(value):
                raise ValueError(
                    f"config.study.{name} must be a tuple of one or more different values; "
                    f"got {value!r}."
                )
        for name in ("sweep_levels", "dial_levels"):
            if not all(isinstance(x, numbers.Real) and 0 <= x <= 1 for x in getattr(self, name)):
                raise ValueError(
                    f"config.study.{name} must be levels in [0, 1]; got {getattr(self, name)}."
                )
        steps = self.measure_steps
        if list(steps) != sorted(steps) or steps[0] < 1:
            raise ValueError(f"config.study.measure_steps must rise from at least 1; got {steps}.")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of a study.

    Attributes:
      variant: its name. seed: of initialisation, order of records and noise.
      rewards: [R] bool, those it is conditioned on; the others are missing, a zero vector.
      synthetic: share of steps that use the synthetic caption.
    """

    variant: str
    seed: int
    rewards: np.ndarray
    synthetic: float


def make_runs(study: Study, rewards: Sequence[str], synthetic: float) -> list[Run]:
    """Return the runs of a study, all seeds of a variant side by side.

    Args:
      rewards: names of all rewards.
      synthetic: share of steps with the synthetic caption where the variant does not say.

    Raises:
      ValueError: an unknown variant; the known ones are listed.
    """
    known = {BASELINE: [], MIRO: rewards, SYNTHETIC[0]: rewards, SYNTHETIC[1]: []}
    known |= {ALONE + name: [name] for name in rewards}
    known |= {WITHOUT + name: [n for n in rewards if n != name] for name in rewards}
    if unknown := [name for name in study.variants if name not in known]:
        raise ValueError(
            f"config.study.variants must be some of {', '.join(known)}; got {', '.join(unknown)}."
        )
    return [
        Run(
            variant,
            int(seed),
            np.isin(list(rewards), known[variant]),
            0.5 if variant in SYNTHETIC else synthetic,
        )
        for variant, seed in itertools.product(study.variants, study.seeds)
    ]
