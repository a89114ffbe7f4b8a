"""All claims of a study, in the order of the paper's figures."""

from miro_jax.evaluate.study import best_of, composition, dials, faster, specialists, sweep
from miro_jax.evaluate.study.claim import Claim
from miro_jax.evaluate.study.resample import Study


def judge(study: Study) -> tuple[Claim, ...]:
    """Judge all claims; those whose cells are absent are "not measured"."""
    swept = sweep.judge(study)
    return (
        faster.judge(study),
        specialists.judge(study),
        composition.judge(study, swept.target),
        best_of.judge(study),
        swept,
        dials.judge(study),
    )
