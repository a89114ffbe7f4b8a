"""Sampling tools: prompts and reward targets in, image files out.

    settings, request   what may be set; what is requested, down to the single image
    sheets, verbs       images as labelled rows and columns; a verb chooses the columns
    draw, folder        images from a pipeline, into a folder where work resumes
    calls, best         the verbs as calls from Python; best of N by a reward
    curve, animation    what best-of-N is worth; frames with bars of levels
    search, preset      the targets that an objective likes best; the file that keeps them
    surface, halving    how the search finds candidates, and the best of them
    objective           what it maximises; confirmation: what they are worth on fresh prompts
    usual               what a checkpoint is sampled with where nothing else is said
    command, stage      `miro-jax sample VERB`; the sampling stage of a configured run
    pipeline, trained    a trained network, sampled
    export, model_card   written in the released layout, with a card, and pushed to the hub

From Python, with a `MiroPipeline`:

    isolation_grid(pipe, ["a red fox"])            grids and strips are [height, width, 3] uint8
    tradeoff_strip(pipe, ["a red fox"], "aesthetic", "clip")
    sweep_strip(pipe, ["a red fox"], "aesthetic", levels=9)
    best_of(pipe, ["a red fox"], load_reward("pick_score"), num_candidates=64).images
    find_preset(pipe, prompts, RewardMean([load_reward("pick_score")]), budget=4096)
    save_animation(reward_loop(pipe, ["a red fox"]), "fox.webp")
    remake(pipe, manifest["images"][0])

The names below are imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules={
        *"animation batches best curve draw folder model_card objective".split(),
        *"pipeline preset search stage trained".split(),
    },
    submod_attrs={
        "animation": ["save_animation"],
        "best": ["best_of"],
        "calls": ["isolation_grid", "reward_loop", "sweep_strip", "tradeoff_strip"],
        "command": ["main"],
        "curve": ["expected_best"],
        "draw": ["remake"],
        "export": ["push_to_hub"],
        "request": ["Asked", "ImageRequest", "Prompt", "Request", "ask", "make_request"],
        "objective": ["RewardMean", "ShapesCheck"],
        "preset": ["Preset", "read_preset"],
        "search": ["find_preset"],
        "settings": ["Settings"],
        "stage": ["run", "validate", "write_images"],
    },
)
