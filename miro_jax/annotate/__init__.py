"""Stage: images with captions -> records with image latents, caption tokens and reward scores.

    miro-jax annotate --source='tar:/data/*.tar' --out=/data/records --rewards=beauty

One engine puts images through models, for annotate and for score. Each piece of the source is read
in batches of one size; what a group of models makes of a batch is stored at once as a part; the
parts of a piece become a shard (of records) or rows (of a table). A run that was killed resumes at
the next batch, on the same machine or on others, and ends with the same bytes. A sample that cannot
be used is a failure: it is counted by cause and listed, and changes no other sample's result.

    settings    every option                         plan       settings -> a checked job
    workers     which pieces a process takes         origin     what a folder is made with
    models      rewards and encoders, in groups      batches    pieces -> decoded images, in batches
    work        the loop over pieces                 parts      what is stored of a batch
    publish     parts -> a shard                     finish     shards -> bins, statistics, manifest
    extremes    the best and worst images            estimate   what a run will take
    stage       from a config, Python or flags
"""

import lazy_loader

# Imported when first used: `--help` needs no jax.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "__main__": ["main"],
        "settings": ["Settings"],
        "stage": ["annotate", "execute", "make_job", "run", "run_job"],
    },
)
