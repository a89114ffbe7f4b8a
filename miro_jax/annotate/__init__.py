"""Stage: pictures with captions -> records with image latents, caption tokens and reward scores.

    python -m miro_jax.annotate --source='tar:/data/*.tar' --out=/data/records --rewards=beauty

Each piece of the source becomes one shard. On the way it is cut into chunks, and what a group of
models made of a chunk is kept at once: a run that was killed goes on at the next chunk, on the same
machine or on others, and ends with the same bytes. A sample that cannot be used is a failure: it is
counted by cause and listed, never dropped in silence, never replaced.

    command     flags -> a plan -> what is to be done    stage       the same from a config
    plan        every argument, checked                 workers     whose pieces are whose
    tell        a plan in words                         estimate    what it will take
    summary     what is there at the end, in words
    models      rewards and encoders, in groups         sizes       what they need
    work        the loop over pieces                    chunks      pieces -> decoded pictures
    compute     pictures -> arrays                      gauge       how fast, and what is waited for
    parts       what is kept of a chunk                 publish     parts -> a shard
    merge       shards -> bins, statistics, manifest    coverage    what became of all samples
    extremes    the best and worst pictures             origin      what a folder is made with
"""

from miro_jax.annotate.command import main
from miro_jax.annotate.plan import Plan, plan
from miro_jax.annotate.stage import annotate, execute, run

__all__ = ["Plan", "annotate", "execute", "main", "plan", "run"]
