"""Which rule of guidance helps a run of the shapes world: right images and rewards, from one noise.

    python benchmarks/guidance_rules.py --checkpoint=runs/base --images=384

Every row has the same prompts, targets and noise. Differences to the first row are paired: mean
and 95 % interval of a bootstrap over images. A second table shows what APG drops: the cosine of
D+ - D-, the change that guidance makes to the predicted image, with D+. docs/guidance.md has both.
"""

import argparse

import numpy as np

from miro_jax import MiroPipeline
from miro_jax.data.shapes import world
from miro_jax.evaluate.prompts import prompts_in_turn
from miro_jax.report.statistics import bootstrap_mean
from miro_jax.rewards.base import score_all
from miro_jax.rewards.names import SHAPES_REWARDS
from miro_jax.rewards.table import load_rewards

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SHOWN = ("sharpness", "cleanliness", "beauty", "objects", "position")


def rows(scale: float) -> dict[str, dict]:
    """Return the settings of each row, at one scale."""
    rules = {
        "scale {w:g}": {},
        "interval 0.2 to 0.8": {"guidance_interval": (0.2, 0.8)},
        "linear schedule": {"guidance_schedule": "linear"},
        "cfg_zero:zero=0": {"guidance_rule": "cfg_zero:zero=0"},
        "cfg_zero": {"guidance_rule": "cfg_zero"},
        "apg": {"guidance_rule": "apg"},
        "apg:norm=1": {"guidance_rule": "apg:norm=1"},
        "apg:eta=0.5": {"guidance_rule": "apg:eta=0.5"},
        "apg:momentum=-0.5": {"guidance_rule": "apg:momentum=-0.5"},
        "scale 0": {"guidance_scale": 0.0},
    }
    return {
        name.format(w=scale): {"guidance_scale": scale, **changes}
        for name, changes in rules.items()
    }


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="runs/base")
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--scales", type=float, nargs="+", default=(1.0, 5.0))
    parser.add_argument("--steps", type=int, default=16)
    args = parser.parse_args()
    pipe = MiroPipeline.from_pretrained(args.checkpoint, batch_size=64)
    judges = load_rewards(SHAPES_REWARDS)
    prompts = prompts_in_turn(CATEGORIES, args.images, seed=1)
    print(f"| {args.images} images, {args.steps} steps | right | {' | '.join(SHOWN)} |")
    print("| --- |" + " --- |" * (1 + len(SHOWN)))
    for scale in args.scales:
        first = None
        for name, settings in rows(scale).items():
            call = settings | {"num_steps": args.steps, "seed": 1, "output_type": "numpy"}
            images = pipe(prompts, **call)
            right = np.array(world.check_all(images, prompts), float)
            scores = score_all(judges, images, [{"caption": prompts}])[0]
            shown = [scores[:, SHAPES_REWARDS.index(reward)] for reward in SHOWN]
            values = np.stack([right, *shown])
            print(f"| {name} | {' | '.join(cells(values, first))} |", flush=True)
            first = values if first is None else first
    print("\n| guidance | cosine of D+ - D- with D+ | of the values outside of [-1, 1] |")
    print("| --- |" + " --- |" * 2)
    for scale in args.scales:
        for rule in ("cfg", "apg"):
            cosines, outside = along(pipe, prompts[:96], args.steps, scale, rule)
            spread = f"{min(cosines):.3f} to {max(cosines):.3f}"
            print(f"| {rule}, scale {scale:g} | {spread} | {100 * outside:.0f} % |", flush=True)


def along(
    pipe: MiroPipeline, prompts: list[str], steps: int, scale: float, rule: str
) -> tuple[list[float], float]:
    """Return how far D+ - D- lies along D+ at the steps, [-1, 1], and what share leaves [-1, 1]."""
    call = {"num_steps": steps, "seed": 1, "guidance_scale": scale, "guidance_rule": rule}
    best, worst = (dict.fromkeys(pipe.reward_names, level) for level in (1.0, 0.0))
    cosines, x = [], np.zeros(())
    for step in pipe.stream(prompts, **call):
        x, t = step.tensors()["latents"], step.t_next
        if t > 0:
            positive = x - t * pipe.velocity(x, t, prompts, best)[0]
            change = positive - (x - t * pipe.velocity(x, t, "", worst)[0])
            a, b = (array.reshape(len(x), -1) for array in (positive, change))
            norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
            cosines.append(float(np.mean((a * b).sum(1) / norms)))
    return cosines, float(np.mean(np.abs(x) > 1))


def cells(values: np.ndarray, first: np.ndarray | None) -> list[str]:
    """Return means of each row of [measures, images], or differences to those of `first`."""
    if first is None:
        return [f"{row.mean():.3f}" for row in values]
    out = []
    for row, before in zip(values, first, strict=True):
        change = bootstrap_mean(row - before)
        mark = "**" if change["low"] > 0 or change["high"] < 0 else ""
        out.append(
            f"{mark}{change['mean']:+.3f}{mark} ({change['low']:+.3f} to {change['high']:+.3f})"
        )
    return out


if __name__ == "__main__":
    main()
