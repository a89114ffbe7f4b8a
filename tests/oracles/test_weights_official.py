"""The released layout: read, written, and equal to the authors' pipeline from file to latents."""

import json

import jax
import numpy as np
import pytest

from miro_jax.pretrained.encoders import sdxl_vae
from miro_jax.pretrained.weights import hub, official, tensors
from miro_jax.sample import trained
from miro_jax.sample.pipeline import MiroPipeline
from tests.networks import difference, make_batch, paths, resize
from tests.oracles.pairs import ODD, REWARDS, TINY, with_gaps
from tests.oracles.release import Authors, save_release
from tests.oracles.rin import Oracle

pytestmark = pytest.mark.slow

FOUR = resize(ODD, latent_shape=(12, 12, 4), num_rewards=4)


def release(folder, config=TINY, rewards=REWARDS[:2], seed=0):
    oracle = Oracle(config, rewards, seed)
    return oracle, save_release(folder, oracle)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four rewards in an order of their own, with odd sizes."""
    path = tmp_path_factory.mktemp("release")
    release(path, FOUR, ("sciscore_score", "clip_score", "pick_a_score_score", "vqa_score"))
    return path


@pytest.fixture(scope="module")
def pipe(folder):
    return MiroPipeline.from_pretrained(folder, batch_size=3)


def request(rows=3, length=6, seed=2):
    batch = with_gaps(make_batch(FOUR, rows, length, seed), length)
    return {
        "prompt_embeds": batch["caption_tokens"],
        "prompt_mask": batch["caption_mask"],
        "noise": batch["noise"],
    }


def test_the_pipeline_knows_the_rewards_of_the_checkpoint_in_their_order(pipe):
    assert pipe.reward_names == ("sci_score", "clip", "pick_score", "vqa")
    assert pipe.default_targets == dict.fromkeys(pipe.reward_names, 1.0)
    assert pipe.trained.name.split("sha256:")[1] == hub.open(
        pipe.trained.name.split(" ")[0]
    ).sha256("model.safetensors")


@pytest.mark.parametrize("scale, steps", [(7.0, 10), (0.0, 3)])
def test_a_trajectory_equals_the_authors_pipeline(folder, pipe, scale, steps):
    asked = {"sci_score": 0.25, "vqa": 0.5}
    refused = {"clip": 0.75}
    given = request()
    found = pipe(
        targets=asked,
        negative_targets=refused,
        guidance_scale=scale,
        num_steps=steps,
        output_type="latent",
        **given,
    )
    names = official.RELEASE_NAMES
    expected = Authors(folder).sample(
        given["prompt_embeds"],
        given["prompt_mask"],
        given["noise"],
        {names[k]: v for k, v in asked.items()},
        {names[k]: v for k, v in refused.items()},
        scale,
        steps,
    )
    assert difference(found, expected) <= 1e-4


def test_one_evaluation_is_the_first_step_of_a_trajectory(pipe):
    given = request()
    noise = given.pop("noise")
    velocity, memory = pipe.velocity(noise, 1.0, targets={"clip": 0.5}, **given)
    again, _ = pipe.velocity(noise, 1.0, targets={"clip": 0.5}, previous=memory, **given)
    one = pipe(
        targets={"clip": 0.5},
        guidance_scale=0,
        num_steps=1,
        output_type="latent",
        noise=noise,
        **given,
    )
    assert memory.shape == (3, FOUR.num_latent_tokens, FOUR.latent_width)
    assert difference(one, noise - velocity) <= 1e-5
    assert difference(again, velocity) > 1e-3  # it remembers


def test_writing_what_was_read_gives_the_same_tensors(folder, pipe, tmp_path):
    trained.export(with_words(pipe.trained), tmp_path)
    before = tensors.open_safetensors(folder / "model.safetensors")
    after = tensors.open_safetensors(tmp_path / "model.safetensors")
    assert set(before) == set(after)
    for key in before:
        theirs, ours = before[key].read(), after[key].read()
        assert theirs.dtype == ours.dtype and theirs.shape == ours.shape, key
        if key.endswith((".scale", ".bias")) and "processing" in key:
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=key)


def with_words(source):
    """The same network with a caption encoder that needs no weights; it is not asked anything."""
    return trained.Trained(
        source.graphdef,
        source.weights,
        source.config,
        source.image_encoder,
        lambda: type("Words", (), {"max_tokens": 50}),
        source.reward_names,
        source.mesh,
        source.empty_tokens,
    )


def test_the_authors_load_what_we_write(pipe, tmp_path):
    trained.export(with_words(pipe.trained), tmp_path)
    authors = Authors(tmp_path)
    ours = official.released_tensors(FOUR, pipe.weights[0], pipe.reward_names)
    theirs = authors.tensors()
    assert set(theirs) == set(ours)
    for key in ours:
        np.testing.assert_array_equal(theirs[key], ours[key], err_msg=key)
    np.testing.assert_array_equal(authors.pipeline.uncond_embedding, pipe.trained.empty_tokens)
    assert authors.pipeline.config["max_text_len"] == 50
    assert authors.pipeline.coherence_keys[0] == "sciscore_score"


@pytest.mark.parametrize(
    "rewards", [REWARDS, REWARDS[:3], ("hpsv2_score",), REWARDS[:4] + REWARDS[5:]]
)
def test_any_subset_of_the_rewards_loads(tmp_path, rewards):
    config = resize(TINY, num_rewards=len(rewards))
    release(tmp_path / "models" / "miro-some-variant", config, rewards)
    found = trained.load(tmp_path / "models", "some_variant")
    ours = {theirs: name for name, theirs in official.RELEASE_NAMES.items()}
    assert found.reward_names == tuple(ours[name] for name in rewards)


def test_without_a_list_of_rewards_it_is_the_main_model(tmp_path):
    release(tmp_path, resize(TINY, num_rewards=7), REWARDS)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["coherence_keys"], settings["network"]["coherence_keys"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert trained.load(tmp_path).reward_names == tuple(official.RELEASE_NAMES)


def test_bfloat16_keeps_the_frequencies_in_float32(folder):
    found = paths(trained.load(folder, dtype="bfloat16").weights[0])
    kinds = {path.rsplit("/", 1)[-1]: leaf.dtype for path, leaf in found.items()}
    assert kinds["kernel"] == kinds["table"] == jax.numpy.bfloat16
    assert kinds["frequencies"] == kinds["phases"] == np.float32


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda s: s["network"].update(use_self_conditioning=False),
            "must have use_self_conditioning = True; got False",
        ),
        (lambda s: s["network"].update(num_blocks=3), "is not given"),
        (lambda s: s["network"].pop("data_dim"), "config.json has no entry 'data_dim'"),
        (lambda s: s["network"].update(label_dim=9), r"caption_in/kernel \(9, 48\)"),
    ],
)
def test_settings_that_do_not_fit_are_named(folder, tmp_path, change, said):
    for name in ("model.safetensors", "uncond_embedding.npy"):
        (tmp_path / name).symlink_to(folder / name)
    settings = json.loads((folder / "config.json").read_text())
    change(settings)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=said):
        trained.load(tmp_path)


def test_a_missing_file_is_named(folder, tmp_path):
    (tmp_path / "config.json").symlink_to(folder / "config.json")
    with pytest.raises(FileNotFoundError, match="holds none of model.safetensors"):
        trained.load(tmp_path)


def test_a_variant_that_is_not_there_lists_those_that_are(folder):
    with pytest.raises(FileNotFoundError, match="has no folder 'miro-no-pickscore'; it has none"):
        trained.load(folder, "no_pick_score")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"condition_heads": 8}, "condition_heads must be 16; got 8"),
        ({"latent_shape": (8, 12, 4)}, "latent_shape must be square"),
        ({"num_rewards": 0}, "at least one reward is needed"),
    ],
)
def test_a_network_that_the_layout_cannot_hold_is_refused(tmp_path, changes, said):
    config = resize(TINY, **changes)
    names = ("clip", "vqa")[: config.num_rewards]
    with pytest.raises(ValueError, match=said):
        official.write(tmp_path, config, None, names, np.zeros((1, 12)), 77)


def test_another_normalisation_of_image_latents_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sdxl_vae.SdxlVaeEncoder, "normalize", lambda self, z: z * 0.13025)
    with pytest.raises(ValueError, match="normalises image latents with scale"):
        trained.load(folder)


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is no array"),
        (b"\x93NUMPY" + b"\xff" * 50, "is no array"),
        (np.zeros((1, 9), np.float32), "must have the width 7, and be finite"),
        (np.full((1, 7), np.nan, np.float32), "be finite"),
        (np.float32(1), "is no array"),
        (np.array([{}], object), "is no array"),
    ],
)
def test_damaged_tokens_of_the_empty_prompt_are_named(folder, tmp_path, content, said):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    path = tmp_path / "uncond_embedding.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=f"uncond_embedding.npy.*{said}"):
        official.read(hub.open(tmp_path))


@pytest.mark.parametrize("length", ["77", 0, 10**9, None, 7.5])
def test_a_length_of_prompts_that_cannot_be_is_refused(folder, tmp_path, length):
    for name in ("uncond_embedding.npy", "model.safetensors"):
        (tmp_path / name).symlink_to(folder / name)
    settings = json.loads((folder / "config.json").read_text()) | {"max_text_len": length}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="config.json: max_text_len must be in"):
        official.read(hub.open(tmp_path))
