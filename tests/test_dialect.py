"""The field's words for a call: the same images under both names, callbacks that stop and edit."""

import numpy as np
import pytest
from PIL import Image

from miro_jax.sample import dialect
from miro_jax.sample.pipeline import MiroPipeline
from tests import sampling

CALL = {"num_steps": 4, "guidance_scale": 2.0, "seed": 5, "output_type": "numpy"}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    """The tiny release, in batches of two."""
    folder = sampling.save_tiny(tmp_path_factory.mktemp("release"))
    return MiroPipeline.from_pretrained(folder, batch_size=2)


@pytest.fixture(scope="module")
def images(pipe):
    """Three images of one prompt, by the one program: [3, H, W, 3]."""
    return pipe("a red circle", 3, targets={"count": 0.5}, **CALL)


class Generator:
    """What the pipeline reads of a torch.Generator."""

    def initial_seed(self):
        return (7 << 32) + 5


@pytest.mark.parametrize(
    "generator", [5, np.int64(5), Generator()], ids=lambda one: type(one).__name__
)
def test_the_words_of_the_field_give_the_same_images(pipe, images, generator):
    made = pipe(
        prompt="a red circle",
        num_images_per_prompt=3,
        num_inference_steps=4,
        reward_targets={"count": 0.5},
        negative_reward_targets={},
        guidance_scale=2.0,
        generator=generator,
        output_type="numpy",
    )
    np.testing.assert_array_equal(made, images)


def test_rewards_have_the_names_of_the_release_too():
    read = dialect.read_call(
        {
            "targets": {"aesthetic_score": 0.3, "pick_a_score_score": 1},
            "negative_reward_targets": [{"sciscore_score": 0}, {"own": None}],
        },
        8,
    )
    assert read["targets"] == {"aesthetic": 0.3, "pick_score": 1}
    assert read["negative_targets"] == [{"sci_score": 0}, {"own": None}]
    assert dialect.release_names(["clip", "own"]) == ("clip_score", "own")
    with pytest.raises(ValueError, match="once; got two for clip"):
        dialect.read_call({"targets": {"clip": 1, "clip_score": 1}}, 8)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        ({"prompts": "x"}, {"prompt": "x"}),
        ({"num_images": 1}, {"num_images_per_prompt": 1}),
        ({"num_steps": 50}, {"num_inference_steps": 50}),
        ({"targets": {}}, {"reward_targets": {}}),
        ({"negative_targets": {}}, {"negative_reward_targets": {}}),
        ({"seed": 0}, {"generator": 0}),
    ],
)
def test_two_names_for_one_thing_are_refused(pipe, ours, theirs):
    """Also where both have the same value, or that of nothing given."""
    (mine,), (other,) = ours, theirs
    with pytest.raises(ValueError, match=f"{mine} and {other} are the same argument"):
        pipe(**({"prompts": "x"} if "prompt" not in theirs else {}) | ours | theirs)


def test_what_nobody_knows_is_refused(pipe):
    with pytest.raises(TypeError, match="unknown argument 'num_inference_step'.*num_inference_st"):
        pipe("x", num_inference_step=3)
    with pytest.raises(ValueError, match="output_type must be one of"):
        pipe("x", output_type="pt")
    with pytest.raises(TypeError, match="variant must be a text, as 'no_clip'; got 3"):
        MiroPipeline.from_pretrained("runs/base", 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="dtype must be one of .*; got 'bfloat'"):
        MiroPipeline.from_pretrained("runs/base", dtype="bfloat")


@pytest.mark.parametrize(
    "given, said",
    [
        ({"generator": "seed"}, "^generator must be an integer; got 'seed'"),
        ({"seed": "seed"}, "^seed must be an integer; got 'seed'"),
        ({"num_inference_steps": 0}, "^num_inference_steps must be at least 1; got 0"),
        ({"num_steps": 0}, "^num_steps must be at least 1; got 0"),
    ],
)
def test_an_error_names_the_argument_as_it_was_given(pipe, given, said):
    with pytest.raises(ValueError, match=said):
        pipe("x", **given)


def test_height_and_width_are_those_of_the_network(pipe, images):
    call = CALL | {"targets": {"count": 0.5}}
    made = pipe("a red circle", 3, height=8, width=np.int64(8), **call)
    np.testing.assert_array_equal(made, images)
    np.testing.assert_array_equal(pipe("a red circle", 3, height=None, **call), images)
    for side in ({"height": 16}, {"width": 8.5}, {"width": "8"}):
        ((name, value),) = side.items()
        with pytest.raises(ValueError, match=f"^{name} must be 8, the side .*; got {value!r}"):
            pipe("a red circle", **side)


def test_images_come_in_the_forms_of_the_field(pipe, images):
    call = CALL | {"targets": {"count": 0.5}}
    listed = pipe("a red circle", 3, **call | {"output_type": "pil"})
    assert isinstance(listed, list) and listed.images is listed
    assert isinstance(listed[0], Image.Image)
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in listed]), images)
    floats = pipe("a red circle", 3, return_dict=True, **call | {"output_type": "np"})
    assert floats.images is floats["images"] and floats.images.dtype == np.float32
    np.testing.assert_array_equal(np.round(floats.images * 255), images)
    (only,) = pipe("a red circle", 3, return_dict=False, **call)
    np.testing.assert_array_equal(only, images)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m"])
@pytest.mark.over_a_second
def test_a_callback_sees_each_step_and_changes_nothing(pipe, solver):
    """Steps one by one are other programs: they agree up to rounding."""
    call = CALL | {"solver": solver, "output_type": "latent"}
    seen = []

    def look(given, step, t, tensors):
        assert given is pipe and tensors.keys() == {"latents", "denoised"}
        seen.append((step, t, tensors["latents"], tensors["denoised"]))

    stepped = pipe("a red circle", 3, callback_on_step_end=look, **call)
    np.testing.assert_allclose(stepped, pipe("a red circle", 3, **call), atol=1e-4)
    assert [(step, t) for step, t, *_ in seen] == [(0, 1.0), (1, 0.75), (2, 0.5), (3, 0.25)]
    assert all(z.shape == stepped.shape for *_, z, _ in seen)
    np.testing.assert_array_equal(seen[-1][2], stepped)
    np.testing.assert_array_equal(seen[-1][3], stepped)  # the last step leads to t = 0
    assert np.abs(seen[0][3] - seen[0][2]).max() > 0.1
    preview = pipe.preview(seen[1][3])
    assert len(preview) == 3 and preview[0].size == (8, 8)


def test_a_callback_stops_and_the_next_call_is_whole(pipe, images):
    steps = []

    def stop(given, step, t, tensors):
        steps.append(tensors["latents"])
        given._interrupt = step == 1

    call = CALL | {"output_type": "latent"}
    stopped = pipe("a red circle", 3, callback_on_step_end=stop, **call)
    assert len(steps) == 2
    np.testing.assert_array_equal(stopped, steps[1])
    pipe("a red circle", 3, callback_on_step_end=lambda *_: steps.append(0), **call)
    assert len(steps) == 2 + 4


def test_a_callback_edits_the_latents_of_every_batch(pipe):
    """The last step's latents are what is returned; those of an inner step change what follows."""
    call = CALL | {"output_type": "latent"}

    def mark(pipe, step, t, tensors):
        z = tensors["latents"].copy()
        z[:, 0, 0, 0] = 9 + np.arange(3)
        return {"latents": z} if step == 3 else tensors

    made = pipe("a red circle", 3, callback_on_step_end=mark, **call)
    np.testing.assert_array_equal(made[:, 0, 0, 0], [9, 10, 11])

    def clear(pipe, step, t, tensors):
        return {"latents": np.zeros_like(tensors["latents"])} if step == 1 else None

    cleared = pipe("a red circle", 3, callback_on_step_end=clear, **call)
    assert (np.abs(cleared - made)[:, 1:].max((1, 2, 3)) > 0.1).all()  # in both batches

    def wrong(pipe, step, t, tensors):
        return {"latents": tensors["latents"][:1]}

    with pytest.raises(ValueError, match=r"latents must be \[3, 8, 8, 3\]; got \[1, 8, 8, 3\]"):
        pipe("a red circle", 3, callback_on_step_end=wrong, **call)
    with pytest.raises(ValueError, match=r"latents must be \[3, 8, 8, 3\]; got \[\]"):
        pipe("a red circle", 3, callback_on_step_end=lambda *_: {"latents": "none"}, **call)


class bfloat16:
    """A type as torch prints it."""

    def __repr__(self):
        return "torch.bfloat16"


@pytest.mark.over_a_second
def test_to_reads_devices_and_types(tmp_path):
    pipe = MiroPipeline.from_pretrained(
        sampling.save_tiny(tmp_path), torch_dtype="float32", batch_size=1
    )
    weights = pipe.weights
    assert pipe.to("cpu") is pipe and pipe.weights is weights
    assert pipe.to(np.float32).weights is weights
    with pytest.warns(UserWarning, match="weights stay on 'cpu'"):
        assert pipe.to("cuda:0", bfloat16()) is pipe
    assert pipe.trained.dtype == "bfloat16" and pipe.weights is not weights
    assert pipe.to(device="cpu", dtype="float32").trained.dtype == "float32"
    with pytest.raises(ValueError, match="float32, bfloat16; got 'float16'"):
        pipe.to("float16")
    with pytest.raises(TypeError, match="one device and one dtype"):
        pipe.to("cpu", "cpu")
    with pytest.raises(ValueError, match="same argument"):
        MiroPipeline.from_pretrained(tmp_path, dtype="float32", torch_dtype="float32")
    assert pipe.coherence_keys == sampling.NAMES
