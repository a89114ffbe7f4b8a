"""A checkpoint is sampled before it is evaluated, and resumes; options go to the sampler."""

import dataclasses
import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import base as configs
from miro_jax import __main__ as entry
from miro_jax.evaluate import geneval
from miro_jax.evaluate.base import Sampling
from miro_jax.evaluate.suites import manifest, run, table, watch
from miro_jax.evaluate.suites import sampling as suite_sampling
from miro_jax.models.sampler import draw_noise, sample_keys
from miro_jax.sample import pipeline
from miro_jax.sample.preset import Preset
from miro_jax.sample.settings import Settings
from tests.painting import Painter, inputs
from tests.sampling import NAMES, Killed, kill_at, save_tiny
from tests.suites import Bright, small_suite

WORDS = ["--suite=small", "--steps=2", "--guidance-scale=2", "--seed=5", "--target", "beauty=0.5"]


class Lucky(Painter):
    """Paints what it is asked for where the mean of the image's noise is positive, else nothing."""

    shape = (4, 4, 3)

    def __init__(self, names):
        super().__init__(names)
        self.trained = SimpleNamespace(
            name="lucky sha256:1",
            step=20,
            attention="xla",
            weights=(),
            config=SimpleNamespace(latent_shape=self.shape, student=False),
        )

    def __call__(self, prompts, num_images=1, noise=None, seed=None, **settings):
        texts = [text for text in prompts for _ in range(num_images)]
        if noise is None:
            keys = sample_keys(seed, *np.divmod(np.arange(len(texts)), num_images))
            noise = np.asarray(draw_noise(keys, self.shape))
        images = super().__call__(texts)
        images[noise.mean(axis=(1, 2, 3)) < 0] = 128
        return images


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def loaded(checkpoint):
    yield pipeline.MiroPipeline.from_pretrained(checkpoint, batch_size=4)


@pytest.fixture
def evaluate(checkpoint, loaded, monkeypatch, capsys, tmp_path):
    """Evaluate the checkpoint in an empty folder: (status, stderr)."""
    monkeypatch.setattr(pipeline, "open_pipeline", lambda options, step: loaded)
    monkeypatch.setattr(table, "SUITES", {"small": lambda: small_suite(5)})
    monkeypatch.chdir(tmp_path)

    def call(*more, what=checkpoint):
        status = entry.main(["evaluate", str(what), *WORDS, "--out=out", *more])
        return status, capsys.readouterr().err

    return call


@pytest.mark.over_a_second
def test_a_checkpoint_is_sampled_by_its_request_and_then_judged(evaluate, loaded, tmp_path):
    assert evaluate()[0] == 0
    made = manifest.read(tmp_path / "out")
    assert len(made.rows) == 10 and made.manifest["images"]["layout"] == "miro_jax"
    sampling = made.manifest["sampling"]
    assert (sampling["num_steps"], sampling["seed"], sampling["guidance_scale"]) == (2, 5, 2.0)
    assert sampling["targets"] == {"beauty": 0.5} and sampling["seed_rule"] == run.SEED_RULE
    assert "sha256:" in made.manifest["model"]["name"]
    network = nnx.merge(loaded.trained.graphdef, *loaded.trained.weights)
    parameters = sum(x.size for x in jax.tree.leaves(nnx.state(network, nnx.Param)))
    assert made.manifest["model"]["parameters"] == parameters > 1e5
    assert made.manifest["post_selection"] == {"best_of": "none", "prompt_rewriting": "none"}
    # The images are those that evaluators sample in memory: the numbers are theirs.
    texts = [prompt.text for prompt in small_suite(5).prompts]
    how = Sampling(Settings(num_steps=2, guidance_scale=2), 5, {"beauty": 0.5})
    expected = how.sample(loaded, texts, 2)
    images = [np.asarray(Image.open(tmp_path / "out/images" / row["file"])) for row in made.rows]
    np.testing.assert_array_equal(np.stack(images), expected)
    assert (tmp_path / "out" / "report.html").is_file()


def test_images_of_other_weights_are_not_judged_for_ours(evaluate, loaded, monkeypatch, tmp_path):
    assert evaluate()[0] == 0
    before = (tmp_path / "out/evaluation.json").read_bytes()
    status, err = evaluate("--vae=a/vae")
    assert status == 1 and 'vae is null there, "a/vae" here' in err
    moved = loaded.trained.name.replace(" sha256:", "-moved sha256:")
    with monkeypatch.context() as patch:  # the same weights in another folder
        patch.setattr(loaded, "trained", dataclasses.replace(loaded.trained, name=moved))
        assert evaluate()[0] == 0
    other = dataclasses.replace(loaded.trained, name="other sha256:1")
    monkeypatch.setattr(loaded, "trained", other)
    status, err = evaluate()
    assert status == 1 and 'checkpoint is "' in err and 'there, "other sha256:1" here' in err
    assert (tmp_path / "out/evaluation.json").read_bytes() == before


def test_results_of_other_rewards_are_refused_before_sampling(evaluate, monkeypatch):
    assert evaluate()[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(suite_sampling, "fill", lambda plan: pytest.fail("it sampled"))
        status, err = evaluate("--rewards=beauty")
    assert status == 2 and "belongs to another request: rewards is [" in err
    assert err.count("\n") == 1 and evaluate()[0] == 0


def test_another_text_encoder_and_vae_stand_in_the_facts(evaluate, tmp_path):
    assert evaluate()[0] == 0
    assert not {"vae", "text_encoder"} & manifest.read(tmp_path / "out").manifest["sampling"].keys()
    assert evaluate("--vae=a/vae", "--text-encoder=a/t5", "--out=other")[0] == 0
    sampling = manifest.read(tmp_path / "other").manifest["sampling"]
    assert (sampling["vae"], sampling["text_encoder"]) == ("a/vae", "a/t5")


def test_captions_are_not_taken_for_images_that_are_sampled_first(evaluate, tmp_path):
    status, err = evaluate("--captions=captions.csv")
    assert status == 2 and "--captions are of images that are there" in err
    assert not list(tmp_path.iterdir())


def write_preset(path, names=NAMES):
    levels = {"beauty": 0.9, "count": 0.3}, {"colors": 0.25}
    found_on = {"checkpoint": "a sha256:1", "objective": "near@1"}
    path.write_bytes(Preset(names, *levels, 3.5, found_on).to_json())
    return f"--preset={path}"


def test_a_preset_counts_less_than_flags_and_is_part_of_the_request(evaluate, tmp_path):
    assert evaluate()[0] == 0
    preset = write_preset(tmp_path / "p.json")
    status, err = evaluate(preset)
    assert status == 2 and "images" in err and "another" in err.lower()
    assert evaluate(preset, "--out=other")[0] == 0
    made = manifest.read(tmp_path / "other").manifest["sampling"]
    assert made["targets"] == {"beauty": 0.5, "count": 0.3} and made["guidance_scale"] == 2.0
    assert made["negative_targets"] == {"colors": 0.25}


def test_a_preset_of_other_weights_is_a_bad_argument(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "SUITES", {"small": lambda: small_suite(5)})
    preset = write_preset(tmp_path / "p.json")
    words = ["evaluate", str(checkpoint), *WORDS, f"--out={tmp_path / 'out'}", preset]
    assert entry.main(words) == 2
    err = capsys.readouterr().err
    assert "must be used with the weights that it was found on, a sha256:1; got" in err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A run as far as planning looks at it, and what it is opened with, in place of opening it."""
    config, opened = configs.get_config("tiny"), []
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json())
    names = tuple(config.data.train_rewards)
    pipe = Lucky(names)

    def load(*args, **options):
        opened.append(options)
        return pipe

    monkeypatch.setattr(watch, "steps_of", lambda _: [20])
    monkeypatch.setattr(pipeline.MiroPipeline, "from_pretrained", load)
    return SimpleNamespace(folder=folder, config=config, pipe=pipe, opened=opened, names=names)


def test_a_run_is_sampled_by_a_preset_which_is_of_its_weights(run_folder, tmp_path, capsys):
    preset = write_preset(tmp_path / "p.json", run_folder.names)
    words = ["evaluate", str(run_folder.folder), "--suite=shapes", "--images-per-prompt=1"]
    assert entry.main([*words, preset]) == 0, capsys.readouterr().err
    (options,) = run_folder.opened  # where weights are loaded, those of the preset are compared
    assert options["step"] == 20 and options["preset"] == str(tmp_path / "p.json")
    out = run_folder.folder / "evals/step-000020/shapes@1"
    made = manifest.read(out).manifest["sampling"]
    assert made["targets"] == {"beauty": 0.9, "count": 0.3} and made["guidance_scale"] == 3.5


@pytest.mark.parametrize(
    "words, said",
    [
        (["--preset=/nonexistent.json"], "nonexistent.json"),
        (["--vae=x"], "--vae: must be given for a release alone; .*run is a run, got 'x'"),
        (["--text-encoder=x"], "--text-encoder: must be given for a release alone"),
        (["--watch", "--preset=p.json"], "of one checkpoint's weights, and --watch evaluates all"),
        (
            ["--out={run}"],
            "--out must be a folder of its own; .*run is a run, whose evaluation.json",
        ),
        (["--batch-size=3"], "--batch-size: must be a multiple of the 8 devices; got 3"),
    ],
)
def test_flags_that_do_not_fit_a_run_are_refused_before_its_weights(
    run_folder, words, said, capsys
):
    words = [word.format(run=run_folder.folder) for word in words]
    status = entry.main(["evaluate", str(run_folder.folder), "--suite=shapes", *words])
    err = capsys.readouterr().err
    assert status == 2
    assert re.search(said, err) and err.count("\n") == 1 and not run_folder.opened


def test_sampling_that_was_killed_ends_with_the_same_images(evaluate, tmp_path, monkeypatch):
    assert evaluate("--out=whole")[0] == 0
    with monkeypatch.context() as killing, pytest.raises(Killed):
        kill_at(killing, 3)
        evaluate()
    assert not (tmp_path / "out" / "evaluation.json").exists()
    assert evaluate()[0] == 0
    whole, resumed = manifest.read(tmp_path / "whole"), manifest.read(tmp_path / "out")
    assert whole.rows == resumed.rows


def test_a_judge_that_cannot_be_opened_is_said_before_sampling(evaluate, monkeypatch, tmp_path):
    def fails(options):
        raise ValueError("its weights do not fit")

    suite = small_suite(5)
    object.__setattr__(suite, "open_judge", fails)
    monkeypatch.setattr(table, "SUITES", {"small": lambda: suite})
    status, err = evaluate()
    assert status == 1 and "its weights do not fit" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--target", "beuty=1"], "beuty"),
        (["--preset=/nonexistent.json"], "nonexistent.json"),
        (["--images-per-prompt=0"], "must be at least 1"),
        (["--suite=smal"], "--suite must be one of small, or a file"),
        (["--declare", "judge.name=x"], "GROUP one of model"),
        (["--rewards=colros"], "did you mean colors"),
    ],
)
def test_a_mistake_costs_no_device_time(evaluate, words, said, monkeypatch):
    monkeypatch.setattr(pipeline, "open_pipeline", None)
    status, err = evaluate(*words)
    assert status == 2 and said in err and err.count("\n") == 1


def test_what_is_neither_images_nor_a_checkpoint_is_refused(evaluate, tmp_path):
    (tmp_path / "empty").mkdir()
    status, err = evaluate(what=tmp_path / "empty")
    assert status == 2 and "must hold images" in err
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(json.dumps({}))
    status, err = evaluate(what=tmp_path / "broken")
    assert status == 2 and "released layout" in err


def test_the_judge_of_images_is_kept_beside_other_results(evaluate, tmp_path, monkeypatch):
    assert evaluate()[0] == 0
    other = small_suite(5, Bright(90))
    monkeypatch.setattr(table, "SUITES", {"small": lambda: other})
    monkeypatch.setattr(pipeline, "open_pipeline", None)  # the images are there already
    status, err = evaluate("--out=other", what=tmp_path / "out" / "images")
    assert status == 0, err
    assert manifest.read(tmp_path / "other").manifest["judge"]["threshold"] == 90


@pytest.mark.over_a_second
def test_the_suite_shapes_gives_the_numbers_of_a_runs_own_evaluation(run_folder, tmp_path, capsys):
    config, folder, pipe = run_folder.config, run_folder.folder, run_folder.pipe
    config.evaluate.prompts_per_category, config.evaluate.images_per_prompt = 8, 3
    config.sample.seed = 11
    (folder / "config.json").write_text(config.to_json())
    status = entry.main(["evaluate", str(folder), "--suite=shapes"])
    assert status == 0, capsys.readouterr().err
    metrics = manifest.read(folder / "evals/step-000020/shapes@1").metrics

    own = geneval.Evaluator.build(inputs(config, tmp_path)).run(pipe).rows[-1]
    assert own["guidance_scale"] == config.sample.guidance_scale
    shares = {name: share["accuracy"] for name, share in own["categories"].items()}
    assert any(0.2 < share < 0.8 for share in shares.values())
    assert metrics["overall"]["value"] == own["overall"]["accuracy"]
    assert list(metrics["overall"]["tags"]) == list(shares)
    for name, share in shares.items():
        tag = metrics["overall"]["tags"][name]
        assert tag["value"] == share
        assert tag["images"] == own["categories"][name]["total"] == 24
