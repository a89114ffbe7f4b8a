"""Options of training: the keys of `config.train` and `config.optim`, with what must hold of them.

Fields are documented by their help. `components.validate` checks them all.
"""

import dataclasses

from miro_jax.cli.flags import check, option
from miro_jax.train.saving import AUTO
from miro_jax.train.trackers import NAMES

TRAINABLE = ("all", "new_reward")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Numbers of the loss and of the EMA."""

    time_mean: float = option(help="of the normal behind the logit-normal times")
    time_std: float = option(at_least=0, help="of the same")
    self_condition_rate: float = option(
        share=True, help="share of samples that see their own latent tokens"
    )
    reward_dropout: float = option(share=True, help="share of levels made missing")
    caption_dropout: float = option(share=True, help="share of captions made empty")
    ema_decay: float = option(share=True, help="of the averaged parameters")


@dataclasses.dataclass(frozen=True)
class Training(Recipe):
    """`config.train`."""

    num_steps: int = option(at_least=1, help="updates")
    batch_size: int = option(at_least=1, help="samples of an update, over all processes")
    log_every_steps: int = option(at_least=1, help="updates between lines of metrics")
    sample_every_steps: int = option(at_least=0, help="updates between previews; 0 is never")
    score_samples: bool = option(help="score the previews by all rewards")
    checkpoint_every_steps: int = option(at_least=1, help="updates between checkpoints")
    keep_checkpoints: int = option(at_least=1, help="the newest so many")
    report: bool = option(help="evaluate at the end of training")
    microbatches: int = option(1, at_least=1, help="parts of a batch, in memory one by one")
    profile_steps: tuple[int, ...] = ()  # (first, last): trace them and those between; () is never
    peak_tflops: float = option(0.0, at_least=0, help="of a device; 0 is that of known ones")
    trackers: tuple[str, ...] = ()  # names of `trackers.NAMES`: get a copy of the metrics
    checkpoint_every_seconds: float = option(
        AUTO, at_least=AUTO, help="seconds between checkpoints; -1 is by `saving`, 0 by steps alone"
    )
    failure_every_seconds: float = option(14_400.0, at_least=1, help="mean time between failures")
    keep_every_steps: int = option(0, at_least=0, help="multiples of it are kept; 0 is none")
    upload_every_seconds: float = option(
        30.0, at_least=0.1, help="between uploads of what has changed, of a run in a store"
    )
    keep_best: str = option("", help="a metric; the checkpoint where it is highest is kept")

    def __post_init__(self):
        check(self, "config.train.")
        if unknown := sorted(set(self.trackers) - set(NAMES)):
            raise ValueError(
                f"config.train.trackers must name some of {', '.join(NAMES)}; "
                f"got {', '.join(map(str, unknown))}."
            )
        steps = self.profile_steps
        whole = len(steps) == 2 and all(isinstance(step, int) for step in steps)
        if steps and not (whole and 1 <= steps[0] <= min(steps[1], self.num_steps)):
            raise ValueError(
                "config.train.profile_steps must be () or the first and the last step to trace, "
                f"counted from 1 as in metrics.jsonl and begun by step {self.num_steps}, "
                f"config.train.num_steps; got {steps}."
            )
        if AUTO < self.checkpoint_every_seconds < 0:
            raise ValueError(
                "config.train.checkpoint_every_seconds must be at least 0, or -1 for what loses "
                f"least; got {self.checkpoint_every_seconds}."
            )


@dataclasses.dataclass(frozen=True)
class Optim:
    """`config.optim`; `optim` has the mathematics."""

    name: str = option(help="lamb or adamw")
    learning_rate: float = option(at_least=0, help="the highest rate")
    warmup_steps: int = option(at_least=0, help="updates before it is reached")
    rate: float = option(0.8, at_least=0, help="how far the cosine goes: 1 ends at 0")
    weight_decay: float = option(
        0.01, at_least=0, help="times the parameter, added to the direction of Adam"
    )
    clip_norm: float = 2.0  # the highest global norm of the gradients; inf clips nothing
    betas: tuple[float, float] = (0.9, 0.999)  # decay of the first and the second moment
    # 0, which float32 makes of less, divides 0 by 0 where a gradient is 0, as behind a gate at 0.
    eps: float = option(1e-8, at_least=1e-30, help="added to the root of the second moment")
    trainable: str = option("all", choices=TRAINABLE, help="all, or the token added last alone")

    def __post_init__(self):
        check(self, "config.optim.")
        if not self.clip_norm > 0:  # also refuses NaN
            raise ValueError(
                f"config.optim.clip_norm must be above 0 (inf for no clipping); got "
                f"{self.clip_norm}."
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"config.optim.betas must be two numbers in [0, 1); got {self.betas}.")


@dataclasses.dataclass(frozen=True)
class Distillation:
    """`config.distil`; `train.distil` has the mathematics."""

    checkpoint: str = option(
        "", help="of the teacher: a run or a release, by folder, URL or hub id"
    )
    teacher: str = option("", help="identity of its weights; the stage fills it in")
    num_steps: int = option(1, at_least=1, help="updates, in place of train.num_steps")
    batch_size: int = option(1, at_least=1, help="trajectories of an update")
    learning_rate: float = option(0.0, at_least=0, help="in place of optim.learning_rate")
    warmup_steps: int = option(0, at_least=0, help="in place of optim.warmup_steps")
    teacher_steps: int = option(16, at_least=1, help="of a trajectory, a power of two")
    spans_per_trajectory: int = option(8, at_least=1, help="jumps that the student learns of it")
    max_guidance: float = option(2.0, at_least=0, help="scales are uniform from 0 to it")
    data_levels: float = option(0.25, share=True, help="share of levels that are of the records")
    sample_steps: int = option(4, at_least=1, help="in place of sample.num_steps")

    def __post_init__(self):
        check(self, "config.distil.")
        if self.teacher_steps & (self.teacher_steps - 1):
            raise ValueError(
                f"config.distil.teacher_steps must be a power of two; got {self.teacher_steps}."
            )


@dataclasses.dataclass(frozen=True)
class Extension:
    """`config.extend`: what --stage=extend begins with, and how it trains."""

    checkpoint: str = option(help="run, or folder or hub id in the released layout")
    num_steps: int = option(at_least=1, help="updates")
    learning_rate: float = option(at_least=0, help="the highest rate")
    warmup_steps: int = option(at_least=0, help="updates before it is reached")
    base: str = option("", help="identity of its weights; the stage fills it in")

    def __post_init__(self):
        check(self, "config.extend.")
