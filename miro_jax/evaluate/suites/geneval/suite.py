"""GenEval as a suite: its prompts and its judge."""

import dataclasses

from miro_jax.evaluate.suites import geneval
from miro_jax.evaluate.suites.base import Suite, SuitePrompt
from miro_jax.evaluate.suites.geneval.prompts import SAMPLES_PER_PROMPT, Prompt, prompts
from miro_jax.report.clustered import TAGS

NAME = "geneval@1"


def make_suite() -> Suite:
    """Return the 553 prompts; keys are the numbers of the benchmark's folders."""
    listed = (
        SuitePrompt(f"{number:05d}", one.text, one.tag, metadata(one))
        for number, one in enumerate(prompts())
    )
    return Suite(
        NAME,
        tuple(listed),
        SAMPLES_PER_PROMPT,
        "correct",
        TAGS,
        open_judge=lambda options: geneval.judge.open_judge(options),  # which imports jax
        check_judge=lambda options: geneval.judge.check_options(options),
    )


def metadata(prompt: Prompt) -> dict[str, list[dict]]:
    """Return what an image of a prompt must show and must not, as plain JSON."""
    return {
        name: [
            {key: value for key, value in dataclasses.asdict(clause).items() if value is not None}
            for clause in clauses
        ]
        for name, clauses in (("include", prompt.include), ("exclude", prompt.exclude))
    }
