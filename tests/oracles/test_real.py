"""The paper's config from tar shards to pictures, with tiny weights in the published layouts."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from configs import miro
from miro_jax import annotate, main
from miro_jax.cli import build
from miro_jax.data import sources
from miro_jax.data.records import record as records
from miro_jax.data.records import shards
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.shapes import world
from miro_jax.data.sources import images
from miro_jax.pretrained.encoders import build_image_encoder
from miro_jax.rewards import load_rewards
from tests import compiling
from tests.oracles import published

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent.parent
PICTURES = 20


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return published.make(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    world.write_shards(folder, PICTURES, 48, PICTURES // 2, image_format="jpg")
    return f"tar:{folder}/*.tar"


@pytest.fixture(scope="module")
def workdir(weights, source, tmp_path_factory):
    """A run: annotated, trained for two steps, sampled."""
    folder = tmp_path_factory.mktemp("run")
    given = [*arguments(weights, source), f"--workdir={folder}"]
    for stage in ("annotate", "train", "sample"):
        assert main.main([*given, f"--stage={stage}"]) == 0, stage
    return folder


def arguments(weights, source):
    return [
        f"--config={ROOT}/configs/miro.py:tiny_real",
        f"--config.source.spec={source}",
        "--config.train.num_steps=2",
        "--config.train.sample_every_steps=2",
        "--config.sample.prompts=('a red fox','a cat')",
        *(f"--config.weights.{name}={place}" for name, place in weights.items()),
    ]


@pytest.fixture(scope="module")
def found(workdir):
    """The records of the run, in order."""
    return read_records(workdir / "records")


def read_records(folder):
    paths = shards.verify_shards(folder, full=True)
    data = [one for path in paths for one in ArrayRecordReader(str(path)).read_all()]
    return [records.decode_record(one) for one in data]


def test_all_seven_rewards_and_both_encoders_are_in_the_records(workdir, found):
    manifest = Manifest.load(workdir / "records")
    names = [identity.partition("@")[0] for identity in manifest.rewards]
    assert names == list(miro.REWARDS) and manifest.num_records == PICTURES == len(found)
    assert manifest.latent_shape == (4, 4, 4) and manifest.caption_width == 24
    forms = manifest.configuration["synthetic_forms"]
    expected = ["long", None, "short", "short", "short", "long", "short"]
    assert [forms[identity] for identity in manifest.rewards] == expected
    for record in found:
        assert np.isfinite(record.scores).all() and np.isfinite(record.synthetic_scores).all()
        assert record.image_mean.shape == record.image_std.shape == (4, 4, 4)
        assert 1 <= len(record.caption_tokens) <= 16 and record.caption_tokens.shape[1] == 24
    spread = np.ptp([record.scores for record in found], axis=0)
    assert (spread > 1e-4).all(), spread
    assert Bins.load(workdir / "records").num_bins == 8


def test_scores_are_those_of_the_rewards_at_the_pictures_own_size(weights, source, found):
    names = ("aesthetic", "pick_score", "image_reward")  # none, long and short are all there
    rewards = load_rewards(names, weights={name: weights[name] for name in names})
    samples = [s for p in sources.open_source(source).pieces for s in p.samples()]
    pictures = [images.load_rgb(sample.read()) for sample in samples]
    assert pictures[0].shape == (48, 48, 3)
    for name, reward in zip(names, rewards, strict=True):
        column = miro.REWARDS.index(name)
        for kind, texts in (
            ("scores", [s.caption for s in samples]),
            ("synthetic_scores", [s.synthetic[reward.synthetic_form] for s in samples]),
        ):
            expected = reward.stored(reward.score(pictures, texts))
            scores = np.array([getattr(record, kind)[column] for record in found])
            np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5, err_msg=name)
    assert [record.key for record in found] == [sample.key for sample in samples]


def test_a_network_trains_and_samples_from_them(workdir):
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2 and np.isfinite(losses).all()
    assert (workdir / "samples" / "step-000002.png").exists()
    pictures = sorted((workdir / "images").rglob("*.png"))
    assert pictures and Image.open(pictures[0]).size >= (32, 32)


# Captions longer than the network sees are cut in training, too.
@pytest.mark.filterwarnings("ignore:A prompt has")
def test_the_network_is_evaluated_on_captions_of_its_records(workdir, weights, source):
    sizes = {"levels": (0.0, 1.0), "images_per_level": 2, "max_prompts": 2, "images_per_prompt": 1}
    changes = [f"--config.evaluate.{name}={value!r}" for name, value in sizes.items()]
    given = [*arguments(weights, source), *changes, f"--workdir={workdir}", "--stage=evaluate"]
    assert main.main(given) == 0
    (entry,) = json.loads((workdir / "evaluation.json").read_text())
    assert set(entry["results"]) == {"gallery", "reward_scores", "dials"}
    assert entry["prompts"]["source"] == "captions of 2 training records"
    assert list(entry["results"]["dials"]["cross"]["asked"]) == list(miro.REWARDS)
    for name, training in entry["training"]["rewards"].items():
        assert np.isfinite(training["mean"]) and training["std"] > 0, name


def test_the_page_shows_the_pictures_of_the_source(workdir):
    page = (workdir / "records" / "report.html").read_text("utf-8")
    for name in miro.REWARDS:
        assert f"<h3>{name}@" in page
    assert page.count("data:image/png") == 7 * 2 * 5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"encoder.caption.max_tokens": 12},
            "caption_encoder is .*-max16.* there, .*-max12",
        ),
        ({"annotate.dtype": "bfloat16"}, "dtype is .float32. there, .bfloat16. here"),
        ({"weights.pick_score": "changed"}, "with clip-.* for pick_score; .* holds other weights"),
        ({"weights.image_encoder": "changed"}, "for image_encoder; .* holds other weights"),
        ({"weights.vqa": "empty"}, "given for vqa must hold its weights"),
    ],
)
def test_a_complete_set_is_not_taken_for_one_of_other_models(
    workdir, weights, source, tmp_path, capsys, changes, said
):
    given = arguments(weights, source)
    for key, value in changes.items():
        if value in ("changed", "empty"):
            value, place = tmp_path / value, weights[key.partition(".")[2]]
            if value.name == "changed":
                shutil.copytree(place, value)
                (file,) = [p for p in value.glob("*model.safetensors")]
                file.write_bytes(file.read_bytes()[:-1] + b"?")
            value.mkdir(exist_ok=True)
        given.append(f"--config.{key}={value}")
    assert main.main([*given, f"--workdir={workdir}", "--stage=annotate"]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_a_complete_set_of_the_same_models_is_complete(workdir, weights, source, capsys):
    given = arguments(weights, source)
    assert main.main([*given, f"--workdir={workdir}", "--stage=annotate"]) == 0
    said = f"{PICTURES} records, 0 failures, complete already: {workdir}/records\n"
    assert capsys.readouterr().out == said


def test_training_needs_no_reward_in_memory(workdir, weights):
    config = miro.get_config("tiny_real")
    assert build.reward_labels(config) == list(miro.REWARDS)
    assert not config.train.score_samples


def test_an_encoder_at_another_size_shares_its_weights(weights):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
    first = build_image_encoder("sdxl_vae", weights=weights["image_encoder"], size=32)
    second, alone = (
        first.at_size(64),
        build_image_encoder("sdxl_vae", weights=weights["image_encoder"], size=64),
    )
    assert second.identity == alone.identity != first.identity
    assert second._encoding is first._encoding and second.latent_shape == (8, 8, 4)
    for ours, theirs in zip(second.encode([image]), alone.encode([image]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_one_device_gives_what_eight_give(weights, source, found, tmp_path):
    command = [
        *(sys.executable, "-m", "miro_jax.main", "--stage=annotate", f"--workdir={tmp_path}"),
        *arguments(weights, source),
    ]
    env = os.environ | {"XLA_FLAGS": compiling.xla_flags(1)}
    subprocess.run(command, env=env, cwd=ROOT, check=True, timeout=240, capture_output=True)
    for one, eight in zip(read_records(tmp_path / "records"), found, strict=True):
        assert_close(one, eight)


def assert_close(record, other):
    """Compare all fields."""
    for name, value in vars(record).items():
        theirs = getattr(other, name)
        if isinstance(value, np.ndarray):
            # Half precision may fall to either side of the same number.
            room = 1e-5 if value.dtype == np.float32 else 2e-3
            value, theirs = value.astype(np.float32), theirs.astype(np.float32)
            np.testing.assert_allclose(value, theirs, rtol=room, atol=room, err_msg=name)
        else:
            assert value == theirs, name


def test_matrices_cut_over_pairs_of_devices_give_the_same(weights, source, found, tmp_path):
    names = ("pick_score", "vqa")
    annotate.annotate(
        source,
        tmp_path,
        names,
        {"name": "sdxl_vae", "size": 32, "weights": weights["image_encoder"]},
        {"name": "words"},
        weights={name: weights[name] for name in names},
        pieces=[1],
        batch_size=8,
        mesh="allx2",
    )
    (shard,) = tmp_path.glob("*.array_record")
    columns = [miro.REWARDS.index(name) for name in names]
    made = [records.decode_record(one) for one in ArrayRecordReader(str(shard)).read_all()]
    for one, other in zip(made, found[PICTURES // 2 :], strict=True):
        shown = {name: getattr(other, name)[columns] for name in ("scores", "synthetic_scores")}
        for name in ("caption_tokens", "synthetic_caption_tokens"):  # by another encoder
            shown[name] = getattr(one, name)
        assert_close(one, dataclasses.replace(other, **shown))
