"""`miro-jax evaluate FOLDER --suite=geneval` by files in the published layout, of tiny networks."""

import contextlib
import dataclasses
import io
import json
import pickle
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch

from miro_jax import __main__ as entry
from miro_jax.evaluate.suites import judging, manifest, table
from miro_jax.evaluate.suites.geneval import detector, judge, pixels, prompts, suite
from miro_jax.pretrained.weights.tensors import write_safetensors
from tests import geneval_numbers
from tests.networks import difference
from tests.oracles import clip_tokens
from tests.oracles import mask2former as oracle
from tests.oracles.clip import Oracle
from tests.oracles.clip_rewards import NUM_MERGES
from tests.oracles.test_geneval_colors import CONFIG
from tests.scoring import file_bytes
from tests.suites import contents

pytestmark = pytest.mark.slow
SIZES = oracle.TINY | {"num_labels": 80, "encoder_layers": 1, "decoder_layers": 3}
SWIN = oracle.SWIN | {"depths": [1, 1, 1, 1]}
LABELS = {number: name for number, name in enumerate(prompts.class_names())}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders of a detector and of a CLIP, as Hugging Face saves them."""
    home = tmp_path_factory.mktemp("weights")
    network = oracle.make(seed=1, swin=SWIN, **SIZES)
    with torch.no_grad():
        network.class_predictor.weight *= 6  # or it is sure of nothing
    network.save_pretrained(home / "detector")
    (home / "clip").mkdir()
    (home / "clip" / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(home / "clip" / "model.safetensors", Oracle(CONFIG, seed=5).tensors())
    clip_tokens.write_tokenizer_json(home / "clip", NUM_MERGES)
    return home


def drawn(number, height=48, width=48):
    """An image of a few large boxes in bright colours."""
    rng = np.random.default_rng(number)
    made = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(3):
        x, y = rng.integers(0, 32, 2)
        made[y : y + 16, x : x + 16] = rng.integers(0, 256, 3)
    return made


@pytest.fixture(scope="module")
def found(weights):
    return detector.load(str(weights / "detector"))


@pytest.fixture(scope="module")
def chosen(found):
    """A prompt of each tag, that of the single object being what image 0 is taken for."""
    whole = suite.make_suite()
    one = found.detect([drawn(0)])[0]
    seen = prompts.class_names()[one.labels[one.scores.argmax()]]
    assert one.scores.max() > 0.3
    first = {prompt.tag: prompt for prompt in reversed(whole.prompts)}
    (first["single_object"],) = (
        prompt
        for prompt in whole.prompts
        if prompt.tag == "single_object"
        and prompt.text.partition(" of a")[2].partition(" ")[2] == seen
    )
    listed = tuple(first[tag] for tag in prompts.TAGS)
    return dataclasses.replace(whole, prompts=listed, samples_per_prompt=1)


@pytest.fixture(scope="module")
def folder(chosen, tmp_path_factory):
    """An image of each of the six prompts, in GenEval's layout."""
    home = tmp_path_factory.mktemp("images")
    for number, prompt in enumerate(chosen.prompts):
        inside = home / f"{number:05d}" / "samples"
        inside.mkdir(parents=True)
        line = {"prompt": prompt.text, "tag": prompt.tag}
        (inside.parent / "metadata.jsonl").write_text(json.dumps(line) + "\n")
        (inside / "00000.png").write_bytes(file_bytes(drawn(number)))
    return home


@pytest.fixture(scope="module")
def evaluate(folder, weights, chosen):
    """Call the command with the six prompts as the whole suite: (status, stdout, stderr)."""

    def call(out, *more):
        words = [f"--judge=detector={weights / 'detector'}", f"--judge=clip={weights / 'clip'}"]
        words += ["--suite=geneval", f"--out={out}", *more]
        said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
            status = entry.main(["evaluate", str(folder), *words])
        return status, *(text.getvalue() for text in said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(table.SUITES, "geneval", lambda: chosen)
        patch.setattr(judge.GenEvalJudge, "batch_size", BATCH)
        patch.setattr(judging, "_IMAGES_AT_LEAST", 1)
        yield call


@pytest.fixture(scope="module")
def whole(evaluate, tmp_path_factory):
    """The evaluation of all images: its folder and what was printed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    status, printed, err = evaluate(out, NUMBERS)
    assert status == 0, err
    return out, printed


NUMBERS, BATCH = "--judge=self_test=numbers", 3


def test_weights_that_were_not_trained_are_refused_before_anything_is_scored(evaluate, tmp_path):
    status, out, err = evaluate(tmp_path / "out")
    assert status == 1 and out == "" and err.splitlines()[-1].count("self_test=numbers") == 1
    assert "must find the drawn stop sign of the self-test with a score above 0.3" in err
    assert not (tmp_path / "out" / "images.jsonl").exists()


def test_a_folder_gets_verdicts_numbers_tables_and_a_page(whole, chosen):
    folder, out = whole
    made = manifest.read(folder)
    identity = made.manifest["judge"]
    assert identity["name"] == "geneval@hf-mask2former" and identity["detector"]["spelling"] == "hf"
    assert identity["colors"]["activation"] == "quick_gelu"
    assert sorted(row["tag"] for row in made.rows) == sorted(prompts.TAGS)
    rows = {row["tag"]: row for row in made.rows}
    assert rows["single_object"]["correct"] and rows["single_object"]["reasons"] == []
    wrong = [row for row in made.rows if not row["correct"]]
    assert len(wrong) > 3 and all(row["reasons"] for row in wrong)
    assert any(row["objects"] for row in wrong) and any(row["margins"] for row in made.rows)
    expected = geneval_numbers.summarize(made.rows)
    for name in ("overall", "correct_images", "correct_prompts"):
        assert made.metrics[name]["value"] == pytest.approx(expected[name])
    tags = {tag: one["value"] for tag, one in made.metrics["overall"]["tags"].items()}
    assert tags == expected["tags"]
    text = (folder / "table.txt").read_text()
    assert text in out and "single_object" in text and "report.html" in out
    assert (folder / "table.csv").read_text().startswith("metric,")
    assert r"\begin{tabular}" in (folder / "table.tex").read_text()
    page = (folder / "report.html").read_text()
    assert page.count('<img src="data:image/png') >= 4 and "geneval@hf-mask2former" in page
    assert chosen.prompts[0].text in page and "detection" in page


def test_an_incomplete_set_is_refused_or_marked(evaluate, folder, tmp_path):
    one = folder / "00002"
    moved = one.rename(tmp_path / "moved")
    try:
        status, _, err = evaluate(tmp_path / "out", NUMBERS)
        assert status == 2 and "it lacks 1 of 6: " in err and "--partial" in err
        status, out, err = evaluate(tmp_path / "out", NUMBERS, "--partial")
    finally:
        moved.rename(one)
    assert status == 0 and "PARTIAL: 1 image missing or damaged" in out, err
    overall = manifest.read(tmp_path / "out").metrics["overall"]
    assert overall["value"] is None and "counting" not in overall["tags"]
    assert "partial" in (tmp_path / "out" / "report.html").read_text().lower()


# The command in a process that kills itself before the write of the part of this number.
KILLED = """
import os, pickle, signal, sys
import jax
from miro_jax import __main__ as entry
from miro_jax.data.storage import LocalFolder
from miro_jax.evaluate.suites import judging, table
from miro_jax.evaluate.suites.geneval import judge

jax.config.update("jax_disable_most_optimizations", True)
judge.GenEvalJudge.batch_size = 3
suite = pickle.load(open(sys.argv[1], "rb"))
table.SUITES["geneval"] = lambda: suite
judging._IMAGES_AT_LEAST, last, write = 1, int(sys.argv[2]), LocalFolder.write

def killing(self, name, *arguments, **keywords):
    if name == f"{judging.PARTS}/{last:05d}.json":
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, *arguments, **keywords)

LocalFolder.write = killing
sys.exit(entry.main(sys.argv[3:]))
"""


def test_killed_between_two_parts_it_ends_with_the_same_bytes(
    evaluate, whole, folder, weights, chosen, tmp_path
):
    (tmp_path / "suite").write_bytes(pickle.dumps(chosen))
    words = ["evaluate", str(folder), "--suite=geneval", f"--out={tmp_path / 'out'}", NUMBERS]
    words += [f"--judge=detector={weights / 'detector'}", f"--judge=clip={weights / 'clip'}"]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "suite"), "1", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in (tmp_path / "out" / "parts").iterdir()] == ["00000.json"]
    status, _, err = evaluate(tmp_path / "out", NUMBERS)
    assert status == 0, err
    assert contents(tmp_path / "out") == contents(whole[0])


def test_objects_of_an_image_do_not_depend_on_those_beside_it(found):
    """To the bit in one program, beside others and beside an image of another size."""
    image, *others = (drawn(number) for number in range(6))
    one, *_ = found.detect([image, others[0], drawn(2, 40, 64), others[1]])
    assert one.scores.max() > 0.3
    for beside in (others[1:3], others[3:5]):
        again = found.detect([image, *beside])[0]
        for field in dataclasses.fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(again, field.name))


def test_objects_of_an_image_alone_are_those_of_a_batch(found):
    """Another program rounds otherwise: what the queries read agrees to that, and the verdicts.

    A query reads the pixels where its mask is positive: a pixel at zero that rounding takes in or
    out moves scores by more than rounding does, and which pixels are there depends on the
    processor. So scores are compared by their order.
    """
    images = [drawn(0), drawn(1), drawn(3)]
    batch = np.stack([pixels.prepare(image) for image in images]).astype(np.float32)
    batch = (batch - np.float32(pixels.MEAN)) / np.float32(pixels.STD)
    with jax.default_matmul_precision("highest"):
        expected, ours = (found.tower.run(_read, batch[:rows]) for rows in (1, 3))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert difference(one[:1], other) < 1e-5
    (alone,) = found.detect(images[:1])
    for position, order in ((0, [0, 1, 2]), (2, [1, 2, 0])):
        one = found.detect([images[number] for number in order])[position]
        best, expected = np.argsort(-one.scores)[:20], np.argsort(-alone.scores)[:20]
        np.testing.assert_array_equal(one.labels[best], alone.labels[expected])
        np.testing.assert_array_equal(one.boxes[best], alone.boxes[expected])


def _read(network, images):
    return network.pixels(network.backbone(images))
