"""GenEval as a suite: its prompts and its judge."""

import dataclasses
from collections.abc import Mapping

from miro_jax.evaluate.suites import geneval
from miro_jax.evaluate.suites.base import Judge, Suite, SuitePrompt
from miro_jax.evaluate.suites.geneval.prompts import SAMPLES_PER_PROMPT, Prompt, prompts
from miro_jax.report.clustered import TAGS

NAME = "geneval@1"


def make_suite() -> Suite:
    """Return the 553 prompts; keys are the numbers of the benchmark's folders."""
    listed = (
        SuitePrompt(f"{number:05d}", one.text, one.tag, metadata(one))
        for number, one in enumerate(prompts())
    )
    judged = {"open_judge": _open_judge, "check_judge": _check_judge}
    return Suite(NAME, tuple(listed), SAMPLES_PER_PROMPT, "correct", TAGS, **judged)


def metadata(prompt: Prompt) -> dict[str, list[dict]]:
    """Return what an image of a prompt must show and must not, as plain JSON."""
    return {
        name: [
            {key: value for key, value in dataclasses.asdict(clause).items() if value is not None}
            for clause in clauses
        ]
        for name, clauses in (("include", prompt.include), ("exclude", prompt.exclude))
    }


def _open_judge(options: Mapping[str, str]) -> Judge:
    """Load the judge, see `judge.open_judge`; a named function, since a suite is pickled."""
    return geneval.judge.open_judge(options)


def _check_judge(options: Mapping[str, str]) -> None:
    geneval.judge.check_options(options)
