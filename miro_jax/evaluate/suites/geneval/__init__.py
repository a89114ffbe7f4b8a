"""GenEval (Ghosh et al. 2023, arXiv 2310.11513) with its own rules, detector and colour classifier.

    prompts    the 553 prompts and what each image must show    data/, of the benchmark, MIT
    detector   pixels -> Mask2Former -> objects                 pixels, instances, detector
    colors     objects -> colour logits by CLIP L/14            colors
    verdicts   objects + colours -> correct or reasons          relation, verdict, rows
    numbers    verdicts -> three numbers with names             measure, of all suites
    judge      all of it for a batch of images                  judge, self_test
    agreement  two judges on the same images                    agreement, people

The file beside this package named `evaluate/geneval.py` is another thing: the categories of GenEval
on the shapes world, judged by its own exact detector.
"""

import lazy_loader

# Imported when first used: what reads results and prints help needs no jax.
__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["judge"])
