"""The loss and the training step; the loop is tested in `test_resume`, `test_train_refusals`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miro_jax.models import sharding
from miro_jax.train import components, state
from miro_jax.train import step as step_lib
from tests import training
from tests.networks import small_mesh

pytestmark = pytest.mark.slow

ROWS = 16
PLAIN = step_lib.Recipe(
    time_mean=0.0,
    time_std=1.0,
    self_condition_rate=1.0,
    reward_dropout=0.0,
    caption_dropout=0.0,
    ema_decay=0.9,
)


@pytest.fixture(scope="module")
def parts():
    return components.build_components(training.small())


def make_batch(parts, rows=ROWS, seed=0):
    """Coarse pictures with captions and levels of their own; one level is missing."""
    rng = np.random.default_rng(seed)
    height, width, channels = parts.image_encoder.latent_shape
    coarse = rng.uniform(-1, 1, (rows, height // 4, width // 4, channels)).astype(np.float16)
    colors, shapes = ("red", "blue", "green", "cyan"), ("circle", "square", "triangle", "star")
    texts = [f"a {colors[i % 4]} {shapes[i // 4 % 4]}" for i in range(rows)]
    tokens, mask = parts.caption_encoder.encode_padded(texts)
    levels = rng.uniform(size=(rows, len(parts.reward_names))).astype(np.float32)
    levels[1, 1:2] = np.nan
    return {
        "image_mean": coarse.repeat(4, axis=1).repeat(4, axis=2),
        "image_std": np.zeros((rows, height, width, channels), np.float16),
        "caption_tokens": tokens,
        "caption_mask": mask,
        "levels": levels,
        "weight": np.ones(rows, np.float32),
    }


def empty_tokens(parts):
    return parts.caption_encoder.encode([""])[0]


# What the network gets: `velocity_error` is replaced by a look at its arguments.


@pytest.fixture
def look(parts, monkeypatch):
    """Call the loss with changes to the recipe; return what it hands to the network."""
    names = ("model", "x", "noise", "t", "keep", "caption_tokens", "caption_mask", "levels")
    with sharding.use_mesh(small_mesh()):
        weights = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), parts.abstract)

    def call(batch, key=0, normalize=lambda x: x, **changes):
        seen = {}

        def spy(*arguments):
            seen.update(zip(names, arguments, strict=True))
            rows = arguments[1].shape[0]
            return jnp.arange(rows, dtype=jnp.float32), jnp.full((rows,), 0.5)

        monkeypatch.setattr(step_lib, "velocity_error", spy)
        recipe = dataclasses.replace(PLAIN, **changes)
        loss = step_lib.make_loss(parts.graphdef, recipe, normalize, empty_tokens(parts))
        value, metrics = loss(weights.params, weights.buffers, batch, jax.random.key(key))
        del seen["model"]
        return {k: np.asarray(v) for k, v in seen.items()}, value, metrics

    return call


def assert_same(found, expected):
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_without_dropout_the_network_is_told_everything(parts, look):
    batch = make_batch(parts)
    seen, *_ = look(batch)
    for name in ("caption_tokens", "caption_mask", "levels"):
        np.testing.assert_array_equal(seen[name], batch[name])
    np.testing.assert_array_equal(seen["x"], batch["image_mean"].astype(np.float32))
    assert seen["x"].dtype == seen["noise"].dtype == np.float32


def test_reward_dropout_of_one_equals_missing_levels(parts, look):
    batch = make_batch(parts)
    missing = batch | {"levels": np.full_like(batch["levels"], np.nan)}
    dropped, *_ = look(batch, reward_dropout=1.0)
    assert_same(dropped, look(missing)[0])
    assert np.isnan(dropped["levels"]).all()


def test_rewards_are_dropped_one_by_one_at_their_rate(parts, look):
    batch = make_batch(parts, rows=512)
    seen, *_ = look(batch, reward_dropout=0.3)
    dropped = np.isnan(seen["levels"]) & ~np.isnan(batch["levels"])
    assert abs(dropped.mean() - 0.3) < 4 * (0.21 / dropped.size) ** 0.5
    assert dropped.any(axis=1).mean() > 0.4  # not all rewards of a picture together
    np.testing.assert_array_equal(seen["levels"][~dropped], batch["levels"][~dropped])


def test_caption_dropout_of_one_equals_empty_captions(parts, look):
    batch = make_batch(parts)
    tokens, mask = parts.caption_encoder.encode_padded([""] * ROWS)
    dropped, *_ = look(batch, caption_dropout=1.0)
    assert_same(dropped, look(batch | {"caption_tokens": tokens, "caption_mask": mask})[0])
    assert dropped["caption_mask"].sum(axis=1).tolist() == [1] * ROWS  # the end token


def test_captions_are_dropped_whole_at_their_rate(parts, look):
    batch = make_batch(parts, rows=512)
    seen, *_ = look(batch, caption_dropout=0.3)
    dropped = seen["caption_mask"].sum(axis=1) == 1
    assert abs(dropped.mean() - 0.3) < 4 * (0.21 / 512) ** 0.5
    np.testing.assert_array_equal(
        seen["caption_tokens"][~dropped], batch["caption_tokens"][~dropped]
    )
    assert len(np.unique(seen["caption_tokens"][dropped], axis=0)) == 1


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_latent_tokens_are_kept_at_their_rate(parts, look, rate):
    """Rate 0 keeps none: `velocity_error` multiplies by it, and all see zero latent tokens."""
    seen, *_ = look(make_batch(parts, rows=512), self_condition_rate=rate)
    assert abs(seen["keep"].mean() - rate) <= 4 * (rate * (1 - rate) / 512) ** 0.5


def test_latents_are_sampled_and_normalized(parts, look):
    batch = make_batch(parts) | {"image_mean": np.ones((ROWS, 16, 16, 3), np.float16)}
    batch["image_std"] = np.full((ROWS, 16, 16, 3), 0.25, np.float16)
    seen, *_ = look(batch, normalize=lambda z: 10 * z)
    assert abs(seen["x"].mean() - 10) < 0.2 and abs(seen["x"].std() - 2.5) < 0.1
    assert abs(np.corrcoef(seen["x"].ravel(), seen["noise"].ravel())[0, 1]) < 0.05


def test_every_draw_depends_on_the_key(parts, look):
    batch = make_batch(parts) | {"image_std": np.ones((ROWS, 16, 16, 3), np.float16)}
    half = {"reward_dropout": 0.5, "caption_dropout": 0.5, "self_condition_rate": 0.5}
    first, second = look(batch, key=1, **half)[0], look(batch, key=2, **half)[0]
    assert_same(first, look(batch, key=1, **half)[0])
    for name, array in first.items():
        assert not np.array_equal(array, second[name], equal_nan=True), name


def test_each_draw_has_a_key_of_its_own(parts, look, monkeypatch):
    used = []

    def spy(draw):
        def call(key, *arguments):
            used.append(tuple(jax.random.key_data(key).tolist()))
            return draw(key, *arguments)

        return call

    for name in ("normal", "bernoulli"):
        monkeypatch.setattr(jax.random, name, spy(getattr(jax.random, name)))
    look(make_batch(parts), reward_dropout=0.5, caption_dropout=0.5, self_condition_rate=0.5)
    assert len(used) == len(set(used)) == len(step_lib.KEY_NAMES)


def test_damaged_records_do_not_count(parts, look):
    """The replaced errors are 0, 1, 2, ... and the log-variances 0.5."""
    batch = make_batch(parts)
    batch["weight"][[3, 15]] = 0
    _, value, metrics = look(batch)
    mean = (sum(range(ROWS)) - 3 - 15) / (ROWS - 2)
    assert float(metrics["mse"]) == pytest.approx(mean)
    assert float(value) == float(metrics["loss"]) == pytest.approx(mean * np.exp(-0.5) + 0.5)
    assert float(metrics["damaged_records"]) == 2
    batch["weight"][:] = 0
    assert float(look(batch)[1]) == 0


@pytest.mark.parametrize(
    "skip_gate, rewards", [(False, ("count",)), (True, ("count",)), (False, ())]
)
def test_microbatches_give_the_gradient_of_the_whole_batch(skip_gate, rewards):
    """With a damaged record, whose weight of zero belongs to the whole, and on two devices."""
    changes = {"model__rin__skip_gate": skip_gate, "data__train_rewards": rewards}
    parts = components.build_components(training.small(**changes))
    recipe = dataclasses.replace(PLAIN, self_condition_rate=0.5, reward_dropout=0.3)
    loss = step_lib.make_loss(parts.graphdef, recipe, lambda x: x, empty_tokens(parts))
    batch = make_batch(parts, rows=8)
    batch["weight"][3] = 0.0
    # Plain gradient descent, so that the parameters show the gradient itself.
    optimizer = optax.sgd(1.0)
    found = []
    with sharding.use_mesh(small_mesh(data=2)):
        start = jax.jit(parts.init)(jax.random.key(0))
        start = dataclasses.replace(start, opt_state=optimizer.init(start.params))
        for microbatches in (1, 4):
            step = step_lib.make_train_step(
                loss, optimizer, parts.schedule, recipe, 0, microbatches
            )
            found.append(jax.device_get(jax.jit(step)(start, batch)))
    (whole, expected), (state, metrics) = found
    assert metrics["damaged_records"] == 1
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    changes = [
        jax.tree.map(lambda a, b: a - b, s.params, jax.device_get(start).params)
        for s in (state, whole)
    ]
    for ours, theirs in zip(*map(jax.tree.leaves, changes), strict=True):
        # An ulp of a gradient of 28 is 2e-6 already: the sums round in another order. The gate is
        # a factor of each image's whole error, whose parts cancel in the sum of a small element.
        atol = max(2e-6, 1e-6 * np.abs(theirs).max() * skip_gate)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=atol)


# The step as `run` compiles it, on eight devices.


class Stepper:
    """The step of a small run, started anew for each sequence of batches."""

    def __init__(self, parts):
        config, self.parts = training.small(), parts
        recipe = step_lib.Recipe(
            **{f.name: config.train[f.name] for f in dataclasses.fields(step_lib.Recipe)}
        )
        self.decay = recipe.ema_decay
        loss = step_lib.make_loss(
            parts.graphdef, recipe, parts.image_encoder.normalize, empty_tokens(parts)
        )
        make = step_lib.make_train_step
        self.step = jax.jit(
            make(loss, parts.optimizer, parts.schedule, recipe, config.seed),
            donate_argnums=0,
            out_shardings=(parts.shardings, sharding.replicated(parts.mesh)),
        )
        with sharding.use_mesh(parts.mesh):
            init = jax.jit(parts.init, out_shardings=parts.shardings)
            self.start = jax.device_get(init(jax.random.key(0)))

    def __call__(self, *batches):
        """Return [(state on the host, metrics)], the start first."""
        states = [(self.start, {})]
        with sharding.use_mesh(self.parts.mesh):
            current = jax.device_put(self.start, self.parts.shardings)
            for batch in batches:
                batch = jax.device_put(batch, sharding.batch_sharding(self.parts.mesh))
                current, metrics = self.step(current, batch)
                states.append(jax.device_get((current, metrics)))
        return states


@pytest.fixture(scope="module")
def stepper(parts):
    return Stepper(parts)


@pytest.fixture(scope="module")
def steps(stepper, parts):
    return stepper(*(make_batch(parts, seed=seed) for seed in range(3)))


def norm(tree):
    return np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in jax.tree.leaves(tree)))


def gradient(found):
    """After one update Adam's first moment is a tenth of the clipped gradient."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(found.opt_state)
    moments = [leaf for path, leaf in pairs if ".mu" in jax.tree_util.keystr(path)]
    assert len(moments) == len(jax.tree.leaves(found.params))
    return moments


def test_metrics_are_the_promised_scalars(steps):
    _, metrics = steps[1]
    assert set(metrics) == {
        "loss",
        "mse",
        "log_variance",
        "damaged_records",
        "grad_norm",
        "update_norm",
        "param_norm",
        "learning_rate",
    }
    for name, value in metrics.items():
        assert value.shape == () and np.isfinite(value), name


def test_norms_and_rate_are_those_of_the_step(steps, parts):
    for number in (1, 2, 3):
        (before, _), (after, metrics) = steps[number - 1], steps[number]
        update = jax.tree.map(
            lambda a, b: np.subtract(a, b, dtype=np.float64), *both(before, after)
        )
        assert metrics["update_norm"] == pytest.approx(norm(update), rel=1e-3, abs=1e-9)
        assert metrics["param_norm"] == pytest.approx(norm(after.params), rel=1e-5)
        assert metrics["learning_rate"] == pytest.approx(float(parts.schedule(number - 1)))
        assert after.step == number
    first, metrics = steps[1]
    clip = min(1.0, training.small().optim.clip_norm / metrics["grad_norm"])
    assert norm(gradient(first)) == pytest.approx(0.1 * clip * metrics["grad_norm"], rel=1e-4)
    assert steps[1][1]["update_norm"] == 0 < steps[2][1]["update_norm"]  # warm-up begins at 0


def both(before, after):
    return after.params, before.params


def test_ema_follows_its_formula(steps, stepper):
    for (before, _), (after, _) in zip(steps, steps[1:], strict=False):
        for e, p, new in zip(
            *(jax.tree.leaves(t) for t in (before.ema_params, after.params, after.ema_params)),
            strict=True,
        ):
            expected = stepper.decay * e.astype(np.float64) + (1 - stepper.decay) * p
            np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-7)
    assert norm(jax.tree.map(np.subtract, after.ema_params, after.params)) > 0


def test_ema_of_decay_zero_is_the_parameters_and_of_one_stays():
    old, new = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([3.0, -2.0])}
    np.testing.assert_array_equal(state.update_ema(old, new, 0.0)["a"], new["a"])
    np.testing.assert_array_equal(state.update_ema(old, new, 1.0)["a"], old["a"])
    np.testing.assert_allclose(state.update_ema(old, new, 0.75)["a"], [1.5, 1.0])


def test_buffers_are_never_trained(steps):
    for start, end in zip(
        jax.tree.leaves(steps[0][0].buffers), jax.tree.leaves(steps[-1][0].buffers), strict=True
    ):
        np.testing.assert_array_equal(start, end)


def test_damaged_records_do_not_change_gradients(stepper, parts):
    batch = make_batch(parts)
    batch["weight"][5] = 0
    other = {name: array.copy() for name, array in batch.items()}
    for name in ("image_mean", "caption_tokens", "levels"):
        other[name][5] = other[name][6]
    ours, theirs = (stepper(b)[1] for b in (batch, other))
    for a, b in zip(gradient(ours[0]), gradient(theirs[0]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours[1]["damaged_records"] == 1 and ours[1]["grad_norm"] == theirs[1]["grad_norm"]
    other["weight"][5] = 1
    assert stepper(other)[1][1]["grad_norm"] != theirs[1]["grad_norm"]


def test_the_step_compiles_once(stepper, steps):
    stepper(make_batch(stepper.parts, seed=9))
    assert stepper.step._cache_size() == 1


def test_one_repeated_batch_is_learned(monkeypatch):
    """To predict the noise its numbers must fit through a token: 12 in patches of 2 x 2, not 48.

    The error stays above zero, as noise and times are new at each step.
    """
    num_steps, rows = 400, 4
    config = training.small(
        model__rin__patch_size=2,
        model__rin__token_width=64,
        train__num_steps=num_steps,
        optim__learning_rate=1e-2,
        optim__warmup_steps=10,
    )
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: small_mesh())
    parts = components.build_components(config)
    loss = step_lib.make_loss(parts.graphdef, PLAIN, lambda x: x, empty_tokens(parts))
    step = step_lib.make_train_step(loss, parts.optimizer, parts.schedule, PLAIN, 0)
    with sharding.use_mesh(parts.mesh):
        out = (parts.shardings, sharding.replicated(parts.mesh))
        step = jax.jit(step, donate_argnums=0, out_shardings=out)
        current = jax.jit(parts.init, out_shardings=parts.shardings)(jax.random.key(0))
        batch = jax.device_put(make_batch(parts, rows))
        errors = []
        for _ in range(num_steps):
            current, metrics = step(current, batch)
            errors.append(float(metrics["mse"]))
    print(f"velocity error {errors[0]:.3f} -> {np.mean(errors[-20:]):.3f}")
    assert np.mean(errors[-20:]) < 0.1 * errors[0]
    assert step._cache_size() == 1
