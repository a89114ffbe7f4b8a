"""A few-step student: its formulas, what it is before training, and the stage from end to end."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from miro_jax import main
from miro_jax.cli import run_folder
from miro_jax.models import sampler, sharding, solvers
from miro_jax.models.student import JumpEmbedding
from miro_jax.pretrained.encoders import build_caption_encoder, build_image_encoder
from miro_jax.pretrained.weights.official import FIXED
from miro_jax.sample import pipeline, preset, trained
from miro_jax.sample.settings import Options, Settings
from miro_jax.sample.usual import Usual
from miro_jax.train import distil
from miro_jax.train.settings import Distillation
from tests import training
from tests.linear_field import average, flow, linear
from tests.networks import (
    TINY,
    make_batch,
    random_network,
    resize,
    small_mesh,
)
from tests.sampling import ENCODERS, NAMES

ROWS, STEPS = 4, 8


# Formulas.


def test_the_average_velocity_fulfils_the_mean_flow_identity():
    """u = v - (t - r) du/dt, with du/dt along the flow by jvp and by finite differences."""
    x, t, r = jnp.array([0.3, -1.2, 0.8]).reshape(1, 1, 1, 3), 0.9, 0.25
    v, _ = linear(x, t, None)
    u, along = jax.jvp(lambda x, t: average(x, t, r), (x, t), (v, 1.0))
    np.testing.assert_allclose(u, v - (t - r) * along, atol=1e-5)
    h = 1e-2
    ahead, behind = (average(flow(x, t, t + d), t + d, r) for d in (h, -h))
    np.testing.assert_allclose((ahead - behind) / (2 * h), along, atol=1e-3)


def test_targets_are_the_average_velocity_of_the_flow_up_to_the_step():
    x = jax.random.normal(jax.random.key(0), (ROWS, 2, 2, 3))
    errors = []
    for steps in (64, 128):
        states = distil.roll_out(linear, x, None, steps)
        assert states.shape == (steps + 1, ROWS, 2, 2, 3)
        first, last = steps // 4, 3 * steps // 4
        exact = average(states[first], 1 - first / steps, 1 - last / steps)
        errors.append(np.abs((states[first] - states[last]) / 0.5 - exact).max())
    assert errors[1] < 0.6 * errors[0] < 0.05


def test_a_span_of_one_step_is_the_velocity_of_the_teacher():
    x = jax.random.normal(jax.random.key(0), (ROWS, 2, 2, 3))
    states = distil.roll_out(linear, x, None, STEPS)
    v, _ = linear(states[2], 1 - 2 / STEPS, None)
    np.testing.assert_allclose((states[2] - states[3]) * STEPS, v, atol=1e-5)


class Exact:
    """Stands in for a student of the linear field, without error."""

    class config:
        student = True

    def encode_condition(self, tokens, mask, levels):
        return tokens, mask

    def __call__(self, x, t, condition, mask, previous, jump):
        times = (one.reshape(-1, 1, 1, 1) for one in (t, jump[0]))
        return average(x, *times), None


def branch(rows=ROWS):
    return sampler.Branch(jnp.zeros((rows, 1, 1)), jnp.ones((rows, 1), bool), jnp.zeros((rows, 0)))


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_student_of_a_linear_field_is_exact_in_any_number_of_steps(steps):
    x = jax.random.normal(jax.random.key(1), (ROWS, 2, 2, 3))
    guidance = sampler.Guidance(jnp.zeros(ROWS), jnp.array([0.0, 1.0]))
    found = sampler.take_jumps(Exact(), x, branch(), guidance, steps)
    np.testing.assert_allclose(found, flow(x, 1.0, 0.0), atol=1e-5)
    euler = solvers.euler(linear, x, None, steps)
    assert np.abs(found - euler).max() > 0.01


@pytest.mark.over_a_second
def test_the_error_of_an_exact_student_is_that_of_the_solver_alone():
    x = jax.random.normal(jax.random.key(0), (ROWS, 2, 2, 3))
    spans = distil.draw_spans(jax.random.key(2), 3 * ROWS, 256)
    states = distil.roll_out(linear, x, None, 256)
    error = distil.jump_error(Exact(), states, branch(), jnp.zeros(ROWS), spans)
    assert error.shape == (3 * ROWS,) and float(error.max()) < 1e-4
    shifted = states.at[:, 0].add(jnp.linspace(0, 1, 257)[:, None, None, None])  # one trajectory
    worse = distil.jump_error(Exact(), shifted, branch(), jnp.zeros(ROWS), spans)
    assert (np.asarray(worse).reshape(3, ROWS)[:, 0] > 0.1).all()
    np.testing.assert_allclose(worse.reshape(3, ROWS)[:, 1:], error.reshape(3, ROWS)[:, 1:])


def test_spans_are_those_of_samplers_with_powers_of_two():
    first, last = distil.draw_spans(jax.random.key(0), 4000, STEPS)
    length = np.asarray(last - first)
    assert set(length) == {1, 2, 4, 8} and (np.asarray(first) % length == 0).all()
    assert (np.asarray(last) <= STEPS).all()
    counts = np.array([(length == n).sum() for n in (1, 2, 4, 8)])
    assert counts.min() > 800 and len(set(np.asarray(first)[length == 1])) == 8


@pytest.mark.over_a_second
def test_conditions_mix_levels_of_records_with_drawn_ones():
    own = jnp.full((4000, 3), 0.123).at[:, 2].set(jnp.nan)
    settings = Distillation(data_levels=0.25, max_guidance=3.0)
    levels, scale = distil.draw_condition(jax.random.key(0), own, settings)
    kept = np.isnan(levels).any(axis=1)
    assert 0.2 < kept.mean() < 0.3 and (levels[kept][:, :2] == own[0, 0]).all()
    drawn = np.asarray(levels)[~kept]
    assert 0.5 < (drawn == 1).mean() < 0.58  # a half, and those beyond the end
    assert 0.02 < (drawn == 0).mean() < 0.07 and drawn.min() == 0
    # As many rows have no, one, two or three levels below 1, a little fewer with the ends.
    below = np.bincount((drawn < 1).sum(axis=1), minlength=4) / len(drawn)
    assert (abs(below - 0.25) < 0.08).all() and below[0] > below[3]
    assert 0 <= scale.min() < 0.01 and 2.99 < scale.max() <= 3.0


@pytest.mark.parametrize("steps", [3, 12])
def test_a_number_of_teacher_steps_that_is_no_power_of_two_is_refused(steps):
    with pytest.raises(ValueError, match=f"teacher_steps must be a power of two; got {steps}"):
        Distillation(teacher_steps=steps)


# The network.


@pytest.mark.over_a_second
def test_an_untrained_student_is_its_teacher_for_every_jump():
    graphdef, *weights = random_network(TINY, seed=0)
    student, *fresh = random_network(resize(TINY, student=True), seed=1)
    states = [nnx.merge_state(new, old) for new, old in zip(fresh, weights, strict=True)]
    with sharding.use_mesh(small_mesh()):
        jump = JumpEmbedding(TINY.latent_width, rngs=nnx.Rngs(0))
    states[0]["jump"] = nnx.state(jump, nnx.Param)  # as it begins
    batch = make_batch(TINY, 3, 2, seed=2)
    names = ("caption_tokens", "caption_mask", "levels")

    @jax.jit
    def both(states, jump):
        models = nnx.merge(graphdef, *weights), nnx.merge(student, *states)
        condition = models[0].encode_condition(*(batch[name] for name in names))
        inputs = batch["x_t"], batch["t"], *condition, None
        return models[0](*inputs), models[1](*inputs, jump)

    t, zero = jnp.asarray(batch["t"]), jnp.zeros(3)
    far = zero, jnp.array([0.0, 1.0, 7.0])
    with sharding.use_mesh(small_mesh()):
        for jump in ((t, zero), far):
            for expected, found in zip(*both(states, jump), strict=True):
                # Equal but for the order in which the compiler adds up.
                np.testing.assert_allclose(found, expected, atol=1e-5)
        kernel = states[0]["jump"]["span"]["out"]["kernel"]
        kernel[...] = kernel[...] + 0.1
        (expected, _), (found, _) = both(states, far)
        assert np.abs(found - expected).max() > 1e-4


@pytest.mark.slow
def test_an_exported_student_draws_the_same_images(tmp_path):
    size = {"latent_shape": (8, 8, 3), "caption_width": 16, "num_rewards": 3}
    config = resize(TINY, student=True, **size, **FIXED)
    graphdef, *states = random_network(config, seed=3)
    ours = trained.Trained(
        graphdef,
        tuple(states),
        config,
        build_image_encoder(**ENCODERS["image"]),
        lambda: build_caption_encoder(**ENCODERS["caption"]),
        NAMES,
        small_mesh(),
        usual=Usual(settings=Settings(negative_prompt="same")),
    )
    folder = trained.export(ours, tmp_path / "exported", ENCODERS)
    loaded = pipeline.MiroPipeline.from_pretrained(folder, batch_size=4)
    assert loaded.trained.config.student
    assert loaded.default_settings.negative_prompt == "same"  # as it was trained
    usual = preset.read_defaults(Options(checkpoint=str(folder))).usual
    assert usual.settings == loaded.default_settings
    with pytest.raises(ValueError, match="built in, .* the negative prompt 'same': negative targ"):
        loaded("a circle", num_steps=2, negative_prompt="empty")
    how = {"num_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    found, expected = (p("a circle", 4, **how) for p in (loaded, pipeline.MiroPipeline(ours, 4)))
    np.testing.assert_array_equal(found, expected)
    assert np.abs(loaded("a circle", 4, **how | {"guidance_scale": 0.0}) - expected).max() > 1e-3


# The stage.

RUN = (*training.COMMAND, "--config.train.report=False", "--config.train.sample_every_steps=0")


def distil_command(workdir, teacher, *more):
    flags = (f"--workdir={workdir}", "--stage=distil", f"--config.distil.checkpoint={teacher}")
    return [*RUN, *flags, "--config.train.checkpoint_every_steps=2", *more]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    records = training.make_records(tmp_path_factory)
    folder = tmp_path_factory.mktemp("teacher") / "run"
    flags = (f"--workdir={folder}", "--config.train.num_steps=6")
    assert main.main([*RUN, *flags, f"--config.data.records={records}"]) == 0
    return folder


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "run"
    assert main.main(distil_command(folder, teacher)) == 0
    return folder


def weights_of(folder):
    pairs, _ = jax.tree_util.tree_flatten_with_path(trained.load(folder).weights)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in pairs}


@pytest.mark.slow
def test_tiny_passes_through_the_stage_and_is_sampled_in_few_steps(teacher, student):
    config = json.loads((student / "config.json").read_text())
    assert config["model"]["rin"]["student"] and "sha256:" in config["distil"]["teacher"]
    assert config["sample"]["num_steps"] == 4 and config["train"]["num_steps"] == 4
    lines = [json.loads(line) for line in (student / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "loss_of_one_step"} <= {key for line in lines for key in line}
    before, after = weights_of(teacher), weights_of(student)
    assert before.keys() < after.keys() and all("jump" in k for k in after.keys() - before.keys())
    assert any((before[key] != after[key]).any() for key in before)

    pipe = pipeline.MiroPipeline.from_pretrained(student, batch_size=8)
    how = {"num_steps": 2, "output_type": "numpy"}
    images = pipe("a red circle", targets={"beauty": 0.5}, guidance_scale=1.0, **how)
    assert images.shape == (1, 16, 16, 3)
    for changes, words in (
        ({"solver": "heun"}, "a student samples with the solver euler; got 'heun'"),
        (
            {"negative_targets": {"beauty": 0.5}},
            "negative targets, another negative prompt, .* need its teacher",
        ),
        ({"negative_prompt": "blurry"}, "the negative prompt 'empty': .* need its teacher"),
    ):
        with pytest.raises(ValueError, match=words):
            pipe("a red circle", **how, **changes)


@pytest.mark.slow
def test_a_stopped_distillation_resumes_bit_for_bit(teacher, student, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(student, folder)
    shutil.rmtree(folder / "checkpoints" / "4")  # as it was after two steps
    renamed = shutil.copytree(teacher, tmp_path / "renamed")
    assert main.main(distil_command(folder, renamed)) == 0
    expected, found = weights_of(student), weights_of(folder)
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_a_folder_whose_run_was_stopped_before_its_first_checkpoint_is_new(tmp_path):
    run_folder.write_config(training.small(), tmp_path / "config.json")
    asked = tmp_path, "distil", "teacher", "run step 6 sha256:1234", "a student", "teacher"
    step = tmp_path / "checkpoints" / "2"
    step.mkdir(parents=True)
    run_folder.check_began_with(*asked)
    (step / "commit_success.txt").touch()
    with pytest.raises(ValueError, match="hold a student of the same teacher.* another run"):
        run_folder.check_began_with(*asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, words",
    [
        (["--config.distil.checkpoint="], "config.distil.checkpoint must name the teacher"),
        (["--config.distil.checkpoint={student}"], "must not be a student itself"),
        (["--config.sample.guidance_scale=3.0"], "guidance_scale must be within 0 and"),
        (["--workdir={teacher}"], "must be new, or hold a student of the same teacher"),
    ],
)
def test_what_cannot_be_distilled_is_refused(teacher, student, tmp_path, capsys, flags, words):
    flags = [flag.format(teacher=teacher, student=student) for flag in flags]
    before = sorted(pathlib.Path(teacher).rglob("checkpoints/*"))
    assert main.main(distil_command(tmp_path / "run", teacher, *flags)) != 0
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert sorted(pathlib.Path(teacher).rglob("checkpoints/*")) == before
