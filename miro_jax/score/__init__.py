"""Stage: images of any origin with captions -> a table of rewards.

    miro-jax score photos --captions=captions.csv --rewards=pick_score --out=scores.csv

    from miro_jax.score import score_images
    summary = score_images("photos", ["pick_score"], "scores.csv", captions="captions.csv")

The engine of annotate does the work; here stand its options (`settings`), what is read (`inputs`),
the checks (`plan`), what a piece becomes (`table`), and the end (`run`, `summary`).
"""

import lazy_loader

# Imported when first used: `--help` needs no jax.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "__main__": ["main"],
        "settings": ["Settings"],
        "run": ["make_job", "run_job", "score_images"],
    },
)
