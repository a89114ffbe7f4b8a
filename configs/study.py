"""A study of the paper's claims on the shapes world: variants and seeds, trained and measured.

    python -m miro_jax.main --config=configs/study.py --workdir=runs/study --stage=study

Keys are those of configs/base.py, which explains them, and `study`. Variants: tiny (two
minutes; learns nothing), all (every variant, for an accelerator, where all runs train in one
program).
"""

from ml_collections import ConfigDict

from configs import base


def study() -> ConfigDict:
    """Baseline, MIRO and three specialists, three seeds: an hour of two CPU cores."""
    c = base.base()
    with c.unlocked():
        c.train.num_steps = 1_000
        c.train.checkpoint_every_steps = 1_000
        c.study = ConfigDict()
        # baseline, miro, synth and synth_baseline (half of the steps use the synthetic caption),
        # only_REWARD, no_REWARD.
        c.study.variants = ("baseline", "miro", "only_beauty", "only_sharpness", "only_colors")
        c.study.seeds = (0, 1, 2)
        c.study.measure_steps = (100, 200, 350, 500, 700, 1_000)  # updates; the last ends training
        c.study.runs_at_once = 0  # in one program; 0 = all on an accelerator, one on a CPU
        c.study.prompts_per_category = 100  # that numbers are reported of
        c.study.search_per_category = 50  # others, by which the best target is chosen
        c.study.sweep_levels = (0.25, 0.5, 0.625, 0.75, 0.875, 1.0)  # of evaluate.conflict_reward
        c.study.dial_levels = (0.0, 0.25, 0.5, 0.75, 1.0)
        c.study.dial_per_category = 10
        c.study.best_of = 32  # images of a prompt
        c.study.best_of_per_category = 4
        c.study.batch_size = 100  # images sampled together
    return c


def tiny(c: ConfigDict) -> None:
    """Two variants, a few updates."""
    base.tiny(c)
    c.train.num_steps = 6
    c.study.variants = ("baseline", "miro")
    c.study.seeds = (0, 1)
    c.study.measure_steps = (2, 6)
    c.study.prompts_per_category = 2
    c.study.search_per_category = 1
    c.study.sweep_levels = (0.5, 1.0)
    c.study.dial_levels = (0.0, 1.0)
    c.study.dial_per_category = 1
    c.study.best_of = 2
    c.study.best_of_per_category = 1
    c.study.batch_size = 16


def all_variants(c: ConfigDict) -> None:
    """All variants and all seeds, longer, with more prompts: minutes of an accelerator."""
    c.encoder.caption.max_tokens = 16  # synthetic captions are longer
    c.train.num_steps = 3_000
    c.train.checkpoint_every_steps = 3_000
    c.study.variants = (
        "baseline",
        "miro",
        "synth",
        "synth_baseline",
        *(f"only_{name}" for name in base.REWARDS),
        *(f"no_{name}" for name in base.REWARDS),
    )
    c.study.measure_steps = (100, 200, 350, 500, 700, 1_000, 1_500, 2_000, 3_000)
    c.study.dial_per_category = 32
    c.study.best_of = 128
    c.study.batch_size = 600


VARIANTS = {"tiny": tiny, "all": all_variants}


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of a variant; ValueError lists the known ones."""
    return base.choose_variants(study(), variant, VARIANTS, "configs/study.py")
