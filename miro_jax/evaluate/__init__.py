"""Evaluation: a trained network in; numbers with intervals, images and the report out.

settings      options, and the table of evaluators: a new one is one file, one entry, one test
prompts       of the shapes world, of a file, or captions of the run's records
run           the stage; training, that of training
command       `miro-jax evaluate RUN_FOLDER`; suites/, `miro-jax evaluate WHAT --suite=NAME`
gallery, geneval, reward_scores, dials, conflict     the evaluators
preview       a grid during training
extension     the stage that adds a reward to a trained network
doctor        `miro-jax doctor`; speed, its work
plan          `miro-jax plan`; budget, its work
compare       two networks on the same prompts and noise; compare_command, `miro-jax compare`
"""

import lazy_loader

# Imported when first used: `miro-jax evaluate --help` needs no jax.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        *"budget compare conflict dials extension gallery geneval prompts reward_scores".split(),
        *"command distillation extension run speed study suites training".split(),
    ],
)
