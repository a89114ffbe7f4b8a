"""GenEval's judge: from images to rows, its self-test, and what it refuses."""

import json

import numpy as np
import pytest

from miro_jax.evaluate.suites.geneval import (
    colors,
    detector,
    judge,
    prompts,
    rows,
    self_test,
    suite,
)
from miro_jax.evaluate.suites.geneval.instances import Instances
from miro_jax.pretrained.weights.tensors import from_arrays, write_safetensors

SUITE = suite.make_suite()
PIXELS = {name: 10 + 20 * number for number, name in enumerate(prompts.COLORS)}


def instances(*objects, side=32):
    """Make the instances of an image from (class, score, box) each, the mask filling the box."""
    masks = np.zeros((len(objects), side, side), bool)
    for mask, (_, _, (x0, y0, x1, y1)) in zip(masks, objects, strict=True):
        mask[y0:y1, x0:x1] = True
    return Instances(
        np.array([prompts.class_names().index(name) for name, _, _ in objects], int),
        np.array([score for _, score, _ in objects], np.float32),
        np.array([box for _, _, box in objects], np.float32).reshape(-1, 4),
        np.arange(len(objects)),
        np.packbits(masks, axis=-1),
        side,
    )


class Seen:
    """A detector that was told what is in each image, by its first pixel."""

    identity = {"name": "told"}

    def __init__(self, *images):
        self.images = images

    def detect(self, images):
        return [self.images[image[0, 0, 0]] for image in images]


class Brightness:
    """A colour classifier: the brightness of a cut-out names its colour."""

    identity = {"name": "brightness"}
    calls = 0

    def logits(self, cut_outs, names):
        self.calls += 1
        level = np.array([one[..., 0].mean() for one in cut_outs]).reshape(-1, 1)
        return -np.abs(level - np.array(list(PIXELS.values()))[None]).astype(np.float32)


def image(number, *painted):
    """An image that says its number, with boxes painted in colours."""
    made = np.zeros((32, 32, 3), np.uint8)
    for color, (x0, y0, x1, y1) in painted:
        made[y0:y1, x0:x1] = PIXELS[color]
    made[0, 0, 0] = number
    return made


def prompt_of(text):
    return next(prompt for prompt in SUITE.prompts if prompt.text == text)


LEFT, RIGHT = (4, 8, 12, 16), (20, 8, 28, 16)


def test_rows_hold_verdicts_of_each_image_with_its_own_prompt():
    found = Seen(
        instances(("pizza", 0.8, LEFT), ("pizza", 0.9, RIGHT), ("baseball glove", 0.6, LEFT)),
        instances(("bench", 0.31, LEFT), ("cow", 0.99, RIGHT), ("zebra", 0.04, LEFT)),
        instances(),
    )
    attributes = "a photo of a blue pizza and a yellow baseball glove"
    texts = [attributes, attributes, "a photo of a bench", "a photo of a bench"]
    right = image(0, ("blue", RIGHT), ("yellow", LEFT))
    wrong = image(0, ("red", RIGHT), ("yellow", LEFT))
    images = [right, wrong, image(1), image(2)]
    classifier = Brightness()
    made = judge.GenEvalJudge(found, classifier)
    results = made.judge(images, [prompt_of(text) for text in texts])
    assert [row["correct"] for row in results] == [True, False, True, False]
    assert [[r["rule"] for r in row["reasons"]] for row in results] == [
        [],
        ["color"],
        [],
        ["detection"],
    ]
    assert classifier.calls == 1 and results[0]["objects"]["pizza"][0] == [20, 8, 28, 16, 0.9]
    assert results[2]["objects"] == {
        "bench": [[4, 8, 12, 16, 0.31]],
        "cow": [[20, 8, 28, 16, 0.99]],
    }
    assert results[0]["colors"].keys() == {"pizza", "baseball glove"}
    for row, one, text in zip(results, images, texts, strict=True):
        assert made.judge([one], [prompt_of(text)]) == [row]
        assert json.loads(json.dumps(row)) == row
        assert len(json.dumps(row)) < 1200
    assert sum(map(rows.is_near, results)) == 1


def test_objects_whose_colour_may_decide_at_other_thresholds_are_classified():
    found = Seen(instances(("pizza", 0.1, RIGHT), ("baseball glove", 0.04, LEFT)))
    (row,) = judge.GenEvalJudge(found, Brightness()).judge(
        [image(0, ("blue", RIGHT))],
        [prompt_of("a photo of a blue pizza and a yellow baseball glove")],
    )
    assert not row["correct"] and row["colors"].keys() == {"pizza"}


def test_the_suite_has_the_folders_of_the_benchmark_and_counts():
    assert [SUITE.name, len(SUITE.prompts), SUITE.samples_per_prompt] == ["geneval@1", 553, 4]
    assert SUITE.prompts[0].key == "00000" and SUITE.prompts[552].key == "00552"


def test_a_rewritten_prompt_is_another_benchmark():
    made = judge.GenEvalJudge(Seen(instances()), Brightness())
    other = type(SUITE.prompts[0])("00000", "A richly detailed photo of a bench", "single_object")
    with pytest.raises(ValueError, match="a prompt must be one of GenEval's 553"):
        made.judge([image(0)], [other])


def test_options_of_the_judge_are_checked_before_anything_is_loaded(tmp_path):
    for options, message in (
        ({"detector": str(tmp_path / "a.pth")}, "there is no file .*a.pth"),
        ({"detector": str(tmp_path), "padding": "black"}, "padding must be one of zero, grey"),
        ({"detector": str(tmp_path), "clip": "nope"}, "'nope' is no existing folder"),
        ({}, r"--judge detector=FILE must name the detector of GenEval"),
        ({"detektor": "x"}, "must be one of detector, clip, tokenizer, padding, self_test"),
        ({"detector": "x", "self_test": "quick"}, "self_test must be one of full, numbers, off"),
    ):
        for check in (judge.open_judge, judge.check_options, SUITE.check_judge):
            with pytest.raises((ValueError, FileNotFoundError), match=message):
                check(options)


@pytest.mark.over_a_second
def test_weights_that_are_no_detector_are_refused_by_name(tmp_path):
    path = tmp_path / "mask2former_swin-s-0.safetensors"
    write_safetensors(path, from_arrays({"backbone.strange.weight": np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match=r"backbone\.strange\.weight \(3,\) has no place"):
        detector.load(str(path))
    with pytest.raises(ValueError, match="padding must be one of zero, grey"):
        detector.load(str(path), padding="black")
    for name in ("a", "b"):
        (tmp_path / f"mask2former_swin-s-{name}.pth").touch()
    with pytest.raises(ValueError, match="must hold one detector; it holds mask2former_swin-s-a"):
        detector.load(str(tmp_path))


def test_a_file_whose_digest_is_not_that_of_its_name_is_told(tmp_path, caplog):
    path = tmp_path / "mask2former_swin-s-p4-743b7d99.pth"
    detector._check_digest(path, "743b7d99" + "0" * 56)
    assert not caplog.records
    detector._check_digest(path, "0" * 64)
    assert "not that of its name" in caplog.text


def test_self_test_passes_numbers_and_refuses_a_blind_detector():
    self_test.check_products()
    self_test.check_samples()
    scene, box = self_test.draw_scene()
    assert scene.shape == (512, 512, 3) and scene.dtype == np.uint8
    sign = ("stop sign", 0.9, tuple(map(round, box)))
    self_test.check_scene(Scene(instances(sign, side=512)))
    for objects in ([], [("stop sign", 0.9, (0, 0, 50, 50))], [("clock", 0.9, sign[2])]):
        with pytest.raises(self_test.BrokenJudge, match="must find the drawn stop sign"):
            self_test.check_scene(Scene(instances(*objects, side=512)))
    weak = [("stop sign", 0.03, sign[2])]
    with pytest.raises(self_test.BrokenJudge, match=r"stop sign at 0\.030.*self_test=numbers"):
        self_test.run(Scene(instances(*weak, side=512)))
    self_test.run(Scene(instances()), "off")


class Scene(Seen):
    def detect(self, images):
        return [self.images[0]] * len(images)


def test_a_device_with_coarse_products_is_refused(monkeypatch):
    coarse = lambda x, y: (x.astype("bfloat16") @ y.astype("bfloat16")).astype(np.float32)  # noqa: E731
    monkeypatch.setattr(self_test.jnp, "dot", coarse)
    with pytest.raises(self_test.BrokenJudge, match="a matrix product on .* must be exact"):
        self_test.check_products()


def test_a_cut_out_is_grey_outside_of_the_mask():
    made = np.full((8, 8, 3), 7, np.uint8)
    mask = np.eye(8, dtype=bool)
    found = colors.cut_out(made, mask, np.array([2, 3, 6, 7], np.float32))
    assert found.shape == (4, 4, 3)
    assert (found[mask[3:7, 2:6]] == 7).all() and (found[~mask[3:7, 2:6]] == 153).all()
