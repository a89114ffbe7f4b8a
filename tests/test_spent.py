"""Where the time of training goes, and the work of a network."""

import types

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from miro_jax.models.flops import forward_flops, peak_tflops, sampling_flops, training_flops
from miro_jax.models.rin import RIN
from miro_jax.train import loop, spent
from miro_jax.train.settings import Training
from miro_jax.train.spent import Profile, Spent, peak_seconds
from tests import training
from tests.networks import TINY, abstract_module, make_batch, resize


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_time_is_counted_by_cause_and_the_rest_is_goodput():
    clock = Clock()
    times = Spent(clock)
    for cause, seconds in (("compilation", 4.0), ("input", 1.0), ("input", 2.0)):
        with times.on(cause):
            clock.now += seconds
    clock.now += 3.0
    whole, parts = times.since_mark()
    assert whole == 10.0
    assert parts == {"input": 3.0, "checkpoint": 0.0, "evaluation": 0.0, "compilation": 4.0}
    with times.on("checkpoint"):
        clock.now += 5.0
    clock.now += 5.0
    whole, parts = times.since_mark()
    assert (whole, parts["checkpoint"], parts["input"]) == (10.0, 5.0, 0.0)
    assert times.summary(7) == (
        "7 steps in 20.0 s: goodput 40.0%, 15.0% input, 25.0% checkpoint, 0.0% evaluation, "
        "20.0% compilation"
    )


def test_a_wait_beside_a_step_that_is_under_way_does_not_count():
    clock = Clock()
    times = Spent(clock)
    for is_idle in (False, True):
        with times.on("input", lambda is_idle=is_idle: is_idle):
            clock.now += 2.0
    assert times.since_mark() == (4.0, dict.fromkeys(spent.CAUSES, 0.0) | {"input": 2.0})


def traced(monkeypatch, folder, steps, first, last):
    """What happens, in order, where a run does the steps first..last."""
    calls = []
    monkeypatch.setattr(spent.jax.profiler, "start_trace", lambda path: calls.append("start"))
    monkeypatch.setattr(spent.jax.profiler, "stop_trace", lambda: calls.append("stop"))
    profile = Profile(folder, steps, lambda: calls.append("wait"))
    for step in range(first, last + 1):
        profile.before(step)
        calls.append(step)
    profile.stop(last)
    return calls


BEGIN, END = ["wait", "start"], ["wait", "stop"]


@pytest.mark.parametrize(
    "steps, first, last, expected",
    [
        ((2, 4), 1, 6, [1, *BEGIN, 2, 3, 4, *END, 5, 6]),
        ((1, 1), 1, 2, [*BEGIN, 1, *END, 2]),  # the first step of a run
        ((2, 4), 3, 5, [*BEGIN, 3, 4, *END, 5]),  # resumed between the two
        ((2, 4), 5, 6, [5, 6]),  # resumed behind them
        ((2, 9), 1, 3, [1, *BEGIN, 2, 3, *END]),  # the run ends before
        ((), 1, 2, [1, 2]),
    ],
)
def test_a_profile_holds_the_steps_that_it_names(
    monkeypatch, tmp_path, steps, first, last, expected
):
    assert traced(monkeypatch, tmp_path, steps, first, last) == expected


def test_the_log_says_which_steps_are_in_a_profile(monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO", "miro_jax")
    traced(monkeypatch, tmp_path, (2, 9), 1, 3)
    assert caplog.messages == [f"Profile of steps 2 to 3 of metrics.jsonl: {tmp_path}"]


@pytest.mark.parametrize("steps", [(0, 1), (3, 2), (5, 9), (3,), (1, 2, 3), ("1", "2")])
def test_a_profile_of_steps_that_no_run_has_is_refused(steps):
    config = training.tiny(train__num_steps=4)
    config.train.profile_steps = steps
    with pytest.raises(ValueError, match=r"counted from 1 as in metrics.jsonl and begun by step 4"):
        Training(**config.train)


def test_a_trace_begins_at_the_step_of_that_number_in_metrics(monkeypatch, tmp_path):
    made = loop.Loop.__new__(loop.Loop)
    made.config, made.clock = training.tiny(), types.SimpleNamespace(is_due=lambda: False)
    monkeypatch.setattr(made, "_agreed", lambda step, due: (0, False), raising=False)
    made.profile, numbers = types.SimpleNamespace(before=lambda step: numbers.append(step)), []
    made._before_step(0, [], 0)  # makes the line of step 1 of metrics.jsonl
    assert numbers == [1]


def dot_flops(jaxpr):
    """Operations of all matrix products of a program."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((summed, _), _) = equation.params["dimension_numbers"]
            size = equation.outvars[0].aval.size
            for axis in summed:
                size *= equation.invars[0].aval.shape[axis]
            total += 2 * size
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            total += dot_flops(inner) if hasattr(inner, "eqns") else 0
    return total


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_blocks": 2, "layers_per_block": 3, "condition_layers": 2},
        {"self_condition": False, "prediction": "image", "skip_gate": True},
        {"num_rewards": 0, "token_width": 48, "latent_shape": (16, 8, 4)},
    ],
)
def test_the_work_of_a_network_is_that_of_its_matrix_products(changes):
    config = resize(TINY, **changes)
    graphdef, params, buffers = abstract_module(lambda rngs: RIN(config, rngs=rngs))
    batch = make_batch(config, rows=1, length=9, seed=0)

    def encode(params, buffers):
        model = nnx.merge(graphdef, params, buffers)
        named = (batch[k] for k in ("caption_tokens", "caption_mask", "levels"))
        return model.encode_condition(*named)

    def forward(params, buffers):
        model = nnx.merge(graphdef, params, buffers)
        condition, mask = encode(params, buffers)
        previous = jnp.zeros((1, config.num_latent_tokens, config.latent_width))
        return model(batch["x_t"], batch["t"], condition, mask, previous)

    products = dot_flops(jax.make_jaxpr(forward)(params, buffers).jaxpr)
    assert forward_flops(config, 9) == products
    encoding = dot_flops(jax.make_jaxpr(encode)(params, buffers).jaxpr)
    again = products - encoding if config.self_condition else 0  # the condition is encoded once
    assert training_flops(config, 9) == 3 * products + again
    assert sampling_flops(config, 9, 1) == products
    assert sampling_flops(config, 9, 5) == 5 * (products - encoding) + encoding


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_peak_that_is_given_counts_for_any_dtype(dtype):
    config = training.small(model__dtype=dtype)
    parts = types.SimpleNamespace(network_config=TINY)
    assert peak_seconds(config, parts) is None  # nobody knows that of a CPU
    config.train.peak_tflops = 2.0
    work = config.train.batch_size * training_flops(TINY, 9)
    found = peak_seconds(config, parts)
    assert found is not None and found(9) == pytest.approx(work / (2e12 * jax.device_count()))


def test_devices_are_known_by_the_longest_name_that_fits():
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989.0
    assert peak_tflops("NVIDIA H100 PCIe") == 756.0 and peak_tflops("NVIDIA H100 NVL") == 835.0
    assert peak_tflops("NVIDIA L40") == 181.0 != peak_tflops("NVIDIA L4")
    assert peak_tflops("TPU v5 lite") == 197.0 and peak_tflops("TPU v5p") == 459.0
    assert peak_tflops("TPU7x") == 1153.5 == peak_tflops("TPU7")  # two devices are a chip
    assert peak_tflops("cpu") is None
