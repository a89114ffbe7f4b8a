"""What a suite is: prompts, how many images each of them needs, and what judges these images.

A suite is data and one function: a new one is a file with `make_suite`, an entry in `table.SUITES`
and a test. The engine finds or samples the images, decodes them, puts them through the judge and
the rewards, and writes the per-image file and the manifest; see `rows` and `manifest`.

Letters: N images of one call, H W pixels.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from miro_jax.data.storage.files import to_json
from miro_jax.report.clustered import PROMPTS

BUNDLED = Path(__file__).parent / "prompts"  # folders with their licences


@dataclasses.dataclass(frozen=True)
class SuitePrompt:
    """One prompt of a suite.

    Attributes:
      key: its name in files, such as 00012; prompts differ in their keys.
      text: what is sampled. Images of unknown origin are matched with prompts by it; prompts of one
        text count as one prompt in intervals.
      tag: the stratum that it belongs to, "" where a suite has none.
      metadata: what else the suite has of it, plain JSON: what a judge looks for, categories.
    """

    key: str
    text: str
    tag: str = ""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Judge(Protocol):
    """What decides about single images, with its weights at hand.

    Attributes:
      batch_size: images of a call.
    """

    batch_size: int

    @property
    def identity(self) -> Mapping[str, Any]:
        """Plain JSON of all that verdicts depend on: names, weight digests, thresholds,
        preprocessing, precision. Numbers of judges that differ in any of it share no column.
        """
        ...

    def judge(
        self, images: Sequence[np.ndarray], prompts: Sequence[SuitePrompt]
    ) -> list[dict[str, Any]]:
        """Return one JSON object for each image.

        An object has the suite's score under its name, and whatever explains it. It depends on its
        own image and prompt alone, not on those beside it.

        Args:
          images: [N] of [H, W, 3] uint8 RGB, upright; sizes may differ.
          prompts: [N].
        """
        ...


@dataclasses.dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
      name: with its version, such as geneval@1: the benchmark of a manifest.
      prompts: all of them, in the order of the suite.
      samples_per_prompt: images of each prompt by the suite's rule.
      score: name of the per-image value that is the suite's score (true, false or a number); ""
        where rewards are all that is measured.
      estimator: how scores of images become the one number, see `report.clustered`.
      rewards: that are scored where none are named.
      open_judge: options -> the judge; None where rewards are all that is measured. Options are
        those of `--judge KEY=VALUE`, such as folders of weights; an unknown one is a ValueError.
      check_judge: raises what is wrong with options, before anything is loaded.
    """

    name: str
    prompts: tuple[SuitePrompt, ...]
    samples_per_prompt: int
    score: str = ""
    estimator: str = PROMPTS
    rewards: tuple[str, ...] = ()
    open_judge: Callable[[Mapping[str, str]], Judge] | None = None
    check_judge: Callable[[Mapping[str, str]], object] | None = None

    def __post_init__(self):
        keys = [prompt.key for prompt in self.prompts]
        if twice := [key for key, count in collections.Counter(keys).items() if count > 1]:
            raise ValueError(
                f"The prompts of {self.name} must differ in their keys; {twice[0]!r} stands there "
                "twice."
            )
        if not self.prompts:
            raise ValueError(f"{self.name} must have at least one prompt; it has none.")

    @property
    def tags(self) -> dict[str, int]:
        """Tag -> number of its prompts, in order of appearance."""
        return dict(collections.Counter(prompt.tag for prompt in self.prompts))

    def without_judge(self) -> "Suite":
        """Return the suite with rewards as all that is measured."""
        return dataclasses.replace(self, score="", open_judge=None, check_judge=None)

    def describe(self) -> dict[str, Any]:
        """Return what identifies the prompts: the group `benchmark` of a manifest."""
        listed = [[p.key, p.text, p.tag, dict(p.metadata)] for p in self.prompts]
        return {
            "name": self.name,
            "prompts": len(self.prompts),
            "prompts_sha256": hashlib.sha256(to_json(listed)).hexdigest(),
            "tags": self.tags,
            "tag_order": list(self.tags),
            "score": self.score,
            "estimator": self.estimator,
        }
