"""Stage: pictures of any origin with captions -> a table of rewards.

    python -m miro_jax.score photos --captions=captions.csv --rewards=pick_score --out=scores.csv

    from miro_jax.score import score_images
    summary = score_images("photos", ["pick_score"], "scores.csv", captions="captions.csv")

`plan` checks the arguments, `inputs` finds the pictures, `pictures` scores them batch by batch,
`parts` keeps what is done, `output`, `summary` and `histograms` make what is left of it.
"""

from miro_jax.score.command import main
from miro_jax.score.run import score_images

__all__ = ["main", "score_images"]
