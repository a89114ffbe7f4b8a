"""Stage: pictures with captions -> records with image latents, caption tokens and reward scores.

    python -m miro_jax.annotate --source='tar:/data/*.tar' --out=/data/records --rewards=beauty

Each piece of the source becomes one shard. On the way it is cut into chunks, and what a group of
models made of a chunk is kept at once: a run that was killed goes on at the next chunk, on the same
machine or on others, and ends with the same bytes. A sample that cannot be used is a failure: it is
counted by cause and listed, never dropped in silence, never replaced.

    plan        every argument, checked                 models      rewards and encoders, in groups
    chunks      pieces -> decoded pictures              compute     pictures -> arrays
    parts       what is kept of a chunk                 publish     parts -> a shard
    work        the loop                                workers     whose pieces are whose
    merge       bins, statistics, manifest, page        estimate    what it will take
"""

from miro_jax.annotate.command import main
from miro_jax.annotate.plan import Plan, plan
from miro_jax.annotate.stage import annotate, execute, run

__all__ = ["Plan", "annotate", "execute", "main", "plan", "run"]
