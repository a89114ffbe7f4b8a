"""Sampling tools: prompts and reward targets in, picture files out.

    asked, prompts     what is asked for, down to the single picture
    draw, make         pictures from a pipeline; into a folder that can be gone on with
    folder, scores     that folder, and the scores of candidates in it
    sheets             pictures as labelled rows and columns
    images, isolate, tradeoff, sweep, best, loop     one verb each
    curve, animation   what best-of-n is worth; frames with bars of levels
    flags, verbs, command     `python -m miro_jax.sample VERB`
    stage              the sampling stage of a configured run

From Python, with a `MiroPipeline`:

    isolation_grid(pipe, ["a red fox"])            grids and strips are [height, width, 3] uint8
    tradeoff_strip(pipe, ["a red fox"], "aesthetic", "clip")
    sweep_strip(pipe, ["a red fox"], "aesthetic", levels=9)
    best_of(pipe, ["a red fox"], load_reward("pick_score"), num_candidates=64).images
    save_animation(reward_loop(pipe, ["a red fox"]), "fox.webp")
    remake(pipe, manifest["images"][0])
"""

from miro_jax.sample.animation import save_animation
from miro_jax.sample.best import best_of
from miro_jax.sample.command import main
from miro_jax.sample.curve import expected_best
from miro_jax.sample.isolate import isolation_grid
from miro_jax.sample.loop import reward_loop
from miro_jax.sample.make import remake
from miro_jax.sample.request import Asked, Prompt, Settings, ask
from miro_jax.sample.stage import run, validate, write_images
from miro_jax.sample.sweep import sweep_strip
from miro_jax.sample.tradeoff import tradeoff_strip

__all__ = [
    "Asked",
    "Prompt",
    "Settings",
    "ask",
    "best_of",
    "expected_best",
    "isolation_grid",
    "main",
    "remake",
    "reward_loop",
    "run",
    "save_animation",
    "sweep_strip",
    "tradeoff_strip",
    "validate",
    "write_images",
]
