"""Made-up measurements of a study, whose claims have known answers."""

import dataclasses
import zlib

import numpy as np

from miro_jax.evaluate.study.measured import BEST_OF, Cell, Measured

REWARDS = ("beauty", "objects", "colors", "count")
CATEGORIES = ("single_object", "colors", "counting")
EACH = 40  # prompts of a category


def frame(each=EACH, best_of=6):
    sizes = {"report": each, "search": each, "best_of": best_of}
    return {
        "rewards": REWARDS,
        "batch_size": 64,
        "prompts": {
            s: tuple(f"{s} {c} {i}" for c in CATEGORIES for i in range(n)) for s, n in sizes.items()
        },
        "categories": {s: tuple(c for c in CATEGORIES for _ in range(n)) for s, n in sizes.items()},
    }


def make_cell(
    means, share, variant="miro", seed=0, step=1000, setting="default", noise=0.05, each=EACH
):
    """A cell with mean scores `means` [R] and the share `share` of right images.

    The noise of a prompt has its own sign and is the same in all cells, up to a tenth. The images
    of the first prompts of each category are right.
    """
    count = each * len(CATEGORIES)
    shared = np.random.default_rng(zlib.crc32(setting.split(":")[0].encode()))
    own = np.random.default_rng(zlib.crc32(f"{variant} {seed} {step} {setting}".encode()))
    offsets = shared.normal(size=(count, 1)) + 0.1 * own.normal(size=(count, len(REWARDS)))
    scores = (np.asarray(means) + noise * offsets).astype(np.float32)
    right = np.tile(np.arange(each) < round(share * each), len(CATEGORIES))
    return Cell(variant, seed, step, setting, right, scores)


def with_chance(cell, share, noise=0.2):
    """The cell with noise of its own in the scores and with verdicts by chance."""
    rng = np.random.default_rng(zlib.crc32(cell.name.encode()))
    scores = cell.scores + noise * rng.normal(size=cell.scores.shape)
    right = rng.random(cell.right.shape) < share
    return dataclasses.replace(cell, right=right, scores=scores.astype(np.float32))


def make_best_of(means, spread, variant, seed=0, num_images=16, best_of=6):
    """A cell of "best_of": scores are normal around `means` [R], half of the images are right."""
    rng = np.random.default_rng(zlib.crc32(f"{variant} {seed}".encode()))
    shape = best_of * len(CATEGORIES), num_images
    scores = np.asarray(means) + spread * rng.normal(size=(*shape, len(REWARDS)))
    right = rng.random(shape) < 0.5
    return Cell(variant, seed, 1000, BEST_OF, right, scores.astype(np.float32))


def make_study(cells, **sizes):
    return Measured(**frame(**sizes), cells=tuple(cells))


def curves(speed, steps, seeds=(0, 1, 2)):
    """Cells of a baseline and of a MIRO that is exactly `speed` times faster on every axis.

    Images differ by chance in both.
    """
    return [
        with_chance(make_cell([rate] * len(REWARDS), rate, variant, seed, step), rate)
        for variant, factor in (("baseline", 1.0), ("miro", speed))
        for step in steps
        for seed in seeds
        for rate in [float(1 - np.exp(-factor * step / 1000))]
    ]


def whole_study():
    """A study with all claims: MIRO is three times faster, specialists hack, dials work."""
    cells = curves(3.0, range(100, 1100, 100))
    for seed in (0, 1, 2):
        own = {"seed": seed}
        for index, name in enumerate(REWARDS[:3]):
            means = np.where(np.arange(len(REWARDS)) == index, 0.97, 0.3)
            cells.append(make_cell(means, 0.2, f"only_{name}", **own))
        cells.append(make_cell([0.95] * 4, 0.98, "synth", **own))
        cells.append(make_best_of([0.5] * 4, 0.1, "baseline", **own))
        cells.append(make_best_of([0.8, 0.6, 0.5, 0.4], 0.1, "miro", **own))
        for target in (0.0, 0.25, 0.5, 0.75, 1.0):
            share = 0.9 - (target - 0.5) ** 2
            for kind in ("search", "sweep"):
                means = [target, 0.8, 0.8, 0.8]
                setting = f"{kind}:{target:g}"
                cells.append(make_cell(means, share, setting=setting, **own))
            for index, name in enumerate(REWARDS):
                means = np.full(len(REWARDS), 0.8)
                means[index] = 0.8 if name == "count" else 0.2 + 0.7 * target
                setting = f"dial:{name}={target:g}"
                cells.append(make_cell(means, 0.8, setting=setting, **own))
    return make_study(cells)
