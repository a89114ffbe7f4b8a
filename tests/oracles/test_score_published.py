"""The score stage with published rewards on tiny weights: sharing, meshes, versions."""

import json

import jax
import numpy as np
import pytest

from miro_jax import score as stage
from miro_jax.pretrained.networks import clip_keys
from miro_jax.pretrained.weights.tensors import write_safetensors
from miro_jax.rewards import load_reward
from tests.oracles import clip_rewards, clip_tokens
from tests.oracles.clip import Oracle, opened
from tests.oracles.clip_rewards import CONFIG, HEAD, NUM_MERGES
from tests.scoring import file_bytes, picture, read_rows, score, write_csv

NAMES = ("aesthetic", "pick_score", "sci_score", "hpsv2@2.0")
IDENTITIES = ("aesthetic@1", "pick_score@1", "sci_score@1", "hpsv2@2.0")


@pytest.fixture(scope="module", autouse=True)
def precise():
    with jax.default_matmul_precision("highest"):
        yield


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_flush")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """One folder that is a repository of each of the rewards."""
    folder, oracle = tmp_path_factory.mktemp("weights"), Oracle(CONFIG, seed=6)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(folder / "model.safetensors", oracle.tensors())
    write_safetensors(folder / "HPS_v2_compressed.safetensors", opened(oracle.tensors()))
    clip_tokens.write_tokenizer_json(folder, NUM_MERGES)
    clip_rewards.save_pickle(folder / f"{HEAD}.pth", clip_rewards.make_head(16))
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Pictures of several sizes and their captions."""
    folder, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(3)
    (folder / "in").mkdir()
    rows = [("path", "caption")]
    for i, size in enumerate(
        ((40, 31), (28, 28), (30, 97), (31, 28), (64, 20), (29, 33), (28, 50))
    ):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        (folder / "in" / f"{i}.png").write_bytes(file_bytes(image))
        rows.append((f"{i}.png", "a red fox" if i % 2 else f"a caf\u00e9, number {i}"))
    write_csv(folder / "captions.csv", rows)
    return folder


def arguments(inputs, weights, out, *more):
    words = [f"--weights={name}={weights}" for name in NAMES]
    captions = inputs / "captions.csv"
    words += [f"--rewards={','.join(NAMES)}", f"--captions={captions}", f"--out={out}"]
    return [str(inputs / "in"), *words, "--batch-size=4", *more]


def columns(out):
    rows = read_rows(out)
    return np.array([[row[name] for name in IDENTITIES] for row in rows], np.float32)


@pytest.fixture(scope="module")
def scored(inputs, weights, tmp_path_factory):
    """The scores [7, 4] that the command gives on all eight devices."""
    out = tmp_path_factory.mktemp("out") / "scores.parquet"
    loads, load = [], clip_keys.load_vision
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_keys, "load_vision", lambda *a, **k: loads.append(1) or load(*a, **k))
        assert stage.main(arguments(inputs, weights, out)) == 0
    assert len(loads) == 2  # three rewards share one tower, HPSv2's file is another
    return columns(out)


def test_scores_equal_those_of_the_rewards_alone(inputs, weights, scored):
    rows = [line.split(",", 1) for line in (inputs / "captions.csv").read_text().splitlines()[1:]]
    images = [picture(inputs / "in" / name) for name, _ in rows]
    captions = [text.strip('"') for _, text in rows]
    for column, name in enumerate(NAMES):
        expected = load_reward(name, weights=str(weights)).score(images, captions)
        room = 1e-5 * np.maximum(1, np.abs(expected))
        assert (np.abs(scored[:, column] - expected) <= room).all(), name
        assert np.ptp(expected) > 1e-3


@pytest.mark.parametrize("mesh", ["1x1", "4x2"])
def test_scores_agree_on_every_mesh(inputs, weights, scored, tmp_path, mesh):
    out = tmp_path / "scores.jsonl"
    assert stage.main(arguments(inputs, weights, out, f"--mesh={mesh}")) == 0
    np.testing.assert_allclose(columns(out), scored, rtol=1e-5, atol=1e-5)


def test_stored_scores_are_those_of_records(inputs, weights, scored, tmp_path):
    out = tmp_path / "scores.csv"
    assert stage.main(arguments(inputs, weights, out, "--stored")) == 0
    np.testing.assert_allclose(columns(out), scored * [0.1, 0.01, 0.01, 1], rtol=1e-6)


def test_a_picture_that_fails_changes_no_bit_of_another_score(inputs, weights, scored, tmp_path):
    (tmp_path / "in").mkdir()
    for path in (inputs / "in").iterdir():
        data = b"" if path.name in ("1.png", "2.png", "3.png") else path.read_bytes()
        (tmp_path / "in" / path.name).write_bytes(data)
    (tmp_path / "captions.csv").write_bytes((inputs / "captions.csv").read_bytes())
    out = tmp_path / "scores.parquet"
    assert stage.main(arguments(tmp_path, weights, out)) == 0
    np.testing.assert_array_equal(columns(out), scored[[0, 4, 5, 6]])


def test_two_names_of_one_reward_are_refused(inputs, weights, tmp_path):
    names = ["hpsv2", "hpsv2@2.1"]
    half = weights / "HPS_v2.1_compressed.safetensors"
    half.write_bytes((weights / "HPS_v2_compressed.safetensors").read_bytes())
    with pytest.raises(ValueError, match="must differ from each other; got hpsv2@2.1, hpsv2@2.1"):
        score(inputs / "in", tmp_path / "a.csv", names, weights=dict.fromkeys(names, weights))
