"""GenEval's judge: images and prompts in, rows out.

The detector runs over the whole call, then CLIP once over all objects whose colour is requested;
the rules are applied on the host. A row depends on its own image and prompt alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from miro_jax.evaluate.suites.base import SuitePrompt
from miro_jax.evaluate.suites.geneval import colors, detector, rows, self_test, verdict
from miro_jax.evaluate.suites.geneval.instances import Instances
from miro_jax.evaluate.suites.geneval.prompts import Prompt, prompts
from miro_jax.pretrained.weights import hub

OPTIONS = {
    "detector": "OpenMMLab's .pth file of Mask2Former Swin-S, or Hugging Face's (another judge)",
    "clip": "OpenAI's CLIP L/14, folder or hub id",
    "tokenizer": "of CLIP, folder or hub id",
    "padding": "of images that are not square: zero (mmdet 3) or grey (mmdet 2)",
    "self_test": "full, numbers or off",
}
HOW_TO_GET = (
    "--judge detector=FILE must name the detector of GenEval, OpenMMLab's Mask2Former Swin-S "
    "(mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth; see "
    f"docs/evaluate.md), or {detector.HF_WEIGHTS} for another judge of its own name."
)


class GenEvalJudge:
    """Judges images by GenEval's rules.

    Args:
      found: the detector. classifier: of colours.

    Attributes:
      batch_size: images of a call. identity: all that verdicts depend on.
    """

    batch_size = 8

    def __init__(self, found: detector.Detector, classifier: colors.Classifier):
        self._detector, self._classifier = found, classifier
        self._prompts = {prompt.text: prompt for prompt in prompts()}

    @property
    def identity(self) -> dict[str, Any]:
        """Name, detector, colours and rules."""
        return {
            "name": f"geneval@{self._detector.identity['name']}",
            "detector": self._detector.identity,
            "colors": self._classifier.identity,
            "rules": rows.identity(),
        }

    def judge(
        self, images: Sequence[np.ndarray], prompts: Sequence[SuitePrompt]
    ) -> list[dict[str, Any]]:
        """Return the rows of images [H, W, 3] uint8, each of its prompt; see `rows`.

        Raises:
          ValueError: a prompt is none of GenEval's.
        """
        wanted = [self._known(prompt.text) for prompt in prompts]
        found = self._detector.detect(images)
        objects = [_objects(one) for one in found]
        cut_outs: list[np.ndarray] = []
        taken: list[tuple[int, str]] = []  # row and class of each
        for row, (image, prompt, one) in enumerate(zip(images, wanted, found, strict=True)):
            for name, numbers in _to_color(prompt, one).items():
                taken += [(row, name)] * len(numbers)
                cut_outs += [colors.cut_out(image, one.mask(n), one.boxes[n]) for n in numbers]
        logits = self._classifier.logits(cut_outs, [name for _, name in taken])
        own: list[dict[str, np.ndarray]] = [{} for _ in images]
        for row, name in dict.fromkeys(taken):
            own[row][name] = logits[[pair == (row, name) for pair in taken]]
        return [
            rows.make_row(prompt, image.shape[1::-1], seen, named)
            for image, prompt, seen, named in zip(images, wanted, objects, own, strict=True)
        ]

    def _known(self, text: str) -> Prompt:
        if text not in self._prompts:
            raise ValueError(
                f"a prompt must be one of GenEval's {len(self._prompts)}; got {text[:60]!r}. A "
                "rewritten prompt is another benchmark."
            )
        return self._prompts[text]


def check_options(options: Mapping[str, str]) -> None:
    """Check options, see OPTIONS, as far as no weights are read.

    Raises:
      ValueError: an unknown option, a bad value, or no detector.
      FileNotFoundError: there is no such file.
    """
    if unknown := [name for name in options if name not in OPTIONS]:
        raise ValueError(
            f"--judge of geneval must be one of {', '.join(OPTIONS)}; got {', '.join(unknown)}."
        )
    if "detector" not in options:
        raise ValueError(HOW_TO_GET)
    level = options.get("self_test", self_test.SCENE)
    if level not in self_test.LEVELS:
        raise ValueError(f"self_test must be one of {', '.join(self_test.LEVELS)}; got {level!r}.")
    detector.check_padding(options.get("padding", detector.PADDINGS[0]))
    detector.find(options["detector"])
    for name in ("clip", "tokenizer"):
        if name in options:
            hub.open(options[name])


def open_judge(options: Mapping[str, str]) -> GenEvalJudge:
    """Load the judge and check that it works.

    Raises:
      ValueError, FileNotFoundError: see `check_options`; or weights are missing, or do not fit.
      self_test.BrokenJudge: the detector does not work on this device.
    """
    check_options(options)
    found = detector.load(options["detector"], options.get("padding", detector.PADDINGS[0]))
    classifier = colors.load(options.get("clip"), options.get("tokenizer"))
    self_test.run(found, options.get("self_test", self_test.SCENE))
    return GenEvalJudge(found, classifier)


def _objects(found: Instances) -> dict[str, np.ndarray]:
    """Return class -> objects [n, 5] float32, the best first."""
    whole = np.concatenate([found.boxes, found.scores[:, None]], axis=1).astype(np.float32)
    return {name: whole[numbers] for name, numbers in detector.by_class(found).items()}


def _to_color(prompt: Prompt, found: Instances) -> dict[str, np.ndarray]:
    """Return class -> numbers of the objects whose colour may decide, at any threshold of a row."""
    numbers = detector.by_class(found)
    least = np.float32(rows.LEAST_SCORE)
    return {
        name: best[found.scores[best] > least]
        for name, count in verdict.colored(prompt).items()
        if len(best := numbers.get(name, np.zeros(0, int))[:count])
    }
