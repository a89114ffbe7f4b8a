"""The study: many small networks of the shapes world, and which of the paper's claims they show.

train, measure, judging     networks side by side, what is drawn of them, and who judges it
measured      what was measured of the networks: verdicts and reward scores, a file for each group
resample      means over prompts and seeds, with intervals
claim, claims what claims have in common; all of them, from cells to verdicts
faster, specialists, composition, best_of, sweep, dials     one claim each: F3 to F8
page          study.json and study.html; drawings, its charts
"""

import lazy_loader

# Imported when first used: the help of a stage needs no jax.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["stage"])
