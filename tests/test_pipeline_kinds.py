"""The pipeline from Python: arguments of other kinds and shapes are named, or taken as meant."""

import pickle

import numpy as np
import pytest
from jax import numpy as jnp

from miro_jax.sample.batches import NotFinite
from miro_jax.sample.pipeline import MiroPipeline
from tests.sampling import save_tiny

HOW = {"num_steps": 2, "output_type": "latent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pipe(folder):
    return MiroPipeline.from_pretrained(folder)


@pytest.mark.parametrize("source", [None, 3, b"x", ["a"]])
def test_a_checkpoint_is_named_by_text_or_path(source):
    with pytest.raises(TypeError, match="checkpoint must be a folder, a URL or a hub id; got"):
        MiroPipeline.from_pretrained(source)


@pytest.mark.over_a_second
def test_batch_size_and_preset_of_other_kinds_are_named(folder):
    for size in ("4", 2.5):
        with pytest.raises(ValueError, match="batch_size must be a positive multiple of the 1 dev"):
            MiroPipeline.from_pretrained(folder, batch_size=size)
    with pytest.raises(TypeError, match="preset must be a path or a Preset; got {'targets'"):
        MiroPipeline.from_pretrained(folder, preset={"targets": {}})


@pytest.mark.over_a_second
def test_a_number_of_images_may_be_of_jax(pipe):
    np.testing.assert_array_equal(pipe("a", jnp.asarray(2), **HOW), pipe("a", 2, **HOW))


def test_a_mask_without_embeddings_is_refused(pipe):
    with pytest.raises(ValueError, match="prompt_mask must be given with prompt_embeds"):
        pipe("a", prompt_mask=np.ones((1, 8), bool), **HOW)


@pytest.mark.parametrize(
    "given",
    [
        {"prompt_embeds": [np.zeros((3, 8)), np.zeros((2, 8))]},
        {"prompt_embeds": [[["a"]]]},
        {"prompt_embeds": np.zeros((2, 3, 8)), "prompt_mask": [[1, 1, 1], [1, 1]]},
    ],
)
def test_embeddings_that_are_no_one_array_are_named_with_what_to_do(pipe, given):
    with pytest.raises(ValueError, match="must be one array of numbers, .*Pad to the longest"):
        pipe(**given, **HOW)


@pytest.mark.parametrize("answer", [np.zeros((1, 8, 8, 3)), [1], "x", True])
def test_what_a_callback_returns_is_a_mapping_or_nothing(pipe, answer):
    with pytest.raises(TypeError, match="callback_on_step_end must return None or {'latents': arr"):
        pipe("a", callback_on_step_end=lambda *_: answer, **HOW)
    plain = pipe("a", callback_on_step_end=lambda *_: None, **HOW)
    np.testing.assert_array_equal(pipe("a", callback_on_step_end=lambda *_: False, **HOW), plain)


@pytest.mark.parametrize("name", ["output_type", "return_dict", "callback_on_step_end"])
def test_stream_says_what_is_of_calls_alone(pipe, name):
    with pytest.raises(TypeError, match=f"{name} is no argument of stream.*pipe.preview"):
        pipe.stream("a", **{name: None})


def test_latents_that_are_decoded_have_the_shape_of_the_network(pipe):
    (step,) = pipe.stream("a", num_steps=1)
    assert len(pipe.preview(step.tensors()["latents"])) == 1
    for latents, got in (
        (step.latents, "list"),
        (step.latents[0][0], r"\[8, 8, 3\]"),
        (None, "No"),
    ):
        for method in (pipe.preview, pipe.decode):
            with pytest.raises(
                ValueError, match=rf"latents must be an array \[B, 8, 8, 3\].*{got}"
            ):
                method(latents)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"t": 2.0}, r"t must be one time or \[2\] times, in \[0, 1\].*; got 2.0"),
        ({"t": np.nan}, "t must be one time"),
        ({"t": [0.5] * 3}, "t must be one time"),
        ({"x_t": np.zeros((0, 8, 8, 3))}, "x_t must hold at least one image"),
        ({"x_t": np.zeros((8, 8, 3))}, r"array \[B, 8, 8, 3\], .*; got \[8, 8, 3\]"),
        ({"previous": np.zeros((2, 8))}, r"previous must be \[2, 5, 32\]; got \[2, 8\]"),
    ],
)
def test_inputs_of_one_evaluation_are_checked(pipe, changes, said):
    given = {"x_t": np.zeros((2, 8, 8, 3), np.float32), "t": 0.5, "prompts": "a"}
    with pytest.raises(ValueError, match=said):
        pipe.velocity(**given | changes)
    velocity, tokens = pipe.velocity(**given)
    again = pipe.velocity(**given, previous=tokens.tolist())[0]
    np.testing.assert_array_equal(again, pipe.velocity(**given, previous=tokens)[0])
    assert not np.array_equal(again, velocity)


def test_what_is_raised_in_another_process_comes_home():
    error = pickle.loads(pickle.dumps(NotFinite("image 3 of prompt 0 is not finite", 3)))
    assert (str(error), error.row) == (
        "image 3 of prompt 0 is not finite; a lower guidance scale, or float32, may help.",
        3,
    )
