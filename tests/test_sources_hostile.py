"""The hostile corpus: every bad sample with its cause, every good one there, no crash, no hang."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from miro_jax.data.sources import images
from tests import hostile, hostile_corpus, mutations
from tests.sources import encode

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return folder, *hostile_corpus.write_corpus(folder)


@pytest.mark.filterwarnings("ignore")
def test_every_bad_sample_has_the_right_cause_and_every_good_one_none(corpus):
    folder, expected, damage = corpus
    found, others = hostile.read_corpus(folder)
    assert found == expected
    assert others == {"damaged tar": damage, "duplicate key": 1}
    assert sum(bool(cause) for cause in expected.values()) >= 80


def test_good_samples_between_bad_ones_are_untouched(corpus):
    (piece,) = hostile.open_source(f"tar:{corpus[0]}/hostile.tar").pieces
    want = images.load_rgb(encode(hostile_corpus.picture(), "JPEG"))
    good = [s for s in piece.samples() if not s.problem and "/good" in s.key]
    assert len(good) >= 100
    for sample in good:
        assert sample.caption == f"caption {sample.key.partition('/')[2]}"
        np.testing.assert_array_equal(images.load_rgb(sample.read()), want)


@pytest.mark.parametrize("count", [1500, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.over_a_second
def test_mutated_pictures_neither_crash_nor_hang_nor_fill_the_memory(count):
    """In a process of its own: a crash is seen, and the peak of memory is its own."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.hostile", f"--images={count}", "--seed=1"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    facts = json.loads(result.stdout)
    assert facts["peak_bytes"] < hostile.MAX_BYTES
    outcomes = facts["mutated"]["outcomes"]
    assert sum(outcomes.values()) == count
    causes = {"damaged image", "not an image", "too large", "too small"}
    assert causes <= set(outcomes) <= causes | {"decoded", "empty file"}
    assert outcomes["decoded"] > 100


def test_mutations_are_the_same_for_a_seed():
    assert list(mutations.mutated(20, 3)) == list(mutations.mutated(20, 3))
    assert list(mutations.mutated(20, 3)) != list(mutations.mutated(20, 4))
