"""Benchmarks: prompts with judges, over images of any origin.

base                      what a suite and a judge are; table, suites by name
parti, shapes, texts      the suites without a network of their own; prompts/, their texts
geneval/                  GenEval with its judge
command, settings, work   `miro-jax evaluate WHAT --suite=NAME`
sampling, find            images: sampled from a checkpoint, or found in a folder of any origin
judging, scoring          images through the judge, and through rewards
run, measure              what is not done yet; rows become numbers with intervals
listing                   the prompts alone, for samplers of any origin
rows, manifest, tables    the per-image file; what every number carries; text, CSV, LaTeX, JSON
verbs                     compare, diff, check, import, agreement: identity, comparison, difference,
                          expected, importing, geneval/; pages, of one evaluation and of several
watch                     checkpoints of a run as they appear
"""

import lazy_loader

# Imported when first used: `miro-jax evaluate --help` needs no jax.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules="comparison run sampling table verbs watch work".split()
)
