"""The pipeline: a picture depends on what was asked for alone, targets in all forms, guidance."""

import jax
import numpy as np
import pytest

from miro_jax.pretrained.encoders import build_caption_encoder, build_image_encoder
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.trained import Trained
from tests.networks import TINY, random_network, resize, small_mesh

NAMES = ("sharpness", "beauty", "count")
CONFIG = resize(TINY, latent_shape=(8, 8, 3), caption_width=16)
NETWORK = []
PROMPTS = ["a red circle", "two blue squares", "", "a green triangle", "a cyan square"]


def network():
    """Graphdef, params and buffers of one random network with three rewards, made once."""
    if not NETWORK:
        NETWORK.append(random_network(CONFIG, seed=3))
    return NETWORK[0]


def make_pipeline(batch_size=4, names=NAMES, weights=None):
    graphdef, *states = weights or network()
    trained = Trained(
        graphdef,
        tuple(states),
        resize(CONFIG, num_rewards=len(names)),
        build_image_encoder("pixels", size=8),
        lambda: build_caption_encoder("words", width=16, max_tokens=8),
        names,
        small_mesh(),
    )
    return MiroPipeline(trained, batch_size)


@pytest.fixture(scope="module")
def pipe():
    """One pipeline for all tests, so that little is compiled."""
    return make_pipeline()


def sample(pipe, prompts=PROMPTS[0], num_images=1, **changes):
    settings = {"num_steps": 3, "guidance_scale": 2.0, "seed": 5, "output_type": "numpy"} | changes
    return pipe(prompts, num_images, **settings)


def distance(a, b):
    """Largest difference in grey levels; the pictures are no plain grey, so it can be large."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return np.abs(a.astype(int) - b.astype(int)).max()


@pytest.mark.over_a_second
def test_pictures_are_uint8_and_stand_side_by_side(pipe):
    pictures = sample(pipe, PROMPTS[:2], 3)
    assert pictures.shape == (6, 8, 8, 3) and pictures.dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures}) == 6
    assert 0 < (pictures == 0).mean() < 0.5 and pictures.std() > 20


def test_one_prompt_may_be_given_as_a_text(pipe):
    np.testing.assert_array_equal(sample(pipe, PROMPTS[0]), sample(pipe, PROMPTS[:1]))


def test_a_picture_does_not_depend_on_its_neighbours(pipe):
    """All calls run batches of four: the same program row by row, hence the same bits."""
    many = sample(pipe, PROMPTS)
    assert len(many) == 5  # two batches, the second padded
    np.testing.assert_array_equal(sample(pipe, PROMPTS[:3]), many[:3])
    np.testing.assert_array_equal(sample(pipe, PROMPTS[0]), many[:1])
    other = sample(pipe, [PROMPTS[0], "three circles", "a square"])
    np.testing.assert_array_equal(other[0], many[0])
    assert distance(other[1], many[1]) > 10


def test_a_picture_does_not_depend_on_how_many_are_made_of_a_prompt(pipe):
    few, many = sample(pipe, PROMPTS[:2], 2), sample(pipe, PROMPTS[:2], 3)
    np.testing.assert_array_equal(few, many[[0, 1, 3, 4]])


@pytest.mark.over_a_second
def test_a_picture_does_not_depend_on_the_batch_size(pipe):
    """Another size is another program, which may sum in another order: rounding, then a level."""
    assert distance(sample(make_pipeline(batch_size=3), PROMPTS), sample(pipe, PROMPTS)) <= 1


def test_the_seed_fixes_the_pictures(pipe):
    np.testing.assert_array_equal(sample(pipe), sample(pipe))
    assert distance(sample(pipe, seed=6), sample(pipe)) > 10


@pytest.mark.over_a_second
def test_only_steps_solver_and_guidance_or_none_compile_anew(pipe):
    compiled = []

    def listen(name, *_, **details):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(details)

    sample(pipe, PROMPTS, 1)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        sample(pipe, PROMPTS[::-1], 1, seed=77)
        sample(pipe, "another prompt entirely", guidance_scale=7.5)
        sample(pipe, "x", targets={"beauty": 0.3, "count": None}, negative_targets={"beauty": 1})
        sample(pipe, "x", targets=np.full((1, 3), 0.5), negative_prompt="same")
        sample(pipe, PROMPTS, 2, targets=[{"count": i / 10} for i in range(10)])
        assert compiled == []
        sampler = pipe._sampler("euler", 3)
        assert sampler._cache_size() == 1
        sample(pipe, guidance_scale=0.0)
        assert sampler._cache_size() == 2 and compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


# Targets.


def levels(pipe, targets, count=2, default=1.0):
    return pipe.levels(targets, count, default)


def test_names_left_out_get_the_default(pipe):
    np.testing.assert_array_equal(levels(pipe, None), np.ones((2, 3)))
    np.testing.assert_array_equal(levels(pipe, {}, default=0.0), np.zeros((2, 3)))
    np.testing.assert_array_equal(
        levels(pipe, {"count": 0.25}), np.array([[1, 1, 0.25]] * 2, np.float32)
    )


def test_none_is_not_asked(pipe):
    np.testing.assert_array_equal(levels(pipe, {"beauty": None}), [[1, np.nan, 1]] * 2)


def test_all_forms_of_targets_give_the_same_picture(pipe):
    mapping = {"sharpness": 0.5, "beauty": None, "count": 0.0}
    array = np.array([[0.5, np.nan, 0.0]], np.float32)
    expected = sample(pipe, targets=mapping)
    for targets in ([mapping], array, array.astype(np.float64), jax.numpy.asarray(array)):
        np.testing.assert_array_equal(sample(pipe, targets=targets), expected)
    assert distance(sample(pipe), expected) > 2


def test_each_picture_has_its_own_targets(pipe):
    several = [{"beauty": 0.0}, {"beauty": 1.0, "count": None}]
    pictures = sample(pipe, PROMPTS[:2], targets=several)
    for i, targets in enumerate(several):
        alone = sample(pipe, PROMPTS[:2], targets=targets)
        np.testing.assert_array_equal(pictures[i], alone[i])
        assert distance(pictures[1 - i], alone[1 - i]) > 2


def test_default_targets_are_asked_for_where_a_call_does_not_say():
    pipe = make_pipeline()
    expected = sample(pipe, targets={"sharpness": 0.25, "beauty": None})
    pipe.default_targets = {"sharpness": 0.25, "beauty": None, "count": 1.0}
    np.testing.assert_array_equal(sample(pipe), expected)
    over = sample(pipe, targets={"sharpness": 1, "beauty": 1})
    np.testing.assert_array_equal(over, sample(make_pipeline()))


@pytest.mark.parametrize("level", [1e30, -5.0, 1.5, float("inf")])
def test_defaults_are_checked_as_targets_are(level):
    pipe = make_pipeline()
    pipe.default_targets = dict.fromkeys(NAMES, level)
    with pytest.raises(ValueError, match=r"targets must be in \[0, 1\].*; got"):
        sample(pipe)


@pytest.mark.parametrize(
    "targets, error, said",
    [
        (
            {"beuty": 1},
            ValueError,
            "Unknown reward 'beuty'; this model knows: sharpness, beauty.*; did you mean beauty[?]",
        ),
        ({"beauty": "high"}, ValueError, "level of 'beauty' must be a number .*; got 'high'"),
        ({"beauty": float("nan")}, ValueError, "level of 'beauty' must be a number in .*; got nan"),
        ({"beauty": 1.5}, ValueError, r"level of 'beauty' must be a number in \[0, 1\].*got 1.5"),
        ([{}], ValueError, "targets must be one mapping for each of 2 images; got 1"),
        (np.ones((2, 2)), ValueError, r"targets must be \[2, 3\]; got \(2, 2\)"),
        (np.full((2, 3), np.inf), ValueError, r"targets must be in \[0, 1\].*; got inf"),
        (0.5, TypeError, "targets must be {name: level}, a list .*; got 0.5"),
        ([0.5, 0.5], TypeError, "targets must be {name: level}, a list"),
        ("beauty=1", TypeError, "targets must be {name: level}, a list"),
        (np.array([["high"] * 3] * 2), TypeError, "an array of numbers; got one of <U4"),
    ],
)
def test_bad_targets_are_named(pipe, targets, error, said):
    for key in ("targets", "negative_targets"):
        with pytest.raises(error, match=said) as caught:
            sample(pipe, PROMPTS[:2], **{key: targets})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"solver": "rk4"}, "one of euler, heun, dpmpp_2m; got 'rk4'"),
        ({"num_steps": 0}, "num_steps must be at least 1; got 0"),
        ({"prompts": []}, "at least one prompt and one image are needed; got 0 prompts"),
        ({"num_images": 0}, "at least one prompt .*num_images=0"),
        ({"num_images": -1}, "at least one prompt .*num_images=-1"),
        ({"num_steps": 10**6}, "num_steps must be at most 100000; got 1000000"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be finite; got nan"),
        ({"guidance_scale": 1e38}, r"guidance_scale must be at most 1000; got 1e\+38"),
        ({"guidance_scale": -1e38}, r"guidance_scale must be at least -1000; got -1e\+38"),
        ({"guidance_scale": "7"}, "guidance_scale must be a number; got '7'"),
        ({"guidance_interval": (0, float("nan"))}, "guidance_interval must be"),
        ({"seed": 0.5}, "seed must be an integer; got 0.5"),
        ({"seed": -1}, "seed must be in 0..4294967295; got -1"),
    ],
)
def test_other_bad_arguments_are_named(pipe, changes, said):
    with pytest.raises(ValueError, match=said):
        sample(pipe, **changes)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"prompts": 3}, "prompts must be a text or a list of texts; got 3, of type int. Write"),
        ({"prompts": ["a", None]}, "prompts must be a text or a list of texts; got None"),
        ({"prompts": b"a"}, "prompts must be a text .*; got b'a', of type bytes"),
        ({"negative_prompt": 3}, "negative_prompt must be a text, .*; got 3"),
        ({"num_images": "2"}, "num_images must be an integer; got '2'"),
        ({"num_images": 1.5}, "num_images must be an integer; got 1.5"),
        ({"callback_on_step_end": 3}, "callback_on_step_end must be a function; got 3"),
    ],
)
def test_arguments_of_another_kind_are_named(pipe, changes, said):
    with pytest.raises(TypeError, match=said):
        sample(pipe, **changes)


# Guidance.


class Recorder(MiroPipeline):
    """A pipeline that keeps what goes into its sampler, and samples nothing."""

    def _sampler(self, solver, num_steps):
        def sampler(weights, noise, positive, negative, guidance, *, guided):
            self.seen = jax.device_get((positive, negative, guidance.scale)), guided
            self.interval = jax.device_get(guidance.interval)
            return np.zeros_like(noise)

        return sampler


@pytest.fixture
def recorder():
    pipe = make_pipeline()
    pipe.__class__ = Recorder
    return pipe


@pytest.mark.parametrize(
    "negative_prompt, texts",
    [("empty", ["", ""]), ("same", PROMPTS[:2]), ("a grey blur", ["a grey blur"] * 2)],
)
def test_the_negative_branch_has_its_prompt_and_its_targets(recorder, negative_prompt, texts):
    sample(recorder, PROMPTS[:2], negative_prompt=negative_prompt, negative_targets={"count": None})
    (positive, negative, scale), guided = recorder.seen
    encode = recorder.trained.caption_encoder.encode_padded
    for branch, wanted in ((positive, PROMPTS[:2]), (negative, texts)):
        tokens, mask = encode(wanted)
        np.testing.assert_array_equal(branch.tokens[:2], tokens)
        np.testing.assert_array_equal(branch.mask[:2], mask)
    np.testing.assert_array_equal(positive.levels, np.ones((4, 3)))
    np.testing.assert_array_equal(negative.levels[:2], [[0, 0, np.nan]] * 2)
    np.testing.assert_array_equal(scale, [2.0] * 4)
    assert guided is True


def test_embeddings_that_are_shorter_than_the_negative_prompt_leave_it_whole(recorder):
    encode = recorder.trained.caption_encoder.encode
    (short,), (long,) = encode(["a circle"]), encode(["a blurry grey square"])
    assert len(short) < len(long)
    for mask in (None, np.ones((1, len(short)), bool)):
        given = {"prompt_embeds": short[None], "prompt_mask": mask}
        sample(recorder, None, negative_prompt="a blurry grey square", **given)
        (positive, negative, _), _ = recorder.seen
        for branch, tokens in ((positive, short), (negative, long)):
            np.testing.assert_array_equal(branch.tokens[0][branch.mask[0]], tokens)


def test_the_interval_of_guidance_reaches_the_sampler(recorder):
    for interval in ((0.0, 1.0), (0.25, 0.75)):
        sample(recorder, guidance_interval=interval)
        np.testing.assert_array_equal(recorder.interval, interval)


def test_guidance_of_zero_has_no_negative_branch_and_equals_the_formula(pipe):
    """v+ + 0 (v+ - v-) is v+; the larger batch of two branches may round otherwise."""
    without = sample(pipe, PROMPTS, guidance_scale=0.0)
    formula = sample(pipe, PROMPTS, guidance_scale=1e-30)  # guided, with a scale that adds nothing
    assert distance(without, formula) <= 1
    assert distance(without, sample(pipe, PROMPTS)) > 2


def test_negative_targets_and_prompt_do_not_matter_without_guidance(pipe):
    asked = {"negative_targets": {"beauty": 1.0}, "negative_prompt": "a grey blur"}
    without = sample(pipe, guidance_scale=0.0)
    np.testing.assert_array_equal(sample(pipe, guidance_scale=0.0, **asked), without)
    assert distance(sample(pipe, **asked), sample(pipe)) > 2


def test_equal_branches_are_not_guided(pipe):
    equal = {"targets": {"beauty": 0.5}, "negative_targets": {n: 1.0 for n in NAMES}}
    equal["negative_targets"]["beauty"] = 0.5
    guided = sample(pipe, negative_prompt="same", guidance_scale=9.0, **equal)
    assert distance(guided, sample(pipe, guidance_scale=0.0, targets={"beauty": 0.5})) <= 1


@pytest.mark.over_a_second
def test_a_network_without_rewards_is_guided_by_its_prompt():
    weights = random_network(resize(CONFIG, num_rewards=0), seed=3)
    pipe = make_pipeline(names=(), weights=weights)
    assert distance(sample(pipe), sample(pipe, negative_prompt="same")) > 2
    with pytest.raises(ValueError, match="Unknown reward 'beauty'; this model knows: none"):
        sample(pipe, targets={"beauty": 1})


def test_latents_that_are_not_finite_stop_the_call_and_name_the_image(recorder):
    real = recorder._sampler

    def broken(solver, num_steps):
        def sampler(weights, noise, *branches, **rest):
            z = np.array(real(solver, num_steps)(weights, noise, *branches, **rest))
            z[3, 0, 0, 0] = np.inf
            return z

        return sampler

    recorder._sampler = broken
    for output_type in ("pil", "numpy", "latent"):
        with pytest.raises(
            FloatingPointError, match="image 1 of prompt 1 has latents that are not"
        ):
            sample(recorder, PROMPTS[:2], 2, output_type=output_type)
    assert len(sample(recorder, PROMPTS[:1], 3)) == 3  # what stands in the padding is nobody's


@pytest.mark.over_a_second
def test_fewer_images_run_in_smaller_programs_where_no_batch_size_is_given(pipe):
    quick = make_pipeline()
    quick.fewer_rows, rows = True, []
    made = quick._sampler("euler", 3)

    def spy(weights, x, *rest, **more):
        rows.append(len(x))
        return made(weights, x, *rest, **more)

    quick._samplers["euler", 3] = spy
    one, many = sample(quick), sample(quick, PROMPTS, 2)
    assert rows == [1, 4, 4, 2]
    assert distance(one, sample(pipe)) <= 1
    assert distance(many, sample(pipe, PROMPTS, 2)) <= 1
