"""PartiPrompts (Yu et al., 2022): 1,632 prompts in 12 categories and 11 challenges, for rewards.

The table comes with the package under its own licence, Apache-2.0. Rewards of its images are what
MIRO's radars show (section 4 of the paper): means over prompts of the means of their images. The
tag of a prompt is its category: categories are reported beside the whole.
"""

import csv

from miro_jax.evaluate.suites.base import BUNDLED, Suite, SuitePrompt

NAME = "parti@1"
# Scorers and versions of MIRO's radars: no VQA and no SciScore, HPSv2 by its first file.
REWARDS = ("aesthetic", "pick_score", "image_reward", "hpsv2@2.0", "clip", "openai_clip")
PATH = BUNDLED / "partiprompts" / "PartiPrompts.tsv"


def make_suite() -> Suite:
    """Read the prompts."""
    with PATH.open(encoding="utf-8", newline="") as file:
        # Quotes belong to the prompts: "G I G G L E" painted in ...
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    prompts = (
        SuitePrompt(
            f"{number:05d}",
            row["Prompt"],
            row["Category"],
            {"challenge": row["Challenge"]},
        )
        for number, row in enumerate(rows)
    )
    return Suite(NAME, tuple(prompts), samples_per_prompt=1, rewards=REWARDS)
