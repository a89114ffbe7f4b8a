"""Evaluation: a trained network in; numbers with intervals, images and the report out.

settings      options, and the table of evaluators: a new one is one file, one entry, one test
prompts       of the shapes world, of a file, or captions of the run's records
run           the stage
command       `miro-jax evaluate RUN_FOLDER`
gallery, geneval, reward_scores, dials, conflict     the evaluators
preview       a grid during training
"""

import lazy_loader

# Imported when first used: `miro-jax evaluate --help` needs no jax.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[*"conflict dials gallery geneval prompts reward_scores run".split()],
)
